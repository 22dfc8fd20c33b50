"""Incremental update against a new fit: covering radius, scores, image AUROC and seconds.

    python benchmarks/update.py --data FOLDER_OF_SETS/magnetic_tile --out benchmarks/results [--images 50]

The training images are shuffled with seed 0. The last N are added to a fit on the others, which is compared with a fit on all.
Then they are removed from the fit on all, which is compared with the fit on the others. `--limit` uses fewer test images of
each kind. Bank and covering radius are those of the first member.
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
    """The largest distance of a patch of the known images to the bank, for the first member."""
    search = NearestPatches(detector.model.members[0].bank.patches)
    inspector = detector._ready()
    found = [float(search(patches[0], 1)[0].max()) for _, _, patches, _ in inspector.patches(normal, raise_unreadable)]
    return float(np.sqrt(max(found)))


def row(name: str, one: dict[str, Any], against: dict[str, Any] | None) -> list[str]:
    stated = "–" if one["stated_radius"] is None else f"{one['stated_radius']:.2f}"
    cells = [name, one["n"], one["bank"], f"{one['radius']:.2f} ({stated})", f"{one['threshold']:.3f}"]
    cells += [f"{one['image_auroc']:.4f}", f"{one['false_alarms']:.3f}", f"{one['detected']:.3f}", f"{one['seconds']:.1f}"]
    if against is None:
        return [*map(str, cells), "–"]
    difference = np.abs(one["scores"] - against["scores"])
    spread = float(against["scores"].std())
    return [*map(str, cells), f"{np.median(difference):.3f} / {np.quantile(difference, 0.95):.3f} of {spread:.2f}"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--limit", type=int, help="test images of each of good and defective")
    given = parser.parse_args()
    use_threads(given.threads)
    normal = [item.path for item in normal_images(given.data)]
    normal = [normal[at] for at in np.random.default_rng(0).permutation(len(normal))]
    early, late = normal[: -given.images], normal[-given.images :]
    items = labelled_images(given.data)
    items = [items[at] for at in np.random.default_rng(0).permutation(len(items))]
    chosen = [[item for item in items if item.good][: given.limit], [item for item in items if not item.good][: given.limit]]
    test = [item.path for kind in chosen for item in kind]
    bad = np.arange(len(test)) >= len(chosen[0])

    found: dict[str, dict[str, Any]] = {}

    def note(name: str, detector: Detector, began: float, images: list[Path]) -> None:
        seconds = now() - began
        found[name] = {**figures(detector, images, test, bad), "seconds": seconds}

    began = now()
    some = Detector().fit(early)
    note(f"fit on {len(early)}", some, began, early)
    began = now()
    some.update(add=[str(path) for path in late])
    note(f"{given.images} added", some, began, normal)
    began = now()
    whole = Detector().fit(normal)
    note(f"fit on {len(normal)}", whole, began, normal)
    began = now()
    whole.update(remove=[str(path) for path in late])
    note(f"{given.images} removed", whole, began, early)

    few, grown, all_, shrunk = found
    against = {few: None, grown: found[all_], all_: None, shrunk: found[few]}
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
    rows = [row(name, one, against[name]) for name, one in found.items()]
    plain = {name: {key: value for key, value in one.items() if key != "scores"} for name, one in found.items()}
    write(given.out, f"update-{given.data.name}", [str(machine()), table(columns, rows)], plain)


if __name__ == "__main__":
    main()
