"""Curves against scikit-learn, their own areas and naive counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve, roc_curve

from offnominal.metrics import (
    Judged,
    area_under_roc,
    aupro,
    figures_and_curves,
    precision_recall_points,
    rank,
    reliability,
    roc_points,
    thinned,
    up_to,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_roc_and_precision_recall_against_scikit_learn(p: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    good, bad = rng.integers(0, 6, n).astype(float), rng.integers(1, 8, p).astype(float)
    scores, truth = np.r_[bad, good], np.r_[np.ones(p), np.zeros(n)]
    ranking = rank(bad, good)
    points = roc_points(ranking)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    expected = {(round(x, 9), round(y, 9)) for x, y in zip(false, true, strict=True)}
    assert {(round(x, 9), round(y, 9)) for x, y in points} <= expected
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(area_under_roc(ranking))
    assert np.trapezoid(true, false) == pytest.approx(area_under_roc(ranking))
    for limit in (0.05, 0.3):
        part = up_to(points, limit)
        assert part[-1, 0] == pytest.approx(limit)
        assert np.trapezoid(part[:, 1], part[:, 0]) / limit == pytest.approx(area_under_roc(ranking, limit))
    precision, recall, _ = precision_recall_curve(truth, scores)
    expected = {(round(x, 9), round(y, 9)) for x, y in zip(recall, precision, strict=True)}
    assert {(round(x, 9), round(y, 9)) for x, y in precision_recall_points(ranking)} <= expected


def test_the_area_under_the_pro_curve_is_aupro() -> None:
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(40, 50)).astype(np.float32) for _ in range(6)]
    masks = [np.zeros((40, 50), bool) for _ in range(6)]
    for at in (0, 1, 2):
        masks[at][5:15, 5:20] = masks[at][30:33, 40:44] = True
        maps[at][masks[at]] += 1
    judged = [
        Judged(not mask.any(), "bad" if mask.any() else "good", float(m.max()), False, m, mask if mask.any() else None)
        for m, mask in zip(maps, masks, strict=True)
    ]
    measured, curves = figures_and_curves(judged)
    assert curves.pro is not None
    assert len(curves.pro) <= 400
    for limit, name in ((0.3, "aupro_0.30"), (0.05, "aupro_0.05")):
        part = up_to(curves.pro, limit)
        area = np.trapezoid(part[:, 1], part[:, 0]) / limit
        assert measured[name] == pytest.approx(aupro(maps, masks, limit=limit))
        assert area == pytest.approx(measured[name], abs=0.005)  # thinned for drawing
    # The mean overlap at one point, computed naively.
    x, y = curves.pro[len(curves.pro) // 2]
    flat = np.sort(np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)]))
    level = flat[len(flat) - round(x * len(flat))]
    boxes = [(slice(5, 15), slice(5, 20)), (slice(30, 33), slice(40, 44))]
    overlap = np.mean([(maps[at][box] >= level).mean() for at in (0, 1, 2) for box in boxes])
    assert y == pytest.approx(overlap, abs=0.01)


def test_curves_without_masks_or_defects() -> None:
    _, curves = figures_and_curves([Judged(True, "good", 1.0, False, None, None), Judged(False, "b", 2.0, True, None, None)])
    assert curves.roc is not None
    assert curves.pro is None
    assert curves.pixel_precision_recall is None
    _, curves = figures_and_curves([Judged(True, "good", 1.0, False, None, None)])
    assert curves.roc is None


def test_thinned_curves_keep_their_ends_and_shape() -> None:
    x = np.linspace(0, 1, 5000)
    points = np.column_stack([x, np.sqrt(x)])
    few = thinned(points, 100)
    assert len(few) <= 100
    assert np.array_equal(few[[0, -1]], points[[0, -1]])
    assert np.abs(np.interp(x, few[:, 0], few[:, 1]) - points[:, 1]).max() < 0.02
    assert len(thinned(points[:50], 100)) == 50


def test_reliability_against_naive_counts_and_scipy() -> None:
    rng = np.random.default_rng(2)
    m, n = 19, 33
    p_values = rng.integers(1, m + 2, n) / (m + 1)
    table = reliability(list(p_values), m)
    assert table.requested == pytest.approx(np.arange(1, m + 2) / (m + 1))
    for rate, observed, low, high in zip(table.requested, table.observed, table.low, table.high, strict=True):
        flagged = sum(p <= rate + 1e-9 for p in p_values)
        assert observed == flagged / n
        interval = binomtest(flagged, n).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((interval.low, interval.high))
