"""Models that align images, from fit to results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import texture
from moved_parts import DEFECT, SIZE, drawn, part, random_pose
from offnominal import Detector, load
from offnominal.errors import InputError, SettingsError
from offnominal.images import moved
from offnominal.types import Pose

SMALL: dict[str, Any] = {"preset": "fast", "image_size": 128, "bank": 300, "false_alarm_rate": 0.1}


@pytest.fixture(scope="module")
def rigid() -> Detector:
    return Detector(align="rigid", **SMALL).fit([drawn(seed) for seed in range(24)])


def test_parts_are_judged_wherever_they_lie(rigid: Detector) -> None:
    good = [rigid.inspect(drawn(seed)) for seed in range(100, 112)]
    bad = [rigid.inspect(drawn(seed, defective=True)) for seed in range(200, 206)]
    assert sum(one.anomalous for one in good) <= 3
    assert all(one.anomalous and one.found for one in bad)
    assert min(one.score for one in bad) > max(one.score for one in good)


def test_results_are_in_pixels_of_the_image(rigid: Detector) -> None:
    for seed in range(200, 206):
        pose = random_pose(seed)
        inspection = rigid.inspect(drawn(seed, defective=True), evidence=True, maps=True)
        ((x, y),) = moved(np.array([DEFECT], np.float64), pose, SIZE)
        region = inspection.regions[0]
        left, top, right, bottom = region.box
        assert left <= x <= right
        assert top <= y <= bottom
        assert np.hypot(region.peak_at[0] - x, region.peak_at[1] - y) < 20
        row, column = np.unravel_index(int(inspection.anomaly_map.argmax()), inspection.anomaly_map.shape)
        assert np.hypot(column - x, row - y) < 20
        assert inspection.noise_map is not None
        assert inspection.layer_maps is not None
        assert {values.shape for values in (inspection.noise_map, *inspection.layer_maps.values())} == {SIZE}
        evidence = inspection.evidence(region)
        assert evidence.box[0] - 25 <= x <= evidence.box[2] + 25
        found = inspection.pose
        assert found is not None
        reference = rigid.model.alignment
        assert reference is not None
        assert found.quality > 0.9


def test_a_part_that_is_not_found_is_off_nominal(rigid: Detector) -> None:
    other, turned = cv2.resize(texture(3), SIZE[::-1]), part(Pose(0.0, 0.0, 40.0, 1.0, 1.0))
    for image, reason in ((other, "the reference"), (turned, "rotated by")):
        inspection = rigid.inspect(image)
        assert inspection.anomalous
        assert not inspection.found
        assert inspection.pose is not None
        assert reason in str(inspection.pose.problem)
        assert np.isfinite(inspection.anomaly_map).all()
    assert rigid.predict([other, turned, drawn(101)]).tolist() == [-1, -1, 1]


def test_a_model_file_keeps_the_alignment(rigid: Detector, tmp_path: Path) -> None:
    rigid.save(tmp_path / "part.safetensors")
    loaded = load(tmp_path / "part.safetensors")
    image = drawn(300, defective=True)
    one, other = rigid.inspect(image), loaded.inspect(image)
    assert (one.score, one.pose, one.regions) == (other.score, other.pose, other.regions)
    change = loaded.update(add=[drawn(60), cv2.resize(texture(3), SIZE[::-1])])
    assert len(change.added) == 1
    assert "the part is not found" in change.skipped[0][1]
    assert loaded.model.alignment is not None
    assert loaded.inspect(drawn(301)).found


def test_images_in_which_the_part_is_missing_are_left_out() -> None:
    images = [*(drawn(seed) for seed in range(14)), cv2.resize(texture(3), SIZE[::-1]), texture(1, (128, 128))]
    model = Detector(align="rigid", **SMALL).fit(images).model
    assert len(model.sources) == 14
    reasons = sorted(reason for _, reason in model.skipped)
    assert any("the part is not found" in reason for reason in reasons)
    assert any("needs images of one shape" in reason for reason in reasons)
    audit = Detector(align="rigid", **SMALL).audit(images)
    assert len(audit.names) == 14
    assert all(pose is not None for pose in audit.poses)


def test_images_without_common_edges_are_refused() -> None:
    noise = [np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8) for seed in range(6)]
    with pytest.raises(InputError, match="too little in common with the reference"):
        Detector(align="shift", **SMALL).fit(noise)


def test_a_region_lies_on_the_reference(tmp_path: Path) -> None:
    """The right half of the part is ignored, wherever the part lies."""
    cv2.imwrite(str(tmp_path / "reference.png"), part())
    mask = np.zeros(SIZE, np.bool_)
    mask[50:190, 80:160] = True
    with pytest.raises(SettingsError, match="needs reference"):
        Detector(align="rigid", roi=mask, **SMALL)
    with pytest.raises(SettingsError, match="reference needs an alignment"):
        Detector(reference=tmp_path / "reference.png", **SMALL)
    settings = {**SMALL, "align": "rigid", "roi": mask, "reference": str(tmp_path / "reference.png")}
    detector = Detector(**settings).fit([drawn(seed) for seed in range(20)])
    pose = random_pose(400)
    inside, outside = drawn(400, defective=True), drawn(400)
    ((x, y),) = moved(np.array([[215.0, 80.0]]), pose, SIZE)
    cv2.circle(outside, (round(x), round(y)), 9, (0, 0, 0), cv2.FILLED)
    assert detector.inspect(inside).anomalous
    assert not detector.inspect(outside).anomalous
    counted = detector.model.counted(detector.inspect(inside))
    assert counted is not None
    ((left, top),) = moved(np.array([[120.0, 120.0]]), pose, SIZE)
    assert counted[round(top), round(left)]
    assert not counted[round(y), round(x)]


def test_images_that_lie_alike_have_the_same_verdicts() -> None:
    still = Pose(0.0, 0.0, 0.0, 1.0, 1.0)
    good = [drawn(seed, pose=still) for seed in range(20)]
    new = [
        *(drawn(seed, pose=still) for seed in range(50, 58)),
        *(drawn(90 + at, pose=still, defective=True) for at in range(4)),
    ]
    plain, aligned = Detector(**SMALL).fit(good), Detector(align="rigid", **SMALL).fit(good)
    assert plain.predict(new).tolist() == aligned.predict(new).tolist()
