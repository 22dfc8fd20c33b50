"""Evaluation within a memory limit: the same metrics and maps."""

from __future__ import annotations

import json
import mmap
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from offnominal import load
from offnominal.cli import app
from offnominal.errors import OutputError
from offnominal.metrics import localisation
from offnominal.outputs.evaluations import write_evaluation
from offnominal.storage import spill
from offnominal.storage.spill import ArrayStore


def on_disk(array: np.ndarray) -> bool:
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, mmap.mmap)


@pytest.mark.parametrize("file_bytes", [1 << 30, 100_000])
def test_a_memory_limit_does_not_change_the_results(
    model_file: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_bytes: int
) -> None:
    unlimited = load(model_file)
    expected = unlimited.evaluate(parts)
    assert not any(on_disk(image.inspection.anomaly_map) for image in expected.images)
    monkeypatch.setattr(spill, "_FILE_BYTES", file_bytes)
    monkeypatch.setattr(localisation, "_BLOCK", 15_000)  # more than one image of 96 x 120, less than all images
    limited = load(model_file, memory=100_000)
    result = limited.evaluate(parts)
    assert result.figures == expected.figures
    assert result.classes == expected.classes
    arrays: list[np.ndarray] = [
        array for image in result.images for array in (image.inspection.anomaly_map, image.inspection.influence_map)
    ]
    arrays += [image.mask for image in result.images if image.mask is not None]
    assert sum(array.nbytes for array in arrays if not on_disk(array)) <= 100_000
    for one, other in zip(result.images, expected.images, strict=True):
        assert np.array_equal(one.inspection.anomaly_map, other.inspection.anomaly_map)
        assert np.array_equal(one.inspection.influence_map, other.inspection.influence_map)
        assert (one.mask is None) == (other.mask is None)
        if one.mask is not None:
            assert other.mask is not None
            assert np.array_equal(one.mask, other.mask)
    write_evaluation(limited.model, result, tmp_path, "parts")
    assert (tmp_path / "report.html").is_file()


def test_unreadable_images_and_masks_are_counted_separately(model_file: Path, parts: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    shutil.copytree(parts, root)
    (root / "test/good/100.png").write_bytes(b"")
    (root / "ground_truth/blotch/200_mask.png").write_bytes(b"")
    (root / "ground_truth/blotch/201_mask.png").unlink()
    result = load(model_file).evaluate(root)
    metrics = result.as_json()
    assert (metrics["n_unreadable"], metrics["n_masks_unreadable"]) == (1, 1)
    assert (metrics["n_good"], metrics["n_defect"], result.without_mask) == (4, 5, 2)
    write_evaluation(load(model_file).model, result, tmp_path / "some", "parts")
    assert metrics["n_without_mask"] == 2
    assert "without a readable mask: 2" in (tmp_path / "some/report.html").read_text()
    shutil.rmtree(root / "ground_truth")
    without = load(model_file).evaluate(root)
    write_evaluation(load(model_file).model, without, tmp_path / "none", "parts")
    assert without.without_mask == 0
    assert "without a readable mask" not in (tmp_path / "none/report.html").read_text(), (
        "a set without any masks has no missing masks"
    )
    assert [name for name, _ in result.unreadable] == ["test/blotch/200.png", "test/good/100.png"]


def test_rows_without_a_label_are_reported(model_file: Path, parts: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted((parts / "test").rglob("*.png"))] + [f"{parts}/test/good/100.png,"]
    (tmp_path / "m.csv").write_text("path,label\n" + "\n".join(rows))
    result = CliRunner().invoke(app, ["evaluate", str(model_file), str(tmp_path / "m.csv"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert f"rows of {tmp_path / 'm.csv'} without a label: 1" in result.output.replace("\n", " ")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (metrics["n_unlabelled"], metrics["n_good"], metrics["n_defect"]) == (1, 5, 5)
    assert "Rows without a label: 1 (left out)." in (tmp_path / "out/report.html").read_text()


def test_the_store_returns_equal_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_FILE_BYTES", 1000)
    rng = np.random.default_rng(0)
    arrays: list[np.ndarray] = [rng.normal(size=(10, 10)).astype(np.float32)]
    arrays += [rng.normal(size=(h, 7)).astype(np.float32)[:, ::2] for h in rng.integers(1, 100, 20)]
    arrays += [rng.random((h, 5)) > 0.5 for h in rng.integers(1, 100, 20)]
    with ArrayStore(400) as store:
        kept = [store.keep(array) for array in arrays]
    assert kept[0] is arrays[0]
    for before, after in zip(arrays, kept, strict=True):
        assert before.dtype == after.dtype
        assert np.array_equal(before, after)
    assert all(map(on_disk, kept[1:]))


def test_a_full_disk_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile:
        def seek(self, at: int) -> None: ...

        def write(self, content: object) -> None:
            raise OSError(28, "No space left on device")

    def open_full_file(store: ArrayStore, size: int) -> None:
        store._file, store._bytes = FullFile(), np.empty(size, np.uint8)

    monkeypatch.setattr(ArrayStore, "_open", open_full_file)
    with pytest.raises(OutputError, match="the disk is full"):
        ArrayStore(0).keep(np.zeros((4, 4), np.float32))
