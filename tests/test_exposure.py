"""Brightness is evened out as far as good images differ in it, and no further."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import Tensor

from conftest import texture
from offnominal import Detector, load
from offnominal.decisions import halves
from offnominal.detector.engine import FeatureEngine
from offnominal.detector.learning.survey import LOOKED_AT, usual_exposure
from offnominal.images import (
    DISTURBANCES,
    EIGHT_BIT,
    Exposure,
    Geometry,
    ImageBatch,
    brightness,
    exposure_of,
    levels,
)
from offnominal.images.exposure import BLACK


def lit(level: float, seed: int = 0) -> np.ndarray:
    """(3, 8, 12) of this mean."""
    image = np.random.default_rng(seed).random((3, 8, 12))
    return (image * level / image.mean()).astype(np.float32)


def naively_evened_beyond(image: np.ndarray, usual: Exposure) -> float:
    """Mean after: the level itself within two deviations, beyond them as far from it as before, less those two."""
    excess = math.log(max(float(image.mean()), BLACK) / usual.level)
    left = math.copysign(max(0.0, abs(excess) - 2 * usual.spread), excess)
    return usual.level * math.exp(left)


@pytest.mark.parametrize("level", [0.0, 0.002, 0.2, 0.39, 0.4, 0.41, 0.5, 0.9, 3.0])
@pytest.mark.parametrize("spread", [0.0, 0.1, 2.0])
def test_evened_is_the_naive_twin(level: float, spread: float) -> None:
    usual = Exposure(0.4, spread)
    images = np.stack([lit(level), lit(0.4, 1)])
    found = usual.evened(images)
    assert found.dtype == np.float32
    assert found[1] == pytest.approx(images[1], rel=1e-5)
    excess = math.log(max(level, BLACK) / 0.4)
    gain = math.exp(-min(max(excess, -2 * spread), 2 * spread))
    assert found[0] == pytest.approx(images[0].astype(float) * gain, rel=1e-5)
    if level >= BLACK:
        assert found[0].mean() == pytest.approx(naively_evened_beyond(images[0], usual), rel=1e-5)


def test_images_as_good_ones_are_lit_are_seen_alike_and_darker_ones_stay_darker() -> None:
    means = 0.4 * np.exp(np.random.default_rng(0).normal(0, 0.2, 500))
    usual = exposure_of([levels(lit(mean, seed)[None]) for seed, mean in enumerate(means)])
    assert usual is not None
    assert usual.level == pytest.approx(0.4, rel=0.05)
    assert usual.spread == pytest.approx(0.2, rel=0.15)
    assert usual.most == pytest.approx(math.exp(2 * usual.spread))
    within, dark = usual.evened(np.stack([lit(0.5), lit(0.1)])).mean((1, 2, 3))
    assert within == pytest.approx(usual.level, rel=1e-5)
    assert dark < 0.4 * usual.level


def test_a_few_odd_images_do_not_move_it() -> None:
    plain = exposure_of([levels(lit(0.3 + 0.001 * at)[None]) for at in range(100)])
    odd = exposure_of([levels(lit(0.3 + 0.001 * at)[None]) for at in range(100)] + [levels(lit(0.0)[None])] * 5)
    assert plain is not None
    assert odd is not None
    assert odd.level == pytest.approx(plain.level, rel=0.01)
    assert odd.spread == pytest.approx(plain.spread, rel=0.25)


def test_equal_images_and_black_ones_are_left_as_they_are() -> None:
    for level in (0.0, 0.6):
        same = np.stack([lit(level)] * 3)
        usual = exposure_of([levels(same)])
        assert usual is not None
        assert usual.spread == 0
        other = lit(0.3)[None]
        assert np.array_equal(usual.evened(other), other)
    assert exposure_of([]) is None


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


def test_it_is_learnt_from_images_evenly_spaced_and_those_that_can_be_read() -> None:
    values = [np.full((64, 64), 50 + at // 2, np.uint8) for at in range(6 * LOOKED_AT)]
    found = usual_exposure(values, Geometry((64, 64), "squash"), EIGHT_BIT)
    teachers, _ = halves(len(values), 0)
    every = exposure_of([np.array([values[at][0, 0] / 255]) for at in teachers[::3]])
    assert found is not None
    assert every is not None
    assert (found.level, found.spread) == pytest.approx((every.level, every.spread), rel=1e-5)
    some = usual_exposure(["missing.png", *values[:2]], Geometry((64, 64), "squash"), EIGHT_BIT)
    assert some == usual_exposure(values[:2], Geometry((64, 64), "squash"), EIGHT_BIT)
    assert usual_exposure(["missing.png"], Geometry((64, 64), "squash"), EIGHT_BIT) is None


def test_the_reference_of_the_whole_image_teaches_no_exposure() -> None:
    """A new good image is like those of the reference only if neither taught what both are seen by."""
    shape = Geometry((32, 32), "squash")
    pictures = [np.full((32, 32), 50 + at, np.uint8) for at in range(2 * LOOKED_AT)]
    teachers, reference = halves(len(pictures), 3)
    half = exposure_of([np.array([pictures[at][0, 0] / 255]) for at in teachers])
    found = usual_exposure(pictures, shape, EIGHT_BIT, 3)
    assert found is not None
    assert half is not None
    assert (found.level, found.spread) == pytest.approx((half.level, half.spread), rel=1e-5)
    darker = [np.zeros_like(picture) if at in reference else picture for at, picture in enumerate(pictures)]
    assert usual_exposure(darker, shape, EIGHT_BIT, 3) == found
    few, fewer = pictures[: 2 * LOOKED_AT - 2], darker[: 2 * LOOKED_AT - 2]  # too few for a half to say it: all count
    assert usual_exposure(few, shape, EIGHT_BIT, 3) != usual_exposure(fewer, shape, EIGHT_BIT, 3)


def test_a_fit_leaves_out_the_reference_that_its_seed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offnominal.detector.learning.survey.LOOKED_AT", 8)
    pictures = [texture(at, (64, 64)) for at in range(20)]
    for seed in (0, 3):
        _, reference = halves(len(pictures), seed)
        darker = [picture // 2 if at in reference else picture for at, picture in enumerate(pictures)]
        found = [Detector(image_size=64, bank=50, seed=seed).fit(some).model.values.exposure for some in (pictures, darker)]
        assert found[0] == found[1]


def test_a_lamp_does_not_show_in_the_score_where_good_images_differ_by_it() -> None:
    rng = np.random.default_rng(0)

    def under(lamp: float, seed: int) -> np.ndarray:
        return (texture(seed) * lamp).astype(np.uint8)

    good = [under(lamp, seed) for seed, lamp in enumerate(rng.uniform(0.6, 1.0, 24))]
    even, kept = (Detector(image_size=96, bank=200, false_alarm_rate=0.1, exposure=how).fit(good) for how in ("even", "keep"))
    assert kept.model.values.exposure is None
    assert even.model.values.exposure is not None

    def moved_by_lamp(detector: Detector) -> float:
        return abs(detector.inspect(under(0.65, 100)).score - detector.inspect(under(0.95, 100)).score)

    assert moved_by_lamp(even) < 0.5 * moved_by_lamp(kept)
    assert even.inspect(under(0.05, 100)).score > 2 * even.model.calibration.threshold


def test_the_model_file_keeps_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for how in ("even", "keep"):
        detector = Detector(image_size=64, bank=50, exposure=how).fit([texture(seed) for seed in range(4)])
        detector.save(tmp_path / "m")
        assert load(tmp_path / "m").model.values == detector.model.values


def test_disturbed_images_are_evened_out_like_those_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the watch learns of a brighter lamp is what it will see of one: the maps hardly move, the brightness does."""
    seen: list[Exposure | None] = []
    maps = FeatureEngine.maps

    def watched(engine: FeatureEngine, batch: ImageBatch) -> list[Tensor]:
        seen.append(batch.exposure)
        return maps(engine, batch)

    monkeypatch.setattr(FeatureEngine, "maps", watched)
    model = Detector(image_size=64, bank=50).fit([texture(seed) for seed in range(20)]).model
    assert model.appearance is not None
    assert len(seen) > 20 // 4 + len(DISTURBANCES)
    assert set(seen) - {model.values.exposure} == set()
    directions = np.abs(model.appearance.directions)
    light = model.appearance.names.index("brightness")
    assert directions[light, -3:].max() > np.median(directions[light])
