"""How bright an image is across and down, as a whole: a defect hardly shows in it, a part that moved does."""

from __future__ import annotations

import numpy as np

from offnominal.images.geometry import resize
from offnominal.types import Float

#: Places along either side.
PLACES = 64


def profiles(pixels: Float) -> Float:
    """(B, 3, H, W) -> (B, 128): the median of every column, then of every row, of a 64 x 64 grey image, less its median."""
    found = []
    for image in pixels:
        grey = np.mean([resize(plane, (PLACES, PLACES)) for plane in image], axis=0)
        found.append(np.concatenate([_medians(grey.T), _medians(grey)]) - _medians(grey.reshape(1, -1)))
    return np.asarray(found, dtype=np.float32).reshape(-1, 2 * PLACES)


def _medians(rows: Float) -> Float:
    """(R, n) -> (R,) medians, n even: NumPy's own takes longer for so few numbers."""
    middle = rows.shape[1] // 2
    return np.asarray(np.sort(rows)[:, middle - 1 : middle + 1].mean(axis=1))
