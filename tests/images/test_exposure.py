"""Exposure correction: used only if the lighting of the normal images varies, and limited to their spread."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from conftest import texture, with_spy
from offnominal import Detector, load
from offnominal.decisions import halves
from offnominal.fitting import training_set
from offnominal.fitting.survey import EXPOSURE_IMAGES, common_exposure
from offnominal.images import (
    DISTURBANCES,
    EIGHT_BIT,
    Exposure,
    Geometry,
    ImageBatch,
    Preprocessing,
    block_levels,
    brightness,
    exposure_of,
    levels,
)
from offnominal.images.exposure import BLACK, FEWEST, lighting_varies


def image_of_level(level: float, seed: int = 0) -> np.ndarray:
    """An image (3, 8, 12) with this mean."""
    image = np.random.default_rng(seed).random((3, 8, 12))
    scaled: np.ndarray = (image * level / image.mean()).astype(np.float32)
    return scaled


def exposure_of_images(*images: np.ndarray) -> Exposure | None:
    return exposure_of([levels(image[None]) for image in images], [block_levels(image[None]) for image in images])


def part_under_lamp(lamp: float, seed: int, size: tuple[int, int] = (96, 120)) -> np.ndarray:
    """A noisy part, scaled by the brightness of the lamp."""
    stripes = 120 + 40 * np.sin(np.arange(size[1]) / 5)
    image = stripes[None, :, None] + np.random.default_rng(seed).normal(0, 8, (*size, 3))
    return np.clip(image * lamp, 0, 255).astype(np.uint8)


def parts_under_lamps(count: int, size: tuple[int, int] = (96, 120), darkest: float = 0.6) -> list[np.ndarray]:
    return [
        part_under_lamp(lamp, seed, size) for seed, lamp in enumerate(np.random.default_rng(0).uniform(darkest, 1.0, count))
    ]


def naive_lighting_varies(blocks: np.ndarray) -> bool:
    median, logs = statistics.median, [[math.log(value) for value in image] for image in blocks.tolist()]
    parts = [median(column) for column in zip(*logs, strict=True)]
    common = [median(value - part for value, part in zip(image, parts, strict=True)) for image in logs]
    rest = [[v - part - c for v, part in zip(image, parts, strict=True)] for image, c in zip(logs, common, strict=True)]

    def spread(values: list[float]) -> float:
        return median(abs(value - median(values)) for value in values)

    return spread(common) > median(spread(list(column)) for column in zip(*rest, strict=True)) * (1 + 1e-12) + 1e-15


@trials(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(FEWEST, 20), st.floats(0, 0.5), st.floats(0, 0.5))
def test_lighting_varies_equals_the_naive_version(seed: int, images: int, lamp: float, content: float) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0.2, 0.8, (1, 9)) * rng.lognormal(0, lamp, (images, 1)) * rng.lognormal(0, content, (images, 9))
    if abs(lamp - content) > 1e-6:  # otherwise both spreads may be 0 up to rounding
        assert lighting_varies(blocks) == naive_lighting_varies(blocks)


@pytest.mark.parametrize(
    ("lamp", "content", "varies"),
    [(0.2, 0.0, True), (0.2, 0.05, True), (0.0, 0.2, False), (0.05, 0.2, False), (0.0, 0.0, False)],
)
def test_global_gains_count_as_lighting_and_local_changes_do_not(lamp: float, content: float, varies: bool) -> None:
    rng = np.random.default_rng(0)
    part = rng.uniform(0.3, 0.7, (1, 64))
    blocks = part * rng.lognormal(0, lamp, (40, 1)) * rng.lognormal(0, content, (40, 64))
    assert lighting_varies(blocks) is varies
    order = rng.permutation(40)
    assert lighting_varies(blocks[order]) is varies, "independent of the order"
    assert lighting_varies(blocks[:, rng.permutation(64)]) is varies


def test_changes_of_a_few_blocks_or_images_do_not_count_as_lighting() -> None:
    rng = np.random.default_rng(1)
    blocks = rng.uniform(0.3, 0.7, (1, 64)) * rng.lognormal(0, 0.02, (40, 64))
    local, rare = blocks.copy(), blocks.copy()
    local[:, :20] *= rng.lognormal(0, 0.5, (40, 1))  # a component whose brightness varies
    rare[:3] *= 0.5
    mixed = local * rng.lognormal(0, 0.2, (40, 1))
    assert [lighting_varies(one) for one in (blocks, local, rare, mixed)] == [False, False, False, True]


def test_too_few_images_never_show_varying_lighting() -> None:
    blocks = np.linspace(0.3, 0.6, FEWEST)[:, None] * np.ones((1, 64))
    assert lighting_varies(blocks)
    assert not lighting_varies(blocks[1:])
    assert not lighting_varies(np.empty((0, 64)))


def test_block_levels_are_block_means() -> None:
    image = np.random.default_rng(0).random((2, 3, 32, 48)).astype(np.float32)
    image[1, :, :4, :6] = 0
    expected = image.mean(1).reshape(2, 8, 4, 8, 6).mean((2, 4)).reshape(2, 64)
    expected[1, 0] = BLACK
    assert block_levels(image) == pytest.approx(expected, rel=1e-5)


def naive_corrected_mean(image: np.ndarray, exposure: Exposure) -> float:
    """The mean after correction: log brightness is clipped toward the level by at most two standard deviations."""
    excess = math.log(max(float(image.mean()), BLACK) / exposure.level)
    remaining = math.copysign(max(0.0, abs(excess) - 2 * exposure.spread), excess)
    return exposure.level * math.exp(remaining)


@pytest.mark.parametrize("level", [0.0, 0.002, 0.2, 0.39, 0.4, 0.41, 0.5, 0.9, 3.0])
@pytest.mark.parametrize("spread", [0.0, 0.1, 2.0])
def test_correction_equals_the_naive_version(level: float, spread: float) -> None:
    exposure = Exposure(0.4, spread)
    images = np.stack([image_of_level(level), image_of_level(0.4, 1)])
    corrected = exposure.corrected(images)
    assert corrected.dtype == np.float32
    assert corrected[1] == pytest.approx(images[1], rel=1e-5)
    excess = math.log(max(level, BLACK) / 0.4)
    gain = math.exp(-min(max(excess, -2 * spread), 2 * spread))
    assert corrected[0] == pytest.approx(images[0].astype(float) * gain, rel=1e-5)
    if level >= BLACK:
        assert corrected[0].mean() == pytest.approx(naive_corrected_mean(images[0], exposure), rel=1e-5)


def test_normal_brightness_is_equalised_and_darker_images_stay_darker() -> None:
    means = 0.4 * np.exp(np.random.default_rng(0).normal(0, 0.2, 500))
    exposure = exposure_of_images(*(image_of_level(mean) for mean in means))
    assert exposure is not None
    assert exposure.level == pytest.approx(0.4, rel=0.05)
    assert exposure.spread == pytest.approx(0.2, rel=0.15)
    assert exposure.max_gain == pytest.approx(math.exp(2 * exposure.spread))
    within, dark = exposure.corrected(np.stack([image_of_level(0.5), image_of_level(0.1)])).mean((1, 2, 3))
    assert within == pytest.approx(exposure.level, rel=1e-5)
    assert dark < 0.4 * exposure.level


def test_exposure_is_robust_to_outliers() -> None:
    plain = exposure_of_images(*(image_of_level(0.3 + 0.001 * at) for at in range(100)))
    with_outliers = exposure_of_images(*(image_of_level(0.3 + 0.001 * at) for at in range(100)), *[image_of_level(0.0)] * 5)
    assert plain is not None
    assert with_outliers is not None
    assert with_outliers.level == pytest.approx(plain.level, rel=0.01)
    assert with_outliers.spread == pytest.approx(plain.spread, rel=0.25)


def test_constant_brightness_or_no_images_give_no_exposure() -> None:
    for level in (0.0, 0.6):
        assert exposure_of_images(*[image_of_level(level)] * 20) is None
    assert exposure_of([], []) is None


@pytest.mark.parametrize(("level", "spread"), [(0.0, 0.1), (math.nan, 0.1), (0.4, -0.1), (0.4, math.nan), (0.4, math.inf)])
def test_impossible_exposures_are_refused(level: float, spread: float) -> None:
    with pytest.raises(ValueError, match="of an exposure"):
        Exposure(level, spread)


def test_brightness_is_the_log_mean_of_each_channel() -> None:
    image = image_of_level(0.5)
    image[2] = 0
    assert brightness(image[None]) == pytest.approx(
        np.array([[math.log(image[0].mean()), math.log(image[1].mean()), math.log(BLACK)]]), abs=1e-5
    )


def flat_images(*greys: int, side: int = 64) -> list[np.ndarray]:
    return [np.full((side, side), grey, np.uint8) for grey in greys]


def exposure_of_greys(greys: list[int]) -> Exposure | None:
    return exposure_of_images(*(np.full((3, 8, 8), grey / 255, np.float32) for grey in greys))


def test_exposure_uses_evenly_spaced_readable_images() -> None:
    greys = [50 + at // 2 for at in range(6 * EXPOSURE_IMAGES)]
    images, shape = flat_images(*(grey % 256 for grey in greys)), Geometry((64, 64), "squash")
    exposure = common_exposure(images, Preprocessing((shape,), EIGHT_BIT))
    fitting_half, _ = halves(len(images), 0)
    expected = exposure_of_greys([greys[at] % 256 for at in fitting_half[::3]])
    assert exposure is not None
    assert expected is not None
    assert (exposure.level, exposure.spread) == pytest.approx((expected.level, expected.spread), rel=1e-5)
    with_unreadable = common_exposure(["missing.png", *images[: 2 * FEWEST]], Preprocessing((shape,), EIGHT_BIT))
    assert with_unreadable is not None
    assert with_unreadable == common_exposure(images[: 2 * FEWEST], Preprocessing((shape,), EIGHT_BIT))
    assert common_exposure(["missing.png", *images[: FEWEST - 1]], Preprocessing((shape,), EIGHT_BIT)) is None


def test_reference_images_of_the_drift_monitor_do_not_set_the_exposure() -> None:
    """New good images are exchangeable with the reference images only if neither sets the exposure."""
    shape, greys = Geometry((32, 32), "squash"), [50 + at for at in range(2 * EXPOSURE_IMAGES)]
    pictures = flat_images(*greys, side=32)
    fitting_half, reference = halves(len(pictures), 3)
    expected = exposure_of_greys([greys[at] for at in fitting_half])
    exposure = common_exposure(pictures, Preprocessing((shape,), EIGHT_BIT), seed=3)
    assert exposure is not None
    assert expected is not None
    assert (exposure.level, exposure.spread) == pytest.approx((expected.level, expected.spread), rel=1e-5)
    darker = [np.zeros_like(picture) if at in reference else picture for at, picture in enumerate(pictures)]
    assert common_exposure(darker, Preprocessing((shape,), EIGHT_BIT), seed=3) == exposure
    # Half of these images would be too few, so all of them are used.
    few, few_darker = pictures[: 2 * EXPOSURE_IMAGES - 2], darker[: 2 * EXPOSURE_IMAGES - 2]
    assert common_exposure(few, Preprocessing((shape,), EIGHT_BIT), seed=3) != common_exposure(
        few_darker, Preprocessing((shape,), EIGHT_BIT), seed=3
    )


def test_a_fit_passes_its_image_order_and_seed_to_common_exposure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exposure and the drift monitor must be fitted on the same half of the images."""
    calls: list[tuple[list[np.ndarray], int]] = []
    spied = with_spy(lambda images, *args, seed, **kwargs: calls.append((images, seed)), common_exposure)
    monkeypatch.setattr(training_set, "common_exposure", spied)
    pictures = parts_under_lamps(20, (64, 64))
    for seed in (0, 3):
        model = Detector(preset="fast", image_size=64, bank=50, seed=seed).fit(pictures).model
        images, seed_of_call = calls.pop()
        assert seed_of_call == seed
        numbers = [int(source.name.removeprefix("array ")) for source in model.sources]
        assert all(np.array_equal(one, pictures[number]) for one, number in zip(images, numbers, strict=True))


def test_a_fit_corrects_exposure_only_if_lighting_varies() -> None:
    def exposure(images: list[np.ndarray]) -> Exposure | None:
        return Detector(preset="fast", image_size=64, bank=50).fit(images).model.values.exposure

    lamps = exposure(parts_under_lamps(12))
    assert lamps is not None
    assert lamps.spread > 0.1
    assert exposure([texture(seed) for seed in range(12)]) is None
    assert exposure([part_under_lamp(1.0, seed) for seed in range(12)]) is None, "noise alone"
    assert exposure(parts_under_lamps(FEWEST - 1)) is None


def test_correction_makes_scores_less_sensitive_to_lighting() -> None:
    good = parts_under_lamps(24)
    corrected, uncorrected = (
        Detector(image_size=96, bank=200, false_alarm_rate=0.1, exposure=mode).fit(good) for mode in ("auto", "keep")
    )
    assert uncorrected.model.values.exposure is None
    assert corrected.model.values.exposure is not None

    def change_by_lamp(detector: Detector) -> float:
        return abs(detector.inspect(part_under_lamp(0.65, 100)).score - detector.inspect(part_under_lamp(0.95, 100)).score)

    assert change_by_lamp(corrected) < 0.5 * change_by_lamp(uncorrected)
    assert corrected.inspect(part_under_lamp(0.05, 100)).score > 2 * corrected.model.calibration.threshold


def test_exposure_is_stored_in_the_model_file(tmp_path: Path) -> None:
    for mode in ("auto", "keep"):
        detector = Detector(preset="fast", image_size=64, bank=50, exposure=mode).fit(parts_under_lamps(FEWEST))
        detector.save(tmp_path / "m")
        assert load(tmp_path / "m").model.values == detector.model.values
        assert (detector.model.values.exposure is None) == (mode == "keep")


def test_disturbed_images_are_corrected_like_inspected_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor learns the effect of a brighter lamp on corrected images, as in an inspection.

    The maps then hardly change, and the brightness does.
    """
    exposures: list[Exposure | None] = []
    network_input = ImageBatch.network_input
    monkeypatch.setattr(
        ImageBatch, "network_input", with_spy(lambda batch, view: exposures.append(batch.exposure), network_input)
    )
    model = Detector(preset="fast", image_size=64, bank=50).fit(parts_under_lamps(20, darkest=0.95)).model
    assert model.appearance is not None
    assert model.values.exposure is not None
    assert len(exposures) > 20 // 4 + len(DISTURBANCES)
    assert set(exposures) == {model.values.exposure}
    directions = np.abs(model.appearance.directions)
    row = model.appearance.names.index("brightness")
    assert directions[row, -3:].max() > np.median(directions[row])
