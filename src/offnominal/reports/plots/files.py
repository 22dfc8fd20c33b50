"""Charts as files, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from offnominal.reports.plots.chart import Band, Bars, Boxes, Chart, Dots, Line, Mark, Role, Rule

_COLOURS: dict[Role, str] = {"good": "#1f6f6c", "defect": "#b3273e", "line": "#333333", "faint": "#8a979c"}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "offnominal",
}


def drawn(chart: Chart, kind: str = "png") -> bytes:
    """Draw a chart as a file. The same chart gives the same bytes.

    Parameters
    ----------
    chart
        The chart.
    kind
        File format: `png`, `svg` or `pdf`.

    Examples
    --------
    >>> chart = Chart("a", "Scores", "Higher is more anomalous.", "image", "score", (0, 1), (0, 1), ())
    >>> drawn(chart)[:4]
    b'\x89PNG'
    """
    import matplotlib  # not at the top: commands that draw nothing start faster
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
        axes: Any = figure.subplots()
        for mark in chart.marks:
            _draw(axes, mark)
        axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label, xlim=chart.x_range, ylim=chart.y_range)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
        target = io.BytesIO()
        no_dates = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
        figure.savefig(target, format=kind, metadata=no_dates[kind])
        return target.getvalue()


def files_of(charts: Iterable[Chart], kind: str = "png") -> dict[str, bytes]:
    """Draw charts as files: file name -> content.

    Examples
    --------
    >>> chart = Chart("scores", "Scores", "Higher is more anomalous.", "image", "score", (0, 1), (0, 1), ())
    >>> list(files_of([chart]))
    ['scores.png']
    """
    return {f"{chart.name}.{kind}": drawn(chart, kind) for chart in charts}


def _draw(axes: Any, mark: Mark) -> None:
    if isinstance(mark, Bars):
        widths = np.diff(mark.edges)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.bar(mark.edges[:-1], mark.heights, widths, align="edge", color=_COLOURS[mark.role], alpha=0.6, label=mark.label)
    elif isinstance(mark, Line):
        style: dict[str, Any] = {
            "color": _COLOURS[mark.role],
            "linestyle": "--" if mark.dashed else "-",
            "label": mark.label or None,
        }
        axes.plot(*np.asarray(mark.points).T, drawstyle="steps-post" if mark.step else "default", **style)
    elif isinstance(mark, Band):
        axes.fill_between(
            mark.x, mark.low, mark.high, step="post", color=_COLOURS[mark.role], alpha=0.2, label=mark.label or None
        )
    elif isinstance(mark, Dots):
        size = 4 if mark.small else 45
        axes.scatter(*np.asarray(mark.points).T, s=size, color=_COLOURS[mark.role], label=mark.label or None, zorder=3, lw=0)
    elif isinstance(mark, Rule):
        axes.axvline(mark.x, color=_COLOURS["line"], linestyle=":", label=mark.label)
    else:
        _boxes(axes, mark)


def _boxes(axes: Any, mark: Boxes) -> None:
    heights = np.arange(len(mark.rows)) + 0.5
    for height, (_, values, role) in zip(heights, mark.rows, strict=True):
        colour = {"color": _COLOURS[role]}
        axes.boxplot(
            np.asarray(values, dtype=np.float64),
            positions=[height],
            widths=0.5,
            orientation="horizontal",
            manage_ticks=False,
            boxprops=colour,
            medianprops=colour,
            whiskerprops=colour,
            capprops=colour,
            flierprops={"markeredgecolor": _COLOURS[role], "markersize": 3},
        )
    axes.set_yticks(heights, [name for name, _, _ in mark.rows])
