"""Ours against anomalib's Patchcore: same backbone weights, layers, image size and bank size, in one run.

    python benchmarks/rivals.py --data MVTEC_ROOT [--environment FOLDER] [--bank 0.01] [--test 200] [--out FOLDER]

anomalib is installed into an environment of its own, which this program makes. Its input is normalised as the backbone wants,
not by its default, which would cost it accuracy. Each runs in a process of its own, one after the other. Times an image are
from the file to the score and the map; those in batches are of a second pass over the same images, so that what happens once,
such as making a network ready, is in neither. The accuracy of both comes from the same code, on masks in original resolution.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from tables import machine, table, write

SIDE, LITTLE = 256, "100MB"
#: So many images, or all that there are, are also measured in batches, by both.
IN_BATCHES = 128
FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.30", "aupro_0.05")
COLUMNS = (
    "method",
    "fit, s",
    "coreset, s",
    "bank",
    "ms an image, one at a time",
    "ms an image, batches",
    "peak GB of fit",
    *(name.replace("_", " ") for name in FIGURES),
)


def environment(folder: Path) -> Path:
    """The interpreter of an environment that holds anomalib; made where it is missing."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing anomalib into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        pins = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
        words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "anomalib", *pins]
        subprocess.run(words, check=True)
        (folder / "ready").touch()
    return python


def chosen(data: str, most: int) -> tuple[list[Any], list[Any]]:
    """Training images, and up to `most` test images, every so many-th of each class."""
    from offnominal.images import labelled_images, normal_images

    test = labelled_images(data)
    step = max(1, -(-len(test) // most))
    return list(normal_images(data)), test[::step]


def ours(data: str, settings: dict[str, str], most: int) -> dict[str, Any]:
    """Fit and inspect in this process."""
    from offnominal import Detector
    from offnominal.metrics import Judged, figures

    train, test = chosen(data, most)
    started = perf_counter()
    detector = Detector(**settings).fit([item.path for item in train])
    fit = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    times, judged = [], []
    for item in test:
        started = perf_counter()
        found = detector.inspect(item.path)
        times.append(perf_counter() - started)
        judged.append(Judged(item.good, item.label, found.score, found.anomalous, found.anomaly_map, mask_of(item)))
    paths = [item.path for item in test[:IN_BATCHES]]
    for _ in range(2):
        started = perf_counter()
        count = sum(1 for _ in detector.inspect_many(paths, failed=lambda index, error: None))
        batches = (perf_counter() - started) / count
    return {
        "fit_seconds": fit,
        "coreset_seconds": detector.seconds["coreset"],
        "bank": len(detector.model.bank.patches),
        "peak_gb": peak,
        "ms_batch_of_one": 1000 * float(np.median(times[3:])),
        "ms_in_batches": 1000 * batches,
        **figures(judged),
    }


def mask_of(item: Any) -> Any:
    from offnominal.images import pixels_of, read_mask

    return None if item.mask is None else read_mask(item.mask, pixels_of(item.path).shape[:2])


def theirs(python: Path, data: str, bank: float, most: int) -> dict[str, Any]:
    """anomalib's, by `rival_patchcore.py` in its own environment."""
    import torch

    from offnominal.features import load_backbone, torchvision_schemas
    from offnominal.images import pixels_of
    from offnominal.metrics import Judged, figures

    train, test = chosen(data, most)
    backbone = load_backbone("efficientnet-lite0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(dict(backbone.network.get_submodule("network").state_dict()), folder / "weights.pt")
        job = {
            "schemas": torchvision_schemas.__file__,
            "backbone": "tf_efficientnet_lite0",
            "layers": list(backbone.layers),
            "weights": str(folder / "weights.pt"),
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "side": SIDE,
            "bank": bank,
            "train": [str(item.path) for item in train],
            "test": [str(item.path) for item in test],
            "in_batches": IN_BATCHES,
            "maps": str(folder / "maps.npy"),
        }
        (folder / "job.json").write_text(json.dumps(job))
        script = str(Path(__file__).with_name("rival_patchcore.py"))
        done = subprocess.run([str(python), script, str(folder / "job.json")], check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        maps = np.load(folder / "maps.npy", mmap_mode="r")
        judged = []
        for item, score, small in zip(test, found.pop("scores"), maps, strict=True):
            height, width = pixels_of(item.path).shape[:2]
            large = cv2.resize(np.array(small), (width, height), interpolation=cv2.INTER_LINEAR)
            judged.append(Judged(item.good, item.label, score, False, large, mask_of(item)))
        return {**found, **figures(judged)}


def row(name: str, found: dict[str, Any]) -> list[str]:
    return [
        name,
        f"{found['fit_seconds']:.1f}",
        f"{found['coreset_seconds']:.1f}",
        f"{found['bank']:,}",
        f"{found['ms_batch_of_one']:.1f}",
        f"{found['ms_in_batches']:.1f}",
        f"{found['peak_gb']:.2f}",
        *("–" if found[key] is None else f"{found[key]:.3f}" for key in FIGURES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--environment", type=Path, default=Path("build/anomalib"))
    parser.add_argument("--bank", type=float, default=0.01)
    parser.add_argument("--test", type=int, default=200, help="at most about so many test images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--ours", help="settings as JSON: measure ours and print JSON (used by this program itself)")
    given = parser.parse_args()
    if given.ours is not None:
        print(json.dumps(ours(given.data, json.loads(given.ours), given.test)))
        return
    import torch

    python = environment(given.environment)
    alike = {"resize": "squash", "image_size": f"{SIDE}x{SIDE}", "bank": str(given.bank)}
    found: dict[str, Any] = {}
    ways = {
        "ours, as theirs: squashed": alike,
        f"the same, patches on disk (memory = {LITTLE})": {**alike, "memory": LITTLE},
        "ours, default": {"bank": str(given.bank)},
    }
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        ways["as theirs, the network in bfloat16"] = {**alike, "precision": "bfloat16"}
    for name, settings in ways.items():
        print(name, file=sys.stderr)
        words = [sys.executable, __file__, "--data", given.data, "--test", str(given.test), "--ours", json.dumps(settings)]
        found[name] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    print("anomalib Patchcore", file=sys.stderr)
    found["anomalib Patchcore"] = rival = theirs(python, given.data, given.bank, given.test)
    ratios = [
        [
            name,
            *(
                f"{rival[key] / one[key]:.1f}"
                for key in ("fit_seconds", "coreset_seconds", "ms_batch_of_one", "ms_in_batches", "peak_gb")
            ),
        ]
        for name, one in found.items()
        if one is not rival
    ]
    where = machine()
    train, test = chosen(given.data, given.test)
    write(
        given.out,
        f"rivals-{Path(given.data).stem}",
        [
            "# Ours against anomalib's Patchcore",
            f"{Path(given.data).stem}: {len(train)} good images to fit, {len(test)} to test. EfficientNet-Lite0, the same "
            f"weights and layers, {SIDE} x {SIDE} pixels (ours by default keeps the aspect), a bank of {given.bank:g} of the "
            "patches. Ours also calibrates: it scores every training image held out.",
            str(where),
            table(COLUMNS, [row(name, one) for name, one in found.items()]),
            "How many times anomalib needs what ours needs:",
            table(("method", "fit", "coreset", "one image", "image in batches", "memory"), ratios),
        ],
        {"machine": where.as_json(), **found},
    )


if __name__ == "__main__":
    main()
