"""Normal statistics, fusion, anomaly maps and their mean, spatial leakage, and patches at the border."""

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
from offnominal.roi import Layout
from offnominal.scoring import (
    SIGNALS,
    NormalSignals,
    NormalSignalsBuilder,
    average_maps,
    fuse,
    member_map,
    suppress_leakage,
)
from offnominal.types import Float, interior, interior_shape

#: Statistics of signals that are already standardised.
UNIT = NormalSignals(np.zeros(3, np.float32), np.ones(3, np.float32))
sides = st.integers(1, 12)


def random_signals(seed: int, grids: list[tuple[int, int]]) -> list[Float]:
    rng = np.random.default_rng(seed)
    return [(5 + rng.normal(rng.normal(), 2, (*grid, len(SIGNALS)))).astype(np.float32) for grid in grids]


@trials(deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_normal_statistics_weight_images_equally(grids: list[tuple[int, int]], seed: int) -> None:
    images = random_signals(seed, grids)
    builder = NormalSignalsBuilder()
    for image in images:
        builder.add(image)

    def naive(signals: list[Float]) -> tuple[np.ndarray, np.ndarray]:
        mean = np.mean([image.astype(float).mean((0, 1)) for image in signals], axis=0)
        return mean, np.sqrt(np.mean([((image - mean) ** 2).mean((0, 1)) for image in signals], axis=0))

    for left_out in range(len(images)):
        others = [image for at, image in enumerate(images) if at != left_out]
        normal, (mean, deviation) = builder.without(images[left_out]), naive(others)
        assert normal.mean == pytest.approx(mean, rel=1e-5)
        if max(image.size for image in others) > len(SIGNALS):
            assert normal.deviation == pytest.approx(deviation, rel=1e-3)
    normal, (mean, deviation) = builder.build(), naive(images)
    assert normal.mean == pytest.approx(mean, rel=1e-5)
    assert normal.mean.shape == normal.deviation.shape == (len(SIGNALS),)
    assert normal.standardise(images[0]) == pytest.approx((images[0] - normal.mean) / normal.deviation, rel=1e-5)


def test_constant_signals_get_deviation_1_and_wrong_statistics_are_refused() -> None:
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
    expected = (4 * signals[:, :, 0] + signals[:, :, 1]) / 5
    assert fuse(signals, (4, 1, 0)) == pytest.approx(expected, abs=1e-6)
    for weights in ((1, 0), (0, 0, 0)):
        with pytest.raises(ValueError, match="3 weights with a sum above 0"):
            fuse(signals, weights)


@pytest.mark.parametrize("sigma", [0.0, 4.0, 7.0])
@pytest.mark.parametrize("grid", [(32, 40), (5, 9), (1, 1)])
def test_member_map_equals_the_naive_version(grid: tuple[int, int], sigma: float) -> None:
    signals = np.random.default_rng(0).normal(size=(*grid, 3)).astype(np.float32)
    normal = NormalSignals(np.array([1, 2, 3], np.float32), np.array([2, 3, 4], np.float32))
    network = 8 * grid[0], 8 * grid[1]
    anomaly_map = member_map(signals, normal, weights=(3, 1, 0), network=network, sigma=sigma, halo=0.0)
    fused = 0.75 * (signals[:, :, 0] - 1) / 2 + 0.25 * (signals[:, :, 1] - 2) / 3
    expected = naive_resize(fused, (network[0] // 4, network[1] // 4))
    if sigma:
        offsets = np.arange(-round(4 * sigma / 4), round(4 * sigma / 4) + 1)
        kernel = np.exp(-(offsets**2) / (2 * (sigma / 4) ** 2))
        padded = np.pad(expected, len(offsets) // 2, mode="symmetric")
        for axis in (0, 1):
            padded = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), mode="valid")
        expected = padded
    assert anomaly_map == pytest.approx(expected, abs=1e-4)


def naive_resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation between cell centres, constant outside them."""
    resized = values.astype(np.float64)
    for axis, side in enumerate(size):
        at = (np.arange(side) + 0.5) * resized.shape[axis] / side - 0.5
        resized = np.apply_along_axis(lambda line, at: np.interp(at, np.arange(len(line)), line), axis, resized, at)
    return resized


@trials(deadline=None)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_maps_are_averaged_at_the_finest_resolution(shapes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    finest = max(shapes, key=lambda shape: shape[0] * shape[1])
    average = average_maps(maps)
    assert (average.shape, average.dtype) == (finest, np.dtype(np.float32))
    assert average == pytest.approx(np.mean([naive_resize(one, finest) for one in maps], axis=0), abs=1e-3)


def test_the_mean_of_equal_maps_is_that_map() -> None:
    one = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    assert np.array_equal(average_maps([one]), one)
    assert average_maps([one, one, one]) == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("size", [(24, 30), (5, 9), (1, 1), (1, 7)])
@pytest.mark.parametrize("radius", [0, 1, 3, 12, 40])
def test_leakage_suppression_equals_the_naive_version(size: tuple[int, int], radius: int) -> None:
    rng = np.random.default_rng(radius)
    for sample in (rng.normal(0, 5, size), rng.gamma(0.3, 10, size), np.full(size, 3.0), np.full(size, -3.0), np.zeros(size)):
        values = sample.astype(np.float32)
        np.testing.assert_allclose(
            suppress_leakage(values, radius), naive_suppress_leakage(values, radius), rtol=1e-4, atol=1e-4
        )


def naive_suppress_leakage(values: Float, radius: int) -> Float:
    """Cell by cell. The disc is the one of OpenCV: each row has the rounded width of the circle."""
    suppressed = values.copy()
    for (row, column), value in np.ndenumerate(values):
        nearby = [
            max(values[y, x], 0)
            for y in range(max(0, row - radius), min(len(values), row + radius + 1))
            for x in range(values.shape[1])
            if abs(x - column) <= round((radius**2 - (y - row) ** 2) ** 0.5)
        ]
        if value > 4 and radius:
            suppressed[row, column] = max(4, value * min(1, (value + 4) / (0.9 * (max(nearby) + 4))) ** 3)
    return suppressed


@pytest.mark.parametrize(("stride", "radius"), [(4, 2), (8, 3), (16, 6)])
def test_the_suppression_radius_depends_on_the_stride(stride: int, radius: int) -> None:
    signals = np.random.default_rng(0).gamma(0.3, 10, (16, 12, 3)).astype(np.float32)
    network = 16 * stride, 12 * stride
    plain, suppressed = (
        member_map(signals, UNIT, weights=(1, 0, 0), network=network, sigma=4.0, halo=halo) for halo in (0.0, 1.5)
    )
    assert np.array_equal(suppressed, suppress_leakage(plain, radius))
    assert not np.array_equal(suppressed, plain)


def test_leakage_around_a_spot_is_suppressed_and_peaks_and_stains_are_kept() -> None:
    y, x = np.mgrid[:64, :64].astype(np.float32)
    spot = 20 * np.exp(-((x - 16) ** 2 + (y - 16) ** 2) / (2 * 3**2)).astype(np.float32)
    stain = 10 * np.exp(-((x - 45) ** 2 + (y - 45) ** 2) / (2 * 40**2)).astype(np.float32)
    suppressed = suppress_leakage(spot, 3)
    assert suppressed.max() == spot.max()
    assert (suppressed[16, 16:] <= spot[16, 16:]).all()
    assert (suppressed > 5).sum() < 0.7 * (spot > 5).sum()
    assert np.array_equal(suppress_leakage(stain, 3), stain)
    good = np.random.default_rng(0).uniform(-4, 4, (64, 64)).astype(np.float32)
    assert np.array_equal(suppress_leakage(good, 3), good)


def test_pixels_outside_the_image_count_as_average() -> None:
    (engine,) = member_engines(settings_from(backbone="efficientnet-lite0", image_size=128, runtime="torch"))
    standard = ChannelStandard(torch.full((152,), 3.0), torch.full((152,), 2.0))
    assert engine.count((128, 128)) == 14 * 14
    standardised = engine.standardise(torch.full((1, 196, 152), 7.0), standard, (128, 128)).reshape(14, 14, 152)
    assert torch.allclose(standardised[4:10, 4:10], torch.tensor(2.0))
    assert torch.allclose(standardised[..., :40], torch.tensor(2.0))  # the finest map covers the image exactly
    first, second = 0.75 * 2 / 3 + 0.25, 0.25 * 2 / 3 + 0.75  # the coarser map, sampled a quarter of a position off its rows
    assert torch.allclose(standardised[0, 7, 40:], torch.tensor(2 * first))
    assert torch.allclose(standardised[1, 7, 40:], torch.tensor(2 * second))
    assert torch.allclose(standardised[0, 0, 40:], torch.tensor(2 * first**2))


@pytest.mark.parametrize("grid", [(5, 7), (4, 3), (3, 2), (2, 5), (1, 1), (2, 2), (1, 4)])
def test_positions_without_a_patch_take_the_nearest_value(grid: tuple[int, int]) -> None:
    height, width = interior_shape(grid)
    assert (height, width) == tuple(len(range(*part.indices(side))) for part, side in zip(interior(grid), grid, strict=True))
    values = np.random.default_rng(0).normal(size=(height * width, 3)).astype(np.float32)
    on_grid = Layout(grid).fill(values)
    assert on_grid.shape == (*grid, 3)
    for row in range(grid[0]):
        for column in range(grid[1]):
            at, across = (
                min(max(one, 1), side - 2) - 1 if side > 2 else one for one, side in zip((row, column), grid, strict=True)
            )
            assert (on_grid[row, column] == values[at * width + across]).all()


def test_an_explicit_height_and_width_default_to_squash() -> None:
    assert settings_from(image_size="256x640").resize == "squash"
    assert settings_from(image_size=(256, 640)).resize == "squash"
    assert settings_from(image_size="256").resize == settings_from().resize == "area"
    assert settings_from(image_size="256x640", resize="keep").resize == "keep"
