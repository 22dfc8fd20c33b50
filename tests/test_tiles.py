"""Large images in tiles: one grid without seams, the same results as for a whole image, and little memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Notes, texture, with_model, with_spy
from offnominal import Detector, load
from offnominal.errors import ImageError, SettingsError
from offnominal.images import ALIGNED, MARGIN, tiles_of
from offnominal.inference import Inspector, engines_of
from offnominal.roi import RegionOfInterest

SIZE = (416, 544)
SMALL: dict[str, Any] = {"preset": "fast", "image_size": 128, "bank": 400, "false_alarm_rate": 0.2, "tile": 256}


def spotted(seed: int, at: tuple[int, int] = (200, 250), side: int = 24) -> np.ndarray:
    """A part with a square of random colours."""
    image = texture(seed, SIZE)
    row, column = at
    image[row : row + side, column : column + side] = np.random.default_rng(seed).integers(0, 255, (side, side, 3))
    return image


@pytest.fixture(scope="module")
def tiled() -> Detector:
    return Detector(**SMALL).fit([texture(seed, SIZE) for seed in range(8)])


def with_tile(detector: Detector, tile: int) -> Detector:
    """The same model, with tiles of another size."""
    model = detector.model
    members = tuple(replace(member, geometry=replace(member.geometry, tile=tile)) for member in model.members)
    model = replace(model, settings=model.settings.model_copy(update={"tile": tile}), members=members)
    other = with_model(detector, model)
    other._use(Inspector(model, engines_of(model, None, "model")))
    return other


sides = st.integers(2, 40).map(lambda count: ALIGNED * count)


@given(sides, sides, st.integers(8, 14).map(lambda count: ALIGNED * count))
def test_each_pixel_belongs_to_the_tile_in_which_it_lies_deepest(height: int, width: int, side: int) -> None:
    owners = np.zeros((height, width), np.int64)
    for tile in tiles_of((height, width), side):
        owners[tile.rows, tile.columns] += 1
        assert tile.height == min(side, height)
        for start, length, part, total in (
            (tile.top, tile.height, tile.rows, height),
            (tile.left, tile.width, tile.columns, width),
        ):
            assert 0 <= start <= part.start < part.stop <= start + length <= total
            assert part.start == 0 or part.start - start >= MARGIN
            assert part.stop == total or start + length - part.stop >= MARGIN
    assert (owners == 1).all()


def test_one_tile_is_the_whole_image() -> None:
    """Images that one tile covers have the scores of a model without tiles, with several members too."""
    images, new = [texture(seed, (128, 160)) for seed in range(10)], [texture(seed, (128, 160)) for seed in range(20, 24)]
    settings = {**SMALL, "preset": "balanced"}
    whole = Detector(**{**settings, "tile": None}).fit(images)
    one = Detector(**{**settings, "tile": 512}).fit(images)
    assert one.model.calibration.scores == pytest.approx(whole.model.calibration.scores, abs=1e-4)
    assert one.score_samples(new) == pytest.approx(whole.score_samples(new), abs=1e-4)


@pytest.mark.parametrize("at", [(200, 250), (20, 20), (216, 216), (390, 500)])
def test_a_peak_does_not_depend_on_the_tiles(tiled: Detector, at: tuple[int, int]) -> None:
    """The network sees the same image whole, and with borders of tiles at several places."""
    image = spotted(50, at)
    whole = with_tile(tiled, 1024).inspect(image)
    for tile in (256, 288, 320):
        inspection = with_tile(tiled, tile).inspect(image)
        assert inspection.score == pytest.approx(whole.score, rel=0.02)
        assert inspection.regions[0].peak_at == pytest.approx(whole.regions[0].peak_at, abs=8)
        assert np.abs(inspection.anomaly_map - whole.anomaly_map).max() < 1.5


def test_small_defects_are_found_at_full_resolution(tiled: Detector) -> None:
    inspection = tiled.inspect(spotted(51, side=12), evidence=True)
    assert inspection.anomaly_map.shape == SIZE
    left, top, right, bottom = inspection.regions[0].box
    assert left <= 256 <= right
    assert top <= 206 <= bottom
    evidence = inspection.evidence(inspection.regions[0])
    assert evidence.curve[6][1] > evidence.curve[0][1]
    assert not tiled.inspect(texture(52, SIZE)).anomalous


def test_evidence_and_maps_are_those_of_the_whole_image(tiled: Detector) -> None:
    image = spotted(53, at=(120, 130))
    whole, parts = (detector.inspect(image, evidence=True, maps=True) for detector in (with_tile(tiled, 1024), tiled))
    one, other = whole.regions[0], parts.regions[0]
    assert other.evidence is not None
    assert one.evidence is not None
    assert other.evidence.box == one.evidence.box
    assert other.evidence.layer_shares == pytest.approx(one.evidence.layer_shares, abs=0.03)
    assert [near.image for near in other.evidence.nearest[:1]] == [near.image for near in one.evidence.nearest[:1]]
    assert whole.layer_maps is not None
    assert parts.layer_maps is not None
    assert parts.noise_map is not None
    assert whole.noise_map is not None
    assert np.abs(parts.noise_map - whole.noise_map).mean() < 0.02
    for name, values in parts.layer_maps.items():
        assert np.abs(values - whole.layer_maps[name]).mean() < 0.02


def test_a_model_with_tiles_is_kept_and_updated(tiled: Detector, tmp_path: Path) -> None:
    tiled.save(tmp_path / "part")
    loaded = load(tmp_path / "part")
    image = spotted(54)
    assert loaded.inspect(image).score == tiled.inspect(image).score
    change = loaded.update(add=[texture(60, SIZE)], remove=["array 3"])
    assert (change.added, change.removed) == (("array 60",), ("array 3",)) or len(change.added) == 1
    assert len(loaded.model.sources) == 8
    assert loaded.inspect(image).anomalous
    with pytest.raises(ImageError, match="would take too much memory; crop it first"):
        loaded.explain(image)


def test_only_tiles_of_the_region_are_computed(tiled: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros(SIZE, np.bool_)
    mask[:150, :150] = True
    detector = Detector(roi=RegionOfInterest.of(mask), **SMALL).fit([texture(seed, SIZE) for seed in range(8)])
    engine = detector._ready().engines[0]
    seen: list[Any] = []
    monkeypatch.setattr(engine, "tile_patches", with_spy(lambda *args: seen.append(args[2]), engine.tile_patches))
    inside, outside = detector.inspect(spotted(55, at=(60, 60))), detector.inspect(spotted(55, at=(300, 300)))
    assert len(seen) == 2
    assert inside.anomalous
    assert not outside.anomalous


def test_exposure_is_corrected_in_tiles() -> None:
    images = [(texture(seed, SIZE) * (0.55 + 0.03 * seed)).astype(np.uint8) for seed in range(12)]
    detector = Detector(**SMALL).fit(images)
    assert detector.model.values.exposure is not None
    dark, bright = ((spotted(56) * factor).astype(np.uint8) for factor in (0.6, 0.85))
    assert detector.inspect(dark).score == pytest.approx(detector.inspect(bright).score, rel=0.25)
    assert not detector.inspect((texture(70, SIZE) * 0.7).astype(np.uint8)).anomalous


def test_resolution_in_pixels_per_mm() -> None:
    detector = Detector(**SMALL, mm_per_pixel=0.1, pixels_per_mm=5).fit([texture(seed, SIZE) for seed in range(3)])
    assert detector.model.members[0].geometry.network_size(SIZE) == (224, 288)
    for settings, message in (
        ({"pixels_per_mm": 5}, "pixels_per_mm needs tile and mm_per_pixel"),
        ({"tile": 300}, "tile must be a multiple of 32"),
        ({"tile": 256, "resize": "squash"}, "tile keeps the aspect ratio"),
    ):
        with pytest.raises(SettingsError, match=message):
            Detector(**settings)


def test_fit_says_what_the_smallest_defect_needs() -> None:
    notes = Notes()
    images = [cv2.resize(texture(seed), (1280, 960)) for seed in range(3)]
    settings: dict[str, Any] = {
        "preset": "fast", "image_size": 128, "bank": 60, "false_alarm_rate": 0.3, "mm_per_pixel": 0.1,
    }  # fmt: skip
    Detector(**settings, smallest_defect="2mm").fit(images, observer=notes)
    assert "has 2 of the 8 network pixels that it needs; use --image-size 410, at about 10.2 times the time" in notes.texts[0]
    Detector(**settings, smallest_defect="0.5mm").fit(images, observer=notes)
    assert "only 5 pixels in the image" in notes.texts[-1]
    with pytest.raises(SettingsError, match="smallest_defect is in mm; give mm_per_pixel too"):
        Detector(preset="fast", image_size=64, bank=60, smallest_defect="2mm").fit(images)
