"""The drift monitor: p-values, bets, false warnings, detected changes and saved state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from crepes import martingales
from hypothesis import given
from hypothesis import strategies as st

from conftest import damaged, texture
from offnominal import Detector
from offnominal.decisions import DEVIATION, DriftTest, drift, halves, learn_appearance
from offnominal.decisions.appearance import CUT, OTHERS, RIDGE
from offnominal.errors import InputError
from offnominal.images import DISTURBANCES, pixel_features
from offnominal.model import Model
from offnominal.monitoring.drift_monitor import CHANGES, DriftMonitor, report_drift, state_path


def ranks(test: DriftTest, values: np.ndarray) -> np.ndarray:
    return test._ranks(np.asarray(values, np.float32))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_p_values_equal_those_of_crepes(reference: list[int], stream: list[int]) -> None:
    """With many ties, and the same random numbers to break them."""
    test = DriftTest(np.array(reference, np.float32)[:, None], seed=3)
    p_values = ranks(test, np.array(stream)[:, None])[:, 0]
    random_numbers = np.concatenate([np.zeros(len(reference)), np.random.default_rng(np.random.PCG64(3)).random(len(stream))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "rand", lambda count: random_numbers)
        expected = martingales.semi_online_p_values([*reference, *stream])
    assert p_values == pytest.approx(expected[len(reference) :])


def naive_log_martingale(reference: np.ndarray, stream: np.ndarray, seed: int) -> float:
    """Largest log martingale of one statistic: the sum over every start of every bet, plus the reserve."""
    random_numbers = np.random.Generator(np.random.PCG64(seed)).random(len(stream))
    p_values = []
    for t, value in enumerate(stream):
        past = np.concatenate([reference, stream[:t]])
        p_values.append(((past > value).sum() + random_numbers[t] * (1 + (past == value).sum())) / (len(past) + 1))
    from scipy.stats import norm

    z = np.clip(norm.ppf(1 - np.array(p_values)), -drift.CUT, drift.CUT)
    grid = np.linspace(-12, 12, 200_001)
    density = norm.pdf(grid) * (grid[1] - grid[0])
    largest = 1.0
    for t in range(1, len(stream) + 1):
        total = (1 + t / 100) ** -0.5
        for shift in drift.SHIFTS:
            mean = (np.exp(shift * np.clip(grid, -drift.CUT, drift.CUT)) * density).sum()
            for start in range(1, t + 1):
                share = (1 + (start - 1) / 100) ** -0.5 - (1 + start / 100) ** -0.5
                total += share * np.prod(np.exp(shift * z[start - 1 : t]) / mean) / len(drift.SHIFTS)
        largest = max(largest, total)
    return float(np.log(largest))


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_martingales_equal_the_naive_version_for_any_block_size(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(20, 1)).astype(np.float32)
    stream = rng.normal(shift, 1, size=(23, 1)).astype(np.float32)
    expected = naive_log_martingale(reference[:, 0].astype(float), stream[:, 0].astype(float), 5)
    for block in (1, 7, 256):
        monkeypatch.setattr(drift, "_BLOCK", block)
        test = DriftTest(reference, 5)
        log_capital = test.update(stream)
        assert log_capital[-1, 0] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        in_parts = DriftTest(reference, 5)
        for part in np.split(stream, [4, 9, 10]):
            in_parts.update(part)
        assert in_parts.peak == pytest.approx(test.peak)
        assert np.array_equal(in_parts.began, test.began)


def test_bets_have_mean_one() -> None:
    p = (np.arange(2_000_000) + 0.5) / 2_000_000
    from scipy.special import ndtri

    z = np.clip(ndtri(1 - p), -drift.CUT, drift.CUT)
    for shift, log_mean in zip(drift.SHIFTS, drift.log_mean_bet(drift.SHIFTS), strict=True):
        assert np.exp(shift * z - log_mean).mean() == pytest.approx(1, abs=1e-5)


def test_false_warnings_stay_below_the_stated_rate() -> None:
    """400 streams of 300 undisturbed images, with a reference of 15 good images.

    The three statistics are dependent and heavy-tailed.
    """
    warnings = 0
    mixing = np.array([[1.0, 0.8, 0.1], [0.0, 1.0, 0.5], [0.3, 0.0, 1.0]])
    for seed in range(400):
        rng = np.random.default_rng(seed)
        test = DriftTest((rng.standard_t(2, (15, 3)) @ mixing).astype(np.float32), seed)
        test.update((rng.standard_t(2, (300, 3)) @ mixing).astype(np.float32))
        warnings += test.warns(0.05)
    assert warnings <= 400 * 0.05 + 4 * np.sqrt(400 * 0.05 * 0.95)


def test_a_change_is_detected_and_dated() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(100, 2)).astype(np.float32)
    stream = rng.normal(size=(160, 2)).astype(np.float32)
    stream[100:, 1] -= 1.5
    test = DriftTest(reference)
    log_capital = test.update(stream)
    first_warning = int(np.flatnonzero(log_capital.max(axis=1) >= np.log(100))[0])
    assert 100 <= first_warning < 140
    assert test.warns(0.01)
    began, rose = test.change(1)
    assert 95 <= began <= 106
    assert not rose


def test_a_few_outliers_do_not_warn() -> None:
    """One image in twenty is a large outlier in the same direction: at most 4 of 40 streams of 300 images warn."""
    warnings = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        stream = rng.normal(size=(300, 3)).astype(np.float32)
        stream[rng.random(300) < 0.05] += 50
        test = DriftTest(rng.normal(size=(100, 3)).astype(np.float32), seed)
        test.update(stream)
        warnings += test.warns(0.01)
    assert warnings <= 4


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.zeros(2), [[np.nan, 0.0]]])
def test_invalid_statistics_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(T, 2\)|finite"):
        DriftTest(np.zeros((5, 2), np.float32)).update(np.asarray(values))


# --- appearance -------------------------------------------------------------------------------------------------------


def test_directions_are_fisher_discriminants_and_respond_to_their_disturbance() -> None:
    rng = np.random.default_rng(0)
    mixing = np.eye(6) + 0.9 * (rng.random((6, 6)) < 0.4)
    features = (rng.normal(size=(300, 6)) @ mixing).astype(np.float32)
    steps = {"a": np.array([0.4, 0, 0, 0.1, 0, 0], np.float32), "b": np.array([0.3, 0.4, 0, 0, 0, 0], np.float32)}
    fitting_half = features[:150]
    appearance = learn_appearance(
        fitting_half, {name: (fitting_half, fitting_half + step) for name, step in steps.items()}, features[150:]
    )
    assert appearance.names == ("a", "b", DEVIATION)
    assert appearance.reference == pytest.approx(appearance.statistics(features[150:]))
    response = {
        name: (appearance.statistics(features[150:] + step) - appearance.reference).mean(axis=0)
        / appearance.reference.std(axis=0)
        for name, step in steps.items()
    }
    assert response["a"][0] > response["a"][1]
    assert response["b"][1] > response["b"][0]
    standardised = np.clip((fitting_half - np.median(fitting_half, axis=0)) / fitting_half.std(axis=0), -CUT, CUT)
    after = {
        n: np.clip((fitting_half + s - np.median(fitting_half, axis=0)) / fitting_half.std(axis=0), -CUT, CUT)
        for n, s in steps.items()
    }
    a, b = ((after[name] - standardised).mean(axis=0) for name in steps)
    naive_a = np.linalg.inv(np.cov(standardised.T) + RIDGE * np.eye(6) + OTHERS * np.outer(b, b)) @ a
    assert appearance.directions[0] == pytest.approx(naive_a / np.linalg.norm(naive_a), abs=1e-4)
    constant = learn_appearance(np.ones((5, 3), np.float32), {}, np.ones((5, 3), np.float32))
    assert constant.reference.tolist() == [[0.0]] * 5


@given(st.lists(st.integers(0, 4), min_size=4, max_size=12), st.integers(0, 4))
def test_image_level_p_values_equal_naive_counts(reference_values: list[int], value: int) -> None:
    """With ties, and two statistics. The p-value uses the last one."""
    reference = np.array([[9 - other, other] for other in reference_values], np.float32)
    appearance = replace(
        learn_appearance(np.eye(4, dtype=np.float32), {}, np.eye(4, dtype=np.float32)), reference=reference[:, 1:]
    )
    naive_p = sum(other >= value for other in [*reference_values, value]) / (len(reference_values) + 1)
    assert appearance.p_value(np.array([value], np.float32)) == pytest.approx(naive_p)


def test_image_level_p_values_of_good_images_are_uniform() -> None:
    """2,000 draws of a fitting half, 19 reference images and one new image from the same heavy-tailed distribution."""
    rng, draws = np.random.default_rng(5), 2000
    p_values = []
    for _ in range(draws):
        features = (rng.standard_t(3, size=(40, 5)) @ np.triu(np.ones((5, 5)))).astype(np.float32)
        appearance = learn_appearance(features[:20], {"a": (features[:20], features[:20] + 0.3)}, features[20:39])
        p_values.append(appearance.p_value(appearance.statistics(features[39])))
    for alpha in (0.05, 0.1, 0.5):  # multiples of 1 / 20, where the guarantee holds with equality
        assert np.mean(np.array(p_values) <= alpha + 1e-9) == pytest.approx(alpha, abs=4 * np.sqrt(alpha * (1 - alpha) / draws))


def test_halves_are_a_partition() -> None:
    for count in (2, 9, 100):
        fitting_half, reference = halves(count, 1)
        assert sorted([*fitting_half, *reference]) == list(range(count))
        assert len(reference) - len(fitting_half) in (0, 1)


def test_disturbances_keep_shape_and_type_and_change_the_image() -> None:
    image = np.random.default_rng(0).random((3, 64, 96)).astype(np.float32)
    for name, change in DISTURBANCES.items():
        after = change(image)
        assert after.shape == image.shape
        assert after.dtype == np.float32
        assert not np.array_equal(after, image)
        assert name in CHANGES
    assert np.array_equal(DISTURBANCES["sideways"](image)[:, :, :90], image[:, :, 2:92])
    assert np.array_equal(DISTURBANCES["upward"](image)[:, :60], image[:, 2:62])
    assert DISTURBANCES["brightness"](image).max() <= 1
    grey = cv2.resize(image.mean(axis=0), (64, 64), interpolation=cv2.INTER_AREA)
    expected = np.concatenate([np.median(grey, axis=0), np.median(grey, axis=1)]) - np.median(grey)
    assert pixel_features(image[None])[:, :-3] == pytest.approx(expected[None], abs=1e-5)


# --- the monitor ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Model:
    return Detector(image_size=96, bank=100).fit([texture(seed) for seed in range(40)]).model


def appearances(model: Model, images: list[np.ndarray]) -> np.ndarray:
    from offnominal.inference import Inspector, member_engines

    by_index = {}

    def fail(index: int, error: Exception) -> None:
        raise error

    for index, inspection, _ in Inspector(model, member_engines(model.settings)).inspect(images, fail):
        by_index[index] = inspection.appearance
    return np.stack([by_index[index] for index in range(len(images))])


def test_blur_is_named_and_dated_across_saved_states(model: Model, tmp_path: Path) -> None:
    assert model.appearance is not None
    assert model.appearance.reference.shape == (20, len(DISTURBANCES) + 1)
    good = [texture(seed) for seed in range(100, 120)]
    blurred = [cv2.GaussianBlur(texture(seed), (0, 0), 1.5) for seed in range(200, 230)]
    statistics = appearances(model, good + blurred)
    path = tmp_path / "m.drift.json"
    names = [f"{number}.png" for number in range(1, 51)]
    for part in (slice(0, 15), slice(15, 33), slice(33, 50)):
        monitor = DriftMonitor(model, path)
        monitor.update(names[part], statistics[part])
        lines = report_drift(monitor, tmp_path)
    single = DriftMonitor(model, None)
    single.update(names, statistics)
    assert monitor.test.peak == pytest.approx(single.test.peak)
    result = json.loads((tmp_path / "drift.json").read_text())
    assert (result["warning"], result["images"], result["statistic"], result["change"]) == (True, 50, "blur", "blurrier")
    assert result["since"]["path"] == f"{result['since']['image']}.png"
    assert result["noticed"]["image"] > result["since"]["image"]
    assert any(line.startswith("warning: since about image") for line in lines)
    assert monitor._noticed is not None
    monitor._noticed = replace(monitor._noticed, number=result["since"]["image"] - 5, path="by another statistic")
    assert monitor.result()["since"] == monitor.result()["noticed"], "a change begins no later than it is noticed"
    assert not DriftMonitor(model, path, reset=True).result()["warning"]


def test_blur_is_dated_within_two_images_in_the_median(model: Model) -> None:
    since = []
    for first in range(0, 5000, 1000):
        good = [texture(first + seed) for seed in range(100, 120)]
        blurred = [cv2.GaussianBlur(texture(first + seed), (0, 0), 1.5) for seed in range(200, 230)]
        monitor = DriftMonitor(model, None)
        monitor.update([f"{number}.png" for number in range(1, 51)], appearances(model, good + blurred))
        result = monitor.result()
        assert result["warning"]
        assert result["since"]["image"] < result["noticed"]["image"] <= 30
        since.append(result["since"]["image"])
    assert 19 <= np.median(since) <= 23
    assert all(15 <= image <= 23 for image in since)


def test_damaged_states_are_refused_and_foreign_ones_are_ignored(model: Model, detector: Detector, tmp_path: Path) -> None:
    path = state_path(tmp_path / "m")
    assert path.name == "m.drift.json"
    monitor = DriftMonitor(model, path)
    assert model.appearance is not None
    monitor.update(["a", "b"], model.appearance.reference[:2])
    monitor.save()
    assert "another model" in DriftMonitor(detector.model, path).notes[0]
    content = json.loads(path.read_text())
    changed = ("", "[]", json.dumps({**content, "images": 3}), json.dumps({**content, "stream": "x"}))
    for text in (*changed, json.dumps({**content, "places": []}), json.dumps({**content, "version": 9})):
        path.write_text(text)
        with pytest.raises(InputError, match="--reset-drift"):
            DriftMonitor(model, path)
    with pytest.raises(InputError, match="false-warning rate"):
        DriftMonitor(model, None, 0.0)
    file = tmp_path / "file"
    file.write_text("")
    unsaved = DriftMonitor(model, file / "m.drift.json")
    unsaved.update(["a"], model.appearance.reference[:1])
    unsaved.save()
    assert "drift state is not saved" in unsaved.notes[0]


def test_concurrent_runs_merge_their_images_and_reset_deletes_the_state(model: Model, tmp_path: Path) -> None:
    assert model.appearance is not None
    path, values = state_path(tmp_path / "m"), model.appearance.reference
    first, second = DriftMonitor(model, path), DriftMonitor(model, path)
    for monitor, names in ((first, ["a", "b"]), (second, ["c", "d", "e"]), (first, ["f"])):
        monitor.update(names, values[: len(names)])
        monitor.save()
    single = DriftMonitor(model, None)
    for names in (["a", "b"], ["c", "d", "e"], ["f"]):
        single.update(names, values[: len(names)])
    assert DriftMonitor(model, path).result() == single.result()
    DriftMonitor(model, path, reset=True)
    assert not path.exists(), "deleted at once, even if the run reads no image"


def test_models_of_few_images_have_no_drift_monitor(tmp_path: Path) -> None:
    few = Detector(image_size=96, bank=50).fit([texture(seed) for seed in range(5)])
    assert few.model.appearance is None
    assert few.inspect(damaged(1)[0]).appearance.shape == (0,)
    assert report_drift(None, tmp_path) == []
    assert json.loads((tmp_path / "drift.json").read_text())["watched"] is False
