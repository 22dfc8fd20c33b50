"""Normal statistics, the map of a member, the mean of several, spatial leakage, and how patches at the border count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from offnominal.config import settings_from
from offnominal.features import ChannelStandard
from offnominal.inference import member_engines
from offnominal.scoring import (
    SIGNALS,
    NormalSignals,
    NormalSignalsBuilder,
    average_maps,
    fuse,
    image_score,
    member_map,
    suppress_leakage,
    to_grid,
)
from offnominal.types import Float, interior, interior_shape

#: Signals that are standardised already.
UNIT = NormalSignals(np.zeros(3, np.float32), np.ones(3, np.float32))
sides = st.integers(1, 12)


def some_images(seed: int, grids: list[tuple[int, int]]) -> list[Float]:
    rng = np.random.default_rng(seed)
    return [(5 + rng.normal(rng.normal(), 2, (*grid, len(SIGNALS)))).astype(np.float32) for grid in grids]


@trials(deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_normal_statistics_are_those_of_all_positions_each_image_alike(grids: list[tuple[int, int]], seed: int) -> None:
    images = some_images(seed, grids)
    builder = NormalSignalsBuilder()
    for image in images:
        builder.add(image)

    def naive(some: list[Float]) -> tuple[np.ndarray, np.ndarray]:
        mean = np.mean([image.astype(float).mean((0, 1)) for image in some], axis=0)
        return mean, np.sqrt(np.mean([((image - mean) ** 2).mean((0, 1)) for image in some], axis=0))

    for left_out in range(len(images)):
        others = [image for at, image in enumerate(images) if at != left_out]
        found, (mean, deviation) = builder.without(images[left_out]), naive(others)
        assert found.mean == pytest.approx(mean, rel=1e-5)
        if max(image.size for image in others) > len(SIGNALS):
            assert found.deviation == pytest.approx(deviation, rel=1e-3)
    found, (mean, deviation) = builder.build(), naive(images)
    assert found.mean == pytest.approx(mean, rel=1e-5)
    assert found.mean.shape == found.deviation.shape == (len(SIGNALS),)
    assert found.standardise(images[0]) == pytest.approx((images[0] - found.mean) / found.deviation, rel=1e-5)


def test_a_signal_that_never_varies_keeps_its_unit_and_wrong_statistics_are_refused() -> None:
    builder = NormalSignalsBuilder()
    for _ in range(3):
        builder.add(np.full((4, 5, 3), 7, np.float32))
    assert builder.build().mean.tolist() == [7, 7, 7]
    assert builder.build().deviation.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="no normal image"):
        NormalSignalsBuilder().build()
    for mean, deviation in ((np.zeros(4), np.ones(3)), (np.zeros(3), np.ones(4)), (np.zeros(3), np.zeros(3))):
        with pytest.raises(ValueError, match=r"must be|above 0"):
            NormalSignals(mean.astype(np.float32), deviation.astype(np.float32))
    with pytest.raises(ValueError, match="above 0"):
        NormalSignals(np.array([0, np.nan, 0], np.float32), np.ones(3, np.float32))


def test_signals_are_fused_by_their_weights() -> None:
    signals = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    right = (4 * signals[:, :, 0] + signals[:, :, 1]) / 5
    assert fuse(signals, (4, 1, 0)) == pytest.approx(right, abs=1e-6)
    for weights in ((1, 0), (0, 0, 0)):
        with pytest.raises(ValueError, match="3 weights with a sum above 0"):
            fuse(signals, weights)


@pytest.mark.parametrize("sigma", [0.0, 4.0, 7.0])
@pytest.mark.parametrize("grid", [(32, 40), (5, 9), (1, 1)])
def test_the_map_of_a_member_is_the_naive_one(grid: tuple[int, int], sigma: float) -> None:
    signals = np.random.default_rng(0).normal(size=(*grid, 3)).astype(np.float32)
    normal = NormalSignals(np.array([1, 2, 3], np.float32), np.array([2, 3, 4], np.float32))
    network = 8 * grid[0], 8 * grid[1]
    found = member_map(signals, normal, weights=(3, 1, 0), network=network, sigma=sigma, halo=0.0)
    fused = 0.75 * (signals[:, :, 0] - 1) / 2 + 0.25 * (signals[:, :, 1] - 2) / 3
    right = naively_enlarged(fused, (network[0] // 4, network[1] // 4))
    if sigma:
        reach = np.arange(-round(4 * sigma / 4), round(4 * sigma / 4) + 1)
        weight = np.exp(-(reach**2) / (2 * (sigma / 4) ** 2))
        wide = np.pad(right, len(reach) // 2, mode="symmetric")
        for axis in (0, 1):
            wide = np.apply_along_axis(np.convolve, axis, wide, weight / weight.sum(), mode="valid")
        right = wide
    assert found == pytest.approx(right, abs=1e-4)
    assert image_score(found) == found.max()


def naively_enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear between the centres of the cells, constant beyond the outermost."""
    found = values.astype(np.float64)
    for axis, side in enumerate(size):
        at = (np.arange(side) + 0.5) * found.shape[axis] / side - 0.5
        found = np.apply_along_axis(lambda line, at: np.interp(at, np.arange(len(line)), line), axis, found, at)
    return found


@trials(deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_averaged_maps_are_the_mean_at_the_finest(shapes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    finest = max(shapes, key=lambda shape: shape[0] * shape[1])
    found = average_maps(maps)
    assert (found.shape, found.dtype) == (finest, np.dtype(np.float32))
    assert found == pytest.approx(np.mean([naively_enlarged(one, finest) for one in maps], axis=0), abs=1e-3)


def test_the_mean_of_one_map_is_itself_and_of_equal_maps_any_of_them() -> None:
    one = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    assert np.array_equal(average_maps([one]), one)
    assert average_maps([one, one, one]) == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("size", [(24, 30), (5, 9), (1, 1), (1, 7)])
@pytest.mark.parametrize("radius", [0, 1, 3, 12, 40])
def test_suppressed_leakage_is_the_naive_one(size: tuple[int, int], radius: int) -> None:
    rng = np.random.default_rng(radius)
    for drawn in (rng.normal(0, 5, size), rng.gamma(0.3, 10, size), np.full(size, 3.0), np.full(size, -3.0), np.zeros(size)):
        values = drawn.astype(np.float32)
        np.testing.assert_allclose(suppress_leakage(values, radius), naively_suppressed(values, radius), rtol=1e-4, atol=1e-4)


def naively_suppressed(values: Float, radius: int) -> Float:
    """Cell by cell; the disc is OpenCV's, whose rows are as long as the circle is wide there, rounded."""
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
def test_leakage_is_suppressed_within_so_many_positions(stride: int, radius: int) -> None:
    signals = np.random.default_rng(0).gamma(0.3, 10, (16, 12, 3)).astype(np.float32)
    network = 16 * stride, 12 * stride
    left, lowered = (member_map(signals, UNIT, weights=(1, 0, 0), network=network, sigma=4.0, halo=halo) for halo in (0.0, 1.5))
    assert np.array_equal(lowered, suppress_leakage(left, radius))
    assert not np.array_equal(lowered, left)


def test_a_spot_loses_its_leakage_and_neither_peaks_nor_a_broad_stain_lose_anything() -> None:
    y, x = np.mgrid[:64, :64].astype(np.float32)
    spot = 20 * np.exp(-((x - 16) ** 2 + (y - 16) ** 2) / (2 * 3**2)).astype(np.float32)
    stain = 10 * np.exp(-((x - 45) ** 2 + (y - 45) ** 2) / (2 * 40**2)).astype(np.float32)
    sharper = suppress_leakage(spot, 3)
    assert sharper.max() == spot.max()
    assert (sharper[16, 16:] <= spot[16, 16:]).all()
    assert (sharper > 5).sum() < 0.7 * (spot > 5).sum()
    assert np.array_equal(suppress_leakage(stain, 3), stain)
    good = np.random.default_rng(0).uniform(-4, 4, (64, 64)).astype(np.float32)
    assert np.array_equal(suppress_leakage(good, 3), good)


def test_what_a_patch_cannot_see_counts_as_average() -> None:
    (engine,) = member_engines(settings_from(backbone="efficientnet-lite0", image_size=128, runtime="torch"))
    standard = ChannelStandard(torch.full((152,), 3.0), torch.full((152,), 2.0))
    assert engine.count((128, 128)) == 14 * 14
    drawn = engine.standardise(torch.full((1, 196, 152), 7.0), standard, (128, 128)).reshape(14, 14, 152)
    assert torch.allclose(drawn[4:10, 4:10], torch.tensor(2.0))
    assert torch.allclose(drawn[..., :40], torch.tensor(2.0))  # the finest map is whole
    first, second = 0.75 * 2 / 3 + 0.25, 0.25 * 2 / 3 + 0.75  # of the coarser one, a quarter of a position off its rows
    assert torch.allclose(drawn[0, 7, 40:], torch.tensor(2 * first))
    assert torch.allclose(drawn[1, 7, 40:], torch.tensor(2 * second))
    assert torch.allclose(drawn[0, 0, 40:], torch.tensor(2 * first**2))


@pytest.mark.parametrize("grid", [(5, 7), (4, 3), (3, 2), (2, 5), (1, 1), (2, 2), (1, 4)])
def test_positions_without_a_patch_are_as_the_nearest(grid: tuple[int, int]) -> None:
    height, width = interior_shape(grid)
    assert (height, width) == tuple(len(range(*part.indices(side))) for part, side in zip(interior(grid), grid, strict=True))
    values = np.random.default_rng(0).normal(size=(height * width, 3)).astype(np.float32)
    found = to_grid(values, grid)
    assert found.shape == (*grid, 3)
    for row in range(grid[0]):
        for column in range(grid[1]):
            at, across = (
                min(max(one, 1), side - 2) - 1 if side > 2 else one for one, side in zip((row, column), grid, strict=True)
            )
            assert (found[row, column] == values[at * width + across]).all()


def test_height_and_width_mean_squash_unless_said_otherwise() -> None:
    assert settings_from(image_size="256x640").resize == "squash"
    assert settings_from(image_size=(256, 640)).resize == "squash"
    assert settings_from(image_size="256").resize == settings_from().resize == "area"
    assert settings_from(image_size="256x640", resize="keep").resize == "keep"
