"""Regions of interest: files, layouts, and the promise that pixels outside have no influence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal.config import settings_from
from offnominal.errors import ImageError, InputError, SettingsError
from offnominal.images import read_region
from offnominal.roi import Layout, RegionOfInterest, outside_lowered
from offnominal.types import Mask, interior

SMALL: dict[str, Any] = {"image_size": 96, "bank": 120, "false_alarm_rate": 0.1}
SIZE = (128, 128)


def half(size: tuple[int, int] = SIZE) -> Mask:
    """The left half of an image."""
    mask = np.zeros(size, np.bool_)
    mask[:, : size[1] // 2] = True
    return mask


@pytest.fixture(scope="module")
def left() -> Detector:
    return Detector(roi=RegionOfInterest.of(half()), **SMALL).fit([texture(seed, SIZE) for seed in range(20)])


masks = st.tuples(st.integers(3, 24), st.integers(3, 24), st.integers(0, 2**32 - 1)).map(
    lambda drawn: np.random.default_rng(drawn[2]).random(drawn[:2]) < 0.9
)


@hypothesis.settings(deadline=None)
@given(masks)
def test_a_layout_is_that_of_the_naive_loop(mask: Mask) -> None:
    """A position has a patch if its 3 x 3 neighbourhood lies in image and region; others repeat the nearest patch."""
    height, width = mask.shape
    rows, columns = interior(mask.shape)
    inside = [
        (row, column)
        for row in range(rows.start, rows.stop)
        for column in range(columns.start, columns.stop)
        if mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].all()
    ]
    if not inside or not mask.any():
        with pytest.raises(ValueError, match=r"smaller than 3 x 3 patches|is empty"):
            Layout(mask.shape, RegionOfInterest.of(mask))
        return
    layout = Layout(mask.shape, RegionOfInterest.of(mask))
    assert layout.at(np.arange(len(layout))).tolist() == [list(position) for position in inside]
    assert layout.complete == (len(inside) == (rows.stop - rows.start) * (columns.stop - columns.start))
    filled = layout.fill(np.array(inside))
    for row in range(height):
        for column in range(width):
            distance = np.hypot(*(filled[row, column] - (row, column)))
            nearest = min(np.hypot(row - y, column - x) for y, x in inside)
            assert distance <= 1.1 * nearest + 0.5  # OpenCV's distances are approximate
            assert layout.number(row, column) == inside.index(tuple(filled[row, column]))


def test_the_whole_image_as_region_changes_nothing(left: Detector) -> None:
    images, new = [texture(seed, SIZE) for seed in range(12)], [texture(seed, SIZE) for seed in range(50, 55)]
    plain = Detector(**SMALL).fit(images)
    whole = Detector(roi=RegionOfInterest.of(np.ones((50, 50), np.bool_)), **SMALL).fit(images)
    assert whole.score_samples(new).tolist() == plain.score_samples(new).tolist()
    assert whole.model.calibration.threshold == plain.model.calibration.threshold


def test_pixels_outside_have_no_influence(left: Detector) -> None:
    image = texture(100, SIZE)
    changed, defective = image.copy(), image.copy()
    changed[:, 68:] = np.random.default_rng(0).integers(0, 255, changed[:, 68:].shape)
    defective[40:60, 20:40] = 0
    assert left.score_samples([changed]).tolist() == left.score_samples([image]).tolist()
    outside = texture(101, SIZE)
    outside[40:60, 90:110] = 0
    assert not left.inspect(outside).anomalous
    inspection = left.inspect(defective)
    assert inspection.anomalous
    assert all(region.box[2] <= 68 for region in inspection.regions)
    assert inspection.anomaly_map[:, 80:].max() < inspection.threshold


def test_pixels_outside_do_not_change_the_exposure() -> None:
    """The light varies, so the exposure is corrected; the border of the region lies between network pixels."""
    images = [(texture(seed, SIZE) * (0.55 + 0.03 * seed)).astype(np.uint8) for seed in range(15)]
    mask = np.zeros(SIZE, np.bool_)
    mask[:, :61] = True
    detector = Detector(roi=mask, **SMALL).fit(images)
    assert detector.model.values.exposure is not None
    image = images[7].copy()
    bright = image.copy()
    bright[:, 61:] = 255
    one, other = (detector.inspect(of) for of in (image, bright))
    assert one.score == other.score
    assert one.whole_p_value == other.whole_p_value
    assert (one.anomaly_map == other.anomaly_map).all()


def test_a_region_whose_file_was_not_read_is_no_region(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="were not read"):
        _ = settings_from(roi=tmp_path / "roi.png").region


def test_nothing_outside_is_learned() -> None:
    """A model of images whose right halves differ is that of images with the same left halves."""
    images = [texture(seed, SIZE) for seed in range(14)]
    other = [np.concatenate([image[:, :68], texture(900 + at, (128, 60))], axis=1) for at, image in enumerate(images)]
    # Folds and splits depend on the contents of the files.
    settings = {**SMALL, "calibration": "leave-one-out", "exposure": "keep", "roi": RegionOfInterest.of(half())}
    one, two = (Detector(**settings).fit(of).model for of in (images, other))
    assert sorted(one.calibration.scores.tolist()) == pytest.approx(sorted(two.calibration.scores.tolist()), abs=1e-4)
    for member in one.members:
        share = member.bank.position[:, 1] / member.geometry.network_size(SIZE)[1]
        assert share.max() < 0.5


def test_a_model_file_keeps_the_region(left: Detector, tmp_path: Path) -> None:
    left.save(tmp_path / "left.safetensors")
    loaded = load(tmp_path / "left.safetensors")
    assert loaded.model.region == left.model.region
    image = cv2.resize(damaged(200)[0], SIZE)
    assert loaded.inspect(image).score == left.inspect(image).score
    loaded.update(add=[texture(60, SIZE)])
    assert loaded.model.region == left.model.region
    assert len(loaded.model.sources) == 21


def test_images_of_another_shape_are_refused(left: Detector) -> None:
    message = "is 64 x 128, and the region of interest was drawn for 128 x 128; draw it on an image of this shape"
    with pytest.raises(ImageError, match=message):
        left.inspect(texture(1, (128, 64)))
    with pytest.raises(InputError, match=message):
        Detector(roi=left.model.region, **SMALL).fit([texture(seed, (128, 64)) for seed in range(3)])
    larger = cv2.resize(texture(1, SIZE), (300, 300))
    assert left.inspect(larger).anomaly_map.shape == (300, 300)


def test_regions_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    tiny = np.zeros(SIZE, np.bool_)
    tiny[60:66, 60:66] = True
    with pytest.raises(SettingsError, match="smaller than 3 x 3 patches at 96 x 96 pixels; enlarge it"):
        Detector(roi=RegionOfInterest.of(tiny), **SMALL).fit([texture(seed, SIZE) for seed in range(3)])
    cv2.imwrite(str(tmp_path / "white.png"), np.full(SIZE, 255, np.uint8))
    with pytest.raises(InputError, match=r"white.png: leaves no pixel to inspect; white pixels of roi count"):
        Detector(ignore=str(tmp_path / "white.png"))


def test_files_of_regions(tmp_path: Path) -> None:
    mask = tmp_path / "roi.png"
    cv2.imwrite(str(mask), half().astype(np.uint8) * 255)
    polygon = [[0, 0], [63, 0], [63, 127], [0, 127]]
    drawn = {"width": 128, "height": 128, "polygons": [polygon]}
    shapes = [{"points": polygon}, {"points": [[0, 0], [10, 10]], "shape_type": "rectangle"}]
    labelme = {"imageWidth": 128, "imageHeight": 128, "shapes": shapes}
    for name, content in (("own.json", drawn), ("labelme.json", labelme)):
        (tmp_path / name).write_text(json.dumps(content))
        assert (read_region(tmp_path / name) == read_region(mask)).all()
    assert (read_region(mask) == half()).all()
    kept = Detector(ignore=tmp_path / "own.json").settings.region
    assert kept is not None
    assert (kept.mask == ~half()).all()
    cv2.imwrite(str(tmp_path / "top.png"), np.repeat([[255], [0]], 64, axis=0).astype(np.uint8).repeat(128, axis=1))
    both = Detector(roi=mask, ignore=tmp_path / "top.png").settings.region
    assert both is not None
    assert both.share == 0.25


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "not an object"),
        ("{", "Expecting"),
        ('{"width": 4, "height": 4}', "no 'polygons'"),
        ('{"width": -4, "height": 4, "polygons": []}', "a size of -4 x 4"),
        ('{"width": 4, "height": 4, "polygons": [[[0, 0], [1, 1]]]}', "at least three points"),
        ('{"width": 4, "height": 4, "polygons": [[[0, 0], [1, 1], ["a", 2]]]}', "could not convert"),
        ('{"width": 4, "height": 4, "polygons": 7}', "not iterable"),
        ('{"width": 4, "height": 4, "polygons": [[[0, 0], [1, 1], [1' + "0" * 400 + ", 2]]]}", "too large"),
        ('{"imageWidth": 4, "imageHeight": 4, "shapes": [1]}', "has no attribute"),
    ],
)
def test_wrong_polygons_are_refused_in_one_line(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "roi.json").write_text(content)
    with pytest.raises(
        InputError, match=rf"roi.json: is no region \(.*{reason}.*\); give width, height and polygons"
    ) as caught:
        Detector(roi=tmp_path / "roi.json")
    assert "\n" not in str(caught.value)


def test_a_mask_can_be_an_array() -> None:
    assert Detector(roi=half()).settings.region == RegionOfInterest.of(half())
    assert Detector(roi=half().astype(np.uint8) * 255).settings.region == RegionOfInterest.of(half())
    with pytest.raises(SettingsError, match="the region of interest is empty"):
        Detector(roi=np.zeros((4, 4), np.bool_))


def test_masks_of_two_shapes_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 20), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((20, 40), 255, np.uint8))
    with pytest.raises(InputError, match=r"b.png: is 40 x 20, the region of interest 20 x 20; draw both on the same image"):
        Detector(roi=tmp_path / "a.png", ignore=tmp_path / "b.png")


def test_the_maximum_of_a_map_lies_inside() -> None:
    region = RegionOfInterest.of(half((4, 4)))
    scores = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert outside_lowered(scores, region).max() == 13
    assert outside_lowered(scores, None) is scores
