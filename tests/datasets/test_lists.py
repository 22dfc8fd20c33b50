"""Listing images from folders, globs and manifests, and reading masks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import texture
from offnominal.datasets import RUN_FOLDERS, any_images, count_unlabelled, labelled_images, normal_images
from offnominal.errors import ImageError, InputError
from offnominal.images import decode, read_mask
from offnominal.storage.owned_files import PICTURES


def test_hidden_folders_are_skipped(tmp_path: Path) -> None:
    for folder in ("train/good", "train/good/.ipynb_checkpoints", "test/good", "test/broken", "test/.thumbs"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "a.png"), texture(0))
    assert [item.name for item in normal_images(tmp_path)] == ["train/good/a.png"]
    assert [item.name for item in labelled_images(tmp_path)] == ["test/broken/a.png", "test/good/a.png"]


def test_folders_globs_and_manifests_of_every_format(parts: Path, tmp_path: Path) -> None:
    assert len(normal_images(parts)) == 12
    assert len(normal_images(parts / "train" / "good")) == 12
    assert len(any_images([f"{parts}/test/*/*.png", parts / "test"])) == 10
    tested = labelled_images(parts)
    assert sum(item.good for item in tested) == 5
    assert all((item.mask is not None) != item.good for item in tested)
    rows = [{"path": str(item.path), "split": item.split, "label": item.label, "mask": str(item.mask or "")} for item in tested]
    rows += [{"path": str(item.path), "split": "train", "label": "good", "mask": ""} for item in normal_images(parts)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "m.parquet")
    for name in ("m.jsonl", "m.csv", "m.parquet"):
        assert [item.path for item in normal_images(tmp_path / name)] == [item.path for item in normal_images(parts)]
        assert [item.mask for item in labelled_images(tmp_path / name)] == [item.mask for item in tested]
        assert count_unlabelled(tmp_path / name) == count_unlabelled(parts) == 0
    rows += [{"path": "a.png", "split": "test", "label": ""}, {"path": "b.png"}, {"path": "c.png", "split": "train"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert labelled_images(tmp_path / "m.jsonl") == labelled_images(tmp_path / "m.parquet")
    assert count_unlabelled(tmp_path / "m.jsonl") == 2, "training rows need no label"


def test_errors_about_sources_say_what_to_do(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("part_no,label\na.png,good\n")
    (tmp_path / "split.csv").write_text("path,split,label\na.png,Train,good\nb.png,trian,good\nc.png,val,crack\n")
    call: Callable[[], object]
    for call, message in (
        (lambda: normal_images(tmp_path / "nowhere"), "does not exist"),
        (lambda: normal_images(tmp_path / "m.csv"), "no 'path'"),
        (lambda: normal_images(tmp_path / "split.csv"), "row 2 has split 'trian', which is neither train nor test"),
        (lambda: labelled_images(tmp_path / "split.csv"), "row 2 has split 'trian'"),
        (lambda: any_images([tmp_path]), "contains no image"),
        (lambda: labelled_images(parts / "train"), "needs labels"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_output_folders_of_a_run_are_not_listed(tmp_path: Path) -> None:
    for name in ("a.png", "overlays/00000-a.jpg", "masks/own.png", "other/overlays/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    items = any_images([tmp_path], leave_out=[tmp_path / "overlays", tmp_path / "masks"])
    assert [item.name for item in items] == ["a.png", "other/overlays/b.png"]
    with pytest.raises(InputError, match="this run writes to"):
        any_images([tmp_path / "overlays"], leave_out=[tmp_path / "overlays"])


@pytest.mark.parametrize("file", ["results.jsonl", "metrics.json", "audit.csv"])
def test_pictures_written_by_a_run_are_not_listed(file: str, tmp_path: Path) -> None:
    written = ("run/overlays/00000-a.jpg", "run/report_files/0.jpg", "run/suspects/000-a.jpg")
    for name in ("a.png", "run/b.png", *written, "run/other/c.png", "masks/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    (tmp_path / "run" / file).write_text("")
    expected = ["a.png", "masks/d.png", "run/b.png", "run/other/c.png"]
    assert [item.name for item in any_images([tmp_path])] == [item.name for item in normal_images(tmp_path)] == expected
    assert [item.name for item in any_images([tmp_path / "run/overlays"])] == ["00000-a.jpg"], "listed if requested explicitly"
    assert [item.path for item in normal_images(str(tmp_path / "**/*"))] == [tmp_path / name for name in expected]
    assert [item.path for item in normal_images(str(tmp_path / "run/*/*"))] == [tmp_path / "run/other/c.png"]
    assert [item.path.name for item in normal_images(str(tmp_path / "run/overlays/*.jpg"))] == ["00000-a.jpg"]
    assert PICTURES in RUN_FOLDERS


def test_any_images_lists_the_test_images_of_an_mvtec_root(parts: Path) -> None:
    items = any_images([parts])
    assert len(items) == 10
    assert all("/test/" in item.path.as_posix() for item in items)


def test_a_broken_link_is_an_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "folder.png").mkdir()
    (item,) = any_images([tmp_path])
    with pytest.raises(ImageError, match=r"gone\.jpg: cannot be read"):
        decode(item.path)


def test_csv_delimiters_and_line_numbers_of_manifest_errors(tmp_path: Path) -> None:
    for delimiter in ";\t,":
        (tmp_path / "m.csv").write_text(f"path{delimiter}label\na.png{delimiter}good\n", "utf-8-sig")
        (item,) = any_images([tmp_path / "m.csv"])
        assert (item.path, item.label) == (tmp_path / "a.png", "good")
    for second in ("{path", "[1]"):
        (tmp_path / "m.jsonl").write_text('{"path": "a.png"}\n' + second)
        with pytest.raises(InputError, match="line 2: "):
            any_images([tmp_path / "m.jsonl"])


def test_images_of_a_manifest_have_unique_names(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"path\na.png\n{tmp_path / 'b' / 'a.png'}\n")
    assert [item.name for item in any_images([tmp_path / "m.csv"])] == ["a.png", str(tmp_path / "b" / "a.png")]
    (tmp_path / "m.csv").write_text(f"path\n{tmp_path / 'a.png'}\n{tmp_path / 'b' / 'a.png'}\n")
    assert [item.name for item in any_images([tmp_path / "m.csv"])] == ["a.png", os.path.join("b", "a.png")]


def test_masks_must_have_the_size_of_their_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), np.eye(6, dtype=np.uint8) * 255)
    assert read_mask(tmp_path / "m.png", (6, 6)).sum() == 6
    with pytest.raises(ImageError, match="its image"):
        read_mask(tmp_path / "m.png", (6, 7))


@pytest.mark.parametrize(
    ("values", "depth", "defective"),
    [
        ([0, 255], np.uint8, [False, True]),
        ([0, 100, 200, 255], np.uint8, [False, False, True, True]),  # blurred edge of a mask
        ([0, 1], np.uint8, [False, True]),
        ([0, 1, 2, 9], np.uint8, [False, True, True, True]),  # class numbers
        ([0, 65535], np.uint16, [False, True]),
        ([0, 1, 3], np.uint16, [False, True, True]),
        ([0, 255], np.uint16, [False, True]),
        ([0, 0], np.uint8, [False, False]),
    ],
)
def test_masks_hold_grey_levels_or_class_numbers(values: list[int], depth: type, defective: list[bool], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), np.array([values], depth))
    assert read_mask(tmp_path / "m.png", (1, len(values))).tolist() == [defective]
