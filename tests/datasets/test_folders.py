"""Folders, globs, links and MVTec roots list the same images. Masks follow the same naming rules as images."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from offnominal.datasets import any_images, count_unlabelled, find_labelled, labelled_images, normal_images
from offnominal.errors import ImageError, InputError
from offnominal.images import decode


def write_images(*paths: Path) -> None:
    """Write small images to these paths."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)


def listed_names(*inputs: object) -> list[str]:
    return [item.path.name for item in any_images([str(one) for one in inputs])]


def test_folder_glob_and_manifest_list_the_same_images(tmp_path: Path) -> None:
    lot, store = tmp_path / "lot", tmp_path / "store"
    write_images(
        lot / "a.png", lot / "deep/B.PNG", lot / ".hidden/c.png", lot / ".d.png", store / "e.png", store / "cam/f.jpeg"
    )
    (lot / "linked").symlink_to(store)  # a folder
    (lot / "g.png").symlink_to(tmp_path / "store/e.png")  # a link to a file counts as another image
    (lot / "deep/loop").symlink_to(lot)
    (store / "cam/up").symlink_to(store)
    (lot / "note.txt").write_text("no image")
    expected = sorted(["a.png", "B.PNG", "e.png", "f.jpeg", "g.png"])
    assert sorted(listed_names(lot)) == expected
    assert len(listed_names(f"{lot}/**/*")) == len(expected)
    assert sorted(listed_names(f"{lot}/**/*.png")) == ["B.PNG", "a.png", "e.png", "g.png"]
    paths = [item.path for item in any_images([lot])]
    (tmp_path / "m.csv").write_text("path\n" + "\n".join(map(str, paths)))
    assert len(listed_names(tmp_path / "m.csv")) == len(expected)


def test_an_image_given_several_times_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "lot/a.png", tmp_path / "lot/b.png")
    (tmp_path / "again").symlink_to(tmp_path / "lot")
    monkeypatch.chdir(tmp_path)
    assert listed_names("lot", "again", "lot/*.png", tmp_path / "lot/a.png", "./lot/../lot/b.png") == ["a.png", "b.png"]


def test_cyclic_links_list_each_image_once(tmp_path: Path) -> None:
    write_images(tmp_path / "a/x.png", tmp_path / "b/y.png")
    for one, other in (("a", "b"), ("b", "a"), ("a", "a"), ("b", "b")):
        (tmp_path / one / f"to-{other}").symlink_to(tmp_path / other)
    assert (
        sorted(listed_names(tmp_path))
        == sorted(listed_names(f"{tmp_path}/**/*.png"))
        == sorted(listed_names(f"{tmp_path}/**"))
        == ["x.png", "y.png"]
    )


def test_a_broken_link_to_a_folder_is_an_unreadable_image(tmp_path: Path) -> None:
    write_images(tmp_path / "a.png")
    (tmp_path / "camera2").symlink_to(tmp_path / "unmounted")
    broken = next(item for item in any_images([tmp_path]) if item.path.name == "camera2")
    with pytest.raises(ImageError, match="cannot be read"):
        decode(broken.path)


@pytest.mark.parametrize(
    ("good", "tested", "train", "test", "truth"),
    [
        ("good", "good", "train", "test", "ground_truth"),
        ("Good", "OK", "Train", "TEST", "Ground_Truth"),
        ("ok", "normal", "TRAIN", "Test", "GROUND_TRUTH"),
        ("GOOD", "Nominal", "train", "Test", "ground_truth"),
    ],
)
def test_folder_names_are_case_insensitive(good: str, tested: str, train: str, test: str, truth: str, tmp_path: Path) -> None:
    write_images(tmp_path / train / good / "a.png", tmp_path / test / tested / "b.png", tmp_path / test / "Dent" / "c.png")
    write_images(tmp_path / truth / "Dent" / "c_mask.png")
    assert [item.path.name for item in normal_images(tmp_path)] == ["a.png"]
    assert sorted(listed_names(tmp_path)) == ["b.png", "c.png"]
    items = labelled_images(tmp_path)
    assert sorted(item.label or "" for item in items) == ["Dent", "good"]
    assert [item.mask is not None for item in items if not item.good] == [True]


def test_several_folders_of_good_images_are_all_used(tmp_path: Path) -> None:
    write_images(
        tmp_path / "train/good/a.png", tmp_path / "train/Good/b.png", tmp_path / "train/dent/c.png", tmp_path / "test/loose.png"
    )
    write_images(tmp_path / "test/ok/d.png", tmp_path / "test/dent/e.png")
    assert sorted(item.path.name for item in normal_images(tmp_path)) == ["a.png", "b.png"]
    assert "loose.png" in listed_names(tmp_path)
    assert count_unlabelled(tmp_path) == 1


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("000.png", "000_mask.PNG"),
        ("000.png", "000.jpeg"),
        ("000.PNG", "000_mask.webp"),
        ("000.tif", "000_gt.bmp"),
        ("Part-1.jpg", "part-1_MASK.TIFF"),
        ("sub/000.png", "sub/000_label.png"),
    ],
)
def test_masks_match_images_in_any_format_and_case(image: str, mask: str, tmp_path: Path) -> None:
    write_images(tmp_path / "test/dent" / image, tmp_path / "ground_truth/dent" / mask, tmp_path / "test/good/a.png")
    listing = find_labelled(tmp_path)
    assert [item.mask for item in listing.items if not item.good] == [tmp_path / "ground_truth/dent" / mask]
    assert listing.notes == []


def test_masks_without_an_image_are_reported(tmp_path: Path) -> None:
    write_images(tmp_path / "test/dent/0.png", tmp_path / "test/good/a.png", tmp_path / "ground_truth/dent/other.png")
    write_images(tmp_path / "ground_truth/scratch/0_mask.png", tmp_path / "ground_truth/good/a.png")
    (note,) = find_labelled(tmp_path).notes
    assert "match no test image: 2, the first 'ground_truth/dent/other.png'" in note


def test_an_unreadable_folder_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "a.png", tmp_path / "closed/b.png")
    original = Path.iterdir

    def iterdir(self: Path) -> object:
        if self.name == "closed":
            raise PermissionError(13, os.strerror(13))
        return original(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(InputError, match="closed: cannot be opened"):
        any_images([tmp_path])


def test_brackets_in_a_folder_name_are_not_a_glob(tmp_path: Path) -> None:
    write_images(tmp_path / "lot[1]/a.png", tmp_path / "lot1/b.png")
    cv2.imwrite(str(tmp_path / "lot[1]/a.png"), np.zeros((4, 4), np.uint8))
    assert listed_names(tmp_path / "lot[1]") == listed_names(tmp_path / "lot[1]/a.png") == ["a.png"]
    assert sorted(listed_names(f"{tmp_path}/**/*.png")) == ["a.png", "b.png"]
