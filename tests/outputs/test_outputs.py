"""What inspect leaves behind, and that each image is decoded once for it."""

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
from offnominal.images import Geometry, ImageBatch, ValueRange, batches, decode
from offnominal.memory import PatchStore
from offnominal.observer import Observer
from offnominal.outputs.audits import begin_audit
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.optional_outputs import Extras
from offnominal.outputs.report_writer import picture_name, write_picture
from offnominal.reports import overlay
from offnominal.storage.owned_files import own, remove_inspection
from offnominal.storage.spill import ArrayStore


def test_each_image_is_decoded_once(detector: Detector, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []

    def counted(path: Path, memory: int) -> np.ndarray:
        decoded.append(path)
        return decode(path, memory)

    monkeypatch.setattr("offnominal.images.image_source.decode", counted)
    items = any_images([parts / "test"])
    _, rows = write_inspections(detector, items, tmp_path)
    assert sorted(decoded) == sorted(item.path for item in items)
    for row in rows:
        image = decode(Path(row["path"]))
        found = detector.inspect(image)
        _, expected = cv2.imencode(
            ".jpg", overlay(image, found.anomaly_map, found.threshold)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90]
        )
        drawn = cv2.imread(str(tmp_path / row["map"]))
        right = cv2.imdecode(expected, cv2.IMREAD_COLOR)
        assert drawn is not None
        assert right is not None
        assert np.abs(drawn.astype(int) - right).mean() < 1


def test_pictures_are_known_as_a_runs_while_it_runs_and_after_it_was_killed(
    detector: Detector, parts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "found"
    (tmp_path / "a.png").write_bytes(next((parts / "test").rglob("*.png")).read_bytes())
    while_it_runs: list[str] = []

    class Looking(Observer):
        def on_progress(self, stage: str, done: int, total: int) -> None:
            assert list((out / "overlays").iterdir())
            while_it_runs.extend(item.name for item in normal_images(tmp_path))

    write_inspections(detector, any_images([tmp_path / "a.png"]), out, observer=Looking())
    assert while_it_runs == ["a.png"]
    (out / "results.jsonl").write_text("")  # as a run leaves it that is killed
    (out / "overlays" / "own.jpg").write_bytes(b"")
    (out / "report.html").write_text("own")
    remove_inspection(out)
    assert [path.name for path in (out / "overlays").iterdir()] == ["own.jpg"]
    assert (out / "report.html").exists()
    begin_audit(tmp_path / "audited")
    assert (tmp_path / "audited" / "audit.csv").read_bytes() == b""


def test_names_as_long_as_a_system_takes_do_not_end_a_run(detector: Detector, parts: Path, tmp_path: Path) -> None:
    long = tmp_path / f"{'検' * 83}.png"
    long.write_bytes(next((parts / "test").rglob("*.png")).read_bytes())
    extras = Extras(maps=("layers",), masks=("png",))
    _, (row,) = write_inspections(detector, any_images([long]), tmp_path / "o", extras)
    assert row["map"] == f"overlays/00000-{'検' * 40}.jpg"
    for name in (row["map"], row["mask"], *(told["path"] for told in row["maps"].values())):
        assert (tmp_path / "o" / name).is_file()
    assert picture_name("007", "a/b.c.png") == "007-b.c"


def test_where_nothing_can_spill_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with ArrayStore(0) as store, pytest.raises(OutputError, match="nowhere: cannot be written"):
        store.keep(np.zeros(3, np.uint8))
    with pytest.raises(OutputError, match="nowhere: cannot be written"):
        PatchStore(9, 9, limit=0)


def test_a_report_has_every_image(detector: Detector, parts: Path, tmp_path: Path) -> None:
    items = any_images([parts / "test"])
    write_inspections(detector, items[-1:] + items[:-1], tmp_path, report="Earlier")
    (tmp_path / "report_files" / "mine.jpg").write_bytes(b"somebody's own")
    old = own(tmp_path, "report_files/old.jpg", "inspect")
    old.write_bytes(b"of an earlier run")
    _, rows = write_inspections(detector, items, tmp_path, Extras(evidence=True, receipts=True), report="Parts")
    page = (tmp_path / "report.html").read_text("utf-8")
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert sorted(image["name"] for image in data["images"]) == sorted(item.name for item in items)
    assert sorted(image["score"] for image in data["images"]) == sorted(row["score"] for row in rows)
    named = {near["image"] for image in data["images"] for region in image["regions"] for near in region["evidence"]["nearest"]}
    assert set(data["sources"]) == named
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
    assert not old.exists()
    assert (tmp_path / "report_files" / "mine.jpg").exists()


def test_what_is_too_long_for_a_jpeg_is_drawn_smaller(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", np.zeros((8, 70_000, 3), np.uint8))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.size[0] == 65_500


def test_decoded_pixels_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [texture(i, (60 + 40 * (i % 5), 96)) for i in range(40)]
    failures: dict[int, ImageError] = {}

    def found(keep: bool) -> list[ImageBatch]:
        return list(
            batches(
                sources,
                (Geometry((64, 64), "keep"),),
                ValueRange("8-bit", 0, 255),
                batch_size=16,
                failed=failures.__setitem__,
                keep=keep,
            )
        )

    bound = 6 * sources[-1].nbytes
    monkeypatch.setitem(batches.__globals__, "MOST_KEPT", bound)
    kept = found(keep=True)
    assert sorted(index for batch in kept for index in batch.index) == list(range(40))
    for batch in kept:
        assert sum(pixels.nbytes for pixels in batch.decoded if pixels is not None) <= bound + sources[-1].nbytes
        for index, pixels in zip(batch.index, batch.decoded, strict=True):
            assert pixels is not None
            assert np.array_equal(pixels, sources[index])
    assert all(pixels is None for batch in found(keep=False) for pixels in batch.decoded)
    assert not failures
