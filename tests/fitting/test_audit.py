"""Suspects among the good images: the rule against its definition, the audit on planted defects, and what fit leaves out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from scipy import stats

from conftest import REAL_DATA, damaged, texture
from offnominal import Detector, load
from offnominal.config import settings_from
from offnominal.decisions import called_suspect, outlier_p_values, worst_share
from offnominal.errors import InputError, SettingsError
from offnominal.fitting.audit import supporters, supporters_needed
from offnominal.fitting.split import split_images
from offnominal.memory import Coreset, HeldOutBanks
from offnominal.outputs.audits import write_audit

SMALL: dict[str, Any] = {"image_size": 96, "bank": 300, "false_alarm_rate": 0.1}


def scratched(seed: int) -> np.ndarray:
    """A part with the same dark bar as all others of its kind, at one place."""
    image = texture(seed)
    image[40:52, 30:80] = np.random.default_rng(0).integers(0, 30, (12, 50, 3))
    return image


def test_p_values_of_many_are_those_of_the_law() -> None:
    scores = stats.gumbel_r.ppf((np.arange(2001) + 0.5) / 2001, 3.0, 0.7)
    right = stats.gumbel_r.sf(scores, 3.0, 0.7)
    assert outlier_p_values(scores.astype(np.float32)) == pytest.approx(right, rel=0.05, abs=1e-4)
    scores[-400:] += 50  # what is far above does not move the law
    assert outlier_p_values(scores.astype(np.float32))[:1600] == pytest.approx(right[:1600], rel=0.02)
    assert outlier_p_values(np.array([1, 1, 1, 1, 9], np.float32)).tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="finite"):
        outlier_p_values(np.array([1, np.nan], np.float32))


@pytest.mark.parametrize("n", [6, 12])
def test_p_values_hold_their_level_for_a_new_score_at_every_n(n: int) -> None:
    """A score that does not belong to the n: measured in their quantiles, its p-value is uniform."""
    rng = np.random.default_rng(n)
    p_values = []
    for _ in range(300):
        bulk = rng.gumbel(1, 2, n)
        new = rng.gumbel(1, 2)
        low, middle = np.quantile(bulk, (0.1, 0.5))
        at_rank = np.append(bulk, new).astype(np.float32)
        # The simulated law is that of n scores: keep their quantiles, put the new one in the place of the highest.
        at_rank = np.delete(at_rank, bulk.argmax())
        if np.quantile(at_rank, (0.1, 0.5)) == pytest.approx([low, middle], rel=1e-4):
            p_values.append(float(outlier_p_values(at_rank)[-1]))
    for level in (0.05, 0.2):
        share = np.mean(np.array(p_values) <= level) * len(p_values) / 300
        assert share <= level + 4 * (level * (1 - level) / 300) ** 0.5


@trials(deadline=None, max_examples=80)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from([0.05, 0.1, 0.5]))
def test_called_suspects_are_benjamini_and_hochbergs(p_values: list[float], rate: float) -> None:
    ordered = sorted(p_values)
    adjusted = [value * len(ordered) / at for at, value in enumerate(ordered, 1)]
    assume(all(abs(value - rate) > 1e-12 for value in adjusted))  # there rounding decides
    passing = [at for at, value in enumerate(adjusted, 1) if value <= rate]
    limit = ordered[passing[-1] - 1] if passing else -1.0
    assert called_suspect(np.array(p_values), rate).tolist() == [value <= limit for value in p_values]


@pytest.mark.parametrize("n", [8, 30, 100])
def test_few_are_called_in_clean_sets_of_the_law(n: int) -> None:
    """A set of maxima without outliers: in at most about the stated share of sets is any image called."""
    rng = np.random.default_rng(0)
    called = [called_suspect(outlier_p_values(rng.gumbel(2, 0.5, n).astype(np.float32))).any() for _ in range(200)]
    assert np.mean(called) <= 0.1 + 4 * (0.1 * 0.9 / 200) ** 0.5


def test_the_worst_share() -> None:
    scores = np.array([3, 9, 1, 9, 5], np.float32)
    assert worst_share(scores, 0.4).tolist() == [False, True, False, True, False]
    assert worst_share(scores, 0.2).tolist() == [False, True, False, False, False]
    assert not worst_share(scores, 0.0).any()


@trials(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.floats(0.2, 3), st.integers(0, 2**32 - 1))
def test_supporters_are_other_images_within_the_radius(sizes: list[int], radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(len(sizes)), sizes)
    patches = rng.normal(size=(len(image), 3)).astype(np.float32)
    centres = rng.choice(len(image), rng.integers(1, len(image) + 1), replace=False)
    found = supporters(torch.from_numpy(patches), np.cumsum([0, *sizes[:-1]]), Coreset(centres, radius))
    distance = np.linalg.norm(patches[centres][:, None] - patches[None], axis=2)
    for slack, compare in ((-1e-3, np.greater_equal), (1e-3, np.less_equal)):
        near = distance <= radius + slack
        right = [len({int(one) for one in image[near[at]]} - {int(image[centre])}) for at, centre in enumerate(centres)]
        assert compare(found, right).all()


def test_how_many_supporters() -> None:
    assert [supporters_needed(images) for images in (2, 3, 4, 40, 150, 151, 400)] == [0, 1, 2, 3, 3, 4, 8]


def test_alike_defects_do_not_cover_each_other(tmp_path: Path) -> None:
    """Three parts with one and the same scratch among 60: each is found, though the others have it too."""
    images = [texture(seed) for seed in range(57)] + [scratched(seed) for seed in (70, 71, 72)]
    found = Detector(**SMALL).audit(images)
    assert found.supporters == 3
    assert set(np.argsort(-found.scores)[:3].tolist()) == {57, 58, 59}
    assert found.suspects("auto").nonzero()[0].tolist() == [57, 58, 59]
    assert {one.name for one in found.listed(found.suspects(0.05))} == {"array 57", "array 58", "array 59"}
    rows = write_audit(found, list(images), tmp_path, "auto")
    with (tmp_path / "audit.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["path", "score", "p_value", "suspect"]
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    scores = [float(row["score"]) for row in table]
    assert scores == sorted(scores, reverse=True)
    assert [row["suspect"] for row in table] == ["1"] * 3 + ["0"] * 57
    assert len(list((tmp_path / "suspects").glob("*.jpg"))) == 3


def test_copies_of_a_defect_do_not_support_each_other() -> None:
    images = [texture(seed) for seed in range(20)] + [scratched(70)] * 6
    found = Detector(**SMALL).audit(images)
    assert set(np.argsort(-found.scores)[:6].tolist()) == set(range(20, 26))


def test_what_others_support_is_not_missed_where_an_image_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another image's patch replaces it, as in a fit; else an image would look odd for what the bank had from it alone."""
    made: list[HeldOutBanks] = []

    class Watched(HeldOutBanks):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            made.append(self)

    monkeypatch.setattr("offnominal.fitting.member_patches.HeldOutBanks", Watched)
    Detector(**SMALL).audit([texture(seed) for seed in range(12)])
    assert len(made) == 2  # one a member
    for banks in made:
        assert any(len(banks.replacement_rows(image)) for image in range(12))


def test_fit_leaves_suspects_out_and_says_so(tmp_path: Path) -> None:
    images = [damaged(70)[0]] + [texture(seed) for seed in range(20)]
    trusting = Detector(**SMALL).fit(images)
    wary = Detector(**SMALL, contamination="auto").fit(images)
    (entry,) = wary.model.left_out
    assert entry.name == "array 0"
    assert entry.p_value < 1e-3
    names = [source.name for source in wary.model.sources]
    assert sorted(names) == sorted(f"array {i}" for i in range(1, 21))
    assert not wary.model.guaranteed
    assert trusting.model.guaranteed
    assert wary.model.calibration.count == 20
    assert trusting.model.left_out == ()
    assert wary.inspect(images[0]).anomalous
    assert not trusting.inspect(images[0]).anomalous  # it is in the bank itself
    assert wary.model.thumbnails is not None
    assert trusting.model.thumbnails is not None
    others = [source.name for source in trusting.model.sources]
    pictures = [
        (wary.model.thumbnails.stored(at), trusting.model.thumbnails.stored(others.index(name)))
        for at, name in enumerate(names)
    ]
    both = [mine == theirs for mine, theirs in pictures if mine and theirs]
    assert both
    assert all(both)  # each image keeps its own picture
    wary.save(tmp_path / "m")
    assert load(tmp_path / "m").model.left_out == wary.model.left_out


def test_a_share_and_clean_images() -> None:
    images = [texture(seed) for seed in range(12)]
    assert len(Detector(**SMALL, contamination=0.25, sampler="random").fit(images).model.left_out) == 3
    clean = Detector(**SMALL, contamination="auto").fit(images)
    assert len(clean.model.left_out) <= 1
    with pytest.raises(SettingsError, match="contamination = 'half': give auto, or a share"):
        Detector(contamination="half")
    with pytest.raises(SettingsError, match="with calibration folds or leave-one-out"):
        Detector(contamination="auto", calibration="split")
    many: dict[str, Any] = {"calibration": "auto", "false_alarm_rate": 0.1}
    groups = [None] * 1000
    assert len(split_images(groups, settings_from(**many))[1]) == 200
    assert len(split_images(groups, settings_from(**many, contamination="auto"))[1]) == 0  # suspects are found among all images
    with pytest.raises(InputError, match="needs at least 2"):
        Detector(**SMALL, contamination=0.45).fit(images[:2])


@pytest.mark.realdata
def test_broken_cookies_among_the_good_ones() -> None:
    root = REAL_DATA / "aws_cookies"
    good, broken = sorted((root / "train" / "good").iterdir()), sorted((root / "test" / "broken").iterdir())
    found = Detector().audit(good + broken[:4])
    worst = np.argsort(-found.scores)[:6]
    assert sum(at >= len(good) for at in worst) >= 3
