"""One file or array -> pixels: `(H, W, 3)`, 8-bit, 16-bit or float, upright as a viewer shows them.

Pillow decodes what has 8 bits a channel (all colour modes, EXIF rotation); OpenCV what has more, which Pillow would cut.
What is grey is one plane seen three times, a view that nobody may write to: it is resized and scaled once.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from offnominal.errors import ImageError
from offnominal.types import Depth

#: Pillow by itself opens nothing much larger.
MAX_PIXELS = 178_000_000
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp"})

Pixels = npt.NDArray[Any]
_DEPTHS: dict[str, Depth] = {"uint8": "8-bit", "uint16": "16-bit", "float32": "float"}
_WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
_PNG = b"\x89PNG"
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
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


def read_header(path: Path) -> Header:
    """Size and depth of a file without decoding it.

    Raises:
        ImageError: missing, empty, not an image, or larger than `MAX_PIXELS`.
    """
    content = _content(path)
    with _opened(content, path) as image:
        depth, (height, width) = _depth_and_size(image, content, path)
        turned = _orientation(image, content) in (5, 6, 7, 8)
        return Header((width, height) if turned else (height, width), depth)


def decode(path: Path) -> Pixels:
    """`(H, W, 3)` pixels of a file, uint8, uint16 or float32.

    Raises:
        ImageError: missing, empty, truncated, not an image, too large.
    """
    content = _content(path)
    with _opened(content, path) as image:
        depth, _ = _depth_and_size(image, content, path)
        if depth == "8-bit":
            return _decode_8bit(image, path)
        # OpenCV turns TIFF files upright by itself, and leaves PNG files as they lie; of damaged ones it decodes what it can.
        orientation = 1
        if content.startswith(_PNG):
            _load(image, path)
            orientation = _orientation(image, content)
    return _upright(_decode_wide(content, path), orientation)


def from_array(array: Any, name: str = "array") -> Pixels:
    """Check an `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)` array (alpha is dropped); of grey the three channels are a
    view.

    Raises:
        ImageError: another shape or dtype, an empty array, or values that are not finite.
    """
    try:
        pixels = np.asarray(array)
    except ValueError:
        kind = type(array).__name__
        raise ImageError(f"{name}: a {kind} is no image: give a path, a Pillow image, or an array of numbers") from None
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ImageError(f"{name}: expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {np.shape(array)}")
    if pixels.strides[2] == 0:
        pixels = pixels[:, :, :1]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise ImageError(f"{name}: holds values that are not finite; replace them first")
    if pixels.dtype.name not in _DEPTHS:
        raise ImageError(f"{name}: expected uint8, uint16 or float, got {pixels.dtype}; convert it first")
    if pixels.shape[2] == 1:
        return _thrice(pixels[:, :, 0])
    return np.ascontiguousarray(pixels[:, :, :3])


def from_pillow(image: Image.Image, name: str = "image") -> Pixels:
    """Pixels of a Pillow image, in the same way as a file's.

    Raises:
        ImageError: it is damaged or truncated, which Pillow only sees now.
    """
    if image.mode not in _WIDE_MODES:
        return _decode_8bit(image, name)
    try:
        wide = np.asarray(image)
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise _damaged(name, error) from None
    pixels = from_array(_from_integers(wide, name) if image.mode == "I" else wide, name)
    return _upright(pixels, _orientation(image, b""))


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder; give the images in it") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not content:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again")
    return content


def _opened(content: bytes, path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: has more than {MAX_PIXELS // 1_000_000} megapixels; crop or shrink it first") from None
    except Exception:  # noqa: BLE001 - a damaged header raises almost anything
        raise ImageError(f"{path}: is not a readable image (damaged, or not PNG, JPEG, BMP, TIFF or WebP)") from None


def _depth_and_size(image: Image.Image, content: bytes, path: Path) -> tuple[Depth, tuple[int, int]]:
    """Depth and (H, W) as stored; nothing of the pixels is read."""
    tags = getattr(image, "tag_v2", {})  # of TIFF files, whose size newer releases of Pillow turn already
    width, height = tags.get(_WIDTH, image.size[0]), tags.get(_HEIGHT, image.size[1])
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{path}: {width} x {height} is more than {MAX_PIXELS // 1_000_000} megapixels; crop or shrink it first"
        )
    return _stored_depth(image, content), (height, width)


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise _damaged(name, error) from None


def _decode_8bit(image: Image.Image, name: Path | str) -> Pixels:
    _load(image, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            upright = ImageOps.exif_transpose(image)
            return _thrice(np.asarray(upright)) if upright.mode == "L" else np.asarray(_to_rgb(upright))
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise _damaged(name, error) from None


def _damaged(name: Path | str, error: Exception) -> ImageError:
    return ImageError(
        f"{name}: is damaged or truncated ({(str(error) or type(error).__name__).splitlines()[0][:80]}); copy it again"
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB; what is transparent shows the colour stored beneath, as an opaque camera image would."""
    if image.mode == "RGB":
        return image
    if image.mode in ("P", "PA") or image.mode.startswith("LA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _decode_wide(content: bytes, path: Path) -> Pixels:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
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
    return from_array(np.ascontiguousarray(pixels), str(path))


def _from_integers(pixels: Pixels, name: str) -> Pixels:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ImageError(f"{name}: integer values outside 0 to 65535; scale it to 16 bits first")
    return pixels.astype(np.uint16)
