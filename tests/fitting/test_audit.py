"""Suspects among good images: the rule against its definition, audits of planted defects, and fits without suspects."""

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
from offnominal.fitting.split import split_images
from offnominal.fitting.supporters import supporters, supporters_needed
from offnominal.memory import HeldOutBanks
from offnominal.outputs.audits import write_audit

SMALL: dict[str, Any] = {"image_size": 96, "bank": 300, "false_alarm_rate": 0.1}


def scratched(seed: int) -> np.ndarray:
    """A part with a dark bar; all scratched parts have the same bar at the same place."""
    image = texture(seed)
    image[40:52, 30:80] = np.random.default_rng(0).integers(0, 30, (12, 50, 3))
    return image


def test_p_values_of_many_scores_follow_the_gumbel_distribution() -> None:
    scores = stats.gumbel_r.ppf((np.arange(2001) + 0.5) / 2001, 3.0, 0.7)
    expected = stats.gumbel_r.sf(scores, 3.0, 0.7)
    assert outlier_p_values(scores.astype(np.float32)) == pytest.approx(expected, rel=0.05, abs=1e-4)
    scores[-400:] += 50  # a share of outliers hardly changes the other p-values
    assert outlier_p_values(scores.astype(np.float32))[:1600] == pytest.approx(expected[:1600], rel=0.02)
    assert outlier_p_values(np.array([1, 1, 1, 1, 9], np.float32)).tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="finite"):
        outlier_p_values(np.array([1, np.nan], np.float32))


@pytest.mark.parametrize("n", [6, 12])
def test_p_values_of_a_new_score_hold_their_level(n: int) -> None:
    """The p-value of a new score is uniform if the score is standardised by the quantiles of n others."""
    rng = np.random.default_rng(n)
    p_values = []
    for _ in range(300):
        bulk = rng.gumbel(1, 2, n)
        new = rng.gumbel(1, 2)
        low, middle = np.quantile(bulk, (0.1, 0.5))
        scores = np.append(bulk, new).astype(np.float32)
        # The null distribution is simulated for n scores, so the new score replaces the highest one.
        # Only draws that keep the quantiles count.
        scores = np.delete(scores, bulk.argmax())
        if np.quantile(scores, (0.1, 0.5)) == pytest.approx([low, middle], rel=1e-4):
            p_values.append(float(outlier_p_values(scores)[-1]))
    for level in (0.05, 0.2):
        share = np.mean(np.array(p_values) <= level) * len(p_values) / 300
        assert share <= level + 4 * (level * (1 - level) / 300) ** 0.5


@trials(deadline=None, max_examples=80)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from([0.05, 0.1, 0.5]))
def test_suspects_equal_those_of_benjamini_and_hochberg(p_values: list[float], rate: float) -> None:
    ordered = sorted(p_values)
    adjusted = [value * len(ordered) / at for at, value in enumerate(ordered, 1)]
    assume(all(abs(value - rate) > 1e-12 for value in adjusted))  # rounding would decide
    passing = [at for at, value in enumerate(adjusted, 1) if value <= rate]
    limit = ordered[passing[-1] - 1] if passing else -1.0
    assert called_suspect(np.array(p_values), rate).tolist() == [value <= limit for value in p_values]


@pytest.mark.parametrize("n", [8, 30, 100])
def test_clean_gumbel_sets_rarely_have_suspects(n: int) -> None:
    """In sets without outliers, at most the stated share of sets has any suspect."""
    rng = np.random.default_rng(0)
    with_suspects = [called_suspect(outlier_p_values(rng.gumbel(2, 0.5, n).astype(np.float32))).any() for _ in range(200)]
    assert np.mean(with_suspects) <= 0.1 + 4 * (0.1 * 0.9 / 200) ** 0.5


def test_worst_share_selects_the_highest_scores() -> None:
    scores = np.array([3, 9, 1, 9, 5], np.float32)
    assert worst_share(scores, 0.4).tolist() == [False, True, False, True, False]
    assert worst_share(scores, 0.2).tolist() == [False, True, False, False, False]
    assert not worst_share(scores, 0.0).any()


@trials(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.floats(0.2, 3), st.integers(0, 2**32 - 1))
def test_supporters_are_other_images_within_the_covering_radius(sizes: list[int], radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    patches = rng.normal(size=(len(owner), 3)).astype(np.float32)
    centres = rng.choice(len(owner), rng.integers(1, len(owner) + 1), replace=False)
    points, starts = torch.from_numpy(patches), np.cumsum([0, *sizes[:-1]])
    counts = supporters(points, starts, points[torch.from_numpy(centres)], centres, radius)
    parts = np.split(np.arange(len(sizes)), [len(sizes) // 2])  # the same in two shards
    ends = np.cumsum(sizes)
    in_shards = np.zeros_like(counts)
    for part in parts:
        if len(part):
            first, last = int(starts[part[0]]), int(ends[part[-1]])
            rows = np.where((centres >= first) & (centres < last), centres - first, -1)
            in_shards += supporters(points[first:last], starts[part] - first, points[torch.from_numpy(centres)], rows, radius)
    distance = np.linalg.norm(patches[centres][:, None] - patches[None], axis=2)
    for slack, compare in ((-1e-3, np.greater_equal), (1e-3, np.less_equal)):
        near = distance <= radius + slack
        expected = [len({int(image) for image in owner[near[at]]} - {int(owner[centre])}) for at, centre in enumerate(centres)]
        assert compare(counts, expected).all()
        assert compare(in_shards, expected).all()


def test_the_required_number_of_supporters() -> None:
    assert [supporters_needed(images) for images in (2, 3, 4, 40, 150, 151, 400)] == [0, 1, 2, 3, 3, 4, 8]


def test_similar_defects_do_not_hide_each_other(tmp_path: Path) -> None:
    """Three of 60 parts have the same scratch. All three are suspects."""
    images = [texture(seed) for seed in range(57)] + [scratched(seed) for seed in (70, 71, 72)]
    audit = Detector(**SMALL).audit(images)
    assert audit.supporters == 3
    assert set(np.argsort(-audit.scores)[:3].tolist()) == {57, 58, 59}
    assert audit.suspects("auto").nonzero()[0].tolist() == [57, 58, 59]
    assert {image.name for image in audit.listed(audit.suspects(0.05))} == {"array 57", "array 58", "array 59"}
    rows = write_audit(audit, list(images), tmp_path, "auto")
    with (tmp_path / "audit.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["path", "score", "p_value", "suspect"]
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    scores = [float(row["score"]) for row in table]
    assert scores == sorted(scores, reverse=True)
    assert [row["suspect"] for row in table] == ["1"] * 3 + ["0"] * 57
    assert len(list((tmp_path / "suspects").glob("*.jpg"))) == 3


def test_duplicates_of_a_defect_do_not_support_each_other() -> None:
    images = [texture(seed) for seed in range(20)] + [scratched(70)] * 6
    audit = Detector(**SMALL).audit(images)
    assert set(np.argsort(-audit.scores)[:6].tolist()) == set(range(20, 26))


def test_audit_banks_have_replacement_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fit. Without replacements, an image would look anomalous where only its own patches represent normal parts."""
    created: list[HeldOutBanks] = []

    class RecordedBanks(HeldOutBanks):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            created.append(self)

    monkeypatch.setattr("offnominal.fitting.member_patches.HeldOutBanks", RecordedBanks)
    Detector(**SMALL).audit([texture(seed) for seed in range(12)])
    assert len(created) == 2  # one per member
    for banks in created:
        assert any(len(banks.replacement_rows(image)) for image in range(12))


def test_fits_with_contamination_leave_out_and_record_suspects(tmp_path: Path) -> None:
    images = [damaged(70)[0]] + [texture(seed) for seed in range(20)]
    plain = Detector(**SMALL).fit(images)
    cleaned = Detector(**SMALL, contamination="auto").fit(images)
    (entry,) = cleaned.model.left_out
    assert entry.name == "array 0"
    assert entry.p_value < 1e-3
    names = [source.name for source in cleaned.model.sources]
    assert sorted(names) == sorted(f"array {i}" for i in range(1, 21))
    assert not cleaned.model.guaranteed
    assert plain.model.guaranteed
    assert cleaned.model.calibration.count == 20
    assert plain.model.left_out == ()
    assert cleaned.inspect(images[0]).anomalous
    assert not plain.inspect(images[0]).anomalous  # its own patches are in the bank
    assert cleaned.model.thumbnails is not None
    assert plain.model.thumbnails is not None
    others = [source.name for source in plain.model.sources]
    pictures = [
        (cleaned.model.thumbnails.stored(at), plain.model.thumbnails.stored(others.index(name)))
        for at, name in enumerate(names)
    ]
    both = [own == other for own, other in pictures if own and other]
    assert both
    assert all(both)  # each image keeps its own thumbnail
    cleaned.save(tmp_path / "m")
    assert load(tmp_path / "m").model.left_out == cleaned.model.left_out


def test_contamination_as_a_share_and_on_clean_images() -> None:
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
    # Suspects are searched among all images, so no image is split off.
    assert len(split_images(groups, settings_from(**many, contamination="auto"))[1]) == 0
    with pytest.raises(InputError, match="needs at least 2"):
        Detector(**SMALL, contamination=0.45).fit(images[:2])


@pytest.mark.realdata
def test_broken_cookies_among_good_ones_are_suspects() -> None:
    root = REAL_DATA / "aws_cookies"
    good, broken = sorted((root / "train" / "good").iterdir()), sorted((root / "test" / "broken").iterdir())
    audit = Detector().audit(good + broken[:4])
    worst = np.argsort(-audit.scores)[:6]
    assert sum(at >= len(good) for at in worst) >= 3
