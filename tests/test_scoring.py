"""What is usual, place by place, what lies around a place, and how patches at the border count."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from offnominal.config import settings_from
from offnominal.detector.engine import FeatureEngine
from offnominal.features import ChannelStandard
from offnominal.scoring import SIGNALS, NormalSignals, NormalSignalsBuilder, on_grids, without_halo, working_map
from offnominal.types import Float, interior, interior_shape


def test_restless_places_have_their_own_deviation_and_calm_ones_that_of_others() -> None:
    rng = np.random.default_rng(0)
    builder, spread = NormalSignalsBuilder(), np.ones((32, 32, len(SIGNALS)))
    spread[:, :10], spread[:, 28:] = 0.1, 5.0  # a calm background, a restless edge
    for _ in range(400):
        builder.add((10 + spread * rng.normal(size=spread.shape)).astype(np.float32))
    deviation, overall, trust = builder.build().deviation, (0.01 * 10 + 18 + 25 * 4) / 32, 400 / 700
    assert np.allclose(deviation[:, :6], deviation[:, 14:24].mean(axis=(0, 1)), rtol=0.05)  # their own would be 15 % less
    assert np.allclose(deviation[:, 14:24].mean(axis=(0, 1)), np.sqrt(trust + (1 - trust) * overall), rtol=0.05)
    assert np.allclose(deviation[:, 31].mean(axis=0), np.sqrt(trust * 25 + (1 - trust) * overall), rtol=0.05)


def test_a_place_has_its_own_mean_and_is_trusted_like_so_many_images() -> None:
    builder, places = NormalSignalsBuilder(), np.zeros((32, 32, len(SIGNALS)), np.float32)
    places[:, 16:] = 8.0
    for _ in range(300):
        builder.add(places)
    mean = builder.build().mean
    assert np.allclose(mean[:, 24:], (8 + 4) / 2)  # as much as the average over all places
    assert np.allclose(mean[:, :8], (0 + 4) / 2)


@pytest.mark.parametrize("grid", [(32, 40), (5, 9), (1, 1)])
def test_the_working_map_is_the_plain_one(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(*grid, 4)).astype(np.float32)
    network = 8 * grid[0], 8 * grid[1]
    found = working_map(signals, _as_they_are(), (1, 0, 0, 0), network, 0.0, 0.7, 0.0)
    fine = cv2.resize(signals[:, :, 0], (network[1] // 4, network[0] // 4))
    reach = np.arange(-40, 41)
    weight = np.exp(-(reach**2) / (2 * (16 / 4) ** 2))
    wide = np.pad(np.minimum(fine, 1), 40)
    for axis in (0, 1):
        wide = np.apply_along_axis(np.convolve, axis, wide, weight / weight.sum(), mode="same")
    np.testing.assert_allclose(found, fine + 0.7 * wide[40:-40, 40:-40], atol=2e-3)
    assert np.array_equal(working_map(signals, _as_they_are(), (1, 0, 0, 0), network, 0.0, 0.0, 0.0), fine)


def test_a_broad_weak_stain_rises_and_a_small_strong_spot_keeps_its_shape() -> None:
    stain, spot = np.zeros((32, 32, 4), np.float32), np.zeros((32, 32, 4), np.float32)
    stain[8:24, 8:24, 0] = 1.0
    spot[15:17, 15:17, 0] = 100.0
    with_it, without = (
        [working_map(one, _as_they_are(), (1, 0, 0, 0), (256, 256), 4.0, weight, 0.0) for one in (stain, spot)]
        for weight in (1.0, 0.0)
    )
    assert with_it[0][32, 32] > 1.9 * without[0][32, 32]
    assert float((with_it[1] - without[1]).max()) < 1  # unclipped it would spread by many


@pytest.mark.parametrize("size", [(24, 30), (5, 9), (1, 1), (1, 7)])
@pytest.mark.parametrize("radius", [0, 1, 3, 12, 40])
def test_a_map_without_halo_is_the_plain_one(size: tuple[int, int], radius: int) -> None:
    rng = np.random.default_rng(radius)
    for values in (rng.normal(0, 5, size), rng.gamma(0.3, 10, size), np.full(size, 3.0), np.full(size, -3.0), np.zeros(size)):
        values = values.astype(np.float32)
        np.testing.assert_allclose(without_halo(values, radius), _plainly_without_halo(values, radius), rtol=1e-4, atol=1e-4)


def _plainly_without_halo(values: Float, radius: int) -> Float:
    """Place by place; the disc is OpenCV's, whose rows are as long as the circle is wide there, rounded."""
    found = values.copy()
    for (row, column), value in np.ndenumerate(values):
        beside = [
            max(values[y, x], 0)
            for y in range(max(0, row - radius), min(len(values), row + radius + 1))
            for x in range(values.shape[1])
            if abs(x - column) <= round((radius**2 - (y - row) ** 2) ** 0.5)
        ]
        if value > 4 and radius:
            found[row, column] = max(4, value * min(1, (value + 4) / (0.9 * (max(beside) + 4))) ** 3)
    return found


@pytest.mark.parametrize(("stride", "radius"), [(4, 2), (8, 3), (16, 6)])
def test_a_halo_is_as_wide_as_so_many_places(stride: int, radius: int) -> None:
    signals = np.random.default_rng(0).gamma(0.3, 10, (16, 12, 4)).astype(np.float32)
    network = 16 * stride, 12 * stride
    left, lowered = (working_map(signals, _as_they_are(), (1, 0, 0, 0), network, 4.0, 1.0, halo) for halo in (0.0, 1.5))
    assert np.array_equal(lowered, without_halo(left, radius))
    assert not np.array_equal(lowered, left)


def test_a_spot_loses_its_halo_and_neither_peaks_nor_a_broad_stain_lose_anything() -> None:
    y, x = np.mgrid[:64, :64].astype(np.float32)
    spot = 20 * np.exp(-((x - 16) ** 2 + (y - 16) ** 2) / (2 * 3**2)).astype(np.float32)
    stain = 10 * np.exp(-((x - 45) ** 2 + (y - 45) ** 2) / (2 * 40**2)).astype(np.float32)
    sharper = without_halo(spot, 3)
    assert sharper.max() == spot.max()
    assert (sharper[16, 16:] <= spot[16, 16:]).all()
    assert (sharper > 5).sum() < 0.7 * (spot > 5).sum()
    assert np.array_equal(without_halo(stain, 3), stain)
    good = np.random.default_rng(0).uniform(-4, 4, (64, 64)).astype(np.float32)
    assert np.array_equal(without_halo(good, 3), good)


def _as_they_are() -> NormalSignals:
    return NormalSignals(np.zeros((32, 32, 4), np.float32), np.ones((32, 32, 4), np.float32))


def test_what_a_patch_cannot_see_counts_as_average() -> None:
    engine = FeatureEngine(settings_from(image_size=128, runtime="torch"))
    standard = ChannelStandard(torch.full((304,), 3.0), torch.full((304,), 2.0))
    assert engine.count((128, 128)) == 14 * 14
    drawn = engine.standardise(torch.full((1, 196, 304), 7.0), standard, (128, 128)).reshape(14, 14, 304)
    assert torch.allclose(drawn[4:10, 4:10], torch.tensor(2.0))
    assert torch.allclose(drawn[..., :40], torch.tensor(2.0))  # the finest map is whole
    first, second = 0.75 * 2 / 3 + 0.25, 0.25 * 2 / 3 + 0.75  # of the coarser one, a quarter of a place off its rows
    assert torch.allclose(drawn[0, 7, 40:], torch.tensor(2 * first))
    assert torch.allclose(drawn[1, 7, 40:], torch.tensor(2 * second))
    assert torch.allclose(drawn[0, 0, 40:], torch.tensor(2 * first**2))


@pytest.mark.parametrize("grid", [(5, 7), (4, 3), (3, 2), (2, 5), (1, 1), (2, 2), (1, 4)])
def test_places_without_a_patch_are_as_the_nearest(grid: tuple[int, int]) -> None:
    height, width = interior_shape(grid)
    assert (height, width) == tuple(len(range(*part.indices(side))) for part, side in zip(interior(grid), grid, strict=True))
    other = (2, 3)
    values = np.random.default_rng(0).normal(size=(height * width + 2, 3)).astype(np.float32)
    found, last = on_grids(values, [grid, other])
    assert found.shape == (*grid, 3)
    assert last.shape == (2, 3, 3)
    for row in range(grid[0]):
        for column in range(grid[1]):
            at, across = (
                min(max(one, 1), side - 2) - 1 if side > 2 else one for one, side in zip((row, column), grid, strict=True)
            )
            assert (found[row, column] == values[at * width + across]).all()
    assert (last == values[-2:, None, :]).all()


def test_what_lies_outside_counts_as_usual_around_a_place() -> None:
    edge, middle = (np.zeros((32, 32, 4), np.float32) for _ in range(2))
    edge[:6, :, 0] = middle[13:19, :, 0] = 1.0
    around = [
        working_map(one, _as_they_are(), (1, 0, 0, 0), (256, 256), 0.0, 1.0, 0.0)
        - working_map(one, _as_they_are(), (1, 0, 0, 0), (256, 256), 0.0, 0.0, 0.0)
        for one in (edge, middle)
    ]
    np.testing.assert_allclose(around[0][:10], around[1][26:36], atol=0.06)


def test_height_and_width_mean_squash_unless_said_otherwise() -> None:
    assert settings_from(image_size="256x640").resize == "squash"
    assert settings_from(image_size=(256, 640)).resize == "squash"
    assert settings_from(image_size="256").resize == settings_from().resize == "area"
    assert settings_from(image_size="256x640", resize="keep").resize == "keep"
