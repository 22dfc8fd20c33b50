"""What is checked of an image file before it is decoded: kind of file, pages, memory, completeness."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from PIL import Image

from offnominal.errors import ImageError
from offnominal.images.completeness import missing, strict
from offnominal.images.frames import full_frames, page_of
from offnominal.quiet import without_warnings
from offnominal.types import Depth

#: Pillow by itself opens nothing much larger.
MAX_PIXELS = 178_000_000
#: Bytes that one image may take where nothing else is said: the default of the setting `memory`.
MEMORY = 2_000_000_000
#: An image may always take so many, however little memory the patches may.
LEAST_MEMORY = 256_000_000
#: Bytes a pixel that decoding, inspecting and drawing take at most, measured with images of 100 megapixels.
BYTES_A_PIXEL: dict[Depth, int] = {"8-bit": 20, "16-bit": 26, "float": 32}
#: What Pillow may open; others of its formats start programs or bound nothing.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")
_REMEDY = "raise --memory (memory), or shrink or crop it first"


def count_pages(path: Path) -> int:
    """How many pages a file has; previews and thumbnails are none.

    Raises:
        ImageError: it cannot be read.
    """
    with strict(), opened_image(read_content(path, MEMORY), path) as image:
        return len(frames_of(image, path))


def read_content(path: Path, memory: int) -> bytes:
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


def content_behind(image: Image.Image) -> bytes:
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


def opened_image(content: bytes, path: Path) -> Image.Image:
    try:
        with without_warnings():
            return Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: has more than {MAX_PIXELS // 1_000_000} megapixels; crop or shrink it first") from None
    except Exception:  # noqa: BLE001 - a damaged header raises almost anything
        raise ImageError(f"{path}: is not a readable image (damaged, or not PNG, JPEG, BMP, TIFF or WebP)") from None


def frames_of(image: Image.Image, path: Path | str, most: int | None = None) -> list[int]:
    try:
        with without_warnings():
            return full_frames(image, most)
    except Exception as error:  # noqa: BLE001 - a damaged page raises almost anything
        raise damaged(path, error) from None


def seek_page(image: Image.Image, path: Path) -> int:
    """Go to the page that the path names; returns the number of its frame. Raises `ImageError` where there are several."""
    file, page = page_of(path)
    frames = frames_of(image, path, page or 2)
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
            raise damaged(path, error) from None
    return frame


def require_whole(content: bytes, image: Image.Image, name: Path | str, frame: int) -> None:
    """Raises `ImageError` where pixels are missing that a decoder would make up."""
    try:
        with without_warnings():
            lacking = missing(content, image, frame)
    except Exception as error:  # noqa: BLE001 - what cannot be followed is damaged
        raise damaged(name, error) from None
    if lacking is not None:
        raise damaged(name, ValueError(lacking))


def damaged(name: Path | str, error: Exception) -> ImageError:
    return ImageError(
        f"{name}: is damaged or truncated ({(str(error) or type(error).__name__).splitlines()[0][:80]}); copy it again"
    )


def require_memory(name: Path | str, width: int, height: int, depth: Depth, memory: int) -> None:
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
