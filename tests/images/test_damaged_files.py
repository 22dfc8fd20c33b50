"""Truncated files, and sources that are not images. Each is an error of that image only."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from conftest import texture
from offnominal.errors import ImageError
from offnominal.images import (
    EIGHT_BIT,
    Geometry,
    Preprocessing,
    batches,
    decode,
    from_array,
    from_pillow,
    pixels_of,
    read_header,
)
from offnominal.images.file_checks import MIN_MEMORY

COLOUR = np.random.default_rng(0).integers(30, 220, (96, 128, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def encoded_16_bit(pixels: np.ndarray, suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, pixels)[1].tobytes())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_rows(content: bytes, rows: int) -> bytes:
    """A well-formed PNG whose pixel data ends after `rows` rows."""
    pixels, parts, at = b"", [content[:8]], 8
    while at < len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        data = content[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            pixels += data
        elif kind == b"IEND":
            raw = zlib.decompress(pixels)
            parts += [chunk(b"IDAT", zlib.compress(raw[: len(raw) // 96 * rows])), chunk(b"IEND", b"")]
        else:
            parts.append(content[at : at + 12 + length])
        at += 12 + length
    return b"".join(parts)


def interlaced(pixels: np.ndarray, passes: int) -> bytes:
    """A grey Adam7 PNG with only the first passes."""
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in steps[:passes] for row in pixels[y::dy, x::dx])
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_zeroed_strip(content: bytes, tag: int = 273) -> bytes:
    """A little-endian TIFF in which the offset (or, with tag 279, the byte count) of the first strip is 0."""
    at = int.from_bytes(content[4:8], "little")
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(content[at : at + 2], "little"), 12):
        if int.from_bytes(content[entry : entry + 2], "little") == tag:
            size = {3: 2, 4: 4}[int.from_bytes(content[entry + 2 : entry + 4], "little")]
            count = int.from_bytes(content[entry + 4 : entry + 8], "little")
            offset = entry + 8 if size * count <= 4 else int.from_bytes(content[entry + 8 : entry + 12], "little")
            return content[:offset] + bytes(size) + content[offset + size :]
    raise AssertionError(tag)


JPEG = encoded(COLOUR, "JPEG", quality=90)
PROGRESSIVE = encoded(COLOUR, "JPEG", quality=90, progressive=True)
RESTARTS = encoded(COLOUR, "JPEG", restart_marker_rows=1)
COLOUR_16_BIT = COLOUR.astype(np.uint16) * 250
TRUNCATED = {
    "rows.png": png_of_rows(encoded(COLOUR, "PNG"), 40),
    "one-row-less.png": png_of_rows(encoded(COLOUR, "PNG"), 95),
    "grey.png": png_of_rows(encoded(COLOUR[:, :, 0], "PNG"), 40),
    "sixteen.png": png_of_rows(encoded_16_bit(COLOUR_16_BIT, ".png"), 40),
    "sixteen-grey.png": png_of_rows(encoded_16_bit(COLOUR_16_BIT[:, :, 0], ".png"), 40),
    "black.png": png_of_rows(encoded(np.zeros((96, 128), np.uint8), "PNG"), 40),
    "interlaced.png": interlaced(COLOUR[:, :, 0], 6),
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "ended.jpg": JPEG[: len(JPEG) // 2] + b"\xff\xd9",
    "progressive.jpg": PROGRESSIVE[: len(PROGRESSIVE) // 2] + b"\xff\xd9",
    "last-scan.jpg": PROGRESSIVE[: len(PROGRESSIVE) - 900] + b"\xff\xd9",
    "restarts.jpg": RESTARTS[: RESTARTS.index(b"\xff\xd3")] + b"\xff\xd9",
    "short.bmp": encoded(COLOUR, "BMP")[:20_000],
    "short.webp": encoded(COLOUR, "WEBP")[:2000],
    "short.tif": encoded(COLOUR, "TIFF")[:20_000],
    "strip.tif": with_zeroed_strip(encoded(COLOUR, "TIFF")),
    "count.tif": with_zeroed_strip(encoded_16_bit(COLOUR_16_BIT, ".tiff"), 279),
    "wide-strip.tif": with_zeroed_strip(encoded_16_bit(COLOUR_16_BIT, ".tiff")),
    "float-strip.tif": with_zeroed_strip(encoded_16_bit(COLOUR[:, :, 0].astype(np.float32), ".tiff")),
}


@pytest.fixture(params=[False, True])
def lenient(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the host program has set `LOAD_TRUNCATED_IMAGES`."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, request.param
    yield request.param
    assert ImageFile.LOAD_TRUNCATED_IMAGES is request.param
    ImageFile.LOAD_TRUNCATED_IMAGES = before


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_files_are_refused(name: str, lenient: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TRUNCATED[name])
    with pytest.raises(ImageError, match="damaged") as caught:
        decode(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rows.png", "ended.jpg", "strip.tif"])
def test_truncated_pillow_images_are_refused(name: str, lenient: bool) -> None:
    with Image.open(io.BytesIO(TRUNCATED[name])) as image, pytest.raises(ImageError, match="damaged or truncated"):
        from_pillow(image)


def test_complete_files_that_resemble_truncated_ones_are_read(tmp_path: Path) -> None:
    grey = np.full((96, 128, 3), 128, np.uint8)
    files = {
        "black.png": encoded(np.zeros((96, 128, 3), np.uint8), "PNG"),
        "interlaced.png": interlaced(COLOUR[:, :, 0], 7),
        "grey.jpg": encoded(grey, "JPEG"),
        "grey-progressive.jpg": encoded(grey, "JPEG", progressive=True),
        "progressive.jpg": PROGRESSIVE,
        "restarts.jpg": RESTARTS,
        "grey.tif": encoded(grey, "TIFF", compression="tiff_lzw"),
    }
    file = io.BytesIO()
    Image.fromarray(grey).convert("CMYK").save(file, "JPEG")
    files["cmyk.jpg"] = file.getvalue()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert decode(tmp_path / name).shape == (96, 128, 3), name


class Raises:
    """An object that cannot be converted to an array."""

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        raise RuntimeError("no\narray")


def test_unusable_sources_are_errors_of_that_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket.png"))
    sources = [
        Raises(), tmp_path / "pipe.png", tmp_path / "socket.png", "/dev/zero", "a\0b.png", "x" * 5000, tmp_path, None, "", 7,
        [[1, 2], [3]], object(), {"a": 1}, np.array(["a"]), np.full((4, 4), np.nan), torch.zeros(3), texture(0),
    ]  # fmt: skip
    failures: dict[int, ImageError] = {}
    batched = list(
        batches(sources, Preprocessing((Geometry((64, 64), "keep"),), EIGHT_BIT), batch_size=2, failed=failures.__setitem__)
    )
    listener.close()
    assert [batch.index for batch in batched] == [(len(sources) - 1,)]
    assert sorted(failures) == list(range(len(sources) - 1))
    assert not any("\n" in str(error) for error in failures.values())
    for source in sources[:3]:
        with pytest.raises(ImageError):
            pixels_of(source)
    with pytest.raises(ImageError, match="pipe"):
        read_header(tmp_path / "pipe.png")


def test_tensors_are_read_like_arrays() -> None:
    pixels = torch.rand(8, 9, 3)
    for tensor in (pixels.clone().requires_grad_(), pixels.double()):
        assert np.array_equal(from_array(tensor), pixels.numpy())
    assert np.allclose(from_array(pixels.bfloat16()), pixels.numpy(), atol=1e-2)
    assert from_array(pixels.half()).dtype == np.float32
    assert from_array((pixels * 255).to(torch.uint8)).dtype == np.uint8


def test_images_above_the_memory_limit_are_refused_before_decoding(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "large.png").write_bytes(content)
    for read in (decode, read_header):
        with pytest.raises(ImageError, match=r"12000 x 12000 takes about 2\.9 GB.*limit of 2 GB; raise --memory") as caught:
            read(tmp_path / "large.png")
        assert "\n" not in str(caught.value)
    assert read_header(tmp_path / "large.png", 4_000_000_000).size == (12_000, 12_000)
    large = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (12_000, 12_000, 3))
    with pytest.raises(ImageError, match="raise --memory"):
        from_array(large)
    with pytest.raises(ImageError, match="raise --memory"):
        from_pillow(Image.new("1", (12_000, 12_000)))
    with pytest.raises(ImageError, match=r"limit of 0\.26 GB"):
        from_array(np.broadcast_to(np.zeros(1, np.float32), (4000, 4000)), memory=1000)
    assert from_array(texture(0), memory=1000).shape == (96, 120, 3), "small images need no setting"
    sparse = tmp_path / "sparse.png"
    with sparse.open("wb") as file:
        file.truncate(MIN_MEMORY * 10)
    with pytest.raises(ImageError, match="more than the limit"):
        decode(sparse)


def test_decompression_bombs_in_metadata_are_harmless(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    plain = encoded(COLOUR, "PNG")
    for kind, data in ((b"zTXt", b"a\0\0" + bomb), (b"iCCP", b"a\0\0" + bomb), (b"eXIf", bytes(50_000_000))):
        (tmp_path / "bomb.png").write_bytes(plain[:33] + chunk(kind, data) + plain[33:])
        with suppress(ImageError):  # refusing the file is acceptable
            assert np.array_equal(decode(tmp_path / "bomb.png"), COLOUR)
    Image.fromarray(np.arange(60_000, dtype=np.uint32).astype(np.uint8)[None, :]).save(tmp_path / "thin.png")
    assert decode(tmp_path / "thin.png").shape == (1, 60_000, 3)
