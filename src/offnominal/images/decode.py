"""Decode a file or a Pillow image to (H, W, 3) pixels: 8-bit, 16-bit or float, upright as in a viewer.

Pillow decodes images of 8 bits per channel (all colour modes, EXIF rotation). OpenCV decodes deeper ones, which Pillow would
reduce to 8 bits. Files with missing pixels or several pages, and images that need too much memory, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from offnominal.errors import ImageError
from offnominal.images.arrays import Pixels, broadcast, from_array, from_integers, planes
from offnominal.images.completeness import strict
from offnominal.images.file_checks import (
    DEFAULT_MEMORY,
    damaged,
    frames_of,
    opened_image,
    read_content,
    read_source_file,
    require_complete,
    require_memory,
    seek_page,
)
from offnominal.quiet import without_warnings
from offnominal.types import Depth

#: Suffixes of image files, in lower case.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp"})

_WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
_PNG = b"\x89PNG"
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_TILE_WIDTH, _TILE_HEIGHT = 0x0142, 0x0143
#: Pixels copied from Pillow at a time.
_COPIED_AT_ONCE = 4_000_000
#: Marks of the orientation in a PNG file: its own chunk, text, XMP.
_PNG_ORIENTATION = (b"eXIf", b"exif", b"adobe.xmp")
#: EXIF orientation -> quarter turns counterclockwise, then whether to mirror left to right.
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


@dataclass(frozen=True)
class Header:
    """Size and depth of a file, known before it is decoded.

    Attributes
    ----------
    size
        (H, W) after EXIF rotation.
    depth
        `8-bit`, `16-bit` or `float`.

    Examples
    --------
    >>> Header(size=(600, 800), depth="16-bit").size
    (600, 800)
    """

    size: tuple[int, int]
    depth: Depth


def read_header(path: Path, memory: int = DEFAULT_MEMORY) -> Header:
    """Read size and depth of a file without decoding it.

    Raises
    ------
    ImageError
        The file is missing, empty or not an image, it has several pages, or it exceeds `MAX_PIXELS` or `memory` bytes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "part.png"
    ...     Image.new("L", (8, 6)).save(path)
    ...     read_header(path)
    Header(size=(6, 8), depth='8-bit')
    """
    content = read_content(path, memory)
    with strict(), opened_image(content, path) as image:
        seek_page(image, path)
        depth, (height, width) = _depth_and_size(image, content, path, memory)
        swapped = _orientation(image, content) in (5, 6, 7, 8)
        return Header((width, height) if swapped else (height, width), depth)


def decode(path: Path, memory: int = DEFAULT_MEMORY) -> Pixels:
    """Decode an image file.

    Parameters
    ----------
    path
        The file; `stack.tif#2` is the second page of `stack.tif`.
    memory
        Bytes that decoding, inspecting and drawing the image may take.

    Returns
    -------
    ndarray of uint8, uint16 or float32
        (H, W, 3).

    Raises
    ------
    ImageError
        The file is missing, empty, truncated or not an image, it has several pages, or it needs more than `memory` bytes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "part.png"
    ...     Image.new("L", (8, 6), 200).save(path)
    ...     decode(path)[0, 0].tolist()
    [200, 200, 200]
    """
    content = read_content(path, memory)
    with strict(), opened_image(content, path) as image:
        frame = seek_page(image, path)
        depth, _ = _depth_and_size(image, content, path, memory)
        if depth == "8-bit":
            _load(image, path)
            require_complete(content, image, path, frame)
            return _decode_8bit(image, path)
        # OpenCV rotates TIFF files upright, but not PNG files. It also decodes damaged PNG files, so Pillow loads them first.
        orientation = 1
        if content.startswith(_PNG):
            _load(image, path)
            orientation = _orientation(image, content)
        require_complete(content, image, path, frame)
    return _upright(_decode_wide(content, path, frame, memory), orientation)


def from_pillow(image: Image.Image, name: str = "image", memory: int = DEFAULT_MEMORY) -> Pixels:
    """Decode a Pillow image as a file is decoded.

    Raises
    ------
    ImageError
        The image has several pages, needs more than `memory` bytes, or turns out to be damaged when Pillow loads it.

    Examples
    --------
    >>> from_pillow(Image.new("RGB", (8, 6), (255, 0, 0)))[0, 0].tolist()
    [255, 0, 0]
    """
    with strict():
        return _from_pillow(image, name, memory)


def _from_pillow(image: Image.Image, name: str, memory: int) -> Pixels:
    depth: Depth = "8-bit" if image.mode not in _WIDE_MODES else "float" if image.mode == "F" else "16-bit"
    require_memory(name, image.width, image.height, depth, memory)
    if getattr(image, "n_frames", 1) > 1:
        current = image.tell()
        frames = frames_of(image, name, 2)
        image.seek(current)
        if len(frames) > 1:
            raise ImageError(f"{name}: has several pages or frames; give a copy of each: image.seek(page), then image.copy()")
    content = read_source_file(image)
    _load(image, name)
    if content:
        require_complete(content, image, name, image.tell())
    if depth == "8-bit":
        return _decode_8bit(image, name)
    try:
        wide = np.asarray(image)
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise damaged(name, error) from None
    pixels = from_array(from_integers(wide, name) if image.mode == "I" else wide, name, memory)
    return _upright(pixels, _orientation(image, b""))


def _depth_and_size(image: Image.Image, content: bytes, path: Path, memory: int) -> tuple[Depth, tuple[int, int]]:
    """Depth and (H, W) as stored, without reading pixels."""
    tags = getattr(image, "tag_v2", {})  # TIFF: newer releases of Pillow report the rotated size
    width, height = tags.get(_WIDTH, image.size[0]), tags.get(_HEIGHT, image.size[1])
    depth = _stored_depth(image, content)
    require_memory(path, width, height, depth, memory)
    tile = _number(tags.get(_TILE_WIDTH, 1)), _number(tags.get(_TILE_HEIGHT, 1))
    if tile[0] * tile[1] > width * height:  # decoders allocate whole tiles
        require_memory(path, *tile, depth, memory)
    return depth, (height, width)


def _number(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _orientation(image: Image.Image, content: bytes) -> int:
    """EXIF orientation, 1 to 8; 1 is upright.

    To find the orientation of a PNG file after its pixels, Pillow decodes them, and this function hides the error of a damaged
    file. Load the pixels first.
    """
    if content.startswith(_PNG) and not any(mark in content for mark in _PNG_ORIENTATION):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - pixels are usable without valid EXIF data
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    turns, mirrored = _TURNS.get(orientation, (0, False))
    upright = np.rot90(planes(pixels), turns)
    upright = np.ascontiguousarray(upright[:, ::-1] if mirrored else upright)
    return np.broadcast_to(upright, (*upright.shape[:2], 3))


def _stored_depth(image: Image.Image, content: bytes) -> Depth:
    if image.mode == "F":
        return "float"
    if content.startswith(_PNG):
        return "16-bit" if content[24] > 8 else "8-bit"  # byte 24 is the bit depth
    bits = getattr(image, "tag_v2", {}).get(258, (8,))
    if image.mode in _WIDE_MODES or max(bits if isinstance(bits, tuple) else (bits,)) > 8:
        return "16-bit"
    return "8-bit"


def _load(image: Image.Image, name: Path | str) -> None:
    """Decode the pixels. Raises `ImageError` if they are damaged."""
    try:
        with without_warnings():
            image.load()
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise damaged(name, error) from None


def _decode_8bit(image: Image.Image, name: Path | str) -> Pixels:
    """Pixels of a loaded image of 8 bits per channel."""
    try:
        with without_warnings():
            # `exif_transpose` would copy upright images.
            upright = image if _orientation(image, b"") == 1 else ImageOps.exif_transpose(image)
            return broadcast(_pixels_of(upright)) if upright.mode == "L" else _pixels_of(_to_rgb(upright))
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise damaged(name, error) from None


def _pixels_of(image: Image.Image) -> Pixels:
    """Copy a grey or RGB image, a few rows at a time if it is large: each copy from Pillow takes twice its memory."""
    rows = max(1, _COPIED_AT_ONCE // max(1, image.width))
    if image.height <= rows:
        return np.asarray(image)
    pixels = np.empty((image.height, image.width, *(() if image.mode == "L" else (3,))), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB without alpha: transparent pixels get their stored colour."""
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
            _, pages = cv2.imdecodemulti(stored, cv2.IMREAD_UNCHANGED, range=(frame, frame + 1))
            pixels = pages[0] if len(pages) == 1 else None
    except cv2.error as error:
        raise damaged(path, error) from None
    if pixels is None:
        raise ImageError(
            f"{path}: is damaged, truncated or in an unsupported format of more than 8 bits; save it as 16-bit PNG or TIFF"
        )
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[:, :, 2::-1]
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = pixels[:, :, 0]
    if pixels.dtype in (np.int32, np.uint32, np.int16):
        pixels = from_integers(pixels, str(path))
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    return from_array(np.ascontiguousarray(pixels), str(path), memory)
