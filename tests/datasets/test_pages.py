"""Files with several pages or frames are refused with the remedy, or read page by page."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from conftest import damaged, texture
from offnominal import Detector
from offnominal.datasets import any_images, labelled_images, normal_images, page_paths
from offnominal.errors import ImageError
from offnominal.images import count_pages, decode, from_pillow, read_header, read_mask

DARK, BRIGHT = np.full((6, 8, 3), 10, np.uint8), np.full((6, 8, 3), 200, np.uint8)


def save_pages(path: Path, *pages: np.ndarray) -> Path:
    first, *rest = (Image.fromarray(page) for page in pages)
    options = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=rest, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["stack.tif", "stack.webp", "stack.png", "stack.TIFF"])
def test_several_pages_are_refused_or_read_one_by_one(name: str, tmp_path: Path) -> None:
    path = save_pages(tmp_path / name, DARK, BRIGHT)
    for read in (decode, read_header):
        with pytest.raises(ImageError, match="--pages all") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert count_pages(path) == 2
    assert page_paths(path) == [tmp_path / f"{name}#1", tmp_path / f"{name}#2"]
    assert np.array_equal(decode(tmp_path / f"{name}#1"), DARK)
    assert np.array_equal(decode(tmp_path / f"{name}#2"), BRIGHT)
    with pytest.raises(ImageError, match="has 2 pages"):
        decode(tmp_path / f"{name}#3")
    with Image.open(path) as image, pytest.raises(ImageError, match="several pages"):
        from_pillow(image)
    with Image.open(path) as image:
        image.seek(1)
        assert np.array_equal(from_pillow(image.copy()), BRIGHT)


@pytest.mark.parametrize("depth", [np.uint16, np.float32])
def test_pages_with_more_than_8_bits(depth: type, tmp_path: Path) -> None:
    pages: list[np.ndarray] = [np.full((6, 8), value, depth) for value in (300, 4000, 50)]
    cv2.imwritemulti(str(tmp_path / "stack.tif"), pages)
    with pytest.raises(ImageError, match="several pages"):
        decode(tmp_path / "stack.tif")
    for number, page in enumerate(pages, 1):
        assert np.array_equal(decode(tmp_path / f"stack.tif#{number}")[:, :, 0], page)


def test_previews_are_not_pages(tmp_path: Path) -> None:
    small = TiffImagePlugin.ImageFileDirectory_v2()
    small[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "a.tif"), True) as file:
        Image.fromarray(BRIGHT[:3, :4]).save(file, "TIFF", tiffinfo=small)
        file.newFrame()
        Image.fromarray(DARK).save(file, "TIFF")
        file.newFrame()
        Image.fromarray(BRIGHT[:3, :4]).save(file, "TIFF", tiffinfo=small)
    assert np.array_equal(decode(tmp_path / "a.tif"), DARK)
    assert read_header(tmp_path / "a.tif").size == (6, 8)
    large = Image.fromarray(texture(0))
    large.save(tmp_path / "preview.jpg", "MPO", save_all=True, append_images=[large.resize((32, 32))])
    assert decode(tmp_path / "preview.jpg").shape == (96, 120, 3)
    large.save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[Image.fromarray(texture(1))])
    with pytest.raises(ImageError, match="several pages"):
        decode(tmp_path / "stereo.jpg")


def test_existing_files_win_over_page_names(tmp_path: Path) -> None:
    save_pages(tmp_path / "stack.tif", DARK, BRIGHT)
    for name in ("a#2.png", "b.png#2"):
        Image.fromarray(BRIGHT).save(tmp_path / name, "PNG")
        assert np.array_equal(decode(tmp_path / name), BRIGHT)
    Image.fromarray(DARK).save(tmp_path / "c.png")
    assert np.array_equal(decode(tmp_path / "c.png#1"), DARK)
    with pytest.raises(ImageError, match="has 1 page"):
        decode(tmp_path / "c.png#2")
    with pytest.raises(ImageError, match=r"gone\.tif#1: cannot be read"):
        decode(tmp_path / "gone.tif#1")


def test_each_page_is_paired_with_the_page_of_its_mask(tmp_path: Path) -> None:
    for folder in ("train/good", "test/good", "test/dent", "ground_truth/dent"):
        (tmp_path / folder).mkdir(parents=True)
        save_pages(tmp_path / folder / "s.tif", DARK, BRIGHT)
    Image.fromarray(DARK).save(tmp_path / "train/good/t.png")
    assert [item.name for item in normal_images(tmp_path)] == ["train/good/s.tif", "train/good/t.png"]
    names = [item.name for item in normal_images(tmp_path, "all")]
    assert names == ["train/good/s.tif#1", "train/good/s.tif#2", "train/good/t.png"]
    masks = [item.mask and item.mask.name for item in labelled_images(tmp_path, "all")]
    assert masks == ["s.tif#1", "s.tif#2", None, None]
    assert read_mask(tmp_path / "ground_truth/dent/s.tif#2", (6, 8)).all()
    with pytest.raises(ImageError, match="several pages"):
        read_mask(tmp_path / "ground_truth/dent/s.tif", (6, 8))
    (tmp_path / "m.csv").write_text("path\ntest/dent/s.tif#2\n")
    assert [item.path.name for item in any_images([tmp_path / "m.csv", tmp_path / "test/good/s.tif#1"])] == [
        "s.tif#2",
        "s.tif#1",
    ]


def test_a_defect_on_the_second_page_is_detected(detector: Detector, tmp_path: Path) -> None:
    path = save_pages(tmp_path / "stack.tif", texture(300), damaged(301)[0])
    with pytest.raises(ImageError, match="--pages all"):
        detector.inspect(path)
    inspections = dict(
        detector.inspect_many([item.path for item in any_images([path], pages="all")], failed=lambda at, error: None)
    )
    assert [inspections[at].anomalous for at in (0, 1)] == [False, True]
    assert inspections[1].path == f"{path}#2"
