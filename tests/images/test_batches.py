"""Batches: shapes, views, exposure and unreadable images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import texture
from offnominal.errors import ImageError
from offnominal.images import Exposure, Geometry, ImageBatch, Preprocessing, Source, ValueRange, batches


def test_batches_group_images_by_shape_and_report_failures(tmp_path: Path) -> None:
    sources = [texture(0), tmp_path / "missing.png", texture(1, (60, 200)), texture(2), np.zeros((3,))]
    failures: dict[int, ImageError] = {}
    batched = list(
        batches(
            sources,
            Preprocessing([Geometry((64, 64), "keep")], ValueRange("8-bit", 0, 255)),
            batch_size=2,
            failed=failures.__setitem__,
        )
    )
    assert sorted(index for batch in batched for index in batch.index) == [0, 2, 3]
    assert sorted(failures) == [1, 4]
    assert {batch.views[0].shape for batch in batched} == {(2, 3, 64, 96), (1, 3, 64, 224)}


def test_a_batch_of_one_equals_the_image_in_a_larger_batch(tmp_path: Path) -> None:
    geometry, values = Geometry((64, 64), "keep"), ValueRange("8-bit", 0, 255)
    failures: dict[int, ImageError] = {}

    def batches_of_one(source: Source) -> list[ImageBatch]:
        return list(batches([source], Preprocessing([geometry], values), batch_size=2, failed=failures.__setitem__, keep=True))

    (one,) = batches_of_one(texture(2))
    (two,) = batches(
        [texture(0), texture(2)], Preprocessing([geometry], values), batch_size=2, failed=failures.__setitem__, keep=True
    )
    assert one.index == (0,)
    assert one.original == two.original[1:]
    assert np.array_equal(one.overview[0], two.overview[1])
    assert one.decoded[0] is not None
    assert two.decoded[1] is not None
    assert np.array_equal(one.decoded[0], two.decoded[1])
    assert batches_of_one(tmp_path / "missing.png") == []
    assert list(failures) == [0]


def test_views_equal_those_of_each_geometry_alone() -> None:
    """Images are decoded once for all views. A batch holds images whose views all have equal shapes."""
    geometries = [Geometry((64, 64), "keep"), Geometry((96, 160), "squash"), Geometry((128, 128), "area")]
    values = ValueRange("8-bit", 0, 255)
    sources = [texture(0), texture(1, (60, 200)), texture(2), texture(3, (60, 201))]
    batched = list(
        batches(sources, Preprocessing(geometries, values), batch_size=4, failed=lambda at, error: pytest.fail(str(error)))
    )
    assert sorted(index for batch in batched for index in batch.index) == [0, 1, 2, 3]
    for batch in batched:
        assert len(batch.views) == 3
        for view, geometry in enumerate(geometries):
            assert np.array_equal(batch.network_input(view), np.asarray(batch.views[view]))
            for at, index in enumerate(batch.index):
                (single,) = batches(
                    [sources[index]], Preprocessing([geometry], values), batch_size=1, failed=lambda at, error: None
                )
                assert np.array_equal(np.asarray(batch.views[view])[at], single.overview[0])


def test_exposure_is_corrected_in_the_network_input_only() -> None:
    exposure = Exposure(0.3, 0.5)
    geometries = [Geometry((64, 64), "keep"), Geometry((96, 96), "keep")]
    values = ValueRange("8-bit", 0, 255, exposure)
    (batch,) = batches(
        [texture(0)], Preprocessing(geometries, values), batch_size=1, failed=lambda at, error: pytest.fail(str(error))
    )
    plain = Preprocessing(geometries, values).prepare(texture(0))
    for view in (0, 1):
        assert np.array_equal(np.asarray(batch.views[view])[0], np.asarray(plain.views[view]).transpose(2, 0, 1))
        assert np.array_equal(batch.network_input(view), exposure.corrected(np.asarray(batch.views[view])))
        assert batch.network_input(view).mean() == pytest.approx(0.3, rel=1e-3)


def test_views_of_a_batch_must_have_consistent_shapes() -> None:
    view = np.zeros((2, 3, 8, 8), np.float32)
    for views, message in (((view, view[:1]), "differ in length"), ((view, view[:, :2]), r"must be \(B, 3, H, W\)")):
        with pytest.raises(ValueError, match=message):
            ImageBatch(views, (0, 1), ((8, 8),) * 2, (None,) * 2, (None,) * 2, (None,) * 2)
