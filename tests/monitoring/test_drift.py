"""The drift monitor: its p-values, its bets, its false warnings, what it notices, and its state."""

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
def test_p_values_are_those_of_crepes(known: list[int], stream: list[int]) -> None:
    """With the same chance for the ties, of which there are many."""
    test = DriftTest(np.array(known, np.float32)[:, None], seed=3)
    ours = ranks(test, np.array(stream)[:, None])[:, 0]
    chance = np.concatenate([np.zeros(len(known)), np.random.default_rng(np.random.PCG64(3)).random(len(stream))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "rand", lambda count: chance)
        theirs = martingales.semi_online_p_values([*known, *stream])
    assert ours == pytest.approx(theirs[len(known) :])


def naive(reference: np.ndarray, stream: np.ndarray, seed: int) -> float:
    """Largest log martingale of one statistic: every start of every bet on its own, and what no bet has begun with."""
    chance = np.random.Generator(np.random.PCG64(seed)).random(len(stream))
    p_values = []
    for t, value in enumerate(stream):
        past = np.concatenate([reference, stream[:t]])
        p_values.append(((past > value).sum() + chance[t] * (1 + (past == value).sum())) / (len(past) + 1))
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


@pytest.mark.parametrize("moved", [0.0, 1.5])
def test_the_martingale_is_the_naive_one_in_any_blocks(moved: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(20, 1)).astype(np.float32)
    stream = rng.normal(moved, 1, size=(23, 1)).astype(np.float32)
    right = naive(reference[:, 0].astype(float), stream[:, 0].astype(float), 5)
    for block in (1, 7, 256):
        monkeypatch.setattr(drift, "_BLOCK", block)
        test = DriftTest(reference, 5)
        told = test.update(stream)
        assert told[-1, 0] == pytest.approx(right, rel=1e-4, abs=1e-4)
        again = DriftTest(reference, 5)
        for part in np.split(stream, [4, 9, 10]):
            again.update(part)
        assert again.peak == pytest.approx(test.peak)
        assert np.array_equal(again.began, test.began)


def test_bets_are_fair() -> None:
    p = (np.arange(2_000_000) + 0.5) / 2_000_000
    from scipy.special import ndtri

    z = np.clip(ndtri(1 - p), -drift.CUT, drift.CUT)
    for shift, log_mean in zip(drift.SHIFTS, drift.log_mean_bet(drift.SHIFTS), strict=True):
        assert np.exp(shift * z - log_mean).mean() == pytest.approx(1, abs=1e-5)


def test_false_warnings_stay_within_the_stated_rate() -> None:
    """400 undisturbed streams of 300 images of three dependent heavy-tailed statistics, held against 15 good images."""
    warned = 0
    mixing = np.array([[1.0, 0.8, 0.1], [0.0, 1.0, 0.5], [0.3, 0.0, 1.0]])
    for seed in range(400):
        rng = np.random.default_rng(seed)
        test = DriftTest((rng.standard_t(2, (15, 3)) @ mixing).astype(np.float32), seed)
        test.update((rng.standard_t(2, (300, 3)) @ mixing).astype(np.float32))
        warned += test.warns(0.05)
    assert warned <= 400 * 0.05 + 4 * np.sqrt(400 * 0.05 * 0.95)


def test_a_change_is_noticed_and_dated() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(100, 2)).astype(np.float32)
    stream = rng.normal(size=(160, 2)).astype(np.float32)
    stream[100:, 1] -= 1.5
    test = DriftTest(reference)
    told = test.update(stream)
    at = int(np.flatnonzero(told.max(axis=1) >= np.log(100))[0])
    assert 100 <= at < 140
    assert test.warns(0.01)
    began, rose = test.change(1)
    assert 95 <= began <= 106
    assert not rose


def test_a_few_odd_parts_do_not_warn() -> None:
    """One part in twenty is far off, all to the same side: in 40 streams of 300 images at most 4 warnings."""
    warned = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        stream = rng.normal(size=(300, 3)).astype(np.float32)
        stream[rng.random(300) < 0.05] += 50
        test = DriftTest(rng.normal(size=(100, 3)).astype(np.float32), seed)
        test.update(stream)
        warned += test.warns(0.01)
    assert warned <= 4


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.zeros(2), [[np.nan, 0.0]]])
def test_the_test_refuses_what_it_cannot_use(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(T, 2\)|finite"):
        DriftTest(np.zeros((5, 2), np.float32)).update(np.asarray(values))


# --- appearance -------------------------------------------------------------------------------------------------------


def test_directions_are_fishers_and_react_to_their_disturbance() -> None:
    rng = np.random.default_rng(0)
    mixing = np.eye(6) + 0.9 * (rng.random((6, 6)) < 0.4)
    features = (rng.normal(size=(300, 6)) @ mixing).astype(np.float32)
    steps = {"a": np.array([0.4, 0, 0, 0.1, 0, 0], np.float32), "b": np.array([0.3, 0.4, 0, 0, 0, 0], np.float32)}
    taught = features[:150]
    found = learn_appearance(taught, {name: (taught, taught + step) for name, step in steps.items()}, features[150:])
    assert found.names == ("a", "b", DEVIATION)
    assert found.reference == pytest.approx(found.statistics(features[150:]))
    moved = {
        name: (found.statistics(features[150:] + step) - found.reference).mean(axis=0) / found.reference.std(axis=0)
        for name, step in steps.items()
    }
    assert moved["a"][0] > moved["a"][1]
    assert moved["b"][1] > moved["b"][0]
    standard = np.clip((taught - np.median(taught, axis=0)) / taught.std(axis=0), -CUT, CUT)
    after = {n: np.clip((taught + s - np.median(taught, axis=0)) / taught.std(axis=0), -CUT, CUT) for n, s in steps.items()}
    a, b = ((after[name] - standard).mean(axis=0) for name in steps)
    naive_a = np.linalg.inv(np.cov(standard.T) + RIDGE * np.eye(6) + OTHERS * np.outer(b, b)) @ a
    assert found.directions[0] == pytest.approx(naive_a / np.linalg.norm(naive_a), abs=1e-4)
    alike = learn_appearance(np.ones((5, 3), np.float32), {}, np.ones((5, 3), np.float32))
    assert alike.reference.tolist() == [[0.0]] * 5


@given(st.lists(st.integers(0, 4), min_size=4, max_size=12), st.integers(0, 4))
def test_the_p_value_of_a_whole_image_counts_who_is_no_more_alike(known: list[int], value: int) -> None:
    """With ties, on two statistics, of which the last counts."""
    reference = np.array([[9 - one, one] for one in known], np.float32)
    found = replace(learn_appearance(np.eye(4, dtype=np.float32), {}, np.eye(4, dtype=np.float32)), reference=reference[:, 1:])
    naive_p = sum(one >= value for one in [*known, value]) / (len(known) + 1)
    assert found.p_value(np.array([value], np.float32)) == pytest.approx(naive_p)


def test_good_images_come_to_a_p_value_as_often_as_it_says() -> None:
    """Over 2,000 draws of all of it: fitting half, reference of 19 and one new image of the same sort, heavy-tailed."""
    rng, draws = np.random.default_rng(5), 2000
    p_values = []
    for _ in range(draws):
        features = (rng.standard_t(3, size=(40, 5)) @ np.triu(np.ones((5, 5)))).astype(np.float32)
        found = learn_appearance(features[:20], {"a": (features[:20], features[:20] + 0.3)}, features[20:39])
        p_values.append(found.p_value(found.statistics(features[39])))
    for alpha in (0.05, 0.1, 0.5):  # whole twentieths: what is promised is met, not only kept
        assert np.mean(np.array(p_values) <= alpha + 1e-9) == pytest.approx(alpha, abs=4 * np.sqrt(alpha * (1 - alpha) / draws))


def test_halves_are_disjoint_and_whole() -> None:
    for images in (2, 9, 100):
        fitting_half, reference = halves(images, 1)
        assert sorted([*fitting_half, *reference]) == list(range(images))
        assert len(reference) - len(fitting_half) in (0, 1)


def test_disturbances_keep_shape_and_do_what_they_say() -> None:
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
    across = np.concatenate([np.median(grey, axis=0), np.median(grey, axis=1)]) - np.median(grey)
    assert pixel_features(image[None])[:, :-3] == pytest.approx(across[None], abs=1e-5)


# --- the monitor ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched() -> Model:
    return Detector(image_size=96, bank=100).fit([texture(seed) for seed in range(40)]).model


def appearances(model: Model, images: list[np.ndarray]) -> np.ndarray:
    from offnominal.inference import Inspector, member_engines

    found = {}

    def fail(index: int, error: Exception) -> None:
        raise error

    for index, inspection, _ in Inspector(model, member_engines(model.settings)).inspect(images, fail):
        found[index] = inspection.appearance
    return np.stack([found[index] for index in range(len(images))])


def test_blur_is_named_and_dated_and_the_state_goes_on(watched: Model, tmp_path: Path) -> None:
    assert watched.appearance is not None
    assert watched.appearance.reference.shape == (20, len(DISTURBANCES) + 1)
    good = [texture(seed) for seed in range(100, 120)]
    blurred = [cv2.GaussianBlur(texture(seed), (0, 0), 1.5) for seed in range(200, 230)]
    found = appearances(watched, good + blurred)
    path = tmp_path / "m.drift.json"
    names = [f"{number}.png" for number in range(1, 51)]
    for part in (slice(0, 15), slice(15, 33), slice(33, 50)):
        monitor = DriftMonitor(watched, path)
        monitor.update(names[part], found[part])
        lines = report_drift(monitor, tmp_path)
    whole = DriftMonitor(watched, None)
    whole.update(names, found)
    assert monitor.test.peak == pytest.approx(whole.test.peak)
    result = json.loads((tmp_path / "drift.json").read_text())
    assert (result["warning"], result["images"], result["statistic"], result["change"]) == (True, 50, "blur", "blurrier")
    assert result["since"]["path"] == f"{result['since']['image']}.png"
    assert result["noticed"]["image"] > result["since"]["image"]
    assert any(line.startswith("warning: since about image") for line in lines)
    assert monitor._noticed is not None
    monitor._noticed = replace(monitor._noticed, number=result["since"]["image"] - 5, path="by another statistic")
    assert monitor.result()["since"] == monitor.result()["noticed"], "no change begins behind where one was noticed"
    assert not DriftMonitor(watched, path, reset=True).result()["warning"]


def test_a_blur_is_dated_to_within_two_images_in_the_median_of_five_streams(watched: Model) -> None:
    since = []
    for first in range(0, 5000, 1000):
        good = [texture(first + seed) for seed in range(100, 120)]
        blurred = [cv2.GaussianBlur(texture(first + seed), (0, 0), 1.5) for seed in range(200, 230)]
        monitor = DriftMonitor(watched, None)
        monitor.update([f"{number}.png" for number in range(1, 51)], appearances(watched, good + blurred))
        result = monitor.result()
        assert result["warning"]
        assert result["since"]["image"] < result["noticed"]["image"] <= 30
        since.append(result["since"]["image"])
    assert 19 <= np.median(since) <= 23
    assert all(15 <= image <= 23 for image in since)


def test_a_state_that_is_foreign_or_damaged(watched: Model, detector: Detector, tmp_path: Path) -> None:
    path = state_path(tmp_path / "m")
    assert path.name == "m.drift.json"
    monitor = DriftMonitor(watched, path)
    assert watched.appearance is not None
    monitor.update(["a", "b"], watched.appearance.reference[:2])
    monitor.save()
    assert "another model" in DriftMonitor(detector.model, path).notes[0]
    content = json.loads(path.read_text())
    changed = ("", "[]", json.dumps({**content, "images": 3}), json.dumps({**content, "stream": "x"}))
    for text in (*changed, json.dumps({**content, "places": []}), json.dumps({**content, "version": 9})):
        path.write_text(text)
        with pytest.raises(InputError, match="--reset-drift"):
            DriftMonitor(watched, path)
    with pytest.raises(InputError, match="false-warning rate"):
        DriftMonitor(watched, None, 0.0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    lost = DriftMonitor(watched, blocked / "m.drift.json")
    lost.update(["a"], watched.appearance.reference[:1])
    lost.save()
    assert "drift state is not saved" in lost.notes[0]


def test_runs_beside_each_other_lose_no_image_and_a_reset_is_one(watched: Model, tmp_path: Path) -> None:
    assert watched.appearance is not None
    path, values = state_path(tmp_path / "m"), watched.appearance.reference
    one, other = DriftMonitor(watched, path), DriftMonitor(watched, path)
    for monitor, names in ((one, ["a", "b"]), (other, ["c", "d", "e"]), (one, ["f"])):
        monitor.update(names, values[: len(names)])
        monitor.save()
    whole = DriftMonitor(watched, None)
    for names in (["a", "b"], ["c", "d", "e"], ["f"]):
        whole.update(names, values[: len(names)])
    assert DriftMonitor(watched, path).result() == whole.result()
    DriftMonitor(watched, path, reset=True)
    assert not path.exists(), "though no image of the run should be readable"


def test_too_few_images_are_not_watched(tmp_path: Path) -> None:
    few = Detector(image_size=96, bank=50).fit([texture(seed) for seed in range(5)])
    assert few.model.appearance is None
    assert few.inspect(damaged(1)[0]).appearance.shape == (0,)
    assert report_drift(None, tmp_path) == []
    assert json.loads((tmp_path / "drift.json").read_text())["watched"] is False
