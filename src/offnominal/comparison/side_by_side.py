"""Two runs -> figures with paired intervals, changed verdicts, compare.json and compare.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from offnominal.comparison.run import Run, RunImage
from offnominal.errors import InputError, unwritable
from offnominal.metrics import CONFIDENCE, RESAMPLES, Paired, Verdicts, paired_figures
from offnominal.outputs.report_files import as_text
from offnominal.reports import ChangedPictures, comparison_page
from offnominal.storage import write_whole

#: Figures of `metrics.json` that are compared as numbers: an interval would need the maps of both runs.
PIXEL_FIGURES = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.30", "aupro_0.05")
#: Most changed images with pictures in the page.
MOST_PICTURES = 200


@dataclass(frozen=True)
class Change:
    """An image whose verdict differs; `kind` says in a few words from what to what."""

    path: str
    kind: str
    better: bool | None
    a: RunImage
    b: RunImage


@dataclass(frozen=True)
class Comparison:
    """Runs A and B on the images that both judged.

    Attributes:
        paths: those images, sorted.
        figures: image figures over all of them, with intervals.
        classes: the same for each defect class against all good images.
        pixels: pixel figures of each run as it stands: name -> (A, B), None where one has none.
        changes: images whose verdict differs, the largest change of the score first.
        only_a, only_b: how many images only one run judged.
    """

    a: Run
    b: Run
    paths: tuple[str, ...]
    figures: dict[str, Paired]
    classes: dict[str, dict[str, Paired]]
    pixels: dict[str, tuple[float | None, float | None]]
    changes: tuple[Change, ...]
    only_a: int
    only_b: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """The content of `compare.json`."""
        return {
            "a": str(self.a.folder),
            "b": str(self.b.folder),
            "images": len(self.paths),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "bootstrap": {"resamples": RESAMPLES, "confidence": CONFIDENCE, "seed": self.seed, "method": "paired percentile"},
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "classes": {label: {name: asdict(f) for name, f in rows.items()} for label, rows in self.classes.items()},
            "pixel_figures": {
                name: {"a": a, "b": b, "difference": None if a is None or b is None else b - a}
                for name, (a, b) in self.pixels.items()
            },
            "changed": [
                {"path": change.path, "label": change.a.label, "kind": change.kind, "a": _told(change.a), "b": _told(change.b)}
                for change in self.changes
            ],
        }


def compare(a: Run, b: Run, *, seed: int = 0) -> Comparison:
    """Hold run B against run A.

    Raises:
        InputError: the runs have no image in common, or one is labelled and the other not, or labels differ.
    """
    if a.labelled != b.labelled:
        raise InputError(f"{a.folder} and {b.folder}: one is of evaluate, the other of inspect; compare two of a kind")
    paths = sorted(a.images.keys() & b.images.keys())
    if not paths:
        first_a, first_b = next(iter(a.images), "none"), next(iter(b.images), "none")
        raise InputError(
            f"{a.folder} and {b.folder}: no image in common ({first_a} there, {first_b} here); compare runs on the same data"
        )
    relabelled = [path for path in paths if a.images[path].label != b.images[path].label]
    if relabelled:
        raise InputError(
            f"{b.folder}: {len(relabelled)} images have another label than in {a.folder}, such as {relabelled[0]}; "
            "evaluate both models on the same data"
        )
    labels = np.array([a.images[path].label or "" for path in paths])
    defect = labels != "good" if a.labelled else None
    said_a, said_b = _verdicts(a, paths), _verdicts(b, paths)
    classes: dict[str, dict[str, Paired]] = {}
    for label in sorted(set(labels) - {"good"}) if defect is not None else []:
        kept = np.flatnonzero((labels == label) | (labels == "good"))
        figures = paired_figures(_some(said_a, kept), _some(said_b, kept), labels[kept] != "good", seed=seed)
        classes[label] = {name: figures[name] for name in ("image_auroc", "detection_rate") if name in figures}
    changes = [
        Change(path, *_kind(a.images[path], b.images[path]), a.images[path], b.images[path])
        for path in paths
        if a.images[path].anomalous != b.images[path].anomalous
    ]
    return Comparison(
        a,
        b,
        tuple(paths),
        paired_figures(said_a, said_b, defect, seed=seed),
        classes,
        {name: (a.metrics.get(name), b.metrics.get(name)) for name in PIXEL_FIGURES if a.labelled},
        tuple(sorted(changes, key=lambda change: -abs(change.b.score - change.a.score))),
        len(a.images) - len(paths),
        len(b.images) - len(paths),
        seed,
    )


def write_comparison(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Write `compare.json` and `compare.html`; returns the content of the former. Raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    told = comparison.as_json()
    write_whole(folder / "compare.json", (json.dumps(told, indent=2, allow_nan=False) + "\n").encode())
    a, b = comparison.a.images, comparison.b.images
    scores = np.array([(a[path].score, b[path].score) for path in comparison.paths])
    good = np.array([a[path].label in ("good", None) for path in comparison.paths])
    pictures = [
        ChangedPictures(
            change.path,
            change.a.label,
            change.kind,
            change.better,
            (change.a.score, change.b.score),
            (change.a.p_value, change.b.p_value),
            (_picture(change.a.picture), _picture(change.b.picture)),
        )
        for change in comparison.changes[:MOST_PICTURES]
    ]
    page = comparison_page(told, scores, good, pictures)
    write_whole(folder / "compare.html", as_text(page))
    return told


def _verdicts(run: Run, paths: Sequence[str]) -> Verdicts:
    images = [run.images[path] for path in paths]
    return Verdicts(np.array([image.score for image in images]), np.array([image.anomalous for image in images]))


def _some(said: Verdicts, kept: Any) -> Verdicts:
    return Verdicts(said.scores[kept], said.flagged[kept])


def _kind(a: RunImage, b: RunImage) -> tuple[str, bool | None]:
    if a.label is None:
        return ("now flagged" if b.anomalous else "no longer flagged"), None
    if a.label == "good":
        return ("new false alarm", False) if b.anomalous else ("no longer a false alarm", True)
    return ("now found", True) if b.anomalous else ("now missed", False)


def _told(image: RunImage) -> dict[str, Any]:
    return {"score": image.score, "p_value": image.p_value, "anomalous": image.anomalous}


def _picture(path: Path | None) -> Any | None:
    """(H, W, 3) of a file, None where it is missing or damaged."""
    if path is None:
        return None
    try:
        # OpenCV itself opens no name that is none in the system's encoding.
        read = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    return None if read is None else read[:, :, ::-1]
