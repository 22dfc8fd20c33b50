"""Brightness of an image as a whole, across and down: a moved part changes it, a small defect hardly does."""

from __future__ import annotations

import numpy as np

from offnominal.images.exposure import brightness
from offnominal.images.geometry import resize
from offnominal.types import Float

#: Rows and columns of a profile.
SIDE = 64
#: Numbers that `pixel_features` gives.
PIXEL_FEATURES = 2 * SIDE + 3


def pixel_features(pixels: Float) -> Float:
    """(B, 3, H, W) -> (B, 131): `profiles` and `brightness`."""
    return np.concatenate([profiles(pixels), brightness(pixels)], axis=1)


def profiles(pixels: Float) -> Float:
    """(B, 3, H, W) -> (B, 128): the median of every column, then of every row, of a 64 x 64 grey image, less its median."""
    found = []
    for image in pixels:
        grey = np.mean([resize(plane, (SIDE, SIDE)) for plane in image], axis=0)
        found.append(np.concatenate([_medians(grey.T), _medians(grey)]) - _medians(grey.reshape(1, -1)))
    return np.asarray(found, dtype=np.float32).reshape(-1, 2 * SIDE)


def _medians(rows: Float) -> Float:
    """(R, n) -> (R,) medians, n even: NumPy's own takes longer for so few numbers."""
    middle = rows.shape[1] // 2
    return np.asarray(np.sort(rows)[:, middle - 1 : middle + 1].mean(axis=1))
