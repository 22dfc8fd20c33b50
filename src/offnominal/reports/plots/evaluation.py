"""Charts of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from offnominal.reports.plots.chart import Band, Bars, Boxes, Chart, Dots, Line, Points, Rule, Values

SCORE_LABEL = "image score (standard deviations of normal patches)"
_UNIT = (-0.01, 1.01)
_BINS = 40


def score_histogram(groups: Mapping[str, Values], threshold: float) -> Chart:
    """Scores of `good` and `defect` images (or of `all`), with the threshold.

    Scores beyond the 99th percentile share the last bin.
    """
    both = np.concatenate(list(groups.values()))
    low, high = float(both.min()), max(float(np.percentile(both, 99)), threshold * 1.1)
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    edges = np.linspace(low, high, _BINS + 1)
    counts = {name: np.histogram(np.minimum(scores, high), edges)[0] for name, scores in groups.items()}
    bars = [
        Bars(edges, heights.astype(float), "defect" if name == "defect" else "good", f"{name} ({len(groups[name])})")
        for name, heights in counts.items()
    ]
    top = max(float(heights.max()) for heights in counts.values())
    return Chart(
        "scores",
        "Scores of the images",
        "The less the colours overlap, the better the model tells good from bad; right of the threshold an image is flagged."
        if len(groups) > 1
        else "Right of the threshold an image is flagged.",
        SCORE_LABEL,
        "images",
        (low, high),
        (0, top * 1.06),
        (*bars, Rule(threshold, "threshold", follows=True)),
    )


def roc(points: Points, area: float, at: tuple[float, float]) -> Chart:
    """ROC of the images, with the point `(false-alarm rate, detection rate)` at the threshold."""
    return Chart(
        "roc",
        "ROC",
        f"How many defective images are found for how many false alarms, at every threshold; area {area:.3f} (1 is perfect).",
        "false-alarm rate",
        "detection rate",
        _UNIT,
        _UNIT,
        (
            Line(np.array([[0.0, 0.0], [1.0, 1.0]]), "faint", "by chance", dashed=True),
            Line(points, "good", f"AUROC {area:.3f}"),
            Dots(np.array([at]), "defect", "at the threshold", follows=True),
        ),
    )


def precision_recall(points: Points, average: float, share: float, at: tuple[float, float] | None) -> Chart:
    """Precision over recall of the images; `share` of defective ones among all, `at` (recall, precision) at the threshold."""
    dots = () if at is None else (Dots(np.array([at]), "defect", "at the threshold", follows=True),)
    return Chart(
        "precision-recall",
        "Precision and recall",
        f"Of the flagged images, how many are defective, for every share of defects found; average precision {average:.3f}.",
        "recall (share of defective images found)",
        "precision",
        _UNIT,
        _UNIT,
        (
            Line(np.array([[0.0, share], [1.0, share]]), "faint", f"by chance ({share:.2f})", dashed=True),
            Line(np.vstack([[0.0, points[0, 1]], points]), "good", f"AP {average:.3f}"),
            *dots,
        ),
    )


def pro(points: Points, wide: float, strict: float) -> Chart:
    """Overlap with the defect regions over the false-positive rate of pixels, up to 0.30; the areas are the two AUPROs."""
    return Chart(
        "pro",
        "PRO",
        f"How much of each defect region the map covers, for a share of good pixels above the level; "
        f"AUPRO {wide:.3f} up to 0.30 and {strict:.3f} up to 0.05.",
        "false-positive rate of pixels",
        "mean overlap with defect regions",
        (0, 0.3),
        _UNIT,
        (Line(points, "good", f"AUPRO 0.30: {wide:.3f}"), Rule(0.05, "0.05")),
    )


def pixel_precision_recall(points: Points, average: float) -> Chart:
    """Precision over recall of the pixels."""
    return Chart(
        "pixel-precision-recall",
        "Precision and recall of pixels",
        f"Of the pixels above a level, how many lie in the masks, for every share found; average precision {average:.3f}.",
        "recall (share of defect pixels found)",
        "precision",
        _UNIT,
        _UNIT,
        (Line(np.vstack([[0.0, points[0, 1]], points]), "good", f"pixel AP {average:.3f}"),),
    )


def calibration(asked: Values, seen: Values, low: Values, high: Values, rate: float) -> Chart:
    """Asked against seen false-alarm rate up to 0.5, with the 95 % interval; `rate` is the one in force."""
    upto = asked <= 0.5
    return Chart(
        "calibration",
        "Calibration",
        "A trustworthy model stays at or below the dashed line: no more good test images are flagged than was asked for. "
        "The band is the 95 % interval that so many good test images allow.",
        "asked false-alarm rate",
        "seen on good test images",
        (0, 0.5),
        (0, 1.02 * max(0.5, float(high[upto].max()))),
        (
            Band(asked[upto], low[upto], high[upto], "good", "95 % interval"),
            Line(np.array([[0.0, 0.0], [0.5, 0.5]]), "line", "as asked", dashed=True),
            Line(np.column_stack([asked[upto], seen[upto]]), "good", "seen", step=True),
            Rule(rate, "rate in force"),
        ),
    )


def class_boxes(classes: Sequence[tuple[str, Values]], threshold: float) -> Chart:
    """Scores of each class, `good` first, with the threshold."""
    everything = np.concatenate([scores for _, scores in classes])
    low, high = min(float(everything.min()), threshold), max(float(everything.max()), threshold)
    margin = 0.03 * (high - low) or 0.5
    return Chart(
        "classes",
        "Scores by class",
        "Half of a class lies in its box, the line in it is the median; what lies left of the threshold is not flagged.",
        SCORE_LABEL,
        "",
        (low - margin, high + margin),
        (len(classes) + 0.0, 0.0),
        (
            Boxes(
                tuple((f"{name} ({len(scores)})", scores, "good" if name == "good" else "defect") for name, scores in classes)
            ),
            Rule(threshold, "threshold", follows=True),
        ),
    )


def score_pairs(scores: Values, good: npt.NDArray[np.bool_]) -> Chart:
    """(n, 2) scores of the same images by two models A and B, `good` (n,) those labelled good."""
    low, high = float(scores.min()), float(scores.max())
    margin = 0.04 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    groups = [Dots(scores[good], "good", f"good ({int(good.sum())})", small=True)]
    if not good.all():
        groups.append(Dots(scores[~good], "defect", f"defect ({int((~good).sum())})", small=True))
    return Chart(
        "pairs",
        "Scores of both runs",
        "Each dot is an image. On the dashed line both scores are equal; a better B lifts defects and lowers good images.",
        "score of A",
        "score of B",
        ends,
        ends,
        (Line(np.array([[ends[0], ends[0]], [ends[1], ends[1]]]), "faint", "equal", dashed=True), *groups),
    )
