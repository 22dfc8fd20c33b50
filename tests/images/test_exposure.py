"""Exposure is corrected if the lighting of normal images varies, as far as they vary, and no further."""

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
    block_levels,
    brightness,
    exposure_of,
    levels,
)
from offnominal.images.exposure import BLACK, FEWEST, lighting_varies


def lit(level: float, seed: int = 0) -> np.ndarray:
    """(3, 8, 12) of this mean."""
    image = np.random.default_rng(seed).random((3, 8, 12))
    scaled: np.ndarray = (image * level / image.mean()).astype(np.float32)
    return scaled


def exposure_of_images(*images: np.ndarray) -> Exposure | None:
    return exposure_of([levels(image[None]) for image in images], [block_levels(image[None]) for image in images])


def under(lamp: float, seed: int, size: tuple[int, int] = (96, 120)) -> np.ndarray:
    """One part with noise, all of it as bright as the lamp."""
    stripes = 120 + 40 * np.sin(np.arange(size[1]) / 5)
    image = stripes[None, :, None] + np.random.default_rng(seed).normal(0, 8, (*size, 3))
    return np.clip(image * lamp, 0, 255).astype(np.uint8)


def under_lamps(count: int, size: tuple[int, int] = (96, 120), darkest: float = 0.6) -> list[np.ndarray]:
    return [under(lamp, seed, size) for seed, lamp in enumerate(np.random.default_rng(0).uniform(darkest, 1.0, count))]


def naively_varies(blocks: np.ndarray) -> bool:
    median, logs = statistics.median, [[math.log(value) for value in image] for image in blocks.tolist()]
    parts = [median(column) for column in zip(*logs, strict=True)]
    common = [median(value - part for value, part in zip(image, parts, strict=True)) for image in logs]
    rest = [[v - part - c for v, part in zip(image, parts, strict=True)] for image, c in zip(logs, common, strict=True)]

    def spread(values: list[float]) -> float:
        return median(abs(value - median(values)) for value in values)

    return spread(common) > median(spread(list(column)) for column in zip(*rest, strict=True)) * (1 + 1e-12) + 1e-15


@trials(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(FEWEST, 20), st.floats(0, 0.5), st.floats(0, 0.5))
def test_whether_lighting_varies_is_what_the_naive_twin_says(seed: int, images: int, lamp: float, content: float) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0.2, 0.8, (1, 9)) * rng.lognormal(0, lamp, (images, 1)) * rng.lognormal(0, content, (images, 9))
    if abs(lamp - content) > 1e-6:  # otherwise both may be 0 but for rounding
        assert lighting_varies(blocks) == naively_varies(blocks)


@pytest.mark.parametrize(
    ("lamp", "content", "varies"),
    [(0.2, 0.0, True), (0.2, 0.05, True), (0.0, 0.2, False), (0.05, 0.2, False), (0.0, 0.0, False)],
)
def test_gains_are_lighting_and_changes_of_the_part_are_not(lamp: float, content: float, varies: bool) -> None:
    rng = np.random.default_rng(0)
    part = rng.uniform(0.3, 0.7, (1, 64))
    blocks = part * rng.lognormal(0, lamp, (40, 1)) * rng.lognormal(0, content, (40, 64))
    assert lighting_varies(blocks) is varies
    order = rng.permutation(40)
    assert lighting_varies(blocks[order]) is varies, "in any order"
    assert lighting_varies(blocks[:, rng.permutation(64)]) is varies


def test_a_change_of_some_blocks_and_a_few_images_under_another_lamp_are_no_lighting() -> None:
    rng = np.random.default_rng(1)
    blocks = rng.uniform(0.3, 0.7, (1, 64)) * rng.lognormal(0, 0.02, (40, 64))
    local, rare = blocks.copy(), blocks.copy()
    local[:, :20] *= rng.lognormal(0, 0.5, (40, 1))  # a part that is there or not, brighter or darker
    rare[:3] *= 0.5
    mixed = local * rng.lognormal(0, 0.2, (40, 1))
    assert [lighting_varies(one) for one in (blocks, local, rare, mixed)] == [False, False, False, True]


def test_too_few_images_do_not_show_whether_lighting_varies() -> None:
    blocks = np.linspace(0.3, 0.6, FEWEST)[:, None] * np.ones((1, 64))
    assert lighting_varies(blocks)
    assert not lighting_varies(blocks[1:])
    assert not lighting_varies(np.empty((0, 64)))


def test_block_levels_are_the_means_of_the_blocks() -> None:
    image = np.random.default_rng(0).random((2, 3, 32, 48)).astype(np.float32)
    image[1, :, :4, :6] = 0
    right = image.mean(1).reshape(2, 8, 4, 8, 6).mean((2, 4)).reshape(2, 64)
    right[1, 0] = BLACK
    assert block_levels(image) == pytest.approx(right, rel=1e-5)


def naively_corrected_beyond(image: np.ndarray, usual: Exposure) -> float:
    """Mean after: the level itself within two deviations, beyond them as far from it as before, less those two."""
    excess = math.log(max(float(image.mean()), BLACK) / usual.level)
    left = math.copysign(max(0.0, abs(excess) - 2 * usual.spread), excess)
    return usual.level * math.exp(left)


@pytest.mark.parametrize("level", [0.0, 0.002, 0.2, 0.39, 0.4, 0.41, 0.5, 0.9, 3.0])
@pytest.mark.parametrize("spread", [0.0, 0.1, 2.0])
def test_corrected_is_the_naive_twin(level: float, spread: float) -> None:
    usual = Exposure(0.4, spread)
    images = np.stack([lit(level), lit(0.4, 1)])
    found = usual.corrected(images)
    assert found.dtype == np.float32
    assert found[1] == pytest.approx(images[1], rel=1e-5)
    excess = math.log(max(level, BLACK) / 0.4)
    gain = math.exp(-min(max(excess, -2 * spread), 2 * spread))
    assert found[0] == pytest.approx(images[0].astype(float) * gain, rel=1e-5)
    if level >= BLACK:
        assert found[0].mean() == pytest.approx(naively_corrected_beyond(images[0], usual), rel=1e-5)


def test_images_as_good_ones_are_lit_are_seen_alike_and_darker_ones_stay_darker() -> None:
    means = 0.4 * np.exp(np.random.default_rng(0).normal(0, 0.2, 500))
    usual = exposure_of_images(*(lit(mean) for mean in means))
    assert usual is not None
    assert usual.level == pytest.approx(0.4, rel=0.05)
    assert usual.spread == pytest.approx(0.2, rel=0.15)
    assert usual.max_gain == pytest.approx(math.exp(2 * usual.spread))
    within, dark = usual.corrected(np.stack([lit(0.5), lit(0.1)])).mean((1, 2, 3))
    assert within == pytest.approx(usual.level, rel=1e-5)
    assert dark < 0.4 * usual.level


def test_a_few_odd_images_do_not_move_it() -> None:
    plain = exposure_of_images(*(lit(0.3 + 0.001 * at) for at in range(100)))
    odd = exposure_of_images(*(lit(0.3 + 0.001 * at) for at in range(100)), *[lit(0.0)] * 5)
    assert plain is not None
    assert odd is not None
    assert odd.level == pytest.approx(plain.level, rel=0.01)
    assert odd.spread == pytest.approx(plain.spread, rel=0.25)


def test_equal_images_and_none_have_no_exposure() -> None:
    for level in (0.0, 0.6):
        assert exposure_of_images(*[lit(level)] * 20) is None
    assert exposure_of([], []) is None


@pytest.mark.parametrize(("level", "spread"), [(0.0, 0.1), (math.nan, 0.1), (0.4, -0.1), (0.4, math.nan), (0.4, math.inf)])
def test_what_no_image_can_have_is_refused(level: float, spread: float) -> None:
    with pytest.raises(ValueError, match="of an exposure"):
        Exposure(level, spread)


def test_brightness_is_that_of_every_channel() -> None:
    image = lit(0.5)
    image[2] = 0
    assert brightness(image[None]) == pytest.approx(
        np.array([[math.log(image[0].mean()), math.log(image[1].mean()), math.log(BLACK)]]), abs=1e-5
    )


def flat(*greys: int, side: int = 64) -> list[np.ndarray]:
    return [np.full((side, side), grey, np.uint8) for grey in greys]


def of_greys(greys: list[int]) -> Exposure | None:
    return exposure_of_images(*(np.full((3, 8, 8), grey / 255, np.float32) for grey in greys))


def test_it_is_computed_from_images_evenly_spaced_and_those_that_can_be_read() -> None:
    greys = [50 + at // 2 for at in range(6 * EXPOSURE_IMAGES)]
    images, shape = flat(*(grey % 256 for grey in greys)), Geometry((64, 64), "squash")
    found = common_exposure(images, shape, EIGHT_BIT)
    fitting_half, _ = halves(len(images), 0)
    right = of_greys([greys[at] % 256 for at in fitting_half[::3]])
    assert found is not None
    assert right is not None
    assert (found.level, found.spread) == pytest.approx((right.level, right.spread), rel=1e-5)
    some = common_exposure(["missing.png", *images[: 2 * FEWEST]], shape, EIGHT_BIT)
    assert some is not None
    assert some == common_exposure(images[: 2 * FEWEST], shape, EIGHT_BIT)
    assert common_exposure(["missing.png", *images[: FEWEST - 1]], shape, EIGHT_BIT) is None


def test_the_reference_of_the_whole_image_teaches_no_exposure() -> None:
    """A new good image is like those of the reference only if neither taught what both are seen by."""
    shape, greys = Geometry((32, 32), "squash"), [50 + at for at in range(2 * EXPOSURE_IMAGES)]
    pictures = flat(*greys, side=32)
    fitting_half, reference = halves(len(pictures), 3)
    half = of_greys([greys[at] for at in fitting_half])
    found = common_exposure(pictures, shape, EIGHT_BIT, seed=3)
    assert found is not None
    assert half is not None
    assert (found.level, found.spread) == pytest.approx((half.level, half.spread), rel=1e-5)
    darker = [np.zeros_like(picture) if at in reference else picture for at, picture in enumerate(pictures)]
    assert common_exposure(darker, shape, EIGHT_BIT, seed=3) == found
    few, fewer = (
        pictures[: 2 * EXPOSURE_IMAGES - 2],
        darker[: 2 * EXPOSURE_IMAGES - 2],
    )  # too few for a half to say it: all count
    assert common_exposure(few, shape, EIGHT_BIT, seed=3) != common_exposure(fewer, shape, EIGHT_BIT, seed=3)


def test_a_fit_takes_the_images_in_its_own_order_and_the_halves_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the half that teaches the exposure is the one that teaches the drift monitor."""
    asked: list[tuple[list[np.ndarray], int]] = []
    noted = with_spy(lambda some, *args, seed, **kwargs: asked.append((some, seed)), common_exposure)
    monkeypatch.setattr(training_set, "common_exposure", noted)
    pictures = under_lamps(20, (64, 64))
    for seed in (0, 3):
        model = Detector(preset="fast", image_size=64, bank=50, seed=seed).fit(pictures).model
        some, given_seed = asked.pop()
        assert given_seed == seed
        numbers = [int(source.name.removeprefix("array ")) for source in model.sources]
        assert all(np.array_equal(one, pictures[number]) for one, number in zip(some, numbers, strict=True))


def test_a_fit_corrects_exposure_if_lighting_varies_and_not_if_the_parts_do() -> None:
    def exposure(images: list[np.ndarray]) -> Exposure | None:
        return Detector(preset="fast", image_size=64, bank=50).fit(images).model.values.exposure

    lamps = exposure(under_lamps(12))
    assert lamps is not None
    assert lamps.spread > 0.1
    assert exposure([texture(seed) for seed in range(12)]) is None
    assert exposure([under(1.0, seed) for seed in range(12)]) is None, "noise alone"
    assert exposure(under_lamps(FEWEST - 1)) is None


def test_a_lamp_does_not_show_in_the_score_where_good_images_differ_by_it() -> None:
    good = under_lamps(24)
    corrected, kept = (
        Detector(image_size=96, bank=200, false_alarm_rate=0.1, exposure=how).fit(good) for how in ("auto", "keep")
    )
    assert kept.model.values.exposure is None
    assert corrected.model.values.exposure is not None

    def moved_by_lamp(detector: Detector) -> float:
        return abs(detector.inspect(under(0.65, 100)).score - detector.inspect(under(0.95, 100)).score)

    assert moved_by_lamp(corrected) < 0.5 * moved_by_lamp(kept)
    assert corrected.inspect(under(0.05, 100)).score > 2 * corrected.model.calibration.threshold


def test_the_model_file_keeps_it(tmp_path: Path) -> None:
    for how in ("auto", "keep"):
        detector = Detector(preset="fast", image_size=64, bank=50, exposure=how).fit(under_lamps(FEWEST))
        detector.save(tmp_path / "m")
        assert load(tmp_path / "m").model.values == detector.model.values
        assert (detector.model.values.exposure is None) == (how == "keep")


def test_disturbed_images_are_corrected_like_those_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the monitor learns of a brighter lamp is what it will see of one: the maps hardly move, the brightness does."""
    seen: list[Exposure | None] = []
    see = ImageBatch.network_input
    monkeypatch.setattr(ImageBatch, "network_input", with_spy(lambda batch, view: seen.append(batch.exposure), see))
    model = Detector(preset="fast", image_size=64, bank=50).fit(under_lamps(20, darkest=0.95)).model
    assert model.appearance is not None
    assert model.values.exposure is not None
    assert len(seen) > 20 // 4 + len(DISTURBANCES)
    assert set(seen) == {model.values.exposure}
    directions = np.abs(model.appearance.directions)
    light = model.appearance.names.index("brightness")
    assert directions[light, -3:].max() > np.median(directions[light])
