"""Conformal p-values, thresholds and regions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offnominal.decisions import calibrate, find_regions, images_needed


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.floats(0.001, 0.999), st.integers(-1, 22))
def test_threshold_and_p_value_give_the_same_verdict(scores: list[int], rate: float, score: int) -> None:
    calibration = calibrate(np.array(scores, dtype=np.float32), rate)
    naive = (1 + sum(s >= score for s in scores)) / (len(scores) + 1)
    assert calibration.p_value(score) == pytest.approx(naive)
    assert calibration.anomalous(score) == (naive <= calibration.rate + 1e-12)


def test_too_few_images_use_the_smallest_attainable_rate() -> None:
    few = calibrate(np.arange(9, dtype=np.float32), 0.01)
    assert (few.enough, few.rate, few.smallest_rate) == (False, 0.1, 0.1)
    assert few.threshold == 8
    assert images_needed(0.01) == 99
    assert calibrate(np.arange(99, dtype=np.float32), 0.01).enough


def test_the_false_alarm_rate_holds_on_average() -> None:
    """Over 4,000 draws, the share of flagged good images is at most alpha, within four standard errors."""
    rng = np.random.default_rng(0)
    flagged = []
    for _ in range(4000):
        scores = rng.normal(size=60).astype(np.float32)
        flagged.append(calibrate(scores[:59], 0.05).anomalous(float(scores[59])))
    assert np.mean(flagged) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 4000)
    assert np.mean(flagged) >= 0.03


@pytest.mark.parametrize("scores", [[], [np.nan]])
def test_empty_or_non_finite_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="scores must"):
        calibrate(np.array(scores, dtype=np.float32), 0.01)


def test_regions_are_in_original_pixels_and_sorted_by_peak() -> None:
    scores = np.zeros((10, 20), np.float32)
    scores[1:3, 2:5] = 2
    scores[3, 5] = 3  # touches at a corner: the same region
    scores[8, 18] = 9
    first, second = find_regions(scores, calibrate(np.array([1.0], np.float32), 0.5), (100, 400))
    assert (first.box, first.area, first.peak) == ((360, 80, 380, 90), 200, 9.0)
    assert (second.box, second.area, second.peak) == ((40, 10, 120, 40), 7 * 200, 3.0)
    left, top, right, bottom = first.box
    assert left <= first.peak_at[0] < right
    assert top <= first.peak_at[1] < bottom
    assert find_regions(scores, calibrate(np.array([10.0], np.float32), 0.5), (100, 400)) == ()
