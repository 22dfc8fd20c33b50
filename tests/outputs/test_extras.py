"""Files that inspect writes on demand: maps, masks, receipts; and the small pictures in the model file."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal.datasets import any_images
from offnominal.decisions import calibrate, find_regions, region_masks
from offnominal.errors import ModelFileError, SettingsError
from offnominal.images import Thumbnails, thumbnail
from offnominal.model import save_model
from offnominal.outputs.extras import Extras, evidence_row, extras_from
from offnominal.outputs.inspections import write_inspections
from offnominal.reports import LEVELS, CocoMasks, SourcePicture, encode_map, encode_mask, receipt, run_lengths
from offnominal.reports.receipt import CROP, crop
from offnominal.reports.sheet import Sheet
from offnominal.types import Inspection

ALL = extras_from(True, "anomaly,influence,noise,layers", "tiff", "png,coco", receipts=True)


@pytest.fixture(scope="module")
def written(detector: Detector, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("written")
    _, rows = write_inspections(detector, any_images([parts / "test"]), folder, ALL)
    stored = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert stored == json.loads(json.dumps(rows))
    return folder, stored


def test_rows_hold_the_evidence_of_every_region(detector: Detector, written: tuple[Path, list[dict[str, Any]]]) -> None:
    _, rows = written
    assert sum(len(row["regions"]) for row in rows) >= 5
    for row in rows:
        found = detector.inspect(row["path"], evidence=True)
        assert len(row["regions"]) == len(found.regions)
        for told, region in zip(row["regions"], found.regions, strict=True):
            evidence = told["evidence"]
            assert set(evidence) >= {
                "member",
                "nearest",
                "layer_shares",
                "channel_shares",
                "influence",
                "noise_std",
                "response",
                "p_value",
            }
            assert set(evidence["nearest"][0]) == {"image", "box", "distance", "distance_in_sd"}
            assert sum(evidence["layer_shares"].values()) == pytest.approx(1)
            assert evidence["member"] in {member.name for member in detector.model.members}
            again = json.loads(json.dumps(evidence_row(found.evidence(region))))
            assert [near["box"] for near in evidence["nearest"]] == [near["box"] for near in again["nearest"]]
            assert np.array(evidence["curve"]) == pytest.approx(np.array(again["curve"]), rel=1e-3)


def test_maps_can_be_read_back(detector: Detector, written: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = written
    for row in rows:
        found = detector.inspect(row["path"], maps=True)
        assert found.layer_maps is not None
        right = {"anomaly": found.anomaly_map, "influence": found.influence_map, "noise": found.noise_map}
        right |= {f"layer-{name}": values for name, values in found.layer_maps.items()}
        assert set(row["maps"]) == set(right)
        for name, told in row["maps"].items():
            stored = cv2.imread(str(folder / told["path"]), cv2.IMREAD_UNCHANGED)
            assert stored is not None
            assert stored.dtype == np.uint16
            values = told["low"] + stored.astype(float) / told["levels"] * (told["high"] - told["low"])
            assert values == pytest.approx(right[name], abs=(told["high"] - told["low"]) / 65535 + 1e-3)
        assert row["maps"]["anomaly"]["high"] >= 2 * row["threshold"]


@pytest.mark.parametrize("kind", ["png", "tiff", "npy"])
def test_a_map_comes_back_to_half_a_level(kind: Any) -> None:
    values = np.random.default_rng(0).normal(size=(31, 47)).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    content = encode_map(values, kind, low, high)
    assert content == encode_map(values, kind, low, high)
    if kind == "npy":
        stored = np.load(io.BytesIO(content), allow_pickle=False)
        assert stored.dtype == np.float32
        assert np.array_equal(stored, values)
    else:
        whole = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert whole is not None
        assert (whole.min(), whole.max()) == (0, LEVELS[kind])
        back = low + whole.astype(float) / LEVELS[kind] * (high - low)
        assert np.abs(back - values).max() <= 0.5001 * (high - low) / LEVELS[kind]
        with pytest.raises(ValueError, match="values must lie between"):
            encode_map(values, kind, low, 0.5 * high)


def decoded(segmentation: dict[str, Any]) -> np.ndarray:
    """COCO's run lengths, pixel by pixel: down the columns, zeros first."""
    height, width = segmentation["size"]
    mask = np.zeros((height, width), bool)
    at, value = 0, False
    for length in segmentation["counts"]:
        for _ in range(length):
            mask[at % height, at // height] = value
            at += 1
        value = not value
    assert at == height * width
    return mask


def test_run_lengths_decode_to_the_mask() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((9, 13)) > share for share in (0.1, 0.5, 0.9)]
    for mask in [*masks, np.zeros((4, 5), bool), np.ones((4, 5), bool), np.ones((1, 1), bool)]:
        counts = run_lengths(mask)
        assert np.array_equal(decoded({"size": list(mask.shape), "counts": counts}), mask)
        assert all(length > 0 for length in counts[1:])
        assert all(type(length) is int for length in counts)
        picture = cv2.imdecode(np.frombuffer(encode_mask(mask), np.uint8), cv2.IMREAD_UNCHANGED)
        assert picture is not None
        assert np.array_equal(picture, mask * np.uint8(255))


def test_coco_holds_every_region(written: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = written
    coco = json.loads((folder / "masks.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [row["path"] for row in rows]
    assert len({annotation["id"] for annotation in coco["annotations"]}) == len(coco["annotations"])
    for image, row in zip(coco["images"], rows, strict=True):
        mine = [annotation for annotation in coco["annotations"] if annotation["image_id"] == image["id"]]
        assert [annotation["score"] for annotation in mine] == [region["peak"] for region in row["regions"]]
        whole = np.zeros((image["height"], image["width"]), bool)
        for annotation, region in zip(mine, row["regions"], strict=True):
            mask = decoded(annotation["segmentation"])
            assert mask[region["peak_at"][1], region["peak_at"][0]]
            assert annotation["area"] == mask.sum()
            x, y, width, height = annotation["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert all(edge.any() for edge in (mask[y], mask[y + height - 1], mask[:, x], mask[:, x + width - 1]))
            assert annotation["category_id"] == coco["categories"][0]["id"]
            assert not (whole & mask).any()
            whole |= mask
        stored = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_UNCHANGED)
        assert stored is not None
        assert np.array_equal(stored > 0, whole)
        assert bool(whole.any()) == row["anomalous"]


@pytest.mark.parametrize("factor", [1, 3, 7])
def test_masks_are_the_map_above_the_threshold_region_by_region(factor: int) -> None:
    """A pixel above the threshold is in one mask; where the map was not resized the masks are the connected places."""
    rng = np.random.default_rng(factor)
    for _ in range(20):
        small = ndimage.gaussian_filter(rng.normal(size=(24, 30)), 1.5).astype(np.float32)
        calibration = calibrate(np.quantile(small, [0.9]).astype(np.float32), 0.5)
        threshold = calibration.threshold
        size = 24 * factor, 30 * factor
        large = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
        regions = find_regions(small, calibration, size)
        masks = region_masks(large, threshold, regions)
        count = np.sum(masks, axis=0)
        peaks = {region.peak_at for region in regions}
        assert count.max() == 1
        assert (count[large > threshold] == 1).all()
        assert all((int(x), int(y)) in peaks for y, x in np.argwhere((count == 1) & (large <= threshold)))
        if factor == 1:
            for region, mask in zip(regions, masks, strict=True):
                left, top, right, bottom = region.box
                assert mask.sum() == region.area
                assert mask[top:bottom, left:right].sum() == region.area


def test_words_of_the_command_line_are_checked() -> None:
    assert extras_from(maps=" noise,anomaly,noise", masks="coco") == Extras(
        maps=("noise", "anomaly"), map_format="png", masks=("coco",)
    )
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"maps": "anomly"}, "did you mean 'anomaly'"),
        ({"maps": "layers", "map_format": "tif"}, "did you mean 'tiff'"),
        ({"masks": ""}, "known: coco, png"),
        ({"map_format": "png"}, "without --maps"),
    )
    for words, said in cases:
        with pytest.raises(SettingsError, match=said):
            extras_from(**words)


def spoken(monkeypatch: pytest.MonkeyPatch, draw: Any) -> list[str]:
    """The words that a receipt writes."""
    words: list[str] = []
    plain = Sheet.text

    def noted(self: Any, at: Any, text: str, *rest: Any, **more: Any) -> None:
        words.append(text)
        plain(self, at, text, *rest, **more)

    monkeypatch.setattr(Sheet, "text", noted)
    draw()
    return words


def test_a_receipt_says_what_the_evidence_says(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    image = damaged(31)[0]
    found = detector.inspect(image, evidence=True)
    evidence = found.evidence(found.regions[0])
    sources = {near.image: SourcePicture(None, (96, 120)) for near in evidence.nearest}
    words = spoken(monkeypatch, lambda: receipt(image, found, 0, sources))
    for near in evidence.nearest:
        assert f"distance {near.distance:.2f}: {near.distance_in_sd:+.1f} sd" in words
        assert Path(near.image).name in words
    for share in evidence.layer_shares.values():
        assert f"{share:.1%}" in words
    assert {f"{share:.1%}" for _, share in evidence.channel_shares} <= set(words)
    assert {f"{pull:+.2f}" for _, pull in evidence.influence} <= set(words)
    assert {f"{evidence.noise_std:.3f}", f"{evidence.response:.3f}", f"{evidence.p_value:.3g}"} <= set(words)
    assert f"member {evidence.member}" in words
    assert words.count("no picture stored") == len(evidence.nearest)
    first = receipt(image, found, 0, sources)
    assert np.array_equal(first, receipt(image, found, 0, sources))


def test_a_receipt_is_drawn_of_whatever_evidence_there_is(detector: Detector) -> None:
    image = damaged(31)[0]
    found = detector.inspect(image, evidence=True)
    evidence = found.evidence(found.regions[0])
    sources = {near.image: SourcePicture(texture(0), (96, 120)) for near in evidence.nearest}
    size = receipt(image, found, 0, sources).shape
    flat = tuple((step, 0.0) for step, _ in evidence.curve)
    for odd in (
        {"nearest": evidence.nearest[:1], "layer_shares": {}, "channel_shares": (), "influence": ()},
        {"curve": flat, "usual_curve": ()},
        {"layer_shares": {f"layer {at}": 1 / 12 for at in range(12)}},
        {"member": "w" * 200, "layer_shares": {"x" * 200: 1.0}, "nearest": (replace(evidence.nearest[0], image="y" * 300),)},
    ):
        changed: Inspection = replace(
            found, path="z" * 300, regions=(replace(found.regions[0], evidence=replace(evidence, **odd)),)
        )
        given = {**sources, "y" * 300: SourcePicture(texture(0), (96, 120))}
        assert receipt(image, changed, 0, given).shape == size


@pytest.mark.parametrize("scale", [0.5, 1, 3])
@pytest.mark.parametrize("box", [(0, 0, 8, 8), (300, 60, 312, 70), (630, 92, 640, 100)])
def test_a_crop_shows_the_box_where_it_says(box: tuple[int, int, int, int], scale: float) -> None:
    left, top, right, bottom = box
    image = np.zeros((100, 640, 3), np.uint8)
    image[top:bottom, left:right] = 255
    picture = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    window, inner = crop(picture, (100, 640), box)
    assert window.shape == (CROP, CROP, 3)
    rows, columns = np.nonzero(window[:, :, 0] == 255)
    edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(np.array(edges) - inner).max() <= 4


def test_receipts_are_written_for_flagged_images(written: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = written
    for row in rows:
        assert bool(row["receipt"]) == row["anomalous"]
        if row["receipt"]:
            with Image.open(folder / row["receipt"]) as picture:
                assert picture.size == (1112, 672)


def test_thumbnails_are_the_training_images(detector: Detector, parts: Path) -> None:
    kept, members = detector.model.thumbnails, detector.model.members
    assert kept is not None
    in_banks = set(np.concatenate([member.bank.image for member in members]).tolist())
    assert kept.kept == len(in_banks)
    for at, source in enumerate(detector.model.sources):
        picture = kept.picture(at)
        assert (picture is not None) == (at in in_banks)
        if picture is not None:
            stored = cv2.imread(str(parts / source.name))
            assert stored is not None
            image = stored[:, :, ::-1]
            assert picture.shape == image.shape
            assert np.abs(ndimage.gaussian_filter(picture.astype(float) - image, (3, 3, 0))).mean() < 3


@pytest.mark.parametrize(("original", "shape"), [((300, 900), (85, 256)), ((40, 20), (40, 20)), ((1000, 1000), (256, 256))])
def test_thumbnails_keep_the_aspect(original: tuple[int, int], shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).uniform(-0.2, 1.2, (3, 256, 256)).astype(np.float32)
    content = thumbnail(pixels, original)
    assert content == thumbnail(pixels, original)
    picture = Thumbnails.of([b"", content, b""]).picture(1)
    assert picture is not None
    assert picture.shape == (*shape, 3)


def test_thumbnails_of_wide_images_show_the_models_range() -> None:
    wide = Detector(image_size=96, bank=100, runtime="torch").fit([texture(i).astype(np.uint16) * 16 for i in range(3)])
    kept = wide.model.thumbnails
    assert kept is not None
    picture = kept.picture(int(wide.model.members[0].bank.image[0]))
    assert picture is not None
    assert picture.min() < 30
    assert picture.max() > 225


def test_none_is_kept_where_none_may_be(parts: Path, tmp_path: Path) -> None:
    plain = Detector(image_size=128, bank=100, false_alarm_rate=0.1, thumbnails=False, runtime="torch").fit(parts)
    plain.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.model.thumbnails is None
    assert b"\xff\xd8\xff" not in (tmp_path / "m").read_bytes()
    write_inspections(loaded, any_images([parts / "test" / "blotch"]), tmp_path / "o", Extras(evidence=True, receipts=True))
    assert len(list((tmp_path / "o" / "receipts").iterdir())) == 5


def test_pictures_that_are_none_leave_a_receipt_without_them(detector: Detector, parts: Path, tmp_path: Path) -> None:
    """The file is ours and whole, but someone put other bytes where the pictures are."""
    done, png = cv2.imencode(".png", texture(0))
    assert done
    jpeg = thumbnail(np.zeros((3, 96, 96), np.float32), (96, 96))
    frame = jpeg.index(b"\xff\xc0")
    # They claim 65,535 x 65,535 and 11,000 x 11,000 pixels.
    bombs = [jpeg[: frame + 5] + side * 2 + jpeg[frame + 9 :] for side in (b"\xff\xff", b"\x2a\xf8")]
    count = len(detector.model.sources)
    for number, bad in enumerate((b"\xff", b"not a picture", png.tobytes(), jpeg[:60], jpeg[: len(jpeg) // 2], *bombs)):
        model = replace(detector.model, thumbnails=Thumbnails.of([bad] * count))
        save_model(model, tmp_path / "m")
        loaded = load(tmp_path / "m", runtime="torch")
        assert loaded.model.thumbnails is not None
        assert loaded.model.thumbnails.picture(0) is None
        if number == 0:
            run, _ = write_inspections(
                loaded, any_images([parts / "test" / "blotch"]), tmp_path / "o", Extras(evidence=True, receipts=True)
            )
            assert run.anomalous == 5


def test_damaged_pictures_never_raise() -> None:
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
def test_tables_of_pictures_that_do_not_fit_are_refused(
    detector: Detector, tmp_path: Path, field: str, value: np.ndarray
) -> None:
    pictures = Thumbnails.of([b"x" * 9] + [b""] * 11)
    object.__setattr__(pictures, field, value)
    model = replace(detector.model)
    object.__setattr__(model, "thumbnails", pictures)
    save_model(model, tmp_path / "m")
    with pytest.raises(ModelFileError, match="is inconsistent") as caught:
        load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_coco_of_nothing_is_whole() -> None:
    empty = CocoMasks()
    empty.add(3, "a.png", (4, 5), (), [])
    assert empty.as_json()["images"] == [{"id": 3, "file_name": "a.png", "width": 5, "height": 4}]
    assert empty.as_json()["annotations"] == []
