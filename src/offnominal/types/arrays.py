"""Value types shared by all packages. Each rejects a wrong shape on construction.

Letters in shapes: B images, H x W original pixels, h x w grid positions, N patches of an image (its interior positions),
D features, M bank patches, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Depth = Literal["8-bit", "16-bit", "float"]
Resize = Literal["area", "keep", "squash"]
Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: `progress(stage, done, total)`, called as work advances.
Progress = Callable[[str, int, int], None]


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `condition`.

    Examples
    --------
    >>> require(1 + 1 == 2, "never raised")
    >>> require(len("abc") == 2, "expected two letters, got 3")
    Traceback (most recent call last):
    ValueError: expected two letters, got 3
    """
    if not condition:
        raise ValueError(message)


def interior(grid: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of an (h, w) grid whose 3x3 neighbourhood lies inside the grid.

    A side shorter than three has no such positions and is used in full.

    Examples
    --------
    >>> interior((4, 2))
    (slice(1, 3, None), slice(0, 2, None))
    """
    rows, columns = (slice(1, side - 1) if side > 2 else slice(0, side) for side in grid)
    return rows, columns


def interior_shape(grid: tuple[int, int]) -> tuple[int, int]:
    """Number of rows and columns of the `interior`.

    Examples
    --------
    >>> interior_shape((4, 2))
    (2, 2)
    """
    height, width = (side - 2 if side > 2 else side for side in grid)
    return height, width
