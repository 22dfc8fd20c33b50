"""Figures with paired confidence intervals, changed verdicts, compare.json and compare.html."""

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
from offnominal.outputs.report_writer import as_text
from offnominal.reports import ChangedPictures, comparison_page
from offnominal.storage import write_atomically

#: Figures of `metrics.json` that are compared without intervals, which would need the maps of both runs.
PIXEL_FIGURES = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_0.30", "aupro_0.05")
#: Changed images with pictures in the page, which bounds its size.
MOST_PICTURES = 200


@dataclass(frozen=True)
class VerdictChange:
    """An image whose verdict differs.

    Attributes
    ----------
    path
        Path of the image.
    kind
        The change in a few words.
    better
        Whether run B is right and run A wrong; None without a label.
    a, b
        Results of the image in both runs.

    Examples
    --------
    >>> a, b = RunImage("crack", 3.0, 0.2, False, None), RunImage("crack", 7.5, 0.01, True, None)
    >>> VerdictChange("a.png", "now found", better=True, a=a, b=b).kind
    'now found'
    """

    path: str
    kind: str
    better: bool | None
    a: RunImage
    b: RunImage


@dataclass(frozen=True)
class Comparison:
    """Runs A and B on their common images; see `compare`.

    Attributes
    ----------
    a, b
        The runs.
    paths
        Paths of the common images, sorted.
    figures
        Image-level figures with confidence intervals.
    classes
        The same for each defect class against all good images.
    pixels
        Pixel-level figures as each run reports them: name -> (A, B), None without masks.
    changes
        Images whose verdict differs, largest change of the score first.
    only_a, only_b
        Number of images in one run only.
    seed
        Seed of the bootstrap.

    Examples
    --------
    >>> image = RunImage(None, 3.0, 0.2, False, None)
    >>> run = Run(Path("inspected"), {"a.png": image}, {})
    >>> compare(run, run).as_json()["changed"]
    []
    """

    a: Run
    b: Run
    paths: tuple[str, ...]
    figures: dict[str, Paired]
    classes: dict[str, dict[str, Paired]]
    pixels: dict[str, tuple[float | None, float | None]]
    changes: tuple[VerdictChange, ...]
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
                {
                    "path": change.path,
                    "label": change.a.label,
                    "kind": change.kind,
                    "a": _result(change.a),
                    "b": _result(change.b),
                }
                for change in self.changes
            ],
        }


def compare(a: Run, b: Run, *, seed: int = 0) -> Comparison:
    """Compare run B with run A on their common images.

    Parameters
    ----------
    a, b
        Two runs of `evaluate`, or two of `inspect`.
    seed
        Seed of the paired bootstrap (`metrics.paired_figures`).

    Raises
    ------
    InputError
        The runs have no image in common, only one of them has labels, or the labels differ.

    Examples
    --------
    >>> a = Run(Path("a"), {"1.png": RunImage(None, 3.0, 0.2, False, None)}, {})
    >>> b = Run(Path("b"), {"1.png": RunImage(None, 7.5, 0.01, True, None)}, {})
    >>> comparison = compare(a, b)
    >>> comparison.changes[0].kind
    'now flagged'
    >>> comparison.figures["flagged_rate"].difference.value
    1.0
    """
    if a.labelled != b.labelled:
        raise InputError(
            f"{a.folder} and {b.folder}: one is from evaluate, the other from inspect; compare two runs of the same command"
        )
    paths = sorted(a.images.keys() & b.images.keys())
    if not paths:
        first_a, first_b = next(iter(a.images), "none"), next(iter(b.images), "none")
        raise InputError(
            f"{a.folder} and {b.folder}: no image in common (the first is {first_a} in one, {first_b} in the other); "
            "compare runs on the same data"
        )
    relabelled = [path for path in paths if a.images[path].label != b.images[path].label]
    if relabelled:
        raise InputError(
            f"{b.folder}: {len(relabelled)} images have different labels in {a.folder}, such as {relabelled[0]}; "
            "evaluate both models on the same data"
        )
    labels = np.array([a.images[path].label or "" for path in paths])
    defect = labels != "good" if a.labelled else None
    verdicts_a, verdicts_b = _verdicts(a, paths), _verdicts(b, paths)
    classes: dict[str, dict[str, Paired]] = {}
    for label in sorted(set(labels) - {"good"}) if defect is not None else []:
        rows = np.flatnonzero((labels == label) | (labels == "good"))
        figures = paired_figures(_subset(verdicts_a, rows), _subset(verdicts_b, rows), labels[rows] != "good", seed=seed)
        classes[label] = {name: figures[name] for name in ("image_auroc", "detection_rate") if name in figures}
    changes = [
        VerdictChange(path, *_kind(a.images[path], b.images[path]), a.images[path], b.images[path])
        for path in paths
        if a.images[path].anomalous != b.images[path].anomalous
    ]
    return Comparison(
        a,
        b,
        tuple(paths),
        paired_figures(verdicts_a, verdicts_b, defect, seed=seed),
        classes,
        {name: (a.metrics.get(name), b.metrics.get(name)) for name in PIXEL_FIGURES if a.labelled},
        tuple(sorted(changes, key=lambda change: -abs(change.b.score - change.a.score))),
        len(a.images) - len(paths),
        len(b.images) - len(paths),
        seed,
    )


def write_comparison(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Write `compare.json` and `compare.html`.

    Parameters
    ----------
    comparison
        The comparison.
    folder
        Output folder.

    Returns
    -------
    dict
        The content of `compare.json`.

    Raises
    ------
    OutputError
        A file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> run = Run(Path("inspected"), {"a.png": RunImage(None, 3.0, 0.2, False, None)}, {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_comparison(compare(run, run), Path(folder))["images"]
    1
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    content = comparison.as_json()
    write_atomically(folder / "compare.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
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
    page = comparison_page(content, scores, good, pictures)
    write_atomically(folder / "compare.html", as_text(page))
    return content


def _verdicts(run: Run, paths: Sequence[str]) -> Verdicts:
    images = [run.images[path] for path in paths]
    return Verdicts(np.array([image.score for image in images]), np.array([image.anomalous for image in images]))


def _subset(verdicts: Verdicts, rows: Any) -> Verdicts:
    return Verdicts(verdicts.scores[rows], verdicts.flagged[rows])


def _kind(a: RunImage, b: RunImage) -> tuple[str, bool | None]:
    if a.label is None:
        return ("now flagged" if b.anomalous else "no longer flagged"), None
    if a.label == "good":
        return ("new false alarm", False) if b.anomalous else ("no longer a false alarm", True)
    return ("now found", True) if b.anomalous else ("now missed", False)


def _result(image: RunImage) -> dict[str, Any]:
    return {"score": image.score, "p_value": image.p_value, "anomalous": image.anomalous}


def _picture(path: Path | None) -> Any | None:
    """(H, W, 3) uint8 of a file, None if it is missing or damaged."""
    if path is None:
        return None
    try:
        # OpenCV cannot open a file name that is invalid in the encoding of the system.
        picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    return None if picture is None else picture[:, :, ::-1]
