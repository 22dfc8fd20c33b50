"""What a chart shows, apart from how it is drawn: built once, drawn as inline SVG for a page and by matplotlib for a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

#: (n, 2) points `(x, y)`.
Points = npt.NDArray[np.floating]
Values = npt.NDArray[np.floating]

#: What a mark stands for; each renderer has one colour for each.
Role = Literal["good", "defect", "line", "faint"]


@dataclass(frozen=True)
class Bars:
    """Adjacent bars: (n + 1,) edges ascending, (n,) heights, which count something."""

    edges: Values
    heights: Values
    role: Role
    label: str


@dataclass(frozen=True)
class Line:
    """A line through (n, 2) points; `step`: level up to the next x."""

    points: Points
    role: Role
    label: str = ""
    dashed: bool = False
    step: bool = False


@dataclass(frozen=True)
class Band:
    """The area between (n,) low and (n,) high over (n,) x."""

    x: Values
    low: Values
    high: Values
    role: Role
    label: str = ""


@dataclass(frozen=True)
class Dots:
    """(n, 2) points; `follows` marks the one that a page moves with its threshold."""

    points: Points
    role: Role
    label: str = ""
    small: bool = False
    follows: bool = False


@dataclass(frozen=True)
class Rule:
    """A vertical line at x; `follows` marks the one that a page moves with its threshold."""

    x: float
    label: str
    follows: bool = False


@dataclass(frozen=True)
class Boxes:
    """Tukey's box plots, one row each from the top: (name, values, role)."""

    rows: tuple[tuple[str, Values, Role], ...]


Mark = Bars | Line | Band | Dots | Rule | Boxes


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: stem of its file.
        title: what it shows, a few words.
        meaning: one sentence: how to read it; also its text for those who do not see it.
        x_label, y_label: of the axes, with units.
        x_range, y_range: ends of the axes.
        marks: from the back to the front.
    """

    name: str
    title: str
    meaning: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    marks: tuple[Mark, ...]
