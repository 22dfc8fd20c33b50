"""Defects made on good pictures."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import texture
from offnominal.images import PSEUDO_ANOMALIES, pseudo_anomaly


@pytest.mark.parametrize("kind", PSEUDO_ANOMALIES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_region_changes_and_nothing_else(kind: str, dtype: type) -> None:
    good, other = (np.repeat(texture(seed)[:, :, :1], 3, axis=2).astype(dtype) for seed in (1, 2))
    made, mask = pseudo_anomaly(good, other, kind, np.random.default_rng(3))
    assert made.dtype == good.dtype
    assert made.shape == good.shape
    changed = np.abs(made.astype(float) - good.astype(float)).max(2)
    assert 0 < mask.mean() < 0.3
    assert (changed > 0).mean() < 0.35  # what is changed but not marked is the soft edge
    assert changed[mask].mean() > 5 * changed[~mask].mean()
    assert made.min() >= good.min()
    assert made.max() <= good.max()


def test_the_same_numbers_make_the_same_defect() -> None:
    good, other = texture(1), texture(2)
    first, second, third = (pseudo_anomaly(good, other, "pasted", np.random.default_rng(seed))[0] for seed in (5, 5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize("kind", PSEUDO_ANOMALIES)
def test_flat_and_tiny_images_come_through(kind: str) -> None:
    for size in ((40, 60), (1, 1), (2, 90)):
        flat = np.full((*size, 3), 7, np.uint8)
        made, mask = pseudo_anomaly(flat, flat, kind, np.random.default_rng(0))
        assert np.array_equal(made, flat)
        assert not mask.any()


def test_the_other_image_may_have_another_size_and_kinds_are_known() -> None:
    made, mask = pseudo_anomaly(texture(1), texture(2)[:50, :70], "textured", np.random.default_rng(0))
    assert mask.any()
    assert made.shape == texture(1).shape
    with pytest.raises(ValueError, match="kind must be one of pasted"):
        pseudo_anomaly(texture(1), texture(2), "torn", np.random.default_rng(0))
