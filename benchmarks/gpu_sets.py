"""Networks and whole sets on a GPU: speed in each precision, and agreement with the CPU.

    python benchmarks/gpu_sets.py --data FOLDER_OF_SETS [--images 256] [--out benchmarks/results]

Each MVTec root in the folder is fitted on the CPU and on the GPU, and the accuracy of both is compared. One model then inspects
on both, from file to score and map, in batches of 1 to 64. Both use torch. By default cuDNN rounds float32 to TF32; offnominal
switches that off. The error of TF32 is measured with it switched on.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu import Rows, both_machines, on_gpu, peak_of, waited
from networks import LITE, PRECISIONS, SIDE, WIDE
from offnominal import Detector, load
from offnominal.config import settings_from
from offnominal.datasets import labelled_images
from offnominal.features import MemberName
from offnominal.inference import FeatureEngine
from tables import Timing, arguments, table, timed, write

BATCHES, AT_ONCE = (1, 4, 16, 64), (1, 16)
EXACT, TF32 = "float32", "TF32"
FIGURES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP"}
ON_CPU = ("cpu", 4)


@contextmanager
def rounding(convolutions: bool) -> Iterator[None]:
    """Inside, cuDNN may round to TF32, whatever offnominal sets."""
    kept: Any = torch.backends.cudnn.flags
    if convolutions:
        torch.backends.cudnn.flags = lambda **told: kept(**(told | {"allow_tf32": True}))
    try:
        yield
    finally:
        torch.backends.cudnn.flags = kept


def network(backbone: str, batch: int) -> Rows:
    images = np.random.default_rng(0).random((batch, 3, SIDE, SIDE), np.float32)
    rows: Rows = []
    exact: Tensor | None = None
    for precision in (*PRECISIONS, TF32):
        settings = settings_from(
            backbone=backbone, runtime="torch", device="cuda", precision=EXACT if precision == TF32 else precision
        )
        work = partial(FeatureEngine(settings, MemberName(backbone), pretrained=backbone == LITE).patches, images)
        with rounding(precision == TF32):
            (time,) = on_gpu(work)
            found, used = work(), peak_of(work)
        exact = found if exact is None else exact
        off = float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())
        rows.append([backbone, str(batch), precision, str(time.times(1 / batch)), f"{off:.0e}", f"{used:,.0f}"])
    return rows


def fail(index: int, error: Exception) -> None:
    raise error


def inspected(detector: Detector, paths: list[Path]) -> dict[int, float]:
    return {index: found.score for index, found in detector.inspect_many(paths, failed=fail)}


def fits(root: Path, model: Path) -> tuple[list[str], dict[str, Any]]:
    times: dict[str, Timing] = {}
    figures = {}
    for device in ("cpu", "cuda"):
        print(root.name, device, file=sys.stderr, flush=True)
        detector = Detector(device=device, runtime="torch")
        (times[device],) = timed(waited(partial(detector.fit, root)), runs=1)
        figures[device] = detector.evaluate(root).figures
        if device == "cpu":
            detector.save(model)
    ratio = times["cpu"].middle / times["cuda"].middle
    told = [f"{figures['cpu'][key]:.4f} / {figures['cuda'][key]:.4f}" for key in FIGURES]
    return [root.name, str(times["cpu"]), str(times["cuda"]), f"{ratio:.1f}", *told], {"fit": times, "figures": figures}


def inspections(root: Path, model: Path, images: int) -> Rows:
    every = [item.path for item in labelled_images(root)]
    paths = list(itertools.islice(itertools.cycle(every), images))
    rows: Rows = []
    right: dict[int, float] = {}
    for device, batch in (ON_CPU, *(("cuda", batch) for batch in BATCHES)):
        detector = load(model, device=device, runtime="torch", batch_size=batch)
        torch.cuda.reset_peak_memory_stats()
        (time,) = timed(waited(partial(inspected, detector, paths)), runs=3)
        scores = inspected(detector, every)
        right = right or scores
        off = max(abs(scores[index] / score - 1) for index, score in right.items())
        memory = f"{torch.cuda.max_memory_allocated() / 1e6:,.0f}" if device == "cuda" else "–"
        rate = f"{len(paths) / time.middle:.0f}"
        rows.append([root.name, device, str(batch), rate, str(time.times(1 / len(paths))), f"{off:.0e}", memory])
    (one,) = on_gpu(partial(detector.inspect, every[0]))
    rows.append([root.name, "cuda", "one by itself", f"{1 / one.middle:.0f}", str(one), "–", "–"])
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256, help="images inspected for the clock, those of a set repeated")
    given = parser.parse_args()
    here = both_machines()
    ways = [row for backbone, batch in itertools.product((LITE, WIDE), AT_ONCE) for row in network(backbone, batch)]
    fitted, speeds, told = list[list[str]](), list[list[str]](), dict[str, Any]()
    for root in sorted(path for path in given.data.iterdir() if (path / "train" / "good").is_dir()):
        with TemporaryDirectory() as folder:
            model = Path(folder) / "model.safetensors"
            row, told[root.name] = fits(root, model)
            fitted.append(row)
            speeds += inspections(root, model, given.images)
        write(  # after every set: a GPU may be lent for minutes
            given.out,
            "gpu_sets",
            [
                "# Networks and sets on a GPU",
                here,
                f"The network, from images to patches, {SIDE} x {SIDE}; {WIDE} has random weights. *Differs*: root mean square "
                "of the difference over that of float32.",
                table(("network", "images at once", "precision", "an image", "differs by", "memory, MB"), ways),
                "Fit with the defaults, torch on both. Figures: of the CPU's model / of the GPU's.",
                table(("set", "fit on the CPU", "fit on the GPU", "times", *FIGURES.values()), fitted),
                f"The CPU's model inspects {given.images} images on both. *Differ*: largest relative difference of a score "
                "from that of the CPU.",
                table(
                    ("set", "on", "images a batch", "images a second", "an image", "scores differ by", "GPU memory, MB"), speeds
                ),
            ],
            {"machines": here, "networks": ways, "inspections": speeds, **told},
        )


if __name__ == "__main__":
    main()
