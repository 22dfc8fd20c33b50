"""The detector end to end on generated parts, and damaged model files."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal.errors import ImageError, InputError, ModelFileError, OutputError, SettingsError
from offnominal.features.torchvision_schemas import import_timm
from offnominal.inference import Inspector


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ({"distance": -1}, r"fusion.distance = -1: Input should be greater"),
        ({"distance": 0, "influence": 0}, "fusion = .*: at least one signal"),
        ("4", "fusion = '4'"),
        ({"distanse": 1}, "did you mean 'distance'"),
    ],
)
def test_wrong_fusion_weights_are_refused(fusion: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Detector(fusion=fusion)


def test_a_defect_is_localised(detector: Detector) -> None:
    image, mask = damaged(300)
    inspection = detector.inspect(image)
    assert inspection.anomalous
    assert inspection.p_value == pytest.approx(1 / 13)
    row, column = np.unravel_index(int(inspection.anomaly_map.argmax()), inspection.anomaly_map.shape)
    assert mask[row, column]
    left, top, right, bottom = inspection.regions[0].box
    assert left < 75
    assert right > 40
    assert top < 60
    assert bottom > 30
    assert inspection.anomaly_map.shape == inspection.influence_map.shape == image.shape[:2]
    assert 0 <= inspection.influence_map.min() <= inspection.influence_map.max() <= 1.001


def test_evaluation_and_the_scikit_learn_methods(detector: Detector, parts: Path) -> None:
    result = detector.evaluate(parts)
    assert result.figures["image_auroc"] == 1.0
    assert result.figures["pixel_auroc"] is not None
    assert result.figures["pixel_auroc"] > 0.95
    assert set(result.classes) == {"blotch"}
    images = [texture(400), damaged(400)[0]]
    scores = detector.score_samples(images)
    assert scores[1] > scores[0]
    assert (detector.decision_function(images) > 0).tolist() == (detector.predict(images) == -1).tolist()


@pytest.mark.parametrize("image", [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8), "part.png", Path("part.png")])
def test_a_single_image_instead_of_a_list_is_refused(detector: Detector, image: Any) -> None:
    for call in (detector.score_samples, detector.predict, detector.decision_function):
        with pytest.raises(InputError, match="in a list"):
            call(image)
    if isinstance(image, np.ndarray):
        with pytest.raises(InputError, match="in a list"):
            Detector().fit(image)  # type: ignore[arg-type]
    batch = np.stack([texture(1), texture(2)])
    assert detector.score_samples(batch).tolist() == detector.score_samples(list(batch)).tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"smoothing": float("inf")},
        {"smoothing": 1e6},
        {"halo": 1e6},
        {"fusion": {"distance": float("inf")}},
        {"noise_range": [0.1, float("inf")]},
        {"noise_range": [0.1, float("nan")]},
    ],
)
def test_unbounded_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Detector(**settings)


def test_more_dimensions_than_channels_are_refused(parts: Path) -> None:
    with pytest.raises(SettingsError, match="the layers have 152 channels"):
        Detector(dimensions=153, image_size=96).fit(parts)


def test_all_kinds_of_input_score_alike(detector: Detector, parts: Path, model_file: Path) -> None:
    path = next((parts / "test" / "blotch").glob("*.png"))
    stored = cv2.imread(str(path))
    assert stored is not None
    image = stored[:, :, ::-1]
    scores = [detector.inspect(source).score for source in (path, str(path), image, Image.fromarray(image))]
    scores.append(load(model_file).inspect(path).score)
    assert scores == pytest.approx([scores[0]] * 5, abs=1e-4)
    assert load(model_file, runtime="torch").inspect(path).score == pytest.approx(scores[0], rel=0.02)


def test_explanation_has_the_quantities_of_the_method(detector: Detector) -> None:
    assert [member.name for member in detector.model.members] == ["efficientnet-lite0", "efficientnet-lite0@1.5"]
    for number, member in enumerate(detector.model.members):
        explanation = detector.explain(damaged(1)[0], number)
        assert explanation.member == member.name
        patches = explanation.grid[0] * explanation.grid[1]
        assert explanation.influence.shape == explanation.noise.shape == (patches, member.bank.patches.shape[1])
        assert explanation.distances.shape == (patches, 9)
        assert ((explanation.noise >= 0.01) & (explanation.noise <= 0.5)).all()
        assert (explanation.response >= 0).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"resize": "keep"},
        {"sampler": "random"},
        {"backbone": "efficientnet-lite0@0.75", "calibration": "leave-one-out"},
        {"runtime": "torch", "memory": 1000},
        {"fusion": {"response": 1.0}, "neighbors": 2},
        {"dimensions": 64, "image_size": "128x192"},
    ],
)
def test_defects_are_detected_with_every_setting(settings: dict[str, Any]) -> None:
    fitted = Detector(**{"image_size": 128, "bank": 200, "false_alarm_rate": 0.1, **settings}).fit(
        [texture(i) for i in range(10)]
    )
    assert fitted.inspect(damaged(50)[0]).score > fitted.inspect(texture(60)).score + 1


def test_images_of_several_shapes_in_one_fit() -> None:
    images = [texture(i, (96, 120 if i % 2 else 200)) for i in range(8)]
    fitted = Detector(resize="keep", image_size=96, bank=200).fit(images)
    assert {source.size for source in fitted.model.sources} == {(96, 120), (96, 200)}
    assert fitted.inspect(texture(9, (150, 150))).anomaly_map.shape == (150, 150)


def test_area_gives_narrow_images_about_as_many_patches(tmp_path: Path) -> None:
    shapes = [(96, 120), (120, 96), (240, 300), (30, 384), (96, 120)]
    fitted = Detector(image_size=192, bank=200).fit([texture(at, shape) for at, shape in enumerate(shapes)])
    geometries = [member.geometry for member in fitted.model.members]
    assert [(one.resize, one.size) for one in geometries] == [("area", (192, 240)), ("area", (288, 360))]
    fitted.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert [member.geometry for member in loaded.model.members] == geometries
    expected = len(fitted.explain(texture(9, (96, 120))).distances)
    for shape in ((192, 240), (30, 384), (500, 40)):
        assert len(loaded.explain(texture(9, shape)).distances) == pytest.approx(expected, rel=0.35)
        assert loaded.inspect(texture(9, shape)).anomaly_map.shape == shape
    with_keep = Detector(image_size=192, bank=200, resize="keep").fit([texture(at, shape) for at, shape in enumerate(shapes)])
    assert len(with_keep.explain(texture(9, (30, 384))).distances) > 5 * expected


def test_provenance_names_the_source_image_and_position(detector: Detector) -> None:
    """A bank patch has distance 0 at the position of the training image that its provenance names."""
    sources = detector.model.sources
    assert len(sources) == 12
    for number, member in enumerate(detector.model.members):
        bank = member.bank
        for at in (0, len(bank.patches) // 2):
            explanation = detector.explain(texture(int(sources[bank.image[at]].name.split("/")[-1][:3]))[:, :, ::-1], number)
            row, column = bank.position[at]
            assert explanation.distances[row * explanation.grid[1] + column, 0] < 0.05
            assert explanation.neighbours[row * explanation.grid[1] + column, 0] == at


def test_the_order_of_images_does_not_change_the_model_file(tmp_path: Path) -> None:
    images = [texture(seed) for seed in range(8)]
    paths = []
    for seed, image in enumerate(images):
        paths.append(tmp_path / f"{seed}.png")
        cv2.imwrite(str(paths[-1]), image)
    for name, ordered in (("a", paths), ("b", paths[::-1])):
        Detector(image_size=96, bank=100).fit(ordered).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_map_is_the_mean_of_the_maps_of_the_members(detector: Detector) -> None:
    """Compute the map of each member with a model of this member alone, then average the maps."""
    model, image = detector.model, damaged(7)[0]
    maps = []
    for member, engine in zip(model.members, detector._ready().engines, strict=True):
        ((_, inspection, _),) = Inspector(replace(model, members=(member,), appearance=None), (engine,)).inspect([image], fail)
        maps.append(inspection.anomaly_map)
    inspection = detector.inspect(image)
    assert inspection.anomaly_map == pytest.approx(np.mean(maps, axis=0), abs=0.05 * inspection.score)


def fail(index: int, error: ImageError) -> None:
    raise error


def test_the_same_fit_gives_the_same_bytes(parts: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Detector(image_size=96, bank=100).fit(parts).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_errors_about_training_data_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs at least 2"):
        Detector().fit([texture(0)])
    (tmp_path / "a.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "b.png"), texture(1))
    with pytest.raises(InputError, match="the file is empty"):
        Detector().fit(tmp_path)
    with pytest.raises(InputError, match="not been fitted"):
        Detector().inspect(texture(0))
    with pytest.raises(SettingsError, match="did you mean 'image_size'"):
        Detector(imagesize=3)


def test_unreadable_images_are_skipped_in_a_fit(tmp_path: Path) -> None:
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), texture(i))
    content = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(content[: len(content) // 2])
    cv2.imwrite(str(tmp_path / "wide.png"), texture(9).astype(np.uint16) * 256)
    fitted = Detector(image_size=96, bank=50).fit(tmp_path)
    assert len(fitted.model.sources) == 3
    assert sorted(name for name, _ in fitted.model.skipped) == ["0.png", "wide.png"]


def test_fits_refuse_duplicates_and_flat_images_and_scale_16_bit_images() -> None:
    with pytest.raises(InputError, match="all 3 images are duplicates"):
        Detector(image_size=96, bank=0.05).fit([texture(0)] * 3)
    with pytest.raises(InputError, match="no image has contrast"):
        Detector(image_size=96, bank=0.05).fit([np.full((64, 64), value, np.uint8) for value in (89, 90, 91)])
    images = [texture(i).astype(np.uint16) * 16 for i in range(4)]
    wide = Detector(image_size=96, bank=100).fit(images)
    assert wide.model.values.depth == "16-bit"
    skipped = int(1e-4 * images[0].size)  # pixels at each end that the value range ignores
    assert wide.model.values.low == min(np.sort(image, axis=None)[skipped] for image in images)
    assert wide.model.values.high == max(np.sort(image, axis=None)[-1 - skipped] for image in images)
    with pytest.raises(ImageError, match="is 8-bit"):
        wide.inspect(texture(0))


def test_damaged_and_foreign_model_files_are_refused(model_file: Path, tmp_path: Path) -> None:
    content = model_file.read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("a model, honestly")
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "foreign")
    for name in ("cut", "empty", "text", "foreign", "missing"):
        with pytest.raises(ModelFileError) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)
    rng = np.random.default_rng(0)
    for at in rng.integers(8, len(content), 60):
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "flipped").write_bytes(flipped)
        with pytest.raises(ModelFileError):
            load(tmp_path / "flipped")


def test_model_files_with_other_versions_or_weights_are_refused(model_file: Path, tmp_path: Path) -> None:
    content = model_file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["version"] = "99"
    changed = json.dumps(header).encode()
    (tmp_path / "newer").write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + size :])
    with pytest.raises(ModelFileError, match="format version 99"):
        load(tmp_path / "newer")
    other = import_timm().create_model("tf_efficientnet_lite0", pretrained=False)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match="other weights"):
        load(model_file, weights=tmp_path / "other.pth")


def test_a_failed_save_keeps_the_existing_file(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.safetensors"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        detector.save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert target.read_text() == "old"
