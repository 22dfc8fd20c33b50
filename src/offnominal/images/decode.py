"""One file or array -> pixels: `(H, W, 3)`, 8-bit, 16-bit or float, upright as a viewer shows them.

Pillow decodes what has 8 bits a channel (all colour modes, EXIF rotation); OpenCV what has more, which Pillow would cut.
What is grey is one plane seen three times, a view that nobody may write to: it is resized and scaled once.
What holds fewer pixels than its header promises, several pages, or more pixels than the memory takes is refused.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from offnominal.errors import ImageError
from offnominal.images.completeness import missing, strict
from offnominal.images.frames import full_frames, page_of
from offnominal.types import Depth

#: Pillow by itself opens nothing much larger.
MAX_PIXELS = 178_000_000
#: Bytes that one image may take where nothing else is said: the default of the setting `memory`.
MEMORY = 2_000_000_000
#: An image may always take so many, however little memory the patches may.
LEAST_MEMORY = 256_000_000
#: Bytes a pixel that decoding, inspecting and drawing take at most, measured with images of 100 megapixels.
BYTES_A_PIXEL: dict[Depth, int] = {"8-bit": 20, "16-bit": 26, "float": 32}
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".tif", ".tiff", ".webp"})

Pixels = npt.NDArray[Any]
_DEPTHS: dict[str, Depth] = {"uint8": "8-bit", "uint16": "16-bit", "float32": "float"}
_WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
_PNG = b"\x89PNG"
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_TILE_WIDTH, _TILE_HEIGHT = 0x0142, 0x0143
#: What Pillow may open; others of its formats start programs or bound nothing.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")
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
    content = _content(path, memory)
    with strict(), _opened(content, path) as image:
        _seek_page(image, path)
        depth, (height, width) = _depth_and_size(image, content, path, memory)
        turned = _orientation(image, content) in (5, 6, 7, 8)
        return Header((width, height) if turned else (height, width), depth)


def count_pages(path: Path) -> int:
    """How many pages a file has; previews and thumbnails are none.

    Raises:
        ImageError: it cannot be read.
    """
    with strict(), _opened(_content(path, MEMORY), path) as image:
        return len(_frames(image, path))


def decode(path: Path, memory: int = MEMORY) -> Pixels:
    """`(H, W, 3)` pixels of a file, uint8, uint16 or float32; `stack.tif#2` is the second page of `stack.tif`.

    Raises:
        ImageError: missing, empty, truncated, not an image, of several pages, or too large for `memory` bytes.
    """
    content = _content(path, memory)
    with strict(), _opened(content, path) as image:
        frame = _seek_page(image, path)
        depth, _ = _depth_and_size(image, content, path, memory)
        if depth == "8-bit":
            _load(image, path)
            _require_whole(content, image, path, frame)
            return _decode_8bit(image, path)
        # OpenCV turns TIFF files upright by itself, and leaves PNG files as they lie; of damaged ones it decodes what it can.
        orientation = 1
        if content.startswith(_PNG):
            _load(image, path)
            orientation = _orientation(image, content)
        _require_whole(content, image, path, frame)
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
    _require_memory(name, pixels.shape[1], pixels.shape[0], wide, memory)
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
    _require_memory(name, image.width, image.height, depth, memory)
    if getattr(image, "n_frames", 1) > 1:
        at = image.tell()
        frames = _frames(image, name, 2)
        image.seek(at)
        if len(frames) > 1:
            raise ImageError(f"{name}: has several pages or frames; give a copy of each: image.seek(page), then image.copy()")
    content = _content_of(image)
    _load(image, name)
    if content:
        _require_whole(content, image, name, image.tell())
    if depth == "8-bit":
        return _decode_8bit(image, name)
    try:
        wide = np.asarray(image)
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise _damaged(name, error) from None
    pixels = from_array(_from_integers(wide, name) if image.mode == "I" else wide, name, memory)
    return _upright(pixels, _orientation(image, b""))


def _content_of(image: Image.Image) -> bytes:
    """The file behind a Pillow image that is not loaded yet, empty where there is none; it stays where it is read."""
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None):
        return b""
    try:
        at = file.tell()
        file.seek(0)
        content = bytes(file.read())
        file.seek(at)
    except Exception:  # noqa: BLE001 - a file of one's own kind may do anything
        return b""
    return content


def _from_tensor(array: Any) -> Any:
    """A tensor of torch as an array may be made of it: without gradient, on the CPU, and of a type that NumPy has."""
    if not type(array).__module__.startswith("torch") or not hasattr(array, "detach"):
        return array
    tensor = array.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def _content(path: Path, memory: int) -> bytes:
    file, _ = page_of(path)
    try:
        if file.is_dir():
            raise ImageError(f"{path}: is a folder; give the images in it")
        # A pipe or a device would be waited for without end.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as opened:
            about, memory = os.fstat(descriptor), max(memory, LEAST_MEMORY)
            if not stat.S_ISREG(about.st_mode):
                raise ImageError(f"{path}: is no file but a pipe, a socket or a device; give an image file")
            if about.st_size > memory:
                raise ImageError(
                    f"{path}: {_gigabytes(about.st_size)} are more than the limit of {_gigabytes(memory)}; {_REMEDY}"
                )
            content = opened.read()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # such as a NUL byte
        raise ImageError(f"{str(path)!r}: is not the path of a file ({error})") from None
    if not content:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again")
    return content


def _opened(content: bytes, path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: has more than {MAX_PIXELS // 1_000_000} megapixels; crop or shrink it first") from None
    except Exception:  # noqa: BLE001 - a damaged header raises almost anything
        raise ImageError(f"{path}: is not a readable image (damaged, or not PNG, JPEG, BMP, TIFF or WebP)") from None


def _frames(image: Image.Image, path: Path | str, most: int | None = None) -> list[int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return full_frames(image, most)
    except Exception as error:  # noqa: BLE001 - a damaged page raises almost anything
        raise _damaged(path, error) from None


def _seek_page(image: Image.Image, path: Path) -> int:
    """Go to the page that the path names; returns the number of its frame. Raises `ImageError` where there are several."""
    file, page = page_of(path)
    frames = _frames(image, path, page or 2)
    if page is None and len(frames) > 1:
        raise ImageError(
            f"{path}: has several pages or frames; --pages all (pages='all') reads each as an image, '{file.name}#1' the first"
        )
    if page is not None and page > len(frames):
        raise ImageError(f"{path}: the file has {len(frames)} page{'' if len(frames) == 1 else 's'}")
    frame = frames[(page or 1) - 1]
    if frame != image.tell():
        try:
            image.seek(frame)
        except Exception as error:  # noqa: BLE001 - a damaged page raises almost anything
            raise _damaged(path, error) from None
    return frame


def _require_whole(content: bytes, image: Image.Image, name: Path | str, frame: int) -> None:
    """Raises `ImageError` where pixels are missing that a decoder would make up."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lacking = missing(content, image, frame)
    except Exception as error:  # noqa: BLE001 - what cannot be followed is damaged
        raise _damaged(name, error) from None
    if lacking is not None:
        raise _damaged(name, ValueError(lacking))


_REMEDY = "raise --memory (memory), or shrink or crop it first"


def _require_memory(name: Path | str, width: int, height: int, depth: Depth, memory: int) -> None:
    """Raises `ImageError` where an image would take more memory than it may."""
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width} x {height} is more than {MAX_PIXELS // 1_000_000} megapixels; crop or shrink it first"
        )
    needed, memory = width * height * BYTES_A_PIXEL[depth], max(memory, LEAST_MEMORY)
    if needed > memory:
        limit = f"more than the limit of {_gigabytes(memory)}"
        raise ImageError(f"{name}: {width} x {height} takes about {_gigabytes(needed)}, {limit}; {_REMEDY}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB"


def _depth_and_size(image: Image.Image, content: bytes, path: Path, memory: int) -> tuple[Depth, tuple[int, int]]:
    """Depth and (H, W) as stored; nothing of the pixels is read."""
    tags = getattr(image, "tag_v2", {})  # of TIFF files, whose size newer releases of Pillow turn already
    width, height = tags.get(_WIDTH, image.size[0]), tags.get(_HEIGHT, image.size[1])
    depth = _stored_depth(image, content)
    _require_memory(path, width, height, depth, memory)
    tile = _number(tags.get(_TILE_WIDTH, 1)), _number(tags.get(_TILE_HEIGHT, 1))
    if tile[0] * tile[1] > width * height:  # decoders make room for whole tiles
        _require_memory(path, *tile, depth, memory)
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise _damaged(name, error) from None


def _decode_8bit(image: Image.Image, name: Path | str) -> Pixels:
    """A loaded image of 8 bits a channel -> its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Upright images are not copied, as `exif_transpose` would.
            upright = image if _orientation(image, b"") == 1 else ImageOps.exif_transpose(image)
            return _thrice(_pixels_of(upright)) if upright.mode == "L" else _pixels_of(_to_rgb(upright))
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on damaged data
        raise _damaged(name, error) from None


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
        raise _damaged(path, error) from None
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
