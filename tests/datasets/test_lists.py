"""Lists of images: folders, globs, manifests, masks."""

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
from offnominal.images import (
    decode,
    read_mask,
)
from offnominal.storage.owned_files import PICTURES


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    for folder in ("train/good", "train/good/.ipynb_checkpoints", "test/good", "test/broken", "test/.thumbs"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "a.png"), texture(0))
    assert [item.name for item in normal_images(tmp_path)] == ["train/good/a.png"]
    assert [item.name for item in labelled_images(tmp_path)] == ["test/broken/a.png", "test/good/a.png"]


def test_sources_of_every_kind(parts: Path, tmp_path: Path) -> None:
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
    assert count_unlabelled(tmp_path / "m.jsonl") == 2, "what is to be fitted on needs no label"


def test_wrong_sources_say_what_to_do(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("part_no,label\na.png,good\n")
    (tmp_path / "split.csv").write_text("path,split,label\na.png,Train,good\nb.png,trian,good\nc.png,val,crack\n")
    call: Callable[[], object]
    for call, says in (
        (lambda: normal_images(tmp_path / "nowhere"), "does not exist"),
        (lambda: normal_images(tmp_path / "m.csv"), "no 'path'"),
        (lambda: normal_images(tmp_path / "split.csv"), "row 2 has split 'trian', which is neither train nor test"),
        (lambda: labelled_images(tmp_path / "split.csv"), "row 2 has split 'trian'"),
        (lambda: any_images([tmp_path]), "contains no image"),
        (lambda: labelled_images(parts / "train"), "needs labels"),
    ):
        with pytest.raises(InputError, match=says):
            call()


def test_what_a_run_wrote_is_not_inspected_by_the_next(tmp_path: Path) -> None:
    for name in ("a.png", "overlays/00000-a.jpg", "masks/own.png", "other/overlays/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    found = any_images([tmp_path], leave_out=[tmp_path / "overlays", tmp_path / "masks"])
    assert [item.name for item in found] == ["a.png", "other/overlays/b.png"]
    with pytest.raises(InputError, match="this run writes to"):
        any_images([tmp_path / "overlays"], leave_out=[tmp_path / "overlays"])


@pytest.mark.parametrize("file", ["results.jsonl", "metrics.json", "audit.csv"])
def test_pictures_of_a_run_among_the_data_are_no_data(file: str, tmp_path: Path) -> None:
    written = ("run/overlays/00000-a.jpg", "run/report_files/0.jpg", "run/suspects/000-a.jpg")
    for name in ("a.png", "run/b.png", *written, "run/other/c.png", "masks/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    (tmp_path / "run" / file).write_text("")
    kept = ["a.png", "masks/d.png", "run/b.png", "run/other/c.png"]
    assert [item.name for item in any_images([tmp_path])] == [item.name for item in normal_images(tmp_path)] == kept
    assert [item.name for item in any_images([tmp_path / "run/overlays"])] == ["00000-a.jpg"], "who asks for them gets them"
    assert [item.path for item in normal_images(str(tmp_path / "**/*"))] == [tmp_path / name for name in kept]
    assert [item.path for item in normal_images(str(tmp_path / "run/*/*"))] == [tmp_path / "run/other/c.png"]
    assert [item.path.name for item in normal_images(str(tmp_path / "run/overlays/*.jpg"))] == ["00000-a.jpg"]
    assert PICTURES in RUN_FOLDERS


def test_of_an_mvtec_root_the_test_images_are_inspected(parts: Path) -> None:
    found = any_images([parts])
    assert len(found) == 10
    assert all("/test/" in item.path.as_posix() for item in found)


def test_a_link_that_leads_nowhere_is_no_silent_gap(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "folder.png").mkdir()
    (item,) = any_images([tmp_path])
    with pytest.raises(ImageError, match=r"gone\.jpg: cannot be read"):
        decode(item.path)


def test_manifests_by_semicolon_or_tab_and_the_line_of_an_error(tmp_path: Path) -> None:
    for mark in ";\t,":
        (tmp_path / "m.csv").write_text(f"path{mark}label\na.png{mark}good\n", "utf-8-sig")
        (item,) = any_images([tmp_path / "m.csv"])
        assert (item.path, item.label) == (tmp_path / "a.png", "good")
    for second in ("{path", "[1]"):
        (tmp_path / "m.jsonl").write_text('{"path": "a.png"}\n' + second)
        with pytest.raises(InputError, match="line 2: "):
            any_images([tmp_path / "m.jsonl"])


def test_two_images_of_a_manifest_have_two_names(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"path\na.png\n{tmp_path / 'b' / 'a.png'}\n")
    assert [item.name for item in any_images([tmp_path / "m.csv"])] == ["a.png", str(tmp_path / "b" / "a.png")]
    (tmp_path / "m.csv").write_text(f"path\n{tmp_path / 'a.png'}\n{tmp_path / 'b' / 'a.png'}\n")
    assert [item.name for item in any_images([tmp_path / "m.csv"])] == ["a.png", os.path.join("b", "a.png")]


def test_masks_must_fit_their_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), np.eye(6, dtype=np.uint8) * 255)
    assert read_mask(tmp_path / "m.png", (6, 6)).sum() == 6
    with pytest.raises(ImageError, match="its image"):
        read_mask(tmp_path / "m.png", (6, 7))


@pytest.mark.parametrize(
    ("values", "depth", "defective"),
    [
        ([0, 255], np.uint8, [False, True]),
        ([0, 100, 200, 255], np.uint8, [False, False, True, True]),  # the blurred rim of a mask
        ([0, 1], np.uint8, [False, True]),
        ([0, 1, 2, 9], np.uint8, [False, True, True, True]),  # numbers of classes
        ([0, 65535], np.uint16, [False, True]),
        ([0, 1, 3], np.uint16, [False, True, True]),
        ([0, 255], np.uint16, [False, True]),
        ([0, 0], np.uint8, [False, False]),
    ],
)
def test_masks_are_white_or_numbers_of_classes(values: list[int], depth: type, defective: list[bool], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), np.array([values], depth))
    assert read_mask(tmp_path / "m.png", (1, len(values))).tolist() == [defective]
