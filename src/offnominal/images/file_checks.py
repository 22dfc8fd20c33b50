"""Checks of an image file around decoding: kind of file, pages, memory, completeness."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from PIL import Image

from offnominal.errors import ImageError
from offnominal.images.completeness import missing, strict
from offnominal.images.pages import full_frames, page_of
from offnominal.quiet import without_warnings
from offnominal.types import Depth

#: Largest number of pixels. Pillow refuses images that are slightly larger.
MAX_PIXELS = 178_000_000
#: Bytes that one image may take by default: the default of the setting `memory`.
DEFAULT_MEMORY = 2_000_000_000
#: An image may always take this many bytes, even if the setting `memory` is lower.
MIN_MEMORY = 256_000_000
#: Bytes per pixel for decoding, inspecting and drawing: the maximum measured with images of 100 megapixels.
BYTES_PER_PIXEL: dict[Depth, int] = {"8-bit": 20, "16-bit": 26, "float": 32}
#: Formats that Pillow may open. Others start external programs or do not limit the memory.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")
_REMEDY = "raise --memory (memory), or shrink or crop it first"


def count_pages(path: Path) -> int:
    """Count the pages of an image file, without previews and thumbnails.

    Raises
    ------
    ImageError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page, path = Image.new("L", (8, 8)), Path(folder) / "stack.tif"
    ...     page.save(path, save_all=True, append_images=[page, page])
    ...     count_pages(path)
    3
    """
    with strict(), opened_image(read_content(path, DEFAULT_MEMORY), path) as image:
        return len(frames_of(image, path))


def read_content(path: Path, memory: int) -> bytes:
    """Read a regular file of at most `memory` bytes. Raises `ImageError`."""
    file, _ = page_of(path)
    try:
        if file.is_dir():
            raise ImageError(f"{path}: is a folder; give the images in it")
        # Non-blocking: opening a pipe would wait for a writer.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as opened:
            status, memory = os.fstat(descriptor), max(memory, MIN_MEMORY)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path}: is a pipe, a socket or a device; give an image file")
            if status.st_size > memory:
                raise ImageError(
                    f"{path}: {_gigabytes(status.st_size)} is more than the limit of {_gigabytes(memory)}; {_REMEDY}"
                )
            content = opened.read()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # such as a NUL byte
        raise ImageError(f"{str(path)!r}: is not a valid path ({error})") from None
    if not content:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again")
    return content


def read_source_file(image: Image.Image) -> bytes:
    """Read the file of a Pillow image that is not loaded yet and restore its position; empty if there is no file."""
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None):
        return b""
    try:
        position = file.tell()
        file.seek(0)
        content = bytes(file.read())
        file.seek(position)
    except Exception:  # noqa: BLE001 - a custom file object may raise anything
        return b""
    return content


def opened_image(content: bytes, path: Path) -> Image.Image:
    """Open an image without decoding it. Raises `ImageError`."""
    try:
        with without_warnings():
            return Image.open(io.BytesIO(content), formats=FORMATS)
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
    """Seek the page that the path names and return its frame.

    Raises `ImageError` if the file has several pages and the path names none.
    """
    file, page = page_of(path)
    frames = frames_of(image, path, page or 2)
    if page is None and len(frames) > 1:
        raise ImageError(
            f"{path}: has several pages or frames; use --pages all (pages='all') for all, or '{file.name}#1' for the first"
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


def require_complete(content: bytes, image: Image.Image, name: Path | str, frame: int) -> None:
    """Raise `ImageError` if pixels are missing, which a decoder would fill in."""
    try:
        with without_warnings():
            defect = missing(content, image, frame)
    except Exception as error:  # noqa: BLE001 - a file that cannot be parsed is damaged
        raise damaged(name, error) from None
    if defect is not None:
        raise damaged(name, ValueError(defect))


def damaged(name: Path | str, error: Exception) -> ImageError:
    return ImageError(
        f"{name}: is damaged or truncated ({(str(error) or type(error).__name__).splitlines()[0][:80]}); copy it again"
    )


def require_memory(name: Path | str, width: int, height: int, depth: Depth, memory: int) -> None:
    """Raise `ImageError` if an image has too many pixels or would take more than `memory` bytes."""
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width} x {height} is more than {MAX_PIXELS // 1_000_000} megapixels; crop or shrink it first"
        )
    needed, memory = width * height * BYTES_PER_PIXEL[depth], max(memory, MIN_MEMORY)
    if needed > memory:
        limit = f"more than the limit of {_gigabytes(memory)}"
        raise ImageError(f"{name}: {width} x {height} takes about {_gigabytes(needed)}, {limit}; {_REMEDY}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB"
