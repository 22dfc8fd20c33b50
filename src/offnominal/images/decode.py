"""One file or array -> pixels: `(H, W, 3)`, 8-bit, 16-bit or float, upright as a viewer shows them.

Pillow decodes what has 8 bits a channel (all colour modes, EXIF rotation); OpenCV what has more, which Pillow would cut.
What is grey is one plane seen three times, a view that nobody may write to: it is resized and scaled once.
What holds fewer pixels than its header promises, several pages, or more pixels than the memory takes is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from offnominal.errors import ImageError
from offnominal.images.completeness import strict
from offnominal.images.files import (
    MEMORY,
    content_behind,
    damaged,
    frames_of,
    opened_image,
    read_content,
    require_memory,
    require_whole,
    seek_page,
)
from offnominal.quiet import without_warnings
from offnominal.types import Depth

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp"})

Pixels = npt.NDArray[Any]
_DEPTHS: dict[str, Depth] = {"uint8": "8-bit", "uint16": "16-bit", "float32": "float"}
_WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
_PNG = b"\x89PNG"
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_TILE_WIDTH, _TILE_HEIGHT = 0x0142, 0x0143
#: Pixels that are copied from Pillow at once.
_COPIED_AT_ONCE = 4_000_000
#: Where a PNG file may say how it is turned: in a chunk of its own, in text, in XMP.
_PNG_TURNS = (b"eXIf", b"exif", b"adobe.xmp")
#: EXIF orientation -> quarter turns to the left, then whether left and right are exchanged.
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded: `size` is `(H, W)` after EXIF rotation."""

    size: tuple[int, int]
    depth: Depth


def depth_of(pixels: Pixels) -> Depth:
    """The depth of decoded pixels."""
    return _DEPTHS[pixels.dtype.name]


def read_header(path: Path, memory: int = MEMORY) -> Header:
    """Size and depth of a file without decoding it.

    Raises:
        ImageError: missing, empty, not an image, of several pages, or larger than `MAX_PIXELS` or `memory` allow.
    """
    content = read_content(path, memory)
    with strict(), opened_image(content, path) as image:
        seek_page(image, path)
        depth, (height, width) = _depth_and_size(image, content, path, memory)
        turned = _orientation(image, content) in (5, 6, 7, 8)
        return Header((width, height) if turned else (height, width), depth)


def decode(path: Path, memory: int = MEMORY) -> Pixels:
    """`(H, W, 3)` pixels of a file, uint8, uint16 or float32; `stack.tif#2` is the second page of `stack.tif`.

    Raises:
        ImageError: missing, empty, truncated, not an image, of several pages, or too large for `memory` bytes.
    """
    content = read_content(path, memory)
    with strict(), opened_image(content, path) as image:
        frame = seek_page(image, path)
        depth, _ = _depth_and_size(image, content, path, memory)
        if depth == "8-bit":
            _load(image, path)
            require_whole(content, image, path, frame)
            return _decode_8bit(image, path)
        # OpenCV turns TIFF files upright by itself, and leaves PNG files as they lie; of damaged ones it decodes what it can.
        orientation = 1
        if content.startswith(_PNG):
            _load(image, path)
            orientation = _orientation(image, content)
        require_whole(content, image, path, frame)
    return _upright(_decode_wide(content, path, frame, memory), orientation)


def from_array(array: Any, name: str = "array", memory: int = MEMORY) -> Pixels:
    """Check an `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)` array or tensor (alpha is dropped); of grey the three channels
    are a view.

    Raises:
        ImageError: another shape or dtype, an empty array, values that are not finite, or too large for `memory` bytes.
    """
    try:
        pixels = np.asarray(_from_tensor(array))
    except Exception:  # noqa: BLE001 - an object may raise anything
        kind = type(array).__name__
        raise ImageError(f"{name}: a {kind} is no image: give a path, a Pillow image, or an array of numbers") from None
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ImageError(f"{name}: expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {pixels.shape}")
    wide: Depth = "8-bit" if pixels.dtype.itemsize == 1 else "16-bit" if pixels.dtype == np.uint16 else "float"
    require_memory(name, pixels.shape[1], pixels.shape[0], wide, memory)
    if pixels.strides[2] == 0:
        pixels = pixels[:, :, :1]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = pixels.astype(np.float32, copy=False)
        if not np.isfinite(pixels).all():
            raise ImageError(f"{name}: holds values that are not finite; replace them first")
    if pixels.dtype.name not in _DEPTHS:
        raise ImageError(f"{name}: expected uint8, uint16 or float, got {pixels.dtype}; convert it first")
    if pixels.shape[2] == 1:
        return _thrice(pixels[:, :, 0])
    return np.ascontiguousarray(pixels[:, :, :3])


def from_pillow(image: Image.Image, name: str = "image", memory: int = MEMORY) -> Pixels:
    """Pixels of a Pillow image, in the same way as a file's.

    Raises:
        ImageError: it has several pages or is too large; or it is damaged or truncated, which Pillow only sees now.
    """
    with strict():
        return _from_pillow(image, name, memory)


def _from_pillow(image: Image.Image, name: str, memory: int) -> Pixels:
    depth: Depth = "8-bit" if image.mode not in _WIDE_MODES else "float" if image.mode == "F" else "16-bit"
    require_memory(name, image.width, image.height, depth, memory)
    if getattr(image, "n_frames", 1) > 1:
        at = image.tell()
        frames = frames_of(image, name, 2)
        image.seek(at)
        if len(frames) > 1:
            raise ImageError(f"{name}: has several pages or frames; give a copy of each: image.seek(page), then image.copy()")
    content = content_behind(image)
    _load(image, name)
    if content:
        require_whole(content, image, name, image.tell())
    if depth == "8-bit":
        return _decode_8bit(image, name)
    try:
        wide = np.asarray(image)
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise damaged(name, error) from None
    pixels = from_array(_from_integers(wide, name) if image.mode == "I" else wide, name, memory)
    return _upright(pixels, _orientation(image, b""))


def _from_tensor(array: Any) -> Any:
    """A tensor of torch as an array may be made of it: without gradient, on the CPU, and of a type that NumPy has."""
    if not type(array).__module__.startswith("torch") or not hasattr(array, "detach"):
        return array
    tensor = array.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def _depth_and_size(image: Image.Image, content: bytes, path: Path, memory: int) -> tuple[Depth, tuple[int, int]]:
    """Depth and (H, W) as stored; nothing of the pixels is read."""
    tags = getattr(image, "tag_v2", {})  # of TIFF files, whose size newer releases of Pillow turn already
    width, height = tags.get(_WIDTH, image.size[0]), tags.get(_HEIGHT, image.size[1])
    depth = _stored_depth(image, content)
    require_memory(path, width, height, depth, memory)
    tile = _number(tags.get(_TILE_WIDTH, 1)), _number(tags.get(_TILE_HEIGHT, 1))
    if tile[0] * tile[1] > width * height:  # decoders make room for whole tiles
        require_memory(path, *tile, depth, memory)
    return depth, (height, width)


def _number(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _orientation(image: Image.Image, content: bytes) -> int:
    """1 to 8, as EXIF numbers them; 1 is upright.

    Pillow decodes a PNG file that does not say so before its pixels, and what is damaged in them is lost here: load it before.
    """
    if content.startswith(_PNG) and not any(mark in content for mark in _PNG_TURNS):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - broken EXIF is no reason to refuse the pixels
        return 1


def planes(pixels: Pixels) -> Pixels:
    """(H, W, 3) -> (H, W, C), of what differs: C = 1 where all channels are views of one plane, else 3."""
    return np.ascontiguousarray(pixels[:, :, :1]) if pixels.strides[2] == 0 else pixels


def _thrice(plane: Pixels) -> Pixels:
    return np.broadcast_to(plane[:, :, None], (*plane.shape, 3))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    turns, mirrored = _TURNS.get(orientation, (0, False))
    turned = np.rot90(planes(pixels), turns)
    turned = np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)
    return np.broadcast_to(turned, (*turned.shape[:2], 3))


def _stored_depth(image: Image.Image, content: bytes) -> Depth:
    if image.mode == "F":
        return "float"
    if content.startswith(_PNG):
        return "16-bit" if content[24] > 8 else "8-bit"  # the bit depth stands in byte 24, behind width and height
    bits = getattr(image, "tag_v2", {}).get(258, (8,))
    if image.mode in _WIDE_MODES or max(bits if isinstance(bits, tuple) else (bits,)) > 8:
        return "16-bit"
    return "8-bit"


def _load(image: Image.Image, name: Path | str) -> None:
    """Decode the pixels, which finds out what is damaged."""
    try:
        with without_warnings():
            image.load()
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise damaged(name, error) from None


def _decode_8bit(image: Image.Image, name: Path | str) -> Pixels:
    """A loaded image of 8 bits a channel -> its pixels."""
    try:
        with without_warnings():
            # Upright images are not copied, as `exif_transpose` would.
            upright = image if _orientation(image, b"") == 1 else ImageOps.exif_transpose(image)
            return _thrice(_pixels_of(upright)) if upright.mode == "L" else _pixels_of(_to_rgb(upright))
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise damaged(name, error) from None


def _pixels_of(image: Image.Image) -> Pixels:
    """A copy of a grey or RGB image; of a large one a few rows at a time, since each of Pillow's copies is held twice."""
    rows = max(1, _COPIED_AT_ONCE // max(1, image.width))
    if image.height <= rows:
        return np.asarray(image)
    pixels = np.empty((image.height, image.width, *(() if image.mode == "L" else (3,))), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB; what is transparent shows the colour stored beneath, as an opaque camera image would."""
    if image.mode == "RGB":
        return image
    if image.mode in ("P", "PA") or image.mode.startswith("LA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _decode_wide(content: bytes, path: Path, frame: int, memory: int) -> Pixels:
    stored = np.frombuffer(content, np.uint8)
    pixels: Any = None
    try:
        if frame == 0:
            pixels = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)
        else:
            _, found = cv2.imdecodemulti(stored, cv2.IMREAD_UNCHANGED, range=(frame, frame + 1))
            pixels = found[0] if len(found) == 1 else None
    except cv2.error as error:
        raise damaged(path, error) from None
    if pixels is None:
        raise ImageError(
            f"{path}: is damaged, truncated or of an unusual kind of more than 8 bits; save it as 16-bit PNG or TIFF"
        )
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[:, :, 2::-1]
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = pixels[:, :, 0]
    if pixels.dtype in (np.int32, np.uint32, np.int16):
        pixels = _from_integers(pixels, str(path))
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    return from_array(np.ascontiguousarray(pixels), str(path), memory)


def _from_integers(pixels: Pixels, name: str) -> Pixels:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ImageError(f"{name}: integer values outside 0 to 65535; scale it to 16 bits first")
    return pixels.astype(np.uint16)
