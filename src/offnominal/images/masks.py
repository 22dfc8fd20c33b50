"""Ground-truth masks, in pixels of the original image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offnominal.errors import ImageError
from offnominal.images.decode import decode
from offnominal.images.files import MEMORY
from offnominal.types import Mask


def read_mask(path: Path, size: tuple[int, int], memory: int = MEMORY) -> Mask:
    """(H, W) booleans of a mask file: true where it is brighter than half of its largest possible value.

    Where nothing is, its values are numbers of classes, and all but 0 are true.

    Raises:
        ImageError: unreadable, or another size than its image.
    """
    pixels = decode(path, memory).max(axis=2)
    if pixels.shape != size:
        raise ImageError(f"{path}: the mask is {pixels.shape[1]} x {pixels.shape[0]}, its image {size[1]} x {size[0]}")
    largest = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else pixels.max()
    bright: Mask = pixels > largest / 2
    return bright if bright.any() else pixels > 0
