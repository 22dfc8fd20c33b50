"""Decoding: every mode and depth, orientation, and damaged or unreadable files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import texture
from offnominal.errors import ImageError
from offnominal.images import (
    Geometry,
    Preprocessing,
    Source,
    ValueRange,
    decode,
    displayed,
    from_array,
    from_pillow,
    pixels_of,
    read_header,
)

COLOUR = (200, 100, 50)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_is_decoded_to_rgb(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.new("RGB", (20, 12), COLOUR).convert(mode)
    path = tmp_path / f"a.{suffix}"
    try:
        image.save(path)
    except (OSError, KeyError):
        pytest.skip(f"{suffix} cannot hold {mode}")
    pixels = decode(path)
    assert (pixels.shape, pixels.dtype) == ((12, 20, 3), np.dtype(np.uint8))
    if mode in ("RGB", "RGBA"):
        assert np.abs(pixels.astype(int).mean((0, 1)) - COLOUR).max() < 8
    assert read_header(path).size == (12, 20)
    assert read_header(path).depth == "8-bit"


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_values_are_kept(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 11, channels), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), values)
    expected = np.repeat(values, 3, 2) if channels == 1 else values[:, :, ::-1]
    assert read_header(path).depth == "16-bit"
    assert np.array_equal(decode(path), expected)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg").shape == (30, 10, 3)
    assert read_header(tmp_path / "a.jpg").size == (30, 10)


@pytest.mark.parametrize("size", [(64, 64), (70, 300), (301, 85)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_grey_images_share_one_plane_and_give_the_same_input_as_rgb(kind: Any, size: tuple[int, int], tmp_path: Path) -> None:
    high = {np.uint8: 255, np.uint16: 4000, np.float32: 1}[kind]
    grey: np.ndarray = (np.random.default_rng(0).random((170, 130)) * high).astype(kind)
    values = ValueRange({np.uint8: "8-bit", np.uint16: "16-bit", np.float32: "float"}[kind], 0, high)  # type: ignore[arg-type]
    broadcast = np.broadcast_to(grey[:, :, None], (*grey.shape, 3))
    sources: list[Source] = [grey, grey[:, :, None], np.asfortranarray(grey), broadcast]
    if kind is not np.float32:
        cv2.imwrite(str(tmp_path / "a.png"), grey)
        sources += [tmp_path / "a.png", Image.fromarray(grey)]
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    expected = Preprocessing([Geometry(size, "squash")], values).prepare(colour)
    for source in sources:
        pixels = pixels_of(source)
        assert pixels.strides[2] == 0
        assert np.array_equal(pixels, colour)
        assert np.array_equal(displayed(pixels, values), displayed(colour, values))
        prepared = Preprocessing([Geometry(size, "squash")], values).prepare(source)
        assert np.allclose(np.asarray(prepared.views[0]), np.asarray(expected.views[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_images_are_rotated_like_8_bit_ones(tmp_path: Path, orientation: int, suffix: str) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 9), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, values in (("eight", grey), ("sixteen", grey.astype(np.uint16) * 257)):
        Image.fromarray(values).save(tmp_path / f"{name}.{suffix}", exif=exif)
    rotated = decode(tmp_path / f"sixteen.{suffix}")
    for name in ("eight", "sixteen"):
        with (tmp_path / f"{name}.{suffix}").open("rb") as file:
            assert np.array_equal(from_pillow(Image.open(file)), decode(tmp_path / f"{name}.{suffix}"))
    assert np.array_equal(rotated, decode(tmp_path / f"eight.{suffix}").astype(np.uint16) * 257)
    assert read_header(tmp_path / f"sixteen.{suffix}").size == rotated.shape[:2]


def test_byte_order_does_not_matter() -> None:
    values = np.arange(1000, 1012, dtype=np.uint16).reshape(3, 4)
    swapped = from_array(values.astype(">u2"))
    assert swapped.dtype == np.dtype("=u2")
    assert np.array_equal(swapped, from_array(values))
    assert np.array_equal(from_array(values.astype(">f4")), from_array(values.astype(np.float32)))


def test_a_truncated_jpeg_opened_by_pillow_is_refused(tmp_path: Path) -> None:
    Image.fromarray(texture(0)).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ImageError, match="damaged or truncated"):
        from_pillow(image)


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_png_with_any_damaged_byte_is_refused(tmp_path: Path, kind: type, shape: tuple[int, ...]) -> None:
    rng, path = np.random.default_rng(3), tmp_path / "flipped.png"
    cv2.imwrite(str(path), rng.integers(0, np.iinfo(kind).max, shape).astype(kind))
    content = path.read_bytes()
    assert decode(path).shape == (60, 80, 3)
    for offset in rng.integers(content.index(b"IDAT") + 4, len(content) - 20, 30):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 0x55]) + content[offset + 1 :])
        with pytest.raises(ImageError, match=r"flipped\.png: is damaged"):
            decode(path)
    path.write_bytes(content[: len(content) // 3] + bytes(len(content) - len(content) // 3))
    with pytest.raises(ImageError, match="damaged"):
        decode(path)


@pytest.mark.parametrize("late", [False, True])
def test_png_orientation_is_read_before_or_after_the_pixels(tmp_path: Path, late: bool) -> None:
    pixels, path = np.random.default_rng(0).integers(0, 255, (6, 9, 3)).astype(np.uint8), tmp_path / "t.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    if late:
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        last = content.index(b"IEND") - 4
        path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    assert read_header(path).size == (9, 6)
    assert np.array_equal(decode(path), np.rot90(pixels, 3))


def test_errors_about_files_name_the_file_and_the_reason(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "whole.png"), texture(0))
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    for name, message in (("cut", "truncated"), ("empty", "empty"), ("missing", "cannot be read")):
        with pytest.raises(ImageError, match=message) as caught:
            decode(tmp_path / f"{name}.png")
        assert f"{name}.png" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="not a readable image"):
        decode(tmp_path / "text.jpg")


@pytest.mark.parametrize("array", [np.zeros((4,)), np.zeros((4, 4, 2)), np.zeros((0, 4)), np.zeros((4, 4), complex)])
def test_arrays_of_wrong_shape_or_type_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected"):
        from_array(array)
