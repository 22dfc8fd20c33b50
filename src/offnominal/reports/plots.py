"""Plots of an evaluation as inline SVG."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from offnominal.types import Float

_STYLE: Any = {
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "offnominal",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
}
GOOD_COLOUR, DEFECT_COLOUR, LINE_COLOUR = "#2b7a78", "#d1495b", "#333333"


def score_histogram(good: Float, defect: Float, threshold: float) -> str:
    """Scores of good and defective images, with the threshold; beyond the 99th percentile they share the last bin."""
    both = np.concatenate([good, defect])
    high = max(float(np.percentile(both, 99)), threshold * 1.1)
    bins = np.linspace(float(both.min()), high, 40)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        for scores, colour, label in ((good, GOOD_COLOUR, "good"), (defect, DEFECT_COLOUR, "defect")):
            axes.hist(np.minimum(scores, high), bins=bins, color=colour, alpha=0.6, label=f"{label} ({len(scores)})")
        axes.axvline(threshold, color=LINE_COLOUR, linestyle="--", label="threshold")
        axes.set(xlabel="image score (standard deviations of normal patches)", ylabel="images")
        axes.legend(frameon=False)
        return _svg(figure)


def roc_curve(good: Float, defect: Float, false_alarm_rate: float, detection_rate: float) -> str:
    """ROC of the image scores, with the point at the calibrated threshold."""
    levels = np.unique(np.concatenate([good, defect]))[::-1]
    false = [0.0, *(float((good >= level).mean()) for level in levels)]
    true = [0.0, *(float((defect >= level).mean()) for level in levels)]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
        axes.plot(false, true, color=GOOD_COLOUR, linewidth=2)
        axes.plot([false_alarm_rate], [detection_rate], "o", color=DEFECT_COLOUR, label="at the threshold")
        axes.set(xlabel="false-alarm rate", ylabel="detection rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure)


def _axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', text[text.index("<svg") :], count=1)
