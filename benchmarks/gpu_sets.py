"""Networks and whole sets on a GPU: speed in each precision, and agreement with the CPU.

    python benchmarks/gpu_sets.py --data FOLDER_OF_SETS [--images 256] [--out benchmarks/results]

Each MVTec root in the folder is fitted on the CPU and on the GPU, and the accuracy of both is compared. One model then inspects
on both, from file to score and map, in batches of 1 to 64. Both use torch. By default, cuDNN rounds float32 to TF32, which
offnominal switches off. The error of TF32 is measured with the default of cuDNN.
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

from gpu import Rows, describe_machines, on_gpu, peak_of, synchronised
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
    """Allow cuDNN to round to TF32 in this context, whatever offnominal sets."""
    original: Any = torch.backends.cudnn.flags
    if convolutions:
        torch.backends.cudnn.flags = lambda **kwargs: original(**(kwargs | {"allow_tf32": True}))
    try:
        yield
    finally:
        torch.backends.cudnn.flags = original


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
            output, memory = work(), peak_of(work)
        exact = output if exact is None else exact
        error = float((output - exact).square().mean().sqrt() / exact.square().mean().sqrt())
        rows.append([backbone, str(batch), precision, str(time.times(1 / batch)), f"{error:.0e}", f"{memory:,.0f}"])
    return rows


def fail(index: int, error: Exception) -> None:
    raise error


def scores_of(detector: Detector, paths: list[Path]) -> dict[int, float]:
    return {index: inspection.score for index, inspection in detector.inspect_many(paths, failed=fail)}


def fits(root: Path, model: Path) -> tuple[list[str], dict[str, Any]]:
    times: dict[str, Timing] = {}
    figures = {}
    for device in ("cpu", "cuda"):
        print(root.name, device, file=sys.stderr, flush=True)
        detector = Detector(device=device, runtime="torch")
        (times[device],) = timed(synchronised(partial(detector.fit, root)), runs=1)
        figures[device] = detector.evaluate(root).figures
        if device == "cpu":
            detector.save(model)
    ratio = times["cpu"].middle / times["cuda"].middle
    accuracy = [f"{figures['cpu'][key]:.4f} / {figures['cuda'][key]:.4f}" for key in FIGURES]
    return [root.name, str(times["cpu"]), str(times["cuda"]), f"{ratio:.1f}", *accuracy], {"fit": times, "figures": figures}


def inspections(root: Path, model: Path, images: int) -> Rows:
    all_paths = [item.path for item in labelled_images(root)]
    paths = list(itertools.islice(itertools.cycle(all_paths), images))
    rows: Rows = []
    expected: dict[int, float] = {}
    for device, batch in (ON_CPU, *(("cuda", batch) for batch in BATCHES)):
        detector = load(model, device=device, runtime="torch", batch_size=batch)
        torch.cuda.reset_peak_memory_stats()
        (time,) = timed(synchronised(partial(scores_of, detector, paths)), runs=3)
        scores = scores_of(detector, all_paths)
        expected = expected or scores
        error = max(abs(scores[index] / score - 1) for index, score in expected.items())
        memory = f"{torch.cuda.max_memory_allocated() / 1e6:,.0f}" if device == "cuda" else "–"
        rate = f"{len(paths) / time.middle:.0f}"
        rows.append([root.name, device, str(batch), rate, str(time.times(1 / len(paths))), f"{error:.0e}", memory])
    (single,) = on_gpu(partial(detector.inspect, all_paths[0]))
    rows.append([root.name, "cuda", "one by itself", f"{1 / single.middle:.0f}", str(single), "–", "–"])
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=256, help="number of timed images; the images of a set are repeated")
    args = parser.parse_args()
    machines = describe_machines()
    networks = [row for backbone, batch in itertools.product((LITE, WIDE), AT_ONCE) for row in network(backbone, batch)]
    fit_rows, speeds, details = list[list[str]](), list[list[str]](), dict[str, Any]()
    for root in sorted(path for path in args.data.iterdir() if (path / "train" / "good").is_dir()):
        with TemporaryDirectory() as folder:
            model = Path(folder) / "model.safetensors"
            row, details[root.name] = fits(root, model)
            fit_rows.append(row)
            speeds += inspections(root, model, args.images)
        write(  # written after each set, because the GPU may be available only for minutes
            args.out,
            "gpu_sets",
            [
                "# Networks and sets on a GPU",
                machines,
                f"The network, from images to patches, {SIDE} x {SIDE}; {WIDE} has random weights. *Differs*: root mean square "
                "of the difference over that of float32.",
                table(("network", "images at once", "precision", "an image", "differs by", "memory, MB"), networks),
                "Fit with the defaults, torch on both. Figures: of the CPU's model / of the GPU's.",
                table(("set", "fit on the CPU", "fit on the GPU", "times", *FIGURES.values()), fit_rows),
                f"The CPU's model inspects {args.images} images on both. *Differ*: largest relative difference of a score "
                "from that of the CPU.",
                table(
                    ("set", "on", "images a batch", "images a second", "an image", "scores differ by", "GPU memory, MB"), speeds
                ),
            ],
            {"machines": machines, "networks": networks, "inspections": speeds, **details},
        )


if __name__ == "__main__":
    main()
