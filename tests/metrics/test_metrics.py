"""Metrics against naive implementations and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from offnominal.metrics import Judged, area_under_roc, aupro, auroc, average_precision, best_f1, figures, rank


def test_aupro_against_the_naive_integral() -> None:
    rng = np.random.default_rng(0)
    for limit in (0.05, 0.3, 1.0):
        scores = rng.permutation(3 * 400).reshape(3, 20, 20).astype(float)
        masks = [np.zeros((20, 20), int) for _ in range(3)]
        masks[0][2:5, 2:9] = masks[0][5, 9] = masks[0][12:14, 3] = masks[1][0:3, 15:20] = 1
        scores += 500.5 * np.stack(masks)
        assert aupro(list(scores), masks, limit=limit) == pytest.approx(naive_aupro(list(scores), masks, limit), abs=1e-9)


def naive_aupro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """Integrate the overlap just left of every false-positive pixel. Exact without ties."""
    good = np.sort(np.concatenate([m[k == 0] for m, k in zip(maps, masks, strict=True)]))[::-1]
    labelled = [(m, *ndimage.label(k, np.ones((3, 3)))) for m, k in zip(maps, masks, strict=True)]
    regions = [m[labels == r] for m, labels, count in labelled for r in range(1, count + 1)]
    area, at = 0.0, 0.0
    for score in good:
        width = min(1 / len(good), limit - at)
        if width <= 0:
            break
        area += width * float(np.mean([(region > score).mean() for region in regions]))
        at += width
    return area / limit


def test_aupro_of_perfect_and_tied_maps_and_wrong_input() -> None:
    mask = np.zeros((8, 8), int)
    mask[2:4, 2:4] = 1
    assert aupro([mask.astype(float)], [mask]) == pytest.approx(1)
    assert aupro([np.zeros((8, 8))], [mask]) == pytest.approx(0.15)  # the diagonal, up to 0.3
    with pytest.raises(ValueError, match="at least one defect"):
        aupro([np.zeros((8, 8))], [np.zeros((8, 8))])
    with pytest.raises(ValueError, match="original pixels"):
        aupro([np.zeros((8, 8))], [np.zeros((4, 8))])
    with pytest.raises(ValueError, match="limit"):
        aupro([mask], [mask], limit=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_ranking_metrics_against_scikit_learn(p: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    good, bad = rng.integers(0, 6, n).astype(float), rng.integers(1, 8, p).astype(float)
    scores, truth = np.r_[bad, good], np.r_[np.ones(p), np.zeros(n)]
    ranking = rank(bad, good)
    assert area_under_roc(ranking) == pytest.approx(roc_auc_score(truth, scores))
    assert auroc(scores, truth > 0) == pytest.approx(roc_auc_score(truth, scores))
    assert average_precision(ranking) == pytest.approx(average_precision_score(truth, scores))
    precision, recall, _ = precision_recall_curve(truth, scores)
    with np.errstate(invalid="ignore"):
        assert best_f1(ranking) == pytest.approx(np.nanmax(2 * precision * recall / (precision + recall)))


def test_metrics_without_masks_or_defects_are_none() -> None:
    good = [Judged(True, "good", s, False, None, None) for s in (0.0, 1.0)]
    only_good = figures(good)
    assert only_good["image_auroc"] is None
    assert only_good["detection_rate"] is None
    both = figures([*good, Judged(False, "crack", 2.0, True, None, None)])
    assert (both["image_auroc"], both["pixel_auroc"], both["aupro_0.30"]) == (1.0, None, None)
    assert (both["false_alarm_rate"], both["detection_rate"], both["n_good"], both["n_defect"]) == (0.0, 1.0, 2, 1)
