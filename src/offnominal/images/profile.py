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
        grey = resize(image.mean(axis=0), (PLACES, PLACES))
        found.append(np.concatenate([np.median(grey, axis=0), np.median(grey, axis=1)]) - np.median(grey))
    return np.asarray(found, dtype=np.float32).reshape(-1, 2 * PLACES)
