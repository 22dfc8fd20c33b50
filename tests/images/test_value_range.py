"""No-data values and outliers affect neither the value range nor neighbouring pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import damaged, texture
from offnominal import Detector
from offnominal.errors import InputError
from offnominal.images import Geometry, Preprocessing, ValueRange, image_range, join_ranges

RNG = np.random.default_rng(0)
DEPTH = (0.2 + 0.6 * RNG.random((200, 300))).astype(np.float32)
THERMAL = RNG.integers(29_000, 31_000, (200, 300)).astype(np.uint16)


@pytest.mark.parametrize("share", [0.003, 0.05, 0.4])
@pytest.mark.parametrize("value", [-3.4028235e38, -9999.0, 1e38, -32768.0, 3.4e38])
def test_no_data_values_in_floats_do_not_affect_the_range(value: float, share: float) -> None:
    image = DEPTH.copy()
    image[: int(200 * share) + 1, : int(300 * min(1, 2 * share))] = value
    low, high = image_range(image)
    assert low == pytest.approx(0.2, abs=0.01)
    assert high == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("values", [(65535,), (0,), (0, 65535), (1, 60_000)])
def test_no_data_values_in_16_bit_images_do_not_affect_the_range(values: tuple[int, ...]) -> None:
    image = THERMAL.copy()
    for at, value in enumerate(values):
        image[40 * at : 40 * at + 10] = value
    low, high = image_range(image)
    assert low == pytest.approx(29_000, abs=30)
    assert high == pytest.approx(31_000, abs=30)


def test_hot_pixels_do_not_set_the_range() -> None:
    image = THERMAL.copy()
    image.reshape(-1)[RNG.permutation(image.size)[:40]] = RNG.integers(0, 65536, 40)  # more pixels than the ignored share
    low, high = image_range(image)
    assert 26_000 < low < 29_100
    assert 30_900 < high < 34_000


def test_bright_parts_and_two_valued_images_keep_their_range() -> None:
    part = THERMAL.copy()
    part[60:140, 100:200] = cv2.GaussianBlur(RNG.integers(50_000, 60_000, (80, 100)).astype(np.uint16), (5, 5), 0)
    part = cv2.GaussianBlur(part, (5, 5), 0)
    assert image_range(part)[1] > 50_000, "a bright part"
    two_valued = np.where(RNG.random((50, 50)) < 0.1, 60_000, 200).astype(np.uint16)
    assert image_range(two_valued) == (200, 60_000), "an image of two values"


def test_one_outlier_image_does_not_set_the_common_range() -> None:
    ranges = [(0.1, 0.9)] * 9 + [(0.0, 1.0), (-5000.0, 40_000.0)]
    joined = join_ranges("float", ranges)
    assert (joined.low, joined.high) == pytest.approx((-0.7, 1.7))
    assert join_ranges("float", ranges[:-1]) == ValueRange("float", 0.0, 1.0)


@pytest.mark.parametrize("value", [-3.4028235e38, -9999.0, 1e38])
def test_no_data_values_do_not_spread_in_a_resize(value: float) -> None:
    values, geometry = ValueRange("float", 0.2, 0.8), Geometry((64, 96), "squash")
    image = DEPTH.copy()
    image[100, 150] = value
    with_no_data, plain = (
        np.asarray(Preprocessing([geometry], values).prepare(image).views[0]),
        np.asarray(Preprocessing([geometry], values).prepare(DEPTH).views[0]),
    )
    assert np.abs(with_no_data - plain).max() <= 0.3
    assert -1 <= with_no_data.min() <= with_no_data.max() <= 2


@pytest.mark.parametrize("value", [-3.4028235e38, -9999.0, 65535.0])
def test_defects_are_detected_in_images_with_no_data_values(value: float) -> None:
    def depth(image: np.ndarray) -> np.ndarray:
        values = image[:, :, 0].astype(np.float32) / 255
        values[:3, :10] = value
        return values

    fitted = Detector(image_size=96, bank=200, preset="fast").fit([depth(texture(seed)) for seed in range(10)])
    good, bad = fitted.inspect(depth(texture(50))).score, fitted.inspect(depth(damaged(60)[0])).score
    assert bad > good + 3


@pytest.mark.parametrize("depth", [np.uint16, np.float32])
def test_a_fit_on_constant_images_is_refused(depth: type, tmp_path: Path) -> None:
    images: list[np.ndarray] = [np.full((64, 64), value, depth) for value in (100, 200, 300)]
    with pytest.raises(InputError, match="no image has contrast"):
        Detector(image_size=96).fit(images)
    for at, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{at}.tiff"), image)
    with pytest.raises(InputError, match="all 3 images are constant"):
        Detector(image_size=96).fit(tmp_path)
