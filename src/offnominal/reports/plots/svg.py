"""Charts as inline SVG. Colours come from the page, so they follow its light or dark theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from offnominal.reports.plots.chart import Band, Bars, Boxes, Chart, Dots, Line, Mark, Points, Role, Rule

WIDTH, HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 30, 46
_ROW = 34
_LETTER = 6.6


class _Frame:
    """Maps values to coordinates of the drawing."""

    def __init__(self, chart: Chart) -> None:
        boxes = [mark for mark in chart.marks if isinstance(mark, Boxes)]
        names = [_short(name) for mark in boxes for name, _, _ in mark.rows]
        self.left = max(_LEFT, round(max(map(len, names)) * _LETTER) + 14) if names else _LEFT
        self.right = WIDTH - _RIGHT
        self.top = _TOP
        self.height = max(150, _TOP + _BOTTOM + _ROW * len(names)) if names else HEIGHT
        self.bottom = self.height - _BOTTOM
        self.x_range, self.y_range = chart.x_range, chart.y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def path(self, points: Points) -> str:
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)


def svg(chart: Chart) -> str:
    """Draw a chart as an `<svg>` element, whose classes (`good`, `defect`, `line`, `faint`, `follows`) the page styles.

    Examples
    --------
    >>> chart = Chart("a", "Scores", "Higher is more anomalous.", "image", "score", (0, 1), (0, 1), ())
    >>> svg(chart).startswith('<svg class="chart" data-chart="a"')
    True
    """
    frame = _Frame(chart)
    inner = [_axes(chart, frame)]
    inner += [_drawn(mark, frame) for mark in chart.marks]
    inner.append(_legend(chart.marks, frame))
    scale = " ".join(
        f'data-{name}="{value:.6g}"'
        for name, value in (
            ("left", frame.left),
            ("right", frame.right),
            ("top", frame.top),
            ("bottom", frame.bottom),
            ("x0", chart.x_range[0]),
            ("x1", chart.x_range[1]),
            ("y0", chart.y_range[0]),
            ("y1", chart.y_range[1]),
        )
    )
    return (
        f'<svg class="chart" data-chart="{escape(chart.name)}" viewBox="0 0 {WIDTH} {frame.height}" role="img" {scale} '
        f'aria-label="{escape(chart.title)}: {escape(chart.meaning)}">{"".join(inner)}</svg>'
    )


def _axes(chart: Chart, frame: _Frame) -> str:
    boxes, counts = (any(isinstance(mark, kind) for mark in chart.marks) for kind in (Boxes, Bars))
    parts = []
    for tick in _ticks(chart.x_range, 6):
        x = frame.x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{frame.bottom}"/>')
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{frame.bottom + 16}">{tick:,.6g}</text>')
    for tick in () if boxes else _ticks(chart.y_range, 5, whole=counts):
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{frame.left - 6}" y="{y + 4:.1f}">{tick:,.6g}</text>')
    parts.append(f'<line class="axis" x1="{frame.left}" x2="{frame.right}" y1="{frame.bottom}" y2="{frame.bottom}"/>')
    middle = (frame.left + frame.right) / 2
    parts.append(
        f'<text class="name" text-anchor="middle" x="{middle:.0f}" y="{frame.height - 8}">{escape(chart.x_label)}</text>'
    )
    if chart.y_label:
        center = (frame.top + frame.bottom) / 2
        parts.append(
            f'<text class="name" text-anchor="middle" transform="translate(14 {center:.0f}) rotate(-90)">'
            f"{escape(chart.y_label)}</text>"
        )
    return "".join(parts)


def _drawn(mark: Mark, frame: _Frame) -> str:
    if isinstance(mark, Bars):
        return _bars(mark, frame)
    if isinstance(mark, Line):
        points = _stepped(mark.points) if mark.step else mark.points
        return f'<path class="stroke {mark.role}{" dashed" if mark.dashed else ""}" d="{frame.path(points)}"/>'
    if isinstance(mark, Band):
        upper, lower = np.column_stack([mark.x, mark.high]), np.column_stack([mark.x, mark.low])
        outline = np.vstack([_stepped(upper), _stepped(lower)[::-1]])
        return f'<path class="band {mark.role}" d="{frame.path(outline)}Z"/>'
    if isinstance(mark, Dots):
        radius = 1.6 if mark.small else 5.5
        extra = " follows" if mark.follows else ""
        return "".join(
            f'<circle class="dot {mark.role}{extra}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{radius}"/>'
            for x, y in mark.points
        )
    if isinstance(mark, Rule):
        x = frame.x(min(max(mark.x, frame.x_range[0]), frame.x_range[1]))
        extra = " follows" if mark.follows else ""
        return f'<line class="rule{extra}" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top - 4}" y2="{frame.bottom}"/>'
    return _boxes(mark, frame)


def _bars(mark: Bars, frame: _Frame) -> str:
    return "".join(
        f'<rect class="fill {mark.role}" x="{frame.x(left):.1f}" y="{frame.y(height):.1f}" '
        f'width="{max(0.5, frame.x(right) - frame.x(left) - 0.5):.1f}" height="{frame.bottom - frame.y(height):.1f}"/>'
        for left, right, height in zip(mark.edges[:-1], mark.edges[1:], mark.heights, strict=True)
        if height > 0
    )


def _boxes(mark: Boxes, frame: _Frame) -> str:
    from matplotlib.cbook import boxplot_stats

    parts = []
    for row, (name, values, role) in enumerate(mark.rows):
        (stats,) = boxplot_stats(np.asarray(values, dtype=np.float64))
        y = frame.y(row + 0.5)
        half = 9.0
        low, first, middle, third, high = (frame.x(stats[key]) for key in ("whislo", "q1", "med", "q3", "whishi"))
        parts.append(f'<text class="tick" text-anchor="end" x="{frame.left - 8}" y="{y + 4:.1f}">{escape(_short(name))}</text>')
        parts.append(f'<path class="stroke {role}" d="M{low:.1f} {y:.1f}H{first:.1f}M{third:.1f} {y:.1f}H{high:.1f}"/>')
        parts.append(
            f'<rect class="box {role}" x="{first:.1f}" y="{y - half:.1f}" width="{max(1.0, third - first):.1f}" '
            f'height="{2 * half}"/><path class="stroke {role}" d="M{middle:.1f} {y - half:.1f}V{y + half:.1f}"/>'
        )
        parts += [f'<circle class="dot {role}" cx="{frame.x(x):.1f}" cy="{y:.1f}" r="2"/>' for x in stats["fliers"]]
    return "".join(parts)


def _legend(marks: Iterable[Mark], frame: _Frame) -> str:
    """Legend above the drawing, from right to left."""
    entries: list[tuple[str, Role, str]] = []
    for mark in marks:
        if isinstance(mark, Rule):
            entries.append(("rule", "line", mark.label))
        elif not isinstance(mark, Boxes) and mark.label:
            kind = {Bars: "fill", Line: "stroke", Band: "band", Dots: "dot"}[type(mark)]
            if isinstance(mark, Line) and mark.dashed:
                kind = "stroke dashed"
            entries.append((kind, mark.role, mark.label))
    parts = []
    x = float(frame.right)
    for kind, role, label in reversed(entries):
        x -= len(label) * _LETTER
        parts.append(f'<text class="tick" x="{x:.0f}" y="14">{escape(label)}</text>')
        x -= 22
        if kind == "dot":
            parts.append(f'<circle class="dot {role}" cx="{x + 9:.0f}" cy="10" r="4"/>')
        elif kind in ("fill", "band"):
            parts.append(f'<rect class="{kind} {role}" x="{x + 2:.0f}" y="5" width="14" height="10"/>')
        else:
            parts.append(f'<path class="{kind} {role}" d="M{x:.0f} 10H{x + 17:.0f}"/>')
        x -= 10
    return "".join(parts)


def _ticks(span: tuple[float, float], count: int, *, whole: bool = False) -> Sequence[float]:
    from matplotlib.ticker import MaxNLocator

    low, high = min(span), max(span)
    ticks = MaxNLocator(count, integer=whole).tick_values(low, high)
    return [float(tick) + 0.0 for tick in ticks if low <= tick <= high]


def _stepped(points: Points) -> Points:
    doubled = np.repeat(points, 2, axis=0)
    return np.column_stack([doubled[1:, 0], doubled[:-1, 1]])


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
