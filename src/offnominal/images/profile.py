"""Brightness profiles of a whole image, along rows and columns. A moved part changes them; a small defect hardly does."""

from __future__ import annotations

import numpy as np

from offnominal.images.exposure import brightness
from offnominal.images.geometry import resize
from offnominal.types import Float

#: Rows and columns of the grey image that profiles are taken from.
SIDE = 64
#: Number of features per image that `pixel_features` returns.
PIXEL_FEATURES = 2 * SIDE + 3


def pixel_features(pixels: Float) -> Float:
    """Describe whole images by their brightness profiles and the brightness of each channel.

    Parameters
    ----------
    pixels
        (B, 3, H, W), about 0 to 1.

    Returns
    -------
    ndarray of float32
        (B, 131): 64 column medians, 64 row medians, and the logarithm of the mean of each channel.

    Examples
    --------
    >>> features = pixel_features(np.full((2, 3, 64, 64), 0.5, np.float32))
    >>> features.shape
    (2, 131)
    >>> features[0, :3].tolist()  # a uniform image has a flat profile
    [0.0, 0.0, 0.0]
    """
    return np.concatenate([profiles(pixels), brightness(pixels)], axis=1)


def profiles(pixels: Float) -> Float:
    """(B, 3, H, W) -> (B, 128): medians of the columns, then of the rows, of a 64 x 64 grey image, less its median."""
    rows = []
    for image in pixels:
        grey = np.mean([resize(plane, (SIDE, SIDE)) for plane in image], axis=0)
        rows.append(np.concatenate([_medians(grey.T), _medians(grey)]) - _medians(grey.reshape(1, -1)))
    return np.asarray(rows, dtype=np.float32).reshape(-1, 2 * SIDE)


def _medians(rows: Float) -> Float:
    """(R, n) -> (R,) medians for even n, faster than `np.median` for short rows."""
    middle = rows.shape[1] // 2
    return np.asarray(np.sort(rows)[:, middle - 1 : middle + 1].mean(axis=1))
