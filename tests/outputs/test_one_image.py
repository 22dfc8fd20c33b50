"""One image that cannot be scored or drawn becomes a row with an error. All other images are processed.

Also: a run deletes only files that a run wrote.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import damaged, texture
from offnominal import Detector
from offnominal.datasets import any_images
from offnominal.errors import ImageError, OutputError
from offnominal.fitting import Audit
from offnominal.inference import FeatureEngine
from offnominal.inference import parallel as threads
from offnominal.outputs import audits, inspections, optional_outputs, report_writer
from offnominal.outputs.evaluations import write_evaluation
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.optional_outputs import Extras
from offnominal.storage.owned_files import RECORD, own, remove_inspection, remove_own

EVERYTHING = Extras(evidence=True, maps=("anomaly",), masks=("png", "coco"), receipts=True)


@pytest.fixture
def lot(tmp_path: Path) -> Path:
    folder = tmp_path / "lot"
    folder.mkdir()
    for number in range(5):
        cv2.imwrite(str(folder / f"{number}.png"), damaged(number)[0] if number % 2 else texture(number))
    return folder


def fail_at_call(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, error: Exception, at: int) -> None:
    """Make call number `at` (from 0) of a function raise `error`."""
    original, calls = getattr(where, name), iter(range(10**6))

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(where, name, wrapper)


def errors_of(folder: Path) -> dict[str, str | None]:
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {Path(row["path"]).name: row["error"] for row in rows}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Padding size should be less than the input"),
        MemoryError(),
        cv2.error("resize"),
        KeyError("x"),
        ImageError("odd"),
    ],
)
@pytest.mark.parametrize("parallel", [False, True])
def test_an_image_that_cannot_be_scored_is_an_error_row(
    error: Exception,
    parallel: bool,
    detector: Detector,
    lot: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network_batch: threading.local,
) -> None:
    original = FeatureEngine.maps

    def maps(self: FeatureEngine, images: Any) -> Any:
        if 2 in network_batch.index:
            raise error
        return original(self, images)

    monkeypatch.setattr(FeatureEngine, "maps", maps)
    monkeypatch.setattr(threads, "MIN_PARALLEL", 2 if parallel else 100)
    done, rows = write_inspections(detector, any_images([lot]), tmp_path / "o", EVERYTHING, report="Lot")
    assert (done.done, done.unreadable) == (4, 1)
    assert [Path(row["path"]).name for row in rows] == [f"{number}.png" for number in range(5)]
    errors = errors_of(tmp_path / "o")
    assert [name for name, reason in errors.items() if reason] == ["2.png"]
    assert "2.png: cannot be scored (" in str(errors["2.png"])
    with pytest.raises(ImageError, match="cannot be scored"):
        list(detector.inspect_many([texture(seed) for seed in range(3)], failed=_raise))


def _raise(index: int, error: ImageError) -> None:
    raise error


@pytest.mark.parametrize("member", [0, 1])
def test_a_fit_skips_images_with_non_finite_features(
    member: int, monkeypatch: pytest.MonkeyPatch, network_batch: threading.local
) -> None:
    images = [texture(seed) for seed in range(6)]
    names = [source.name for source in Detector(image_size=96, bank=60).fit(images).model.sources]
    original = FeatureEngine.maps

    def maps(self: FeatureEngine, images: Any) -> Any:
        feature_maps = original(self, images)
        if self.name.endswith("@1.5") == bool(member):
            feature_maps[[at for at, index in enumerate(network_batch.index) if index == 3]] = float("inf")
        return feature_maps

    monkeypatch.setattr(FeatureEngine, "maps", maps)
    model = Detector(image_size=96, bank=60).fit(images).model
    ((name, reason),) = model.skipped
    assert name == names[3]
    assert "not finite" in reason


def test_an_update_skips_images_with_non_finite_features(
    monkeypatch: pytest.MonkeyPatch, network_batch: threading.local
) -> None:
    detector = Detector(image_size=96, bank=60).fit([texture(seed) for seed in range(6)])
    original = FeatureEngine.maps

    def maps(self: FeatureEngine, images: Any) -> Any:
        feature_maps = original(self, images)
        if self.name.endswith("@1.5"):
            feature_maps[[at for at, index in enumerate(network_batch.index) if index == 1]] = float("nan")
        return feature_maps

    monkeypatch.setattr(FeatureEngine, "maps", maps)
    change = detector.update(add=[texture(seed) for seed in range(20, 23)])
    assert change.added == ("array 6", "array 8")
    ((name, reason),) = change.skipped
    assert name == "array 7"
    assert "not finite" in reason


@pytest.mark.parametrize(
    ("where", "name", "error"),
    [
        (inspections, "overlay", cv2.error("overlay")),
        (inspections, "write_picture", ImageError("not a valid file name")),
        (optional_outputs, "encode_mask", AssertionError()),
        (optional_outputs, "encode_map", ValueError("values must lie between 0 and 1")),
        (report_writer, "pictures_of", ZeroDivisionError()),
        (Path, "write_bytes", OSError(errno.ENAMETOOLONG, "File name too long")),
        (Path, "write_bytes", OSError(errno.EILSEQ, "Invalid or incomplete multibyte character")),
    ],
)
def test_an_image_that_cannot_be_drawn_is_an_error_row_without_files(
    where: Any, name: str, error: Exception, detector: Detector, lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_call(monkeypatch, where, name, error, 1)
    done, rows = write_inspections(detector, any_images([lot]), tmp_path / "o", EVERYTHING, report="Lot")
    assert (done.done, done.unreadable) == (4, 1)
    (failed_index,) = [at for at, row in enumerate(rows) if row["error"]]
    assert rows[failed_index]["anomalous"] is rows[failed_index]["map"] is None
    assert "cannot be drawn" in rows[failed_index]["error"]
    written = [path.name for path in (tmp_path / "o").rglob("*") if path.is_file()]
    assert not [one for one in written if one.startswith(f"{failed_index:05d}-")]  # no file of this image remains
    coco = json.loads((tmp_path / "o" / "masks.json").read_text())
    assert failed_index not in {image["id"] for image in coco["images"]}
    assert failed_index not in {region["image_id"] for region in coco["annotations"]}


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1), (2, 70_000), (1, 1)])
def test_images_of_extreme_shapes_do_not_affect_others(size: tuple[int, int], detector: Detector, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "lot").mkdir()
    cv2.imwrite(str(tmp_path / "lot/0.png"), rng.integers(0, 255, (*size, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "lot/1.png"), texture(5))
    done, rows = write_inspections(detector, any_images([tmp_path / "lot"]), tmp_path / "o", EVERYTHING, report="Lot")
    assert len(rows) == 2
    assert rows[1]["error"] is None
    assert done.done + done.unreadable == 2
    assert rows[0]["error"] is None or "cannot be" in rows[0]["error"]


def test_reports_and_audits_continue_if_a_picture_fails(
    detector: Detector, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_call(monkeypatch, report_writer, "pictures_of", cv2.error("thin"), 2)
    messages: list[str] = []
    result = detector.evaluate(parts)
    write_evaluation(detector.model, result, tmp_path / "e", "Parts", failed=messages.append)
    assert len(messages) == 1
    assert "cannot be drawn" in messages[0]
    page = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert all(image.item.name in page for image in result.images)
    items = any_images([parts / "train/good"])
    audit: Audit = Detector(image_size=96).audit(parts)
    monkeypatch.setattr(audits, "overlay", lambda *_: 1 / 0)
    rows = audits.write_audit(audit, [item.path for item in items], tmp_path / "a", 0.2, messages.append)
    assert len(messages) == 1 + sum(row["suspect"] for row in rows)
    assert all(row["picture"] is None for row in rows)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_errors_that_affect_all_images_end_the_run(
    number: int, detector: Detector, lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_call(monkeypatch, Path, "write_bytes", OSError(number, os.strerror(number)), 2)
    with pytest.raises(OutputError):
        write_inspections(detector, any_images([lot]), tmp_path / "o")
    assert len(errors_of(tmp_path / "o")) >= 2  # the rows written before the error


# A run deletes only its own files.


def write_user_files(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("somebody's own")
    return [folder / name for name in names]


USER_FILES = (
    "masks/00001-mine.png",
    "overlays/00000-mine.jpg",
    "maps/00002-anomaly.npy",
    "receipts/00003-x.jpg",
    "report_files/00000-image.jpg",
    "report_files/deep/notes.txt",
    "suspects/001-mine.jpg",
    "lot.json",
    "masks.json",
    "report.html",
)


def row_naming(name: str) -> str:
    row = {"path": "x", "score": 1.0, "p_value": 0.5, "anomalous": False, "threshold": 2.0, "regions": [], "error": None}
    return json.dumps({**row, "map": name, "receipt": name, "mask": name, "maps": {"anomaly": {"path": name}}}) + "\n"


@pytest.mark.parametrize(
    "results",
    ["", row_naming("lot.json"), row_naming("../outside.txt"), "".join(map(row_naming, USER_FILES)), "no JSON\n", None],
    ids=["empty", "names", "outside", "all", "foreign", "none"],
)
@pytest.mark.parametrize("command", ["inspect", "audit"])
def test_user_files_are_not_deleted(command: str, results: str | None, detector: Detector, lot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    user_files = [*write_user_files(out, *USER_FILES), *write_user_files(tmp_path, "outside.txt")]
    for name in ("results.jsonl", "audit.csv"):
        if results is not None:
            (out / name).write_text(results)
    if command == "inspect":
        write_inspections(detector, any_images([lot / "0.png"]), out)
    else:
        audits.begin_audit(out)
    assert [path.read_text() for path in user_files] == ["somebody's own"] * len(user_files)


def test_a_run_removes_only_files_of_earlier_runs(detector: Detector, lot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    user_files = write_user_files(out, "report_files/mine.jpg", "report_files/00000-other.jpg", "maps/notes.txt")
    write_inspections(detector, any_images([lot]), out, EVERYTHING, report="Lot")
    write_inspections(detector, any_images([lot / "1.png"]), out)
    remaining = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    run_files = [RECORD, "overlays/00000-1.jpg", "results.jsonl"]
    assert remaining == sorted([*run_files, *(path.relative_to(out).as_posix() for path in user_files)])


def test_links_are_not_followed_when_deleting_or_writing(detector: Detector, lot: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    write_inspections(detector, any_images([lot]), out, Extras(masks=("png",)))
    names = sorted(path.name for path in (out / "overlays").iterdir())
    (out / "overlays").rename(elsewhere)
    (out / "overlays").symlink_to(elsewhere)
    target = tmp_path / "precious.txt"
    target.write_text("somebody's own")
    mask = sorted((out / "masks").iterdir())[0]
    mask.unlink()
    mask.symlink_to(target)
    remove_inspection(out)
    assert sorted(path.name for path in elsewhere.iterdir()) == names
    assert target.read_text() == "somebody's own"
    assert [path.name for path in (out / "masks").iterdir()] == [mask.name]
    write_inspections(detector, any_images([lot]), out, Extras(masks=("png",)))
    assert target.read_text() == "somebody's own"  # the link is not followed when writing either


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "a/../../outside.txt", "", ".", "\0", "link/outside.txt"])
def test_a_manipulated_record_deletes_nothing_outside_the_folder(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "link").symlink_to(tmp_path)
    outside = write_user_files(tmp_path, "outside.txt")[0]
    (out / RECORD).write_text(json.dumps({"command": "inspect", "file": name}) + '\n{"comm')
    before = Path("/etc/hostname").exists()
    remove_inspection(out)
    assert outside.exists()
    assert Path("/etc/hostname").exists() == before


def test_files_written_by_another_command_later_are_kept(tmp_path: Path) -> None:
    of_inspect: Callable[[str, str], bool] = lambda name, command: command == "inspect"  # noqa: E731
    for command in ("inspect", "evaluate"):
        own(tmp_path, "report.html", command).write_text(command)
    own(tmp_path, "overlays/a.jpg", "inspect").write_text("")
    remove_own(tmp_path, of_inspect)
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "report.html"]
