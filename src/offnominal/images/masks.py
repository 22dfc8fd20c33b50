"""Ground-truth masks, in pixels of the original image."""

from __future__ import annotations

from pathlib import Path

from offnominal.errors import ImageError
from offnominal.images.decode import decode
from offnominal.types import Mask


def read_mask(path: Path, size: tuple[int, int]) -> Mask:
    """(H, W) booleans of a mask file: true where it is brighter than half of its largest possible value (1 for 0/1 masks).

    Raises:
        ImageError: unreadable, or another size than its image.
    """
    pixels = decode(path).max(axis=2)
    if pixels.shape != size:
        raise ImageError(f"{path}: the mask is {pixels.shape[1]} x {pixels.shape[0]}, its image {size[1]} x {size[0]}")
    top = float(pixels.max())
    mask: Mask = pixels > (127 if top > 1 and pixels.dtype.name == "uint8" else top / 2)
    return mask
