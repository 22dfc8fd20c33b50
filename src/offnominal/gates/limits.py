"""Limits of the size of a region, as users write them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["mm", "px"]


@dataclass(frozen=True)
class Limit:
    """A smallest area or length.

    Examples
    --------
    >>> Limit(0.3, "mm").text(2), Limit(12, "px").text(1)
    ('0.3mm2', '12px')
    """

    value: float
    unit: Unit

    def text(self, power: int) -> str:
        """The limit as users write it: an area (2) or a length (1)."""
        return f"{self.value:g}{self.unit}{'2' if power == 2 else ''}"


def parse_limit(text: str, power: int) -> Limit:
    """Read an area (`power` 2) such as `0.3mm2` or `40px2`, or a length (1) such as `1mm` or `20px`.

    Raises
    ------
    ValueError
        The text is not a number with a unit.

    Examples
    --------
    >>> parse_limit("0.3 mm²", 2), parse_limit("20px", 1)
    (Limit(value=0.3, unit='mm'), Limit(value=20.0, unit='px'))
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE]-?\d+)?|\.\d+)\s*(mm|px)\s*(?:\^?(2|²))?\s*", text)
    example = "an area such as 0.3mm2 or 40px2" if power == 2 else "a length such as 1mm or 20px"
    if match is None or (power == 1 and match[3]) or (power == 2 and match[2] == "mm" and not match[3]):
        raise ValueError(f"give {example}")
    value, unit = float(match[1]), match[2]
    if not math.isfinite(value):
        raise ValueError(f"give {example}")
    return Limit(value, "mm" if unit == "mm" else "px")


@dataclass(frozen=True)
class Gate:
    """The smallest region that counts. A region must reach both the area and the length.

    Attributes
    ----------
    min_area
        Smallest area, such as `0.3mm2`; None for none.
    min_length
        Smallest length, such as `1mm`; None for none. The length of a region is the largest distance between two of its points.

    Examples
    --------
    >>> Gate(min_area="0.3mm2").in_mm, Gate(min_length="20px").in_mm, Gate().open
    (True, False, True)
    """

    min_area: str | None = None
    min_length: str | None = None

    @property
    def limits(self) -> tuple[Limit, Limit]:
        """Smallest area and length. Raises `ValueError`."""
        area = Limit(0.0, "px") if self.min_area is None else parse_limit(self.min_area, 2)
        length = Limit(0.0, "px") if self.min_length is None else parse_limit(self.min_length, 1)
        return area, length

    @property
    def open(self) -> bool:
        """Whether regions of every size count."""
        return all(limit.value == 0 for limit in self.limits)

    @property
    def in_mm(self) -> bool:
        """Whether it needs the size of a pixel."""
        return any(limit.unit == "mm" and limit.value > 0 for limit in self.limits)

    def __str__(self) -> str:
        parts = [("area", self.min_area), ("length", self.min_length)]
        return ", ".join(f"{name} from {limit}" for name, limit in parts if limit is not None) or "regions of any size"
