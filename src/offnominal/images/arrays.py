"""Arrays and tensors as decoded pixels: (H, W, 3), 8-bit, 16-bit or float.

A grey image is one plane broadcast to three read-only channels, so that it is resized and scaled once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.errors import ImageError
from offnominal.images.file_checks import DEFAULT_MEMORY, require_memory
from offnominal.types import Depth

#: Stored values of an image: (H, W, 3), uint8, uint16 or float32.
Pixels = npt.NDArray[Any]
_DEPTHS: dict[str, Depth] = {"uint8": "8-bit", "uint16": "16-bit", "float32": "float"}


def depth_of(pixels: Pixels) -> Depth:
    """Return the depth of decoded pixels.

    Examples
    --------
    >>> depth_of(np.zeros((4, 4, 3), np.uint16))
    '16-bit'
    """
    return _DEPTHS[pixels.dtype.name]


def from_array(array: Any, name: str = "array", memory: int = DEFAULT_MEMORY) -> Pixels:
    """Check an array or tensor and bring it to the form of decoded pixels.

    Parameters
    ----------
    array
        (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); alpha is dropped. Booleans become 0 and 255.
    name
        Name of the image for messages.
    memory
        Bytes that the image may take.

    Returns
    -------
    ndarray of uint8, uint16 or float32
        (H, W, 3). The channels of a grey image are read-only views of one plane.

    Raises
    ------
    ImageError
        The shape or dtype is not supported, the array is empty, a value is not finite, or it needs more than `memory` bytes.

    Examples
    --------
    >>> from_array(np.array([[True, False]]))[0].tolist()
    [[255, 255, 255], [0, 0, 0]]
    """
    try:
        pixels = np.asarray(_from_tensor(array))
    except Exception:  # noqa: BLE001 - foreign objects may raise anything
        kind = type(array).__name__
        raise ImageError(f"{name}: expected a path, a Pillow image or an array of numbers, got a {kind}") from None
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ImageError(f"{name}: expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {pixels.shape}")
    depth: Depth = "8-bit" if pixels.dtype.itemsize == 1 else "16-bit" if pixels.dtype == np.uint16 else "float"
    require_memory(name, pixels.shape[1], pixels.shape[0], depth, memory)
    if pixels.strides[2] == 0:
        pixels = pixels[:, :, :1]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = pixels.astype(np.float32, copy=False)
        if not np.isfinite(pixels).all():
            raise ImageError(f"{name}: contains NaN or infinite values; replace them first")
    if pixels.dtype.name not in _DEPTHS:
        raise ImageError(f"{name}: expected uint8, uint16 or float, got {pixels.dtype}; convert it first")
    if pixels.shape[2] == 1:
        return broadcast(pixels[:, :, 0])
    return np.ascontiguousarray(pixels[:, :, :3])


def _from_tensor(array: Any) -> Any:
    """Prepare a torch tensor for NumPy: detached, on the CPU, of a dtype that NumPy has. Other objects are unchanged."""
    if not type(array).__module__.startswith("torch") or not hasattr(array, "detach"):
        return array
    tensor = array.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def planes(pixels: Pixels) -> Pixels:
    """(H, W, 3) -> (H, W, C): C = 1 if all channels are views of one plane, else 3."""
    return np.ascontiguousarray(pixels[:, :, :1]) if pixels.strides[2] == 0 else pixels


def broadcast(plane: Pixels) -> Pixels:
    """(H, W) -> (H, W, 3), three read-only views of the plane."""
    return np.broadcast_to(plane[:, :, None], (*plane.shape, 3))


def from_integers(pixels: Pixels, name: str) -> Pixels:
    """Convert integers of any width to uint16. Raises `ImageError` if one is out of range."""
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ImageError(f"{name}: integer values outside 0 to 65535; scale them to 16 bits first")
    return pixels.astype(np.uint16)
