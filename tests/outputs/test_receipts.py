"""Receipts, and the thumbnails of training images in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy import ndimage

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal.datasets import any_images
from offnominal.errors import ModelFileError
from offnominal.images import Thumbnails, thumbnail
from offnominal.model import save_model
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.optional_outputs import Extras
from offnominal.reports import SourcePicture, receipt
from offnominal.reports.receipt import CROP, crop
from offnominal.reports.sheet import Sheet
from offnominal.types import Inspection


def texts_of(monkeypatch: pytest.MonkeyPatch, draw: Any) -> list[str]:
    """The texts that `draw` writes onto a receipt."""
    texts: list[str] = []
    original = Sheet.text

    def recording(self: Any, at: Any, text: str, *args: Any, **kwargs: Any) -> None:
        texts.append(text)
        original(self, at, text, *args, **kwargs)

    monkeypatch.setattr(Sheet, "text", recording)
    draw()
    return texts


def test_receipts_show_the_numbers_of_the_evidence(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    image = damaged(31)[0]
    inspection = detector.inspect(image, evidence=True)
    evidence = inspection.evidence(inspection.regions[0])
    sources = {near.image: SourcePicture(None, (96, 120)) for near in evidence.nearest}
    texts = texts_of(monkeypatch, lambda: receipt(image, inspection, 0, sources))
    for near in evidence.nearest:
        assert f"distance {near.distance:.2f}: {near.distance_in_sd:+.1f} sd" in texts
        assert Path(near.image).name in texts
    for share in evidence.layer_shares.values():
        assert f"{share:.1%}" in texts
    assert {f"{share:.1%}" for _, share in evidence.channel_shares} <= set(texts)
    assert {f"{pull:+.2f}" for _, pull in evidence.influence} <= set(texts)
    assert {f"{evidence.noise_std:.3f}", f"{evidence.response:.3f}", f"{evidence.p_value:.3g}"} <= set(texts)
    assert f"member {evidence.member}" in texts
    assert texts.count("no picture stored") == len(evidence.nearest)
    first = receipt(image, inspection, 0, sources)
    assert np.array_equal(first, receipt(image, inspection, 0, sources))


def test_receipts_are_drawn_for_incomplete_and_long_evidence(detector: Detector) -> None:
    image = damaged(31)[0]
    inspection = detector.inspect(image, evidence=True)
    evidence = inspection.evidence(inspection.regions[0])
    sources = {near.image: SourcePicture(texture(0), (96, 120)) for near in evidence.nearest}
    size = receipt(image, inspection, 0, sources).shape
    flat = tuple((step, 0.0) for step, _ in evidence.curve)
    for changes in (
        {"nearest": evidence.nearest[:1], "layer_shares": {}, "channel_shares": (), "influence": ()},
        {"curve": flat, "typical_curve": ()},
        {"layer_shares": {f"layer {at}": 1 / 12 for at in range(12)}},
        {"member": "w" * 200, "layer_shares": {"x" * 200: 1.0}, "nearest": (replace(evidence.nearest[0], image="y" * 300),)},
    ):
        changed: Inspection = replace(
            inspection, path="z" * 300, regions=(replace(inspection.regions[0], evidence=replace(evidence, **changes)),)
        )
        pictures = {**sources, "y" * 300: SourcePicture(texture(0), (96, 120))}
        assert receipt(image, changed, 0, pictures).shape == size


@pytest.mark.parametrize("scale", [0.5, 1, 3])
@pytest.mark.parametrize("box", [(0, 0, 8, 8), (300, 60, 312, 70), (630, 92, 640, 100)])
def test_crops_show_the_box_at_the_reported_position(box: tuple[int, int, int, int], scale: float) -> None:
    left, top, right, bottom = box
    image = np.zeros((100, 640, 3), np.uint8)
    image[top:bottom, left:right] = 255
    picture = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    window, inner = crop(picture, (100, 640), box)
    assert window.shape == (CROP, CROP, 3)
    rows, columns = np.nonzero(window[:, :, 0] == 255)
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.array(edges) - inner).max() <= 4


def test_thumbnails_show_the_training_images_of_the_bank(detector: Detector, parts: Path) -> None:
    thumbnails, members = detector.model.thumbnails, detector.model.members
    assert thumbnails is not None
    in_banks = set(np.concatenate([member.bank.image for member in members]).tolist())
    assert thumbnails.kept == len(in_banks)
    for at, source in enumerate(detector.model.sources):
        picture = thumbnails.picture(at)
        assert (picture is not None) == (at in in_banks)
        if picture is not None:
            stored = cv2.imread(str(parts / source.name))
            assert stored is not None
            image = stored[:, :, ::-1]
            assert picture.shape == image.shape
            assert np.abs(ndimage.gaussian_filter(picture.astype(float) - image, (3, 3, 0))).mean() < 3


@pytest.mark.parametrize(("original", "shape"), [((300, 900), (85, 256)), ((40, 20), (40, 20)), ((1000, 1000), (256, 256))])
def test_thumbnails_keep_the_aspect_ratio(original: tuple[int, int], shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).uniform(-0.2, 1.2, (3, 256, 256)).astype(np.float32)
    content = thumbnail(pixels, original)
    assert content == thumbnail(pixels, original)
    picture = Thumbnails.of([b"", content, b""]).picture(1)
    assert picture is not None
    assert picture.shape == (*shape, 3)


def test_thumbnails_of_16_bit_images_use_the_value_range_of_the_model() -> None:
    detector = Detector(image_size=96, bank=100, runtime="torch").fit([texture(i).astype(np.uint16) * 16 for i in range(3)])
    thumbnails = detector.model.thumbnails
    assert thumbnails is not None
    picture = thumbnails.picture(int(detector.model.members[0].bank.image[0]))
    assert picture is not None
    assert picture.min() < 30
    assert picture.max() > 225


def test_models_without_thumbnails_store_no_pictures(parts: Path, tmp_path: Path) -> None:
    fitted = Detector(image_size=128, bank=100, false_alarm_rate=0.1, thumbnails=False, runtime="torch").fit(parts)
    fitted.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.model.thumbnails is None
    assert b"\xff\xd8\xff" not in (tmp_path / "m").read_bytes()
    write_inspections(loaded, any_images([parts / "test" / "blotch"]), tmp_path / "o", Extras(evidence=True, receipts=True))
    assert len(list((tmp_path / "o" / "receipts").iterdir())) == 5


def test_invalid_thumbnails_are_left_out_of_receipts(detector: Detector, parts: Path, tmp_path: Path) -> None:
    """The model file is intact, but its thumbnails were replaced by other bytes."""
    encoded, png = cv2.imencode(".png", texture(0))
    assert encoded
    jpeg = thumbnail(np.zeros((3, 96, 96), np.float32), (96, 96))
    frame = jpeg.index(b"\xff\xc0")
    # JPEG headers that state 65,535 x 65,535 and 11,000 x 11,000 pixels.
    bombs = [jpeg[: frame + 5] + side * 2 + jpeg[frame + 9 :] for side in (b"\xff\xff", b"\x2a\xf8")]
    count = len(detector.model.sources)
    for number, content in enumerate((b"\xff", b"not a picture", png.tobytes(), jpeg[:60], jpeg[: len(jpeg) // 2], *bombs)):
        model = replace(detector.model, thumbnails=Thumbnails.of([content] * count))
        save_model(model, tmp_path / "m")
        loaded = load(tmp_path / "m", runtime="torch")
        assert loaded.model.thumbnails is not None
        assert loaded.model.thumbnails.picture(0) is None
        if number == 0:
            run, _ = write_inspections(
                loaded, any_images([parts / "test" / "blotch"]), tmp_path / "o", Extras(evidence=True, receipts=True)
            )
            assert run.anomalous == 5


def test_damaged_thumbnails_never_raise() -> None:
    jpeg = thumbnail(texture(0).transpose(2, 0, 1).astype(np.float32) / np.float32(255), (96, 120))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged_bytes = bytearray(jpeg)
        for at in rng.integers(0, len(jpeg) if rng.random() < 0.5 else 400, rng.integers(1, 6)):
            damaged_bytes[at] = int(rng.integers(256))
        picture = Thumbnails.of([bytes(damaged_bytes)]).picture(0)
        assert picture is None or max(picture.shape[:2]) <= 256


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ends", np.array([5, 3, 9] + [9] * 9, np.int64)),
        ("ends", np.full(12, 4, np.int64)),
        ("ends", np.array([9], np.int64)),
        ("ends", np.array([-1] + [9] * 11, np.int64)),
        ("ends", np.full(12, 9.0)),
        ("ends", np.full((3, 4), 9, np.int64)),
        ("ends", np.empty(0, np.int64)),
        ("content", np.zeros(9, np.float32)),
        ("content", np.zeros((3, 3), np.uint8)),
    ],
)
def test_inconsistent_thumbnail_tables_are_refused(detector: Detector, tmp_path: Path, field: str, value: np.ndarray) -> None:
    pictures = Thumbnails.of([b"x" * 9] + [b""] * 11)
    object.__setattr__(pictures, field, value)
    model = replace(detector.model)
    object.__setattr__(model, "thumbnails", pictures)
    save_model(model, tmp_path / "m")
    with pytest.raises(ModelFileError, match="is inconsistent") as caught:
        load(tmp_path / "m")
    assert "\n" not in str(caught.value)
