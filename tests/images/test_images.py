"""Decoding of every kind, geometry, value ranges, sources."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import texture
from offnominal.datasets import RUN_FOLDERS, any_images, count_unlabelled, labelled_images, normal_images
from offnominal.errors import ImageError, InputError
from offnominal.images import (
    Exposure,
    Geometry,
    ImageBatch,
    Source,
    ValueRange,
    batches,
    content_digest,
    decode,
    displayed,
    from_array,
    from_pillow,
    image_range,
    join_ranges,
    pixels_of,
    read_header,
    read_mask,
    resize,
    to_original,
)
from offnominal.images.batches import prepare
from offnominal.storage.owned_files import PICTURES

COLOUR = (200, 100, 50)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.new("RGB", (20, 12), COLOUR).convert(mode)
    path = tmp_path / f"a.{suffix}"
    try:
        image.save(path)
    except (OSError, KeyError):
        pytest.skip(f"{suffix} cannot hold {mode}")
    pixels = decode(path)
    assert (pixels.shape, pixels.dtype) == ((12, 20, 3), np.dtype(np.uint8))
    if mode in ("RGB", "RGBA"):
        assert np.abs(pixels.astype(int).mean((0, 1)) - COLOUR).max() < 8
    assert read_header(path).size == (12, 20)
    assert read_header(path).depth == "8-bit"


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_survive(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 11, channels), dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), values)
    expected = np.repeat(values, 3, 2) if channels == 1 else values[:, :, ::-1]
    assert read_header(path).depth == "16-bit"
    assert np.array_equal(decode(path), expected)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg").shape == (30, 10, 3)
    assert read_header(tmp_path / "a.jpg").size == (30, 10)


@pytest.mark.parametrize("size", [(64, 64), (70, 300), (301, 85)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_grey_is_one_plane_and_prepared_as_its_three_copies_would_be(kind: Any, size: tuple[int, int], tmp_path: Path) -> None:
    high = {np.uint8: 255, np.uint16: 4000, np.float32: 1}[kind]
    grey: np.ndarray = (np.random.default_rng(0).random((170, 130)) * high).astype(kind)
    values = ValueRange({np.uint8: "8-bit", np.uint16: "16-bit", np.float32: "float"}[kind], 0, high)  # type: ignore[arg-type]
    seen_thrice = np.broadcast_to(grey[:, :, None], (*grey.shape, 3))
    sources: list[Source] = [grey, grey[:, :, None], np.asfortranarray(grey), seen_thrice]
    if kind is not np.float32:
        cv2.imwrite(str(tmp_path / "a.png"), grey)
        sources += [tmp_path / "a.png", Image.fromarray(grey)]
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    right = prepare(colour, [Geometry(size, "squash")], values)
    for source in sources:
        pixels = pixels_of(source)
        assert pixels.strides[2] == 0
        assert np.array_equal(pixels, colour)
        assert np.array_equal(displayed(pixels, values), displayed(colour, values))
        found = prepare(source, [Geometry(size, "squash")], values)
        assert np.allclose(found.views[0], right.views[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_turned_as_eight_are(tmp_path: Path, orientation: int, suffix: str) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 9), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, values in (("eight", grey), ("sixteen", grey.astype(np.uint16) * 257)):
        Image.fromarray(values).save(tmp_path / f"{name}.{suffix}", exif=exif)
    wide = decode(tmp_path / f"sixteen.{suffix}")
    for name in ("eight", "sixteen"):
        with (tmp_path / f"{name}.{suffix}").open("rb") as file:
            assert np.array_equal(from_pillow(Image.open(file)), decode(tmp_path / f"{name}.{suffix}"))
    assert np.array_equal(wide, decode(tmp_path / f"eight.{suffix}").astype(np.uint16) * 257)
    assert read_header(tmp_path / f"sixteen.{suffix}").size == wide.shape[:2]


def test_the_order_of_bytes_makes_no_difference() -> None:
    values = np.arange(1000, 1012, dtype=np.uint16).reshape(3, 4)
    swapped = from_array(values.astype(">u2"))
    assert swapped.dtype == np.dtype("=u2")
    assert np.array_equal(swapped, from_array(values))
    assert np.array_equal(from_array(values.astype(">f4")), from_array(values.astype(np.float32)))


def test_a_truncated_pillow_image_is_one_bad_image(tmp_path: Path) -> None:
    Image.fromarray(texture(0)).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ImageError, match="damaged or truncated"):
        from_pillow(image)


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_damaged_png_is_refused_wherever_the_damage_is(tmp_path: Path, kind: type, shape: tuple[int, ...]) -> None:
    rng, path = np.random.default_rng(3), tmp_path / "flipped.png"
    cv2.imwrite(str(path), rng.integers(0, np.iinfo(kind).max, shape).astype(kind))
    whole = path.read_bytes()
    assert decode(path).shape == (60, 80, 3)
    for place in rng.integers(whole.index(b"IDAT") + 4, len(whole) - 20, 30):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(ImageError, match=r"flipped\.png: is damaged"):
            decode(path)
    path.write_bytes(whole[: len(whole) // 3] + bytes(len(whole) - len(whole) // 3))
    with pytest.raises(ImageError, match="damaged"):
        decode(path)


@pytest.mark.parametrize("late", [False, True])
def test_a_png_that_is_turned_says_so_before_or_behind_its_pixels(tmp_path: Path, late: bool) -> None:
    pixels, path = np.random.default_rng(0).integers(0, 255, (6, 9, 3)).astype(np.uint8), tmp_path / "t.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    if late:
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        last = content.index(b"IEND") - 4
        path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    assert read_header(path).size == (9, 6)
    assert np.array_equal(decode(path), np.rot90(pixels, 3))


def test_floats_for_an_eight_bit_model_are_drawn_as_they_are_scored() -> None:
    shown = displayed(np.full((2, 2, 3), 0.5, np.float32), ValueRange("8-bit", 0.0, 255.0))
    assert shown.tolist() == np.full((2, 2, 3), 127).tolist()


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    for folder in ("train/good", "train/good/.ipynb_checkpoints", "test/good", "test/broken", "test/.thumbs"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "a.png"), texture(0))
    assert [item.name for item in normal_images(tmp_path)] == ["train/good/a.png"]
    assert [item.name for item in labelled_images(tmp_path)] == ["test/broken/a.png", "test/good/a.png"]


def test_bad_files_say_what_and_where(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "whole.png"), texture(0))
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    for name, says in (("cut", "truncated"), ("empty", "empty"), ("missing", "cannot be read")):
        with pytest.raises(ImageError, match=says) as caught:
            decode(tmp_path / f"{name}.png")
        assert f"{name}.png" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="not a readable image"):
        decode(tmp_path / "text.jpg")


@pytest.mark.parametrize("array", [np.zeros((4,)), np.zeros((4, 4, 2)), np.zeros((0, 4)), np.zeros((4, 4), complex)])
def test_odd_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected"):
        from_array(array)


def test_resize_is_antialiased_in_both_directions() -> None:
    rows = np.tile(np.array([0, 255], np.uint8), 64)[None, :].repeat(8, 0)
    small = resize(rows, (32, 16))  # one side grows while the other shrinks
    assert small.shape == (32, 16)
    assert np.abs(small.astype(int) - 127).max() <= 1


def test_maps_return_to_original_pixels() -> None:
    grid = np.zeros((8, 8), np.float32)
    grid[2, 5] = 1
    large = to_original(grid, (80, 160))
    row, column = np.unravel_index(int(large.argmax()), large.shape)
    assert abs(row - 25) <= 1
    assert abs(column - 110) <= 2


@pytest.mark.parametrize(
    ("original", "expected"), [((100, 200), (128, 256)), ((200, 100), (256, 128)), ((50, 1000), (128, 2560))]
)
def test_keep_rounds_to_the_stride(original: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Geometry((128, 128), "keep").network_size(original) == expected
    assert Geometry((128, 256), "squash").network_size(original) == (128, 256)


@pytest.mark.parametrize("shape", [(100, 100), (96, 128), (300, 200), (64, 640)])
def test_area_resizes_images_of_one_shape_as_keep_does(shape: tuple[int, int]) -> None:
    suited = Geometry((128, 128), "area").suited_to([shape] * 5)
    assert suited.network_size(shape) == Geometry((128, 128), "keep").network_size(shape)
    assert suited.suited_to([shape]) == suited


def test_area_gives_images_of_any_shape_as_many_pixels() -> None:
    originals = [(100, 100), (200, 300), (1000, 250), (2000, 100), (3, 40)]
    usual = Geometry((256, 256), "area").suited_to(originals)
    assert usual.size == (256, 1024)
    fine = replace(usual, multiple=1, longest=100_000)
    for original in originals:
        height, width = fine.network_size(original)
        assert height * width == pytest.approx(256 * 1024, rel=0.02)
        assert height / width == pytest.approx(original[0] / original[1], rel=0.02)
    assert usual.suited_to([]) == usual
    for other in ("keep", "squash"):
        assert Geometry((256, 640), other).suited_to(originals) == Geometry((256, 640), other)


def test_wide_values_use_their_true_range_and_are_not_clipped() -> None:
    camera = [np.linspace(1000, 4095, 80_000).astype(np.uint16).reshape(200, 400) for _ in range(2)]
    camera[0][0, 0] = 65535  # a hot pixel
    values = join_ranges("16-bit", [image_range(image) for image in camera])
    assert values.low == pytest.approx(1000, abs=2)
    assert values.high == pytest.approx(4095, abs=2)
    scaled = values.scale(from_array(camera[0]), "a")
    assert scaled[0, 0, 0] > 10
    with pytest.raises(ImageError, match="is 8-bit, the model was fitted on 16-bit"):
        values.scale(texture(0), "a")
    with pytest.raises(ImageError, match="outside 0 to 1"):
        ValueRange("8-bit", 0, 255).scale(np.full((2, 2, 3), 3, np.float32), "a")


def test_batches_group_shapes_and_set_failures_aside(tmp_path: Path) -> None:
    sources = [texture(0), tmp_path / "missing.png", texture(1, (60, 200)), texture(2), np.zeros((3,))]
    failures: dict[int, ImageError] = {}
    found = list(
        batches(sources, [Geometry((64, 64), "keep")], ValueRange("8-bit", 0, 255), batch_size=2, failed=failures.__setitem__)
    )
    assert sorted(index for batch in found for index in batch.index) == [0, 2, 3]
    assert sorted(failures) == [1, 4]
    assert {batch.views[0].shape for batch in found} == {(2, 3, 64, 96), (1, 3, 64, 224)}


def test_one_image_comes_as_it_would_among_others(tmp_path: Path) -> None:
    geometry, values = Geometry((64, 64), "keep"), ValueRange("8-bit", 0, 255)
    failures: dict[int, ImageError] = {}

    def alone(source: Source) -> list[ImageBatch]:
        return list(batches([source], [geometry], values, batch_size=2, failed=failures.__setitem__, keep=True))

    (one,) = alone(texture(2))
    (two,) = batches([texture(0), texture(2)], [geometry], values, batch_size=2, failed=failures.__setitem__, keep=True)
    assert one.index == (0,)
    assert one.original == two.original[1:]
    assert np.array_equal(one.views[0][0], two.views[0][1])
    assert one.decoded[0] is not None
    assert two.decoded[1] is not None
    assert np.array_equal(one.decoded[0], two.decoded[1])
    assert alone(tmp_path / "missing.png") == []
    assert list(failures) == [0]


def test_a_view_of_an_image_is_what_its_geometry_alone_would_give() -> None:
    """Images are decoded once for all views, and batched by the shapes of all of them."""
    geometries = [Geometry((64, 64), "keep"), Geometry((96, 160), "squash"), Geometry((128, 128), "area")]
    values = ValueRange("8-bit", 0, 255)
    sources = [texture(0), texture(1, (60, 200)), texture(2), texture(3, (60, 201))]
    found = list(batches(sources, geometries, values, batch_size=4, failed=lambda at, error: pytest.fail(str(error))))
    assert sorted(index for batch in found for index in batch.index) == [0, 1, 2, 3]
    for batch in found:
        assert len(batch.views) == 3
        for view, geometry in enumerate(geometries):
            assert np.array_equal(batch.seen(view), batch.views[view])
            for at, index in enumerate(batch.index):
                (alone,) = batches([sources[index]], [geometry], values, batch_size=1, failed=lambda at, error: None)
                assert np.array_equal(batch.views[view][at], alone.views[0][0])


def test_exposure_is_corrected_in_what_a_network_sees_and_not_in_the_pixels() -> None:
    exposure = Exposure(0.3, 0.5)
    geometries = [Geometry((64, 64), "keep"), Geometry((96, 96), "keep")]
    values = ValueRange("8-bit", 0, 255, exposure)
    (batch,) = batches([texture(0)], geometries, values, batch_size=1, failed=lambda at, error: pytest.fail(str(error)))
    plain = prepare(texture(0), geometries, values)
    for view in (0, 1):
        assert np.array_equal(batch.views[view][0], plain.views[view].transpose(2, 0, 1))
        assert np.array_equal(batch.seen(view), exposure.corrected(batch.views[view]))
        assert batch.seen(view).mean() == pytest.approx(0.3, rel=1e-3)


def test_views_of_a_batch_must_fit_each_other() -> None:
    view = np.zeros((2, 3, 8, 8), np.float32)
    for views, says in (((view, view[:1]), "differ in length"), ((view, view[:, :2]), r"must be \(B, 3, H, W\)")):
        with pytest.raises(ValueError, match=says):
            ImageBatch(views, (0, 1), ((8, 8),) * 2, (None,) * 2)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_a_content_digest_is_that_of_the_content_alone(tmp_path: Path, suffix: str) -> None:
    one, other = texture(0), texture(1)
    for name, image in (("a", one), ("b", one), ("c", other)):
        cv2.imwrite(str(tmp_path / f"{name}.{suffix}"), image)
    a, b, c = (content_digest(tmp_path / f"{name}.{suffix}") for name in "abc")
    assert a == b != c
    assert content_digest(str(tmp_path / f"a.{suffix}")) == a
    arrays = [content_digest(source) for source in (one, np.asfortranarray(one), Image.fromarray(one))]
    assert len({*arrays}) == 1
    assert content_digest(other) not in arrays
    assert content_digest(one.reshape(-1, one.shape[1] // 2, 3)) not in arrays, "the shape counts too"
    with pytest.raises(ImageError, match="missing"):
        content_digest(tmp_path / "missing.png")


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
