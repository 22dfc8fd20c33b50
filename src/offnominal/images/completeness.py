"""Check that a file contains all pixels that its header declares. Decoders fill missing pixels with black or grey."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from threading import Lock
from typing import Any

from PIL import Image, ImageChops, ImageFile

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
#: First column, first row, column step and row step of the seven passes of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_INFLATED_AT_ONCE = 1 << 20
#: JPEG frame headers: sequential and progressive, with Huffman or arithmetic coding.
_FRAMES, _PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA}), frozenset({0xC2, 0xCA})
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
#: Data appended to a scan. A decoder that still expects data decodes it as pixels.
_FILLER = bytes((37 * at + 11) % 251 for at in range(4096))
#: Values of blocks without data.
_GREY = (126, 130)

_lock = Lock()
_strict: dict[str, Any] = {"inside": 0, "before": False}


@contextmanager
def strict() -> Iterator[None]:
    """Make Pillow refuse truncated files, even if the host program allows them."""
    with _lock:
        if _strict["inside"] == 0:
            _strict["before"] = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _strict["inside"] += 1
    try:
        yield
    finally:
        with _lock:
            _strict["inside"] -= 1
            if _strict["inside"] == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _strict["before"]


def missing(content: bytes, image: Image.Image, frame: int = 0) -> str | None:
    """Describe what is missing from the file of a loaded image; None if it is complete. TIFF images need not be loaded."""
    if hasattr(image, "tag_v2"):
        return _missing_in_tiff(content, image.tag_v2)
    if content.startswith(PNG):
        return _missing_in_png(content) if content[28] or _last_row_is_empty(image) else None
    if content.startswith(JPEG) and frame == 0:
        return _missing_in_jpeg(content, image)
    return None


def _last_row_is_empty(image: Image.Image) -> bool:
    """Whether the last row is all 0, as rows that were not decoded are."""
    extrema = image.crop((0, image.height - 1, image.width, image.height)).getextrema()
    return all(high == 0 for _, high in (extrema if isinstance(extrema[0], tuple) else [extrema]))


def _missing_in_png(content: bytes) -> str | None:
    """Inflate every frame in pieces and count its bytes."""
    bits, channels, interlaced = content[24], _PNG_CHANNELS.get(content[25], 4), content[28]
    for width, height, pieces in _png_frames(content):
        passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
        sides = [(ceil((width - x) / dx), ceil((height - y) / dy)) for x, y, dx, dy in passes]
        expected = sum(rows * (1 + ceil(columns * bits * channels / 8)) for columns, rows in sides if columns > 0 and rows > 0)
        inflated = _inflated(pieces, expected)
        if inflated < expected:
            return f"pixels end at {inflated / expected:.0%}"
    return None


def _png_frames(content: bytes) -> list[tuple[int, int, list[bytes]]]:
    """(width, height, compressed pieces) of the image and of the animation frames after it."""
    frames: list[tuple[int, int, list[bytes]]] = []
    size = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    stills: list[bytes] = []
    start = len(PNG)
    while start + 8 <= len(content):
        length, kind = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        data = content[start + 8 : start + 8 + length]
        if kind == b"IDAT":
            stills.append(data)
        elif kind == b"fcTL" and len(data) >= 12 and stills:
            frames.append((int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big"), []))
        elif kind == b"fdAT" and frames:
            frames[-1][2].append(data[4:])
        start += 12 + length
    return [(*size, stills), *frames]


def _inflated(pieces: list[bytes], enough: int) -> int:
    """Count the inflated bytes of the pieces, up to `enough`."""
    stream, total = zlib.decompressobj(), 0
    for piece in pieces:
        while piece and total < enough and not stream.eof:
            total += len(stream.decompress(piece, _INFLATED_AT_ONCE))
            piece = stream.unconsumed_tail
    return total + len(stream.flush()) if total < enough and not stream.eof else total


def _missing_in_tiff(content: bytes, tags: Any) -> str | None:
    def numbers(tag: int, default: int | None = None) -> tuple[int, ...]:
        value = tags.get(tag, default)
        return () if value is None else tuple(int(number) for number in (value if isinstance(value, tuple) else (value,)))

    (width,), (height,) = numbers(256)[:1], numbers(257)[:1]
    channels, compression, planar = numbers(277, 1)[0], numbers(259, 1)[0], numbers(284, 1)[0]
    planes = channels if planar == 2 else 1
    bits = max(numbers(258, 1)) * (1 if planar == 2 else channels)
    tiled = bool(numbers(324))
    offsets, counts = (numbers(324), numbers(325)) if tiled else (numbers(273), numbers(279))
    if tiled:
        across, down = max(1, *numbers(322, width)), max(1, *numbers(323, height))
        parts = ceil(width / across) * ceil(height / down)
    else:
        parts = ceil(height / max(1, min(height, numbers(278, height)[0])))
    if len(offsets) < parts * planes:
        return f"{len(offsets)} of {parts * planes} strips or tiles"
    if 0 in offsets[: parts * planes]:
        return "strips or tiles without pixels"
    if not any(counts):
        return None
    if 0 in counts[: parts * planes] or any(start + size > len(content) for start, size in zip(offsets, counts, strict=False)):
        return "strips or tiles that end early"
    whole = ceil(width * bits / 8) * height * planes
    if compression == 1 and numbers(262, 1)[0] != 6 and sum(counts) < whole:
        return f"pixels end at {sum(counts) / whole:.0%}"
    return None


def _missing_in_jpeg(content: bytes, image: Image.Image) -> str | None:
    """Check for missing scans; if the decoder may have filled in grey, decode again with data appended and compare."""
    scans = _JpegScans(content)
    if scans.missing is not None:
        return scans.missing
    if not scans.end or (scans.single and not _corner_is_grey(image)):
        return None
    with strict(), Image.open(io.BytesIO(content[: scans.end] + _FILLER + b"\xff\xd9"), formats=("JPEG",)) as fed:
        fed.load()
        same = fed.size == image.size and fed.mode == image.mode and ImageChops.difference(fed, image).getbbox() is None
    return None if same else "pixels end early"


def _corner_is_grey(image: Image.Image) -> bool:
    """Whether the last pixels have the grey of blocks without data."""
    corner = image.crop((max(0, image.width - 2), max(0, image.height - 2), image.width, image.height)).getextrema()
    bands = corner if isinstance(corner[0], tuple) else [corner]
    return all(_GREY[0] <= low and high <= _GREY[1] for low, high in bands)


class _JpegScans:
    """The scans of a JPEG file, read from its markers.

    Attributes
    ----------
    missing
        What is certainly missing, or None.
    single
        Whether all pixels are in one scan, so that the last pixels come last in the file.
    end
        Where the data of the last scan ends; 0 if the kind of JPEG is not supported here.
    """

    def __init__(self, content: bytes) -> None:
        self.missing: str | None = None
        self.single, self.end = True, 0
        self._bits: dict[int, dict[int, int]] = {}
        self._sampling: dict[int, tuple[int, int]] = {}
        self._size, self._interval, self._progressive, scans = (0, 0), 0, False, 0
        at = 2
        while match := _NEXT_MARKER.search(content, at):
            marker, at = content[match.start() + 1], match.start() + 2
            if marker == 0xD9:
                break
            length = int.from_bytes(content[at : at + 2], "big")
            data, at = content[at + 2 : at + length], at + max(2, length)
            if marker in _FRAMES and len(data) >= 6:
                self._progressive = marker in _PROGRESSIVE
                self._size = int.from_bytes(data[3:5], "big"), int.from_bytes(data[1:3], "big")
                parts = [data[6 + 3 * index : 9 + 3 * index] for index in range(data[5])]
                self._sampling = {part[0]: (part[1] >> 4, part[1] & 15) for part in parts if len(part) == 3}
                self._bits = {name: {} for name in self._sampling}
            elif marker == 0xDD and len(data) >= 2:
                self._interval = int.from_bytes(data[:2], "big")
            elif marker == 0xDA and self._bits:
                scans += 1
                end = _NEXT_MARKER.search(content, at)
                self.end = end.start() if end else len(content)
                self._take(data, content[at : self.end])
                at = self.end
        if not self._bits:
            return
        self.single = scans == 1 and not self._progressive
        coefficients = range(64) if self._progressive else range(1)
        if any(bits.get(coefficient) != 0 for bits in self._bits.values() for coefficient in coefficients):
            self.missing = self.missing or "scans are missing"

    def _take(self, header: bytes, data: bytes) -> None:
        """Record the coefficients and bits of a scan, and count its restart markers."""
        count = header[0] if header else 0
        names = [header[1 + 2 * index] for index in range(count) if 1 + 2 * index < len(header)]
        first, last, low = header[-3], header[-2], header[-1] & 15
        for name in names:
            steps = range(first, last + 1) if self._progressive else range(1)
            self._bits.setdefault(name, {}).update(dict.fromkeys(steps, low if self._progressive else 0))
        if self._interval and all(self._sampling.values()):
            expected = -(-self._blocks(names) // self._interval) - 1
            restarts = len(_RESTART.findall(data))
            if restarts < expected:
                self.missing = f"{restarts} of {expected} restart markers"

    def _blocks(self, names: list[int]) -> int:
        """Number of minimum coded units, which the restart interval counts, in a scan of these components."""
        most = max(h for h, _ in self._sampling.values()), max(v for _, v in self._sampling.values())
        width, height = self._size
        if len(names) == 1:
            h, v = self._sampling.get(names[0], most)
            return ceil(ceil(width * h / most[0]) / 8) * ceil(ceil(height * v / most[1]) / 8)
        return ceil(width / (8 * most[0])) * ceil(height / (8 * most[1]))
