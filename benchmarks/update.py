"""Incremental update against a new fit: covering radius, scores, image AUROC and seconds.

    python benchmarks/update.py --data FOLDER_OF_SETS/magnetic_tile --out benchmarks/results [--images 50]

The training images are shuffled with seed 0. The last N images are added to a fit on the others, and the result is compared
with a fit on all images. Then they are removed from the fit on all images, and the result is compared with the fit on the
others. `--limit` reduces the test images of each kind. Bank and covering radius are those of the first member.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from offnominal import Detector
from offnominal.datasets import labelled_images, normal_images
from offnominal.images import raise_unreadable
from offnominal.memory import NearestPatches
from offnominal.metrics import auroc
from tables import arguments, machine, now, table, use_threads, write


def figures(detector: Detector, normal: list[Path], test: list[Path], bad: np.ndarray[Any, Any]) -> dict[str, Any]:
    calibration, bank = detector.model.calibration, detector.model.members[0].bank
    scores = detector.score_samples(test)
    return {
        "bank": len(bank.patches),
        "stated_radius": bank.radius,
        "radius": covering_radius(detector, normal),
        "n": calibration.count,
        "threshold": calibration.threshold,
        "image_auroc": auroc(scores, bad),
        "false_alarms": float((scores[~bad] > np.float32(calibration.threshold)).mean()),
        "detected": float((scores[bad] > np.float32(calibration.threshold)).mean()),
        "scores": scores,
    }


def covering_radius(detector: Detector, normal: list[Path]) -> float:
    """The largest distance from a patch of the training images to the bank, for the first member."""
    search = NearestPatches(detector.model.members[0].bank.patches)
    inspector = detector._ready()
    squared = [float(search(patches[0], 1)[0].max()) for _, _, patches, _ in inspector.patches(normal, raise_unreadable)]
    return float(np.sqrt(max(squared)))


def row(name: str, result: dict[str, Any], reference: dict[str, Any] | None) -> list[str]:
    stated = "–" if result["stated_radius"] is None else f"{result['stated_radius']:.2f}"
    cells = [name, result["n"], result["bank"], f"{result['radius']:.2f} ({stated})", f"{result['threshold']:.3f}"]
    cells += [
        f"{result['image_auroc']:.4f}",
        f"{result['false_alarms']:.3f}",
        f"{result['detected']:.3f}",
        f"{result['seconds']:.1f}",
    ]
    if reference is None:
        return [*map(str, cells), "–"]
    difference = np.abs(result["scores"] - reference["scores"])
    spread = float(reference["scores"].std())
    return [*map(str, cells), f"{np.median(difference):.3f} / {np.quantile(difference, 0.95):.3f} of {spread:.2f}"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--limit", type=int, help="number of good and of defective test images")
    args = parser.parse_args()
    use_threads(args.threads)
    normal = [item.path for item in normal_images(args.data)]
    normal = [normal[at] for at in np.random.default_rng(0).permutation(len(normal))]
    first, last = normal[: -args.images], normal[-args.images :]
    items = labelled_images(args.data)
    items = [items[at] for at in np.random.default_rng(0).permutation(len(items))]
    chosen = [[item for item in items if item.good][: args.limit], [item for item in items if not item.good][: args.limit]]
    test = [item.path for kind in chosen for item in kind]
    bad = np.arange(len(test)) >= len(chosen[0])

    results: dict[str, dict[str, Any]] = {}

    def record(name: str, detector: Detector, started: float, images: list[Path]) -> None:
        seconds = now() - started
        results[name] = {**figures(detector, images, test, bad), "seconds": seconds}

    started = now()
    partial = Detector().fit(first)
    record(f"fit on {len(first)}", partial, started, first)
    started = now()
    partial.update(add=[str(path) for path in last])
    record(f"{args.images} added", partial, started, normal)
    started = now()
    full = Detector().fit(normal)
    record(f"fit on {len(normal)}", full, started, normal)
    started = now()
    full.update(remove=[str(path) for path in last])
    record(f"{args.images} removed", full, started, first)

    early_fit, added, full_fit, removed = results
    references = {early_fit: None, added: results[full_fit], full_fit: None, removed: results[early_fit]}
    columns: tuple[str, ...] = (
        "model",
        "n",
        "bank",
        "covering radius (stated)",
        "threshold",
        "image AUROC",
        "false alarms",
        "detected",
        "seconds",
    )
    columns += ("score difference to the fit on the same images: median / 95 %, of a deviation of",)
    rows = [row(name, result, references[name]) for name, result in results.items()]
    plain = {name: {key: value for key, value in result.items() if key != "scores"} for name, result in results.items()}
    write(args.out, f"update-{args.data.name}", [str(machine()), table(columns, rows)], plain)


if __name__ == "__main__":
    main()
