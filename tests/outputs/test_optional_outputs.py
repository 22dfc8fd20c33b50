"""Optional files of `inspect`: maps, masks and receipts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from offnominal import Detector
from offnominal.datasets import any_images
from offnominal.decisions import calibrate, find_regions, region_masks
from offnominal.errors import SettingsError
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.optional_outputs import Extras, evidence_row, extras_from
from offnominal.reports import LEVELS, CocoMasks, encode_map, encode_mask, run_lengths

ALL = extras_from(True, "anomaly,influence,noise,layers", "tiff", "png,coco", receipts=True)


@pytest.fixture(scope="module")
def written(detector: Detector, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("written")
    _, rows = write_inspections(detector, any_images([parts / "test"]), folder, ALL)
    stored = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert stored == json.loads(json.dumps(rows))
    return folder, stored


def test_rows_hold_the_evidence_of_each_region(detector: Detector, written: tuple[Path, list[dict[str, Any]]]) -> None:
    _, rows = written
    assert sum(len(row["regions"]) for row in rows) >= 5
    for row in rows:
        inspection = detector.inspect(row["path"], evidence=True)
        assert len(row["regions"]) == len(inspection.regions)
        for row_region, region in zip(row["regions"], inspection.regions, strict=True):
            evidence = row_region["evidence"]
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
            expected = json.loads(json.dumps(evidence_row(inspection.evidence(region))))
            assert [near["box"] for near in evidence["nearest"]] == [near["box"] for near in expected["nearest"]]
            assert np.array(evidence["curve"]) == pytest.approx(np.array(expected["curve"]), rel=1e-3)


def test_stored_maps_decode_to_the_maps(detector: Detector, written: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = written
    for row in rows:
        inspection = detector.inspect(row["path"], maps=True)
        assert inspection.layer_maps is not None
        expected = {"anomaly": inspection.anomaly_map, "influence": inspection.influence_map, "noise": inspection.noise_map}
        expected |= {f"layer-{name}": values for name, values in inspection.layer_maps.items()}
        assert set(row["maps"]) == set(expected)
        for name, entry in row["maps"].items():
            stored = cv2.imread(str(folder / entry["path"]), cv2.IMREAD_UNCHANGED)
            assert stored is not None
            assert stored.dtype == np.uint16
            values = entry["low"] + stored.astype(float) / entry["levels"] * (entry["high"] - entry["low"])
            assert values == pytest.approx(expected[name], abs=(entry["high"] - entry["low"]) / 65535 + 1e-3)
        assert row["maps"]["anomaly"]["high"] >= 2 * row["threshold"]


@pytest.mark.parametrize("kind", ["png", "tiff", "npy"])
def test_encoded_maps_are_accurate_to_half_a_level(kind: Any) -> None:
    values = np.random.default_rng(0).normal(size=(31, 47)).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    content = encode_map(values, kind, low, high)
    assert content == encode_map(values, kind, low, high)
    if kind == "npy":
        stored = np.load(io.BytesIO(content), allow_pickle=False)
        assert stored.dtype == np.float32
        assert np.array_equal(stored, values)
    else:
        levels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert levels is not None
        assert (levels.min(), levels.max()) == (0, LEVELS[kind])
        decoded_values = low + levels.astype(float) / LEVELS[kind] * (high - low)
        assert np.abs(decoded_values - values).max() <= 0.5001 * (high - low) / LEVELS[kind]
        with pytest.raises(ValueError, match="values must lie between"):
            encode_map(values, kind, low, 0.5 * high)


def decoded(segmentation: dict[str, Any]) -> np.ndarray:
    """Decode COCO run lengths pixel by pixel: column-major, zeros first."""
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


def test_coco_annotations_match_the_regions(written: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = written
    coco = json.loads((folder / "masks.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [row["path"] for row in rows]
    assert len({annotation["id"] for annotation in coco["annotations"]}) == len(coco["annotations"])
    for image, row in zip(coco["images"], rows, strict=True):
        annotations = [annotation for annotation in coco["annotations"] if annotation["image_id"] == image["id"]]
        assert [annotation["score"] for annotation in annotations] == [region["peak"] for region in row["regions"]]
        union = np.zeros((image["height"], image["width"]), bool)
        for annotation, region in zip(annotations, row["regions"], strict=True):
            mask = decoded(annotation["segmentation"])
            assert mask[region["peak_at"][1], region["peak_at"][0]]
            assert annotation["area"] == mask.sum()
            x, y, width, height = annotation["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert all(edge.any() for edge in (mask[y], mask[y + height - 1], mask[:, x], mask[:, x + width - 1]))
            assert annotation["category_id"] == coco["categories"][0]["id"]
            assert not (union & mask).any()
            union |= mask
        stored = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_UNCHANGED)
        assert stored is not None
        assert np.array_equal(stored > 0, union)
        assert bool(union.any()) == row["anomalous"]


@pytest.mark.parametrize("factor", [1, 3, 7])
def test_region_masks_cover_the_map_above_the_threshold(factor: int) -> None:
    """Each pixel above the threshold is in exactly one mask.

    Without resizing, the masks are the connected components.
    """
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


def test_option_values_are_parsed_and_checked() -> None:
    assert extras_from(maps=" noise,anomaly,noise", masks="coco") == Extras(
        maps=("noise", "anomaly"), map_format="png", masks=("coco",)
    )
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"maps": "anomly"}, "did you mean 'anomaly'"),
        ({"maps": "layers", "map_format": "tif"}, "did you mean 'tiff'"),
        ({"masks": ""}, "known: coco, png"),
        ({"map_format": "png"}, "without --maps"),
    )
    for options, message in cases:
        with pytest.raises(SettingsError, match=message):
            extras_from(**options)


def test_coco_without_regions_is_valid() -> None:
    empty = CocoMasks()
    empty.add(3, "a.png", (4, 5), (), [])
    assert empty.as_json()["images"] == [{"id": 3, "file_name": "a.png", "width": 5, "height": 4}]
    assert empty.as_json()["annotations"] == []


def test_receipts_are_written_for_flagged_images(written: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = written
    for row in rows:
        assert bool(row["receipt"]) == row["anomalous"]
        if row["receipt"]:
            with Image.open(folder / row["receipt"]) as picture:
                assert picture.size == (1112, 672)
