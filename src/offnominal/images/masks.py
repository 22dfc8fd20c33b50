"""Ground-truth masks, in pixels of the original image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offnominal.errors import ImageError
from offnominal.images.decode import decode
from offnominal.images.file_checks import DEFAULT_MEMORY
from offnominal.types import Mask


def read_mask(path: Path, size: tuple[int, int], memory: int = DEFAULT_MEMORY) -> Mask:
    """Read a mask file: pixels above half of the largest possible value are True.

    If no pixel is that bright, the values are class numbers, and every value but 0 is True.

    Parameters
    ----------
    path
        An image file, or a page of one such as `masks.tif#2`.
    size
        (H, W) of the image that the mask belongs to.
    memory
        Bytes that decoding may take.

    Returns
    -------
    ndarray of bool
        (H, W).

    Raises
    ------
    ImageError
        The file cannot be read, or the mask and its image differ in size.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mask.png"
    ...     Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).save(path)
    ...     read_mask(path, (2, 2)).tolist()
    [[False, True], [True, False]]
    """
    mask = bright_pixels(path, memory)
    if mask.shape != size:
        raise ImageError(f"{path}: the mask is {mask.shape[1]} x {mask.shape[0]}, its image {size[1]} x {size[0]}")
    return mask


def bright_pixels(path: Path, memory: int = DEFAULT_MEMORY) -> Mask:
    """(H, W) pixels that a mask file marks, as in `read_mask`. Raises `ImageError` if the file cannot be read."""
    pixels = decode(path, memory).max(axis=2)
    largest = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else pixels.max()
    bright: Mask = pixels > largest / 2
    return bright if bright.any() else pixels > 0
