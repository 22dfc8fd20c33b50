"""Files that `inspect` writes. It decodes each image once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import texture
from offnominal import Detector
from offnominal.datasets import any_images, normal_images
from offnominal.errors import ImageError, OutputError
from offnominal.images import Geometry, ImageBatch, Preprocessing, ValueRange, batches, decode
from offnominal.memory import PatchStore
from offnominal.observer import Observer
from offnominal.outputs.audits import begin_audit
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.optional_outputs import Extras
from offnominal.outputs.report_writer import picture_name, write_picture
from offnominal.reports import overlay
from offnominal.storage.owned_files import own, remove_inspection
from offnominal.storage.spill import ArrayStore


def test_inspect_decodes_each_image_once(
    detector: Detector, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []

    def recording_decode(path: Path, memory: int) -> np.ndarray:
        decoded.append(path)
        return decode(path, memory)

    monkeypatch.setattr("offnominal.images.image_source.decode", recording_decode)
    items = any_images([parts / "test"])
    _, rows = write_inspections(detector, items, tmp_path)
    assert sorted(decoded) == sorted(item.path for item in items)
    for row in rows:
        image = decode(Path(row["path"]))
        inspection = detector.inspect(image)
        _, encoded = cv2.imencode(
            ".jpg", overlay(image, inspection.anomaly_map, inspection.threshold)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90]
        )
        drawn = cv2.imread(str(tmp_path / row["map"]))
        expected_picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert drawn is not None
        assert expected_picture is not None
        assert np.abs(drawn.astype(int) - expected_picture).mean() < 1


def test_pictures_are_recognised_during_a_run_and_after_a_kill(detector: Detector, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    (tmp_path / "a.png").write_bytes(next((parts / "test").rglob("*.png")).read_bytes())
    listed_during_run: list[str] = []

    class ListingObserver(Observer):
        def on_progress(self, stage: str, done: int, total: int) -> None:
            assert list((out / "overlays").iterdir())
            listed_during_run.extend(item.name for item in normal_images(tmp_path))

    write_inspections(detector, any_images([tmp_path / "a.png"]), out, observer=ListingObserver())
    assert listed_during_run == ["a.png"]
    (out / "results.jsonl").write_text("")  # the state after a kill
    (out / "overlays" / "own.jpg").write_bytes(b"")
    (out / "report.html").write_text("own")
    remove_inspection(out)
    assert [path.name for path in (out / "overlays").iterdir()] == ["own.jpg"]
    assert (out / "report.html").exists()
    begin_audit(tmp_path / "audited")
    assert (tmp_path / "audited" / "audit.csv").read_bytes() == b""


def test_very_long_file_names_are_shortened(detector: Detector, parts: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{'検' * 83}.png"
    path.write_bytes(next((parts / "test").rglob("*.png")).read_bytes())
    extras = Extras(maps=("layers",), masks=("png",))
    _, (row,) = write_inspections(detector, any_images([path]), tmp_path / "o", extras)
    assert row["map"] == f"overlays/00000-{'検' * 40}.jpg"
    for name in (row["map"], row["mask"], *(entry["path"] for entry in row["maps"].values())):
        assert (tmp_path / "o" / name).is_file()
    assert picture_name("007", "a/b.c.png") == "007-b.c"


def test_an_unwritable_temporary_folder_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with ArrayStore(0) as store, pytest.raises(OutputError, match="nowhere: cannot be written"):
        store.keep(np.zeros(3, np.uint8))
    with pytest.raises(OutputError, match="nowhere: cannot be written"):
        PatchStore(9, 9, limit=0)


def test_the_report_lists_every_image_and_its_files(detector: Detector, parts: Path, tmp_path: Path) -> None:
    items = any_images([parts / "test"])
    write_inspections(detector, items[-1:] + items[:-1], tmp_path, report="Earlier")
    (tmp_path / "report_files" / "mine.jpg").write_bytes(b"somebody's own")
    stale = own(tmp_path, "report_files/old.jpg", "inspect")
    stale.write_bytes(b"from an earlier run")
    _, rows = write_inspections(detector, items, tmp_path, Extras(evidence=True, receipts=True), report="Parts")
    page = (tmp_path / "report.html").read_text("utf-8")
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert sorted(image["name"] for image in data["images"]) == sorted(item.name for item in items)
    assert sorted(image["score"] for image in data["images"]) == sorted(row["score"] for row in rows)
    nearest = {
        near["image"] for image in data["images"] for region in image["regions"] for near in region["evidence"]["nearest"]
    }
    assert set(data["sources"]) == nearest
    for source in data["sources"].values():
        assert cv2.imread(str(tmp_path / source["file"])) is not None
    assert data["threshold"] == detector.model.calibration.threshold
    assert page.count('src="data:image/webp') == len(items)
    for image in data["images"]:
        for address in image["files"].values():
            assert (tmp_path / unquote(address)).is_file()
        for number, region in enumerate(image["regions"]):
            assert region["evidence"]["nearest"]
            assert (region["receipt"] is None) == (number > 0)
    receipts = [image["regions"][0]["receipt"] for image in data["images"] if image["regions"]]
    assert receipts
    assert all((tmp_path / unquote(address)).is_file() for address in receipts)
    assert not stale.exists()
    assert (tmp_path / "report_files" / "mine.jpg").exists()


def test_pictures_too_large_for_jpeg_are_scaled_down(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", np.zeros((8, 70_000, 3), np.uint8))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.size[0] == 65_500


def test_the_memory_of_kept_pixels_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [texture(i, (60 + 40 * (i % 5), 96)) for i in range(40)]
    failures: dict[int, ImageError] = {}

    def all_batches(keep: bool) -> list[ImageBatch]:
        return list(
            batches(
                sources,
                Preprocessing((Geometry((64, 64), "keep"),), ValueRange("8-bit", 0, 255)),
                batch_size=16,
                failed=failures.__setitem__,
                keep=keep,
            )
        )

    bound = 6 * sources[-1].nbytes
    monkeypatch.setitem(batches.__globals__, "MOST_KEPT", bound)
    kept = all_batches(keep=True)
    assert sorted(index for batch in kept for index in batch.index) == list(range(40))
    for batch in kept:
        assert sum(pixels.nbytes for pixels in batch.decoded if pixels is not None) <= bound + sources[-1].nbytes
        for index, pixels in zip(batch.index, batch.decoded, strict=True):
            assert pixels is not None
            assert np.array_equal(pixels, sources[index])
    assert all(pixels is None for batch in all_batches(keep=False) for pixels in batch.decoded)
    assert not failures
