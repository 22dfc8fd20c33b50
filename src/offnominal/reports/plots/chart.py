"""The content of a chart, which `svg` draws for a page and `drawn` for a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

#: (n, 2) points `(x, y)`.
Points = npt.NDArray[np.floating]
Values = npt.NDArray[np.floating]

#: What a mark stands for; it determines the colour.
Role = Literal["good", "defect", "line", "faint"]


@dataclass(frozen=True)
class Bars:
    """Adjacent bars: (n + 1,) ascending edges and (n,) heights, which are counts."""

    edges: Values
    heights: Values
    role: Role
    label: str


@dataclass(frozen=True)
class Line:
    """A line through (n, 2) points; with `step` it is level up to the next x."""

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
    """(n, 2) points; with `follows` the page moves them with the explored threshold."""

    points: Points
    role: Role
    label: str = ""
    small: bool = False
    follows: bool = False


@dataclass(frozen=True)
class Rule:
    """A vertical line at x; with `follows` the page moves it with the explored threshold."""

    x: float
    label: str
    follows: bool = False


@dataclass(frozen=True)
class Boxes:
    """Tukey's box plots, one row each from top to bottom: (name, values, role)."""

    rows: tuple[tuple[str, Values, Role], ...]


Mark = Bars | Line | Band | Dots | Rule | Boxes


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes
    ----------
    name
        Stem of its file.
    title
        Title in a few words.
    meaning
        How to read it; also its text for screen readers.
    x_label, y_label
        Labels of the axes, with units.
    x_range, y_range
        Ends of the axes.
    marks
        From back to front.

    Examples
    --------
    >>> line = Line(np.array([[0.0, 1.0], [2.0, 3.0]]), "good", "radius")
    >>> Chart("radius", "Radius", "Lower is better.", "patches", "radius", (0, 2), (0, 3), (line,)).name
    'radius'
    """

    name: str
    title: str
    meaning: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    marks: tuple[Mark, ...]
