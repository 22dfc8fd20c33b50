"""False-alarm rates: p-values, threshold ranks and bounds, the choice of the calibration method, regions and lots."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crepes.base import p_values_batch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, betabinom

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal.decisions import FOLDS, LEAVE_ONE_OUT, SPLIT, calibrate, choose_method, find_regions, judge_lot, smallest_pull
from offnominal.decisions.lots import estimated_bad, pull
from offnominal.errors import ImageError, InputError, SettingsError
from offnominal.fitting import TrainingSource
from offnominal.fitting.split import calibrated_by_split
from offnominal.fitting.workers import ThisProcess
from offnominal.images import to_original
from offnominal.inference import member_engines
from offnominal.observer import SILENT
from offnominal.outputs.guarantee import calibration_facts, calibration_warnings, promise
from offnominal.outputs.lot import require_lot, write_lot

scores_of = st.lists(st.integers(0, 30), min_size=1, max_size=60)


@given(scores_of, scores_of)
def test_p_values_equal_those_of_crepes(calibration_scores: list[int], new_scores: list[int]) -> None:
    calibration = calibrate(np.array(calibration_scores, dtype=np.float32), 0.1)
    expected = p_values_batch(np.array(calibration_scores, float), np.array(new_scores, float), smoothing=False)
    assert [calibration.p_value(score) for score in new_scores] == pytest.approx(expected.tolist())


@given(st.integers(1, 500), st.floats(0.002, 0.998))
def test_threshold_rank_and_95_percent_bound(n: int, rate: float) -> None:
    calibration = calibrate(np.arange(n, dtype=np.float32), rate, SPLIT)
    k = calibration.rank
    assert 1 <= k <= n
    assert calibration.threshold == n - k  # the k-th highest of 0 .. n - 1
    assert calibration.bound_95 == pytest.approx(beta.ppf(0.95, k, n + 1 - k), rel=1e-9)
    assert calibration.marginal_rate <= calibration.rate + 1e-9
    assert calibration.marginal_rate < calibration.bound_95


def test_false_alarm_rates_follow_the_beta_binomial_law() -> None:
    """Compare mean, spread and the share above the bound with the beta-binomial law, over 4,000 calibrations."""
    rng, n, test = np.random.default_rng(0), 99, 400
    rates = []
    for _ in range(4000):
        calibration = calibrate(rng.standard_t(3, n).astype(np.float32), 0.05, SPLIT)
        rates.append(float((rng.standard_t(3, test).astype(np.float32) > calibration.threshold).mean()))
    law = betabinom(test, calibration.rank, n + 1 - calibration.rank)
    assert np.mean(rates) == pytest.approx(calibration.marginal_rate, abs=4 * law.std() / test / np.sqrt(4000))
    assert np.std(rates) == pytest.approx(law.std() / test, rel=0.06)
    assert np.mean(np.array(rates) > calibration.bound_95) == pytest.approx(
        law.sf(np.floor(calibration.bound_95 * test)), abs=4 * np.sqrt(0.05 * 0.95 / 4000)
    )


def test_a_split_is_chosen_if_its_bound_is_below_twice_the_rate() -> None:
    for rate, fewest in ((0.01, 2495), (0.05, 495), (0.1, 245)):
        chosen = [images for images in range(2, 4000) if choose_method("auto", images, rate) == SPLIT]
        # A fifth of the images is rounded, so the first split may occur up to two images below the exact limit.
        assert fewest - 2 <= chosen[0] <= fewest
        held_out = round(0.2 * chosen[0])
        assert calibrate(np.arange(held_out, dtype=np.float32), rate, SPLIT).bound_95 < 2 * rate
    assert choose_method("split", 3, 0.01) == SPLIT
    assert choose_method("leave-one-out", 10**6, 0.1) == LEAVE_ONE_OUT
    assert choose_method("folds", 10**6, 0.1) == FOLDS


@given(st.integers(2, 5000), st.floats(0.002, 0.5))
def test_folds_are_chosen_for_few_images_and_leave_one_out_for_more(images: int, rate: float) -> None:
    split = rate * (max(1, round(0.2 * images)) + 1) >= 5 - 1e-9
    expected = SPLIT if split else FOLDS if images <= 100 else LEAVE_ONE_OUT
    assert choose_method("auto", images, rate) == expected


def test_split_calibration_scores_images_outside_the_fit(parts: Path, tmp_path: Path) -> None:
    images = [texture(seed) for seed in range(15)]
    fitted = Detector(image_size=96, bank=100, calibration="split", false_alarm_rate=0.3).fit(images)
    names = {source.name for source in fitted.model.sources}
    held_out = [at for at in range(15) if f"array {at}" not in names]
    assert (len(held_out), fitted.model.calibration.count, fitted.model.calibration.method) == (3, 3, SPLIT)
    assert np.sort(fitted.score_samples([images[at] for at in held_out])) == pytest.approx(
        fitted.model.calibration.scores, abs=1e-4
    )
    fitted.save(tmp_path / "m")
    assert load(tmp_path / "m").model.calibration.method == SPLIT
    from_four = Detector(image_size=96, bank=100, calibration="split").fit(images[:4])
    (note,) = calibration_warnings(from_four.model)
    assert note.startswith("A false-alarm rate of 1.00% needs at least 99 images held out to calibrate; with 1 ")
    assert "the smallest attainable rate is 50.00%, which is used; folds and leave-one-out calibrate on every image" in note
    assert "proved" in promise(fitted.model)
    for method, message in ((FOLDS, "without its fold"), (LEAVE_ONE_OUT, "--calibration folds is closer")):
        other = replace(fitted.model, calibration=calibrate(fitted.model.calibration.scores, 0.3, method))
        assert "approximate" in promise(other)
        assert message in promise(other)
    with pytest.raises(InputError, match="a split needs at least 3"):
        Detector(calibration="split").fit(images[:2])
    with pytest.raises(SettingsError, match="calibration"):
        Detector(calibration="jackknife")
    workers = ThisProcess(member_engines(fitted.settings), SILENT)
    with pytest.raises(InputError, match="held out to calibrate"):
        calibrated_by_split(fitted.model, [TrainingSource("nothing.png", tmp_path / "nothing.png")], workers)
    assert issubclass(ImageError, InputError)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.01, 0.05, 0.3]))
def test_an_image_is_flagged_if_and_only_if_it_has_regions(seed: int, n: int, rate: float) -> None:
    """Also if the peak equals the threshold.

    Resizing the map creates no pixel above its maximum.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(size=50).astype(np.float32)  # few values: ties are common
    calibration = calibrate(rng.choice(values, n), rate)
    anomaly = rng.choice(values, (6, 9))
    regions = find_regions(anomaly, calibration, (31, 17))
    assert bool(regions) == calibration.anomalous(float(anomaly.max()))
    assert all(region.p_value <= calibration.rate + 1e-9 for region in regions)
    if regions:
        assert regions[0].p_value == calibration.p_value(float(anomaly.max())) == min(r.p_value for r in regions)
    for size in ((6, 9), (3, 4), (31, 17), (60, 90)):
        assert float(to_original(anomaly, size).max()) <= float(anomaly.max()) + 1e-5


def test_regions_and_verdict_agree_on_images(detector: Detector) -> None:
    for seed in range(500, 510):
        for image in (texture(seed), damaged(seed)[0]):
            inspection = detector.inspect(image)
            assert (
                bool(inspection.regions)
                == inspection.anomalous
                == (inspection.p_value <= detector.model.calibration.rate + 1e-9)
            )
            assert not inspection.regions or inspection.regions[0].p_value == inspection.p_value


def test_calibration_facts_state_the_guarantee(detector: Detector) -> None:
    stated = calibration_facts(detector.model)
    assert {"method", "n", "alpha", "threshold", "smallest_alpha", "fpr_bound_95"} <= set(stated)
    assert (stated["n"], stated["method"], stated["exact"], stated["guaranteed"]) == (12, FOLDS, False, True)
    assert stated["fpr_bound_95"] == pytest.approx(1 - 0.05 ** (1 / 12))
    assert "approximate" in promise(detector.model)


@pytest.mark.parametrize(
    ("scores", "rate", "isolated"),
    [
        ([*range(20), 60.0], 0.01, True),
        ([*range(20), 34.0], 0.01, True),  # gap 34 - 19 = 15 > 1.5 * (19 - 10) = 13.5
        ([*range(20), 32.0], 0.01, False),
        ([*range(18), 60.0], 0.01, False),  # too few images
        ([*range(40), 90.0], 0.05, False),  # the threshold is the second highest
        ([*range(40), 90.0, 95.0], 0.05, True),
        ([1.0] * 30, 0.01, False),
        ([*([1.0] * 30), 1.5], 0.01, True),
    ],
)
def test_isolated_thresholds_are_detected(scores: list[float], rate: float, isolated: bool) -> None:
    assert calibrate(np.array(scores, np.float32), rate).threshold_isolated is isolated


def test_thresholds_are_rarely_isolated_by_chance() -> None:
    """The probabilities in the docstring of `threshold_isolated`, with normal and exponential scores."""
    rng, sets = np.random.default_rng(0), 2000
    for draw, shares in ((rng.normal, (0.0194, 0.0001)), (rng.exponential, (0.0944, 0.0094))):  # from 200,000 sets each
        for n, share in zip((20, 99), shares, strict=True):
            observed = np.mean([calibrate(draw(size=n).astype(np.float32), 0.01).threshold_isolated for _ in range(sets)])
            assert observed == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / sets)), (draw.__name__, n)


def test_images_behind_an_isolated_threshold_are_named(tmp_path: Path) -> None:
    images = [texture(seed) for seed in range(24)]
    normal = Detector(image_size=96, bank=200).fit(images)
    assert calibration_facts(normal.model)["rests_on"] == []
    images[7] = damaged(7)[0]
    images[7][:, :40] = 255
    with_outlier = Detector(image_size=96, bank=200).fit(images)
    assert calibration_facts(with_outlier.model)["rests_on"] == ["array 7"]
    assert any("rests on array 7 alone" in sentence for sentence in calibration_warnings(with_outlier.model))
    with_outlier.save(tmp_path / "m")
    assert calibration_facts(load(tmp_path / "m").model)["rests_on"] == ["array 7"]
    before = with_outlier.model.calibration.threshold
    with_outlier.update(remove=["array 8"])
    assert with_outlier.model.guaranteed, "another image was removed"
    with_outlier.update(remove=["array 7"])
    assert with_outlier.model.calibration.threshold < before
    assert not with_outlier.model.guaranteed
    assert promise(with_outlier.model).startswith("no guarantee applies: an image that the threshold rested on was removed")
    assert not calibration_facts(with_outlier.model)["guaranteed"]
    assert calibration_facts(with_outlier.model)["rests_on"] == []


# --- lots -------------------------------------------------------------------------------------------------------------


def naive_step_up(p_values: list[float], fdr: float) -> list[bool]:
    ordered = sorted(p_values)
    last = max((j for j, p in enumerate(ordered, 1) if p * len(ordered) <= fdr * j * (1 + 1e-12)), default=0)
    return [last > 0 and p <= ordered[last - 1] for p in p_values]


@given(st.integers(1, 100).flatmap(lambda n: st.lists(st.integers(1, n + 1).map(lambda r: r / (n + 1)), min_size=1)))
def test_pulled_parts_equal_the_naive_step_up_procedure(p_values: list[float]) -> None:
    for fdr in (0.05, 0.1, 0.5):
        assert pull(p_values, fdr).tolist() == naive_step_up(p_values, fdr)


@given(st.integers(1, 400), st.integers(1, 300), st.sampled_from([0.01, 0.1, 0.3]))
def test_nothing_is_pulled_below_the_smallest_pull(n: int, parts: int, fdr: float) -> None:
    fewest = smallest_pull(n, parts, fdr)
    for lowest in (fewest - 1, fewest):
        if 0 < lowest <= parts:
            p_values = [1 / (n + 1)] * lowest + [1.0] * (parts - lowest)
            assert pull(p_values, fdr).any() == (lowest >= fewest)


def test_lots_control_the_false_discovery_rate_and_do_not_overestimate_bad_parts() -> None:
    """The false discovery rate is at most 10 % on average over 1,500 lots, for each number of bad parts.

    Each lot has its own calibration set.
    """
    for bad in (2, 10, 25):
        false, estimates = [], []
        for draw in range(1500):
            rng = np.random.default_rng([bad, draw])
            calibration = calibrate(rng.normal(size=200).astype(np.float32), 0.1, SPLIT)
            scores = np.concatenate([rng.normal(size=50 - bad), rng.normal(3, 1, bad)])
            lot = judge_lot([calibration.p_value(float(score)) for score in scores], 200, 0.1)
            false.append(lot.pulled[:-bad].sum() / max(1, lot.pulled.sum()))
            estimates.append(lot.estimated_bad)
        assert np.mean(false) <= 0.1 + 4 * np.std(false) / np.sqrt(1500)
        if bad > 10:  # with fewer bad parts, the estimate is often clipped at 0
            assert 0.5 * bad < np.mean(estimates) <= bad + 4 * np.std(estimates) / np.sqrt(1500)
    assert estimated_bad([0.9] * 10) == 0
    assert estimated_bad([0.1] * 10) == 10


@pytest.mark.parametrize(("p_values", "fdr"), [([], 0.1), ([0.0], 0.1), ([1.2], 0.1), ([0.5], 1.0)])
def test_lots_refuse_invalid_p_values_and_rates(p_values: list[float], fdr: float) -> None:
    with pytest.raises(ValueError, match=r"p-values must|false discovery rate"):
        judge_lot(p_values, 10, fdr)


def test_lot_files_hold_the_pulled_parts(tmp_path: Path) -> None:
    calibration = calibrate(np.arange(19, dtype=np.float32), 0.1)
    rows: list[dict[str, Any]] = [
        {"path": str(at), "score": float(at), "p_value": calibration.p_value(at), "error": None} for at in (30, 3, 40, 9)
    ]
    rows.append({"path": "gone", "score": None, "p_value": None, "error": "gone"})
    lot = write_lot(rows, calibration, 0.1, tmp_path)
    assert json.loads((tmp_path / "lot.json").read_text()) == lot
    assert lot["flagged"] == ["40", "30"]
    assert (lot["images"], lot["unreadable"], lot["fdr"], lot["fewest"]) == (4, 1, 0.1, 2)
    assert "at least 2 must stand out" in lot["note"]
    assert write_lot(rows[-1:], calibration, 0.1, tmp_path)["flagged"] == []
    for fdr, message in ((0.04, "calibrate on 24 images"), (1.0, "between 0 and 1")):
        with pytest.raises(InputError, match=message):
            require_lot(calibration, fdr)
