"""Charts of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from offnominal.reports.plots.chart import Band, Bars, Boxes, Chart, Dots, Line, Points, Rule, Values

SCORE_LABEL = "image score (standard deviations of normal patches)"
#: Axis of a share, with room for the line at its ends.
_UNIT = (-0.01, 1.01)
_BINS = 40


def score_histogram(groups: Mapping[str, Values], threshold: float) -> Chart:
    """Histogram of the image scores with the threshold.

    Scores beyond the 99th percentile share the last bin.

    Parameters
    ----------
    groups
        Scores of the `good` and of the `defect` images, or of `all`.
    threshold
        Calibrated threshold.

    Examples
    --------
    >>> chart = score_histogram({"good": np.array([1.0, 2.0]), "defect": np.array([7.0])}, threshold=3.0)
    >>> [mark.label for mark in chart.marks]
    ['good (2)', 'defect (1)', 'threshold']
    """
    scores = np.concatenate(list(groups.values()))
    low, high = float(scores.min()), max(float(np.percentile(scores, 99)), threshold * 1.1)
    low, high = (low, high) if high > low else (low - 0.5, low + 0.5)
    edges = np.linspace(low, high, _BINS + 1)
    counts = {name: np.histogram(np.minimum(group, high), edges)[0] for name, group in groups.items()}
    bars = [
        Bars(edges, heights.astype(float), "defect" if name == "defect" else "good", f"{name} ({len(groups[name])})")
        for name, heights in counts.items()
    ]
    top = max(float(heights.max()) for heights in counts.values())
    return Chart(
        "scores",
        "Image scores",
        "The less the colours overlap, the better the model separates good from defective images. "
        "Images right of the threshold are flagged."
        if len(groups) > 1
        else "Images right of the threshold are flagged.",
        SCORE_LABEL,
        "images",
        (low, high),
        (0, top * 1.06),
        (*bars, Rule(threshold, "threshold", follows=True)),
    )


def roc(points: Points, area: float, at: tuple[float, float]) -> Chart:
    """ROC curve of the images.

    Parameters
    ----------
    points
        (n, 2) false-alarm rates and detection rates.
    area
        Area under the curve.
    at
        `(false-alarm rate, detection rate)` at the threshold.

    Examples
    --------
    >>> roc(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), area=1.0, at=(0.0, 1.0)).marks[1].label
    'AUROC 1.000'
    """
    return Chart(
        "roc",
        "ROC",
        f"Detection rate over false-alarm rate at every threshold. The area is {area:.3f}; 1 is perfect.",
        "false-alarm rate",
        "detection rate",
        _UNIT,
        _UNIT,
        (
            Line(np.array([[0.0, 0.0], [1.0, 1.0]]), "faint", "random", dashed=True),
            Line(points, "good", f"AUROC {area:.3f}"),
            Dots(np.array([at]), "defect", "at the threshold", follows=True),
        ),
    )


def precision_recall(points: Points, average: float, share: float, at: tuple[float, float] | None) -> Chart:
    """Precision-recall curve of the images.

    Parameters
    ----------
    points
        (n, 2) recalls and precisions.
    average
        Average precision.
    share
        Share of defective images, the precision of a random score.
    at
        `(recall, precision)` at the threshold; None if no image is flagged.

    Examples
    --------
    >>> precision_recall(np.array([[0.5, 1.0], [1.0, 0.8]]), average=0.9, share=0.4, at=None).marks[1].label
    'AP 0.900'
    """
    dots = () if at is None else (Dots(np.array([at]), "defect", "at the threshold", follows=True),)
    return Chart(
        "precision-recall",
        "Precision and recall",
        f"Share of defective images among the flagged ones, over the share of defective images found. "
        f"The average precision is {average:.3f}.",
        "recall (share of defective images found)",
        "precision",
        _UNIT,
        _UNIT,
        (
            Line(np.array([[0.0, share], [1.0, share]]), "faint", f"random ({share:.2f})", dashed=True),
            Line(np.vstack([[0.0, points[0, 1]], points]), "good", f"AP {average:.3f}"),
            *dots,
        ),
    )


def pro(points: Points, wide: float, strict: float) -> Chart:
    """Per-region overlap (PRO) over the false-positive rate of the pixels, up to 0.30.

    Parameters
    ----------
    points
        (n, 2) false-positive rates and mean overlaps.
    wide, strict
        AUPRO up to 0.30 and up to 0.05.

    Examples
    --------
    >>> pro(np.array([[0.0, 0.0], [0.3, 1.0]]), wide=0.5, strict=0.1).marks[0].label
    'AUPRO 0.30: 0.500'
    """
    return Chart(
        "pro",
        "PRO",
        f"Covered share of each defect region, over the share of good pixels above the same level. "
        f"AUPRO is {wide:.3f} up to 0.30 and {strict:.3f} up to 0.05.",
        "false-positive rate of pixels",
        "mean overlap with defect regions",
        (0, 0.3),
        _UNIT,
        (Line(points, "good", f"AUPRO 0.30: {wide:.3f}"), Rule(0.05, "0.05")),
    )


def pixel_precision_recall(points: Points, average: float) -> Chart:
    """Precision-recall curve of the pixels; parameters as in `precision_recall`.

    Examples
    --------
    >>> pixel_precision_recall(np.array([[0.5, 1.0], [1.0, 0.8]]), average=0.9).marks[0].label
    'pixel AP 0.900'
    """
    return Chart(
        "pixel-precision-recall",
        "Precision and recall of pixels",
        f"Share of mask pixels among the pixels above a level, over the share of mask pixels found. "
        f"The average precision is {average:.3f}.",
        "recall (share of defect pixels found)",
        "precision",
        _UNIT,
        _UNIT,
        (Line(np.vstack([[0.0, points[0, 1]], points]), "good", f"pixel AP {average:.3f}"),),
    )


def calibration(stated: Values, observed: Values, low: Values, high: Values, rate: float) -> Chart:
    """Observed over stated false-alarm rate, up to 0.5.

    Parameters
    ----------
    stated, observed
        (n,) stated false-alarm rates, and the rates observed on good test images.
    low, high
        (n,) 95 % interval of the observed rates.
    rate
        The rate in force.

    Examples
    --------
    >>> rates = np.array([0.0, 0.25, 0.5])
    >>> calibration(rates, 0.9 * rates, 0.5 * rates, 1.5 * rates, rate=0.05).marks[-1].x
    0.05
    """
    shown = stated <= 0.5
    return Chart(
        "calibration",
        "Calibration",
        "A well-calibrated model stays at or below the dashed line: it flags no more good test images than stated. "
        "The band is the 95 % interval for this number of good test images.",
        "stated false-alarm rate",
        "observed on good test images",
        (0, 0.5),
        (0, 1.02 * max(0.5, float(high[shown].max()))),
        (
            Band(stated[shown], low[shown], high[shown], "good", "95 % interval"),
            Line(np.array([[0.0, 0.0], [0.5, 0.5]]), "line", "as stated", dashed=True),
            Line(np.column_stack([stated[shown], observed[shown]]), "good", "observed", step=True),
            Rule(rate, "rate in force"),
        ),
    )


def class_boxes(classes: Sequence[tuple[str, Values]], threshold: float) -> Chart:
    """Box plots of the image scores by class, with the threshold.

    Parameters
    ----------
    classes
        (name, scores) of each class, `good` first.
    threshold
        Calibrated threshold.

    Examples
    --------
    >>> class_boxes([("good", np.array([1.0, 2.0])), ("crack", np.array([7.0]))], threshold=3.0).name
    'classes'
    """
    all_scores = np.concatenate([scores for _, scores in classes])
    low, high = min(float(all_scores.min()), threshold), max(float(all_scores.max()), threshold)
    margin = 0.03 * (high - low) or 0.5
    return Chart(
        "classes",
        "Scores by class",
        "Half of a class lies in its box; the line in the box is the median. Images left of the threshold are not flagged.",
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
    """Scores of the same images in two runs.

    Parameters
    ----------
    scores
        (n, 2) scores in run A and run B.
    good
        (n,) whether an image is labelled good.

    Examples
    --------
    >>> chart = score_pairs(np.array([[1.0, 1.5], [7.0, 9.0]]), np.array([True, False]))
    >>> [mark.label for mark in chart.marks]
    ['equal', 'good (1)', 'defect (1)']
    """
    low, high = float(scores.min()), float(scores.max())
    margin = 0.04 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    groups = [Dots(scores[good], "good", f"good ({int(good.sum())})", small=True)]
    if not good.all():
        groups.append(Dots(scores[~good], "defect", f"defect ({int((~good).sum())})", small=True))
    return Chart(
        "pairs",
        "Scores of both runs",
        "Each dot is an image. On the dashed line both scores are equal. A better run B raises defects and lowers good images.",
        "score of A",
        "score of B",
        ends,
        ends,
        (Line(np.array([[ends[0], ends[0]], [ends[1], ends[1]]]), "faint", "equal", dashed=True), *groups),
    )
