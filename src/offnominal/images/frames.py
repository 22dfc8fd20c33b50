"""Pages of a file: `stack.tif#2` names the second; a preview or a thumbnail is no page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_PAGE = re.compile(r"(.+)#([1-9]\d{0,8})", re.DOTALL)
_NEW_SUBFILE, _SUBFILE = 254, 255
#: Bits of NewSubfileType that say "reduced" and "transparency mask"; the value of SubfileType that says "reduced".
_REDUCED_OR_MASK, _OLD_REDUCED = 0b101, 2
_MP_ENTRIES = 0xB002


def page_of(path: Path) -> tuple[Path, int | None]:
    """`stack.tif#2` -> `stack.tif`, 2; a file that bears that very name, and any other path, -> itself, None."""
    match = _PAGE.fullmatch(path.name)
    if match is None or os.path.lexists(path):
        return path, None
    file = path.with_name(match[1])
    return (file, int(match[2])) if file.is_file() else (path, None)


def a_page(path: Path) -> bool:
    """Whether the path names a page of a file that exists."""
    return page_of(path)[1] is not None


def full_frames(image: Image.Image, most: int | None = None) -> list[int]:
    """The numbers of the frames that are pages, at most `most` of them; the image stands at the first frame afterwards.

    Raises:
        Exception: whatever Pillow raises where a page is damaged.
    """
    if getattr(image, "n_frames", None) is None and not hasattr(image, "tag_v2"):
        return [0]
    found: list[int] = []
    of_format = _of_tiff if hasattr(image, "tag_v2") else _of_mpo if hasattr(image, "mpinfo") else _of_others
    for frame in of_format(image):
        found.append(frame)
        if most is not None and len(found) >= most:
            break
    if image.tell() != 0:
        image.seek(0)
    return found or [0]


def _of_tiff(image: Image.Image) -> Iterator[int]:
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


def _of_mpo(image: Image.Image) -> Iterator[int]:
    """Frames that look as the first does; the others are previews, or maps of depth or gain."""
    first = image.size, image.mode
    entries = image.mpinfo.get(_MP_ENTRIES, [])  # type: ignore[attr-defined]
    for frame in range(image.n_frames):  # type: ignore[attr-defined]
        kind = str(entries[frame].get("Attribute", {}).get("MPType", "")) if frame < len(entries) else ""
        if frame and "Thumbnail" in kind:
            continue
        try:
            image.seek(frame)
        except Exception:  # noqa: BLE001 - a preview that was cut off is no page
            continue
        if (image.size, image.mode) == first:
            yield frame


def _of_others(image: Image.Image) -> Iterator[int]:
    yield from range(int(image.n_frames))  # type: ignore[attr-defined]
