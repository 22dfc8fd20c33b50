"""Pages of a file: `stack.tif#2` names the second page. Previews and thumbnails are not pages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_PAGE = re.compile(r"(.+)#([1-9]\d{0,8})", re.DOTALL)
#: TIFF tags NewSubfileType and SubfileType.
_NEW_SUBFILE, _SUBFILE = 254, 255
#: Bits "reduced" and "transparency mask" of NewSubfileType; value "reduced" of SubfileType.
_REDUCED_OR_MASK, _OLD_REDUCED = 0b101, 2
#: Tag of the list of images in an MPO file.
_MP_ENTRIES = 0xB002


def page_of(path: Path) -> tuple[Path, int | None]:
    """Split `stack.tif#2` into the file and its page, 2. A file of exactly that name, or any other path, has page None."""
    match = _PAGE.fullmatch(path.name)
    if match is None or os.path.lexists(path):
        return path, None
    file = path.with_name(match[1])
    return (file, int(match[2])) if file.is_file() else (path, None)


def is_page(path: Path) -> bool:
    """Whether the path names a page of a file that exists."""
    return page_of(path)[1] is not None


def full_frames(image: Image.Image, most: int | None = None) -> list[int]:
    """List the numbers of the frames that are pages, at most `most` of them, and seek the first frame.

    Raises
    ------
    Exception
        Any error that Pillow raises on a damaged page.
    """
    if getattr(image, "n_frames", None) is None and not hasattr(image, "tag_v2"):
        return [0]
    frames: list[int] = []
    pages_in = _tiff_pages if hasattr(image, "tag_v2") else _mpo_pages if hasattr(image, "mpinfo") else _other_pages
    for frame in pages_in(image):
        frames.append(frame)
        if most is not None and len(frames) >= most:
            break
    if image.tell() != 0:
        image.seek(0)
    return frames or [0]


def _tiff_pages(image: Image.Image) -> Iterator[int]:
    frame = 0
    while True:
        try:
            image.seek(frame)
        except EOFError:
            return
        tags = image.tag_v2  # type: ignore[attr-defined]
        if not int(tags.get(_NEW_SUBFILE, 0)) & _REDUCED_OR_MASK and tags.get(_SUBFILE) != _OLD_REDUCED:
            yield frame
        frame += 1


def _mpo_pages(image: Image.Image) -> Iterator[int]:
    """Frames of the size and mode of the first. The others are previews, depth maps or gain maps."""
    first = image.size, image.mode
    entries = image.mpinfo.get(_MP_ENTRIES, [])  # type: ignore[attr-defined]
    for frame in range(image.n_frames):  # type: ignore[attr-defined]
        kind = str(entries[frame].get("Attribute", {}).get("MPType", "")) if frame < len(entries) else ""
        if frame and "Thumbnail" in kind:
            continue
        try:
            image.seek(frame)
        except Exception:  # noqa: BLE001 - a truncated preview is not a page
            continue
        if (image.size, image.mode) == first:
            yield frame


def _other_pages(image: Image.Image) -> Iterator[int]:
    yield from range(int(image.n_frames))  # type: ignore[attr-defined]
