"""Detectors with gates, zones and sizes in mm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import texture
from moved_parts import SIZE as PART
from moved_parts import drawn, part
from offnominal import Detector, load
from offnominal.errors import ImageError, InputError, ModelFileError, SettingsError
from offnominal.gates import Gate, Zone
from offnominal.inference import held_out_maps, scores_of_model
from offnominal.model import save_model
from offnominal.roi import RegionOfInterest

SIZE = (128, 128)
SMALL: dict[str, Any] = {"preset": "fast", "image_size": 128, "bank": 200, "false_alarm_rate": 0.1}
GOOD = [texture(seed, SIZE) for seed in range(20)]


def spotted(seed: int, side: int, at: tuple[int, int] = (60, 60)) -> np.ndarray:
    """A part with a square of random colours."""
    image = texture(seed, SIZE)
    row, column = at
    image[row : row + side, column : column + side] = np.random.default_rng(seed).integers(0, 255, (side, side, 3))
    return image


def left_half(columns: int = 64) -> RegionOfInterest:
    mask = np.zeros(SIZE, np.bool_)
    mask[:, :columns] = True
    return RegionOfInterest.of(mask)


@pytest.fixture(scope="module")
def plain() -> Detector:
    return Detector(**SMALL).fit(GOOD)


@pytest.fixture(scope="module")
def gated() -> Detector:
    """Regions from 4000 pixels: 250 cells of the map. A small strong defect fills less, in spite of the blur of the map."""
    return Detector(min_area="40mm2", mm_per_pixel=0.1, **SMALL).fit(GOOD)


def test_a_small_region_passes_no_gate(plain: Detector, gated: Detector) -> None:
    small, large = spotted(50, 10), spotted(50, 80, at=(24, 24))
    assert plain.inspect(small).anomalous
    assert not gated.inspect(small).anomalous
    assert gated.inspect(small).regions == ()
    inspection = gated.inspect(large)
    assert inspection.anomalous
    assert inspection.score < plain.inspect(large).score
    (region,) = inspection.regions
    assert region.mm is not None
    assert region.mm.area == pytest.approx(region.area / 100, rel=0.01)
    assert region.mm.area >= 40
    assert region.mm.length == pytest.approx(region.length / 10)
    assert region.mm.width <= region.mm.length
    assert region.peak > inspection.score
    assert region.p_value == inspection.p_value


def test_calibration_scores_pass_the_same_gate(gated: Detector) -> None:
    model = gated.model
    members = [(member.held_out.signals, model.networks(member)) for member in model.members]
    maps = held_out_maps(members, model.settings, [source.group for source in model.sources])
    gates = model.gates
    expected = [
        max(area.level(values) for area in gates.areas(values.shape, source.size))
        for values, source in zip(maps, model.sources, strict=True)
    ]
    assert sorted(expected) == model.calibration.scores.tolist()
    assert max(values.max() for values in maps) > max(expected)


def test_a_gate_of_nothing_changes_nothing(plain: Detector) -> None:
    new = [texture(seed, SIZE) for seed in range(60, 64)]
    whole = Zone("all", RegionOfInterest.of(np.ones(SIZE, np.bool_)), Gate())
    for settings in ({"min_area": "0", "min_length": 0}, {"zones": (whole,)}, {"min_area": "1px2"}):
        other = Detector(**SMALL, **settings).fit(GOOD)
        assert other.score_samples(new).tolist() == plain.score_samples(new).tolist()
        assert other.model.calibration.threshold == plain.model.calibration.threshold


def test_a_model_file_keeps_gates_and_zones(tmp_path: Path) -> None:
    zones = (Zone("seal", left_half(), Gate(min_length="2mm")),)
    detector = Detector(zones=zones, min_area="30px2", mm_per_pixel=(0.1, 0.2), **SMALL).fit(GOOD)
    detector.save(tmp_path / "part")
    loaded = load(tmp_path / "part")
    assert loaded.model.gates == detector.model.gates
    image = spotted(51, 30, at=(20, 20))
    one, other = detector.inspect(image), loaded.inspect(image)
    assert (one.score, one.zones, one.regions) == (other.score, other.zones, other.regions)
    before = loaded.model.calibration.threshold
    loaded.update(add=[texture(70, SIZE)])
    assert loaded.model.gates == detector.model.gates
    assert loaded.model.calibration.scores.tolist() == sorted(scores_of_model(loaded.model).tolist())
    assert loaded.model.calibration.threshold == pytest.approx(before, rel=0.5)
    rescaled = load(tmp_path / "part", mm_per_pixel=1)
    assert rescaled.model.gates.mm_per_pixel == (1, 1)


def test_zones_have_scores_and_adjusted_p_values() -> None:
    detector = Detector(zones=(Zone("left", left_half(40), Gate()),), **SMALL).fit(GOOD)
    left, right = detector.inspect(spotted(52, 16, at=(50, 10))), detector.inspect(spotted(52, 16, at=(50, 104)))
    assert left.anomalous
    assert right.anomalous
    assert left.zones[0].score == left.score
    assert left.zones[0].p_value == left.p_value == left.regions[0].p_value
    assert left.regions[0].zone == "left"
    assert right.zones[0].score < right.score
    assert right.zones[0].p_value > right.p_value
    assert {region.zone for region in right.regions} == {None}


def test_zones_move_with_the_part(tmp_path: Path) -> None:
    reference = tmp_path / "reference.png"
    cv2.imwrite(str(reference), part())
    around = {"name": "defect", "polygon": [[120, 130], [160, 130], [160, 175], [120, 175]], "gate": {"min_length": "8px"}}
    file = tmp_path / "zones.json"
    file.write_text(json.dumps({"width": PART[1], "height": PART[0], "zones": [around]}))
    with pytest.raises(SettingsError, match="zones with an alignment need reference"):
        Detector(align="rigid", zones=file)
    settings = {**SMALL, "bank": 300, "align": "rigid", "reference": reference, "zones": file, "mm_per_pixel": 0.5}
    detector = Detector(**settings).fit([drawn(seed) for seed in range(14)])
    inspection = detector.inspect(drawn(100, defective=True))
    assert inspection.anomalous
    leading = inspection.regions[0]
    assert leading.zone == "defect"
    assert leading.mm is not None
    assert leading.mm.length == pytest.approx(leading.length / 2, rel=0.01)


def test_the_size_of_pixels_comes_with_the_image(gated: Detector, tmp_path: Path) -> None:
    """A spot that is too small at 0.1 mm a pixel is large enough at 0.5 mm."""
    small = spotted(50, 10)
    assert not gated.inspect(small).anomalous
    assert gated.inspect(small, mm_per_pixel=0.5).anomalous
    with pytest.raises(SettingsError, match="give the size of a pixel in mm"):
        gated.inspect(small, mm_per_pixel=-1)
    rows = ["path,mm_per_pixel"]
    for seed, image in enumerate(GOOD):
        cv2.imwrite(str(tmp_path / f"{seed:02d}.png"), image)
        rows.append(f"{seed:02d}.png,{0.1 if seed else '0.1,0.1'!r}".replace("'", '"'))
    (tmp_path / "good.csv").write_text("\n".join(rows))
    measured = Detector(min_area="40mm2", **SMALL).fit(tmp_path / "good.csv")
    same = Detector(min_area="40mm2", mm_per_pixel=0.1, **SMALL).fit(sorted(tmp_path.glob("*.png")))
    assert measured.model.calibration.scores.tolist() == same.model.calibration.scores.tolist()
    assert {source.mm_per_pixel for source in measured.model.sources} == {(0.1, 0.1)}
    measured.save(tmp_path / "part")
    assert load(tmp_path / "part").model.sources == measured.model.sources
    assert measured.inspect(small, mm_per_pixel=0.1).score == same.inspect(small).score
    with pytest.raises(ImageError, match="a gate is in mm and the size of a pixel is not known; give mm_per_pixel"):
        measured.inspect(small)
    with pytest.raises(InputError, match=r"none of 1 images can be added; .* give mm_per_pixel"):
        measured.update(add=[texture(71, SIZE)])
    with pytest.raises(InputError, match="a gate is in mm and the size of a pixel is not known; give mm_per_pixel"):
        Detector(min_area="40mm2", **SMALL).fit(GOOD)
    (tmp_path / "bad.csv").write_text("path,mm_per_pixel\n00.png,wide\n")
    with pytest.raises(InputError, match=r"bad.csv: row 1: mm_per_pixel = 'wide': give the size of a pixel"):
        Detector(**SMALL).fit(tmp_path / "bad.csv")


def test_a_part_that_is_unlike_the_others_stands_out_in_an_audit_with_a_gate() -> None:
    images = [*GOOD[:12], spotted(53, 10), spotted(54, 60, at=(30, 30))]
    audited = Detector(**SMALL, min_area="400px2").audit(images)
    assert audited.names[int(audited.scores.argmax())] == "array 13"


def zones_file(path: Path, *zones: dict[str, Any], **size: int) -> Path:
    path.write_text(json.dumps({"width": 128, "height": 128, **size, "zones": list(zones)}))
    return path


SQUARE = [[0, 0], [63, 0], [63, 63], [0, 63]]


@pytest.mark.parametrize(
    ("zones", "reason"),
    [
        ([], "the list of zones is empty"),
        ([{"polygon": SQUARE}], "no 'name'"),
        ([{"name": "a"}], "no 'polygon'"),
        ([{"name": " ", "polygon": SQUARE}], "a zone has no name"),
        ([{"name": "a", "polygon": [[0, 0]]}], "at least three points"),
        ([{"name": "a", "polygon": SQUARE, "gate": {"area": "1mm2"}}], "zone 'a': unknown entry 'area'"),
        ([{"name": "a", "polygon": SQUARE, "gate": {"min_area": "1mm"}}], "zone 'a': give an area such as 0.3mm2"),
        ([{"name": "a", "polygon": SQUARE}, {"name": "a", "polygon": SQUARE}], "two zones are named 'a'"),
        ([7], "not subscriptable"),
    ],
)
def test_wrong_zones_are_refused_in_one_line(zones: list[Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"zones.json: are no zones \(.*{reason}.*\); give width, height") as caught:
        Detector(zones=zones_file(tmp_path / "zones.json", *zones))
    assert "\n" not in str(caught.value)


def test_zones_may_touch_and_not_overlap(tmp_path: Path) -> None:
    touching = [[63, 0], [127, 0], [127, 63], [63, 63]]
    zones = [{"name": "a", "polygon": SQUARE}, {"name": "b", "polygon": touching}]
    read = Detector(zones=zones_file(tmp_path / "zones.json", *zones)).settings.zones
    assert isinstance(read, tuple)
    assert [zone.name for zone in read] == ["a", "b"]
    zones[1] = {"name": "b", "polygon": [[50, 0], [127, 0], [127, 63]]}
    with pytest.raises(InputError, match=r"zones.json: the zones 'a' and 'b' overlap; draw them apart"):
        Detector(zones=zones_file(tmp_path / "zones.json", *zones))
    with pytest.raises(InputError, match=r"nothing.json: cannot be read"):
        Detector(zones=tmp_path / "nothing.json")
    zones = [{"name": "a", "polygon": SQUARE}]
    file = zones_file(tmp_path / "zones.json", *zones, height=64)
    with pytest.raises(InputError, match="is 128 x 128, and the zones were drawn for 128 x 64; draw them on an image"):
        Detector(zones=file, **SMALL).fit(GOOD)


def test_too_large_a_gate_is_refused() -> None:
    with pytest.raises(InputError, match="the image is smaller than its own gate; give a smaller gate"):
        Detector(min_area="20000px2", **SMALL).fit(GOOD)


def test_models_with_malformed_gates_are_refused(tmp_path: Path) -> None:
    detector = Detector(zones=(Zone("left", left_half(), Gate()),), **SMALL).fit(GOOD[:6])
    broken = replace(
        detector.model,
        settings=detector.model.settings.model_copy(update={"zones": (Zone("left", left_half(), Gate("1lightyear")),)}),
    )
    save_model(broken, tmp_path / "part")
    with pytest.raises(ModelFileError, match=r"is inconsistent \(give an area such as 0.3mm2"):
        load(tmp_path / "part")
