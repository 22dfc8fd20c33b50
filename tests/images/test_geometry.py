"""Geometry of the network input, value ranges and content digests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import texture
from offnominal.errors import ImageError
from offnominal.images import (
    Geometry,
    ValueRange,
    content_digest,
    displayed,
    from_array,
    image_range,
    join_ranges,
    resize,
    to_original,
)


def test_floats_in_an_8_bit_model_are_displayed_at_the_scale_of_the_score() -> None:
    shown = displayed(np.full((2, 2, 3), 0.5, np.float32), ValueRange("8-bit", 0.0, 255.0))
    assert shown.tolist() == np.full((2, 2, 3), 127).tolist()


def test_resize_is_antialiased_in_both_directions() -> None:
    rows = np.tile(np.array([0, 255], np.uint8), 64)[None, :].repeat(8, 0)
    small = resize(rows, (32, 16))  # one side grows and the other shrinks
    assert small.shape == (32, 16)
    assert np.abs(small.astype(int) - 127).max() <= 1


def test_maps_are_resized_to_original_pixels() -> None:
    grid = np.zeros((8, 8), np.float32)
    grid[2, 5] = 1
    large = to_original(grid, (80, 160))
    row, column = np.unravel_index(int(large.argmax()), large.shape)
    assert abs(row - 25) <= 1
    assert abs(column - 110) <= 2


@pytest.mark.parametrize(
    ("original", "expected"), [((100, 200), (128, 256)), ((200, 100), (256, 128)), ((50, 1000), (128, 2560))]
)
def test_keep_rounds_to_the_stride(original: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Geometry((128, 128), "keep").network_size(original) == expected
    assert Geometry((128, 256), "squash").network_size(original) == (128, 256)


@pytest.mark.parametrize("shape", [(100, 100), (96, 128), (300, 200), (64, 640)])
def test_area_equals_keep_for_images_of_one_shape(shape: tuple[int, int]) -> None:
    suited = Geometry((128, 128), "area").suited_to([shape] * 5)
    assert suited.network_size(shape) == Geometry((128, 128), "keep").network_size(shape)
    assert suited.suited_to([shape]) == suited


def test_area_keeps_pixel_count_and_aspect_ratio() -> None:
    originals = [(100, 100), (200, 300), (1000, 250), (2000, 100), (3, 40)]
    area = Geometry((256, 256), "area").suited_to(originals)
    assert area.size == (256, 1024)
    fine = replace(area, multiple=1, longest=100_000)
    for original in originals:
        height, width = fine.network_size(original)
        assert height * width == pytest.approx(256 * 1024, rel=0.02)
        assert height / width == pytest.approx(original[0] / original[1], rel=0.02)
    assert area.suited_to([]) == area
    for other in ("keep", "squash"):
        assert Geometry((256, 640), other).suited_to(originals) == Geometry((256, 640), other)


def test_16_bit_values_use_their_measured_range_and_are_not_clipped() -> None:
    camera = [np.linspace(1000, 4095, 80_000).astype(np.uint16).reshape(200, 400) for _ in range(2)]
    camera[0][0, 0] = 65535  # a hot pixel
    values = join_ranges("16-bit", [image_range(image) for image in camera])
    assert values.low == pytest.approx(1000, abs=2)
    assert values.high == pytest.approx(4095, abs=2)
    scaled = values.scale(from_array(camera[0]), "a")
    assert scaled[0, 0, 0] > 10
    with pytest.raises(ImageError, match="is 8-bit, the model was fitted on 16-bit"):
        values.scale(texture(0), "a")
    with pytest.raises(ImageError, match="outside 0 to 1"):
        ValueRange("8-bit", 0, 255).scale(np.full((2, 2, 3), 3, np.float32), "a")


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_content_digests_depend_on_the_content_only(tmp_path: Path, suffix: str) -> None:
    one, other = texture(0), texture(1)
    for name, image in (("a", one), ("b", one), ("c", other)):
        cv2.imwrite(str(tmp_path / f"{name}.{suffix}"), image)
    a, b, c = (content_digest(tmp_path / f"{name}.{suffix}") for name in "abc")
    assert a == b != c
    assert content_digest(str(tmp_path / f"a.{suffix}")) == a
    arrays = [content_digest(source) for source in (one, np.asfortranarray(one), Image.fromarray(one))]
    assert len({*arrays}) == 1
    assert content_digest(other) not in arrays
    assert content_digest(one.reshape(-1, one.shape[1] // 2, 3)) not in arrays, "the shape matters too"
    with pytest.raises(ImageError, match="missing"):
        content_digest(tmp_path / "missing.png")
