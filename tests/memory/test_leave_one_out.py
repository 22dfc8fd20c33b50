"""Banks that an image is held out of, and the signals of images against them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from offnominal.config import settings_from
from offnominal.fitting.held_out_signals import held_out_signals
from offnominal.inference import SignalEngine
from offnominal.memory import HeldOutBanks, kcenter
from offnominal.model import DistanceScale

CPU = torch.device("cpu")


def some_banks(seed: int, sizes: list[int], k: int, radius: float) -> tuple[HeldOutBanks, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(len(sizes)), sizes)
    patches = rng.normal(size=(len(image), 3)).astype(np.float32)
    patches[rng.random(len(patches)) < 0.2] = patches[0]  # copies, also across images
    centres = rng.choice(len(image), rng.integers(1, len(image) + 1), replace=False)
    banks = HeldOutBanks(torch.from_numpy(patches), np.cumsum([0, *sizes[:-1]]), centres, radius, CPU)
    for one in range(len(sizes)):
        banks.neighbours(one, k)
    return banks, patches, image, centres


def naive_replacements(patches: np.ndarray, image: np.ndarray, centres: np.ndarray, one: int, radius: float) -> np.ndarray:
    """Farthest first among the others' patches that a bank patch of the image is nearest to, as many as it has of these."""
    away = np.linalg.norm(patches[:, None].astype(np.float64) - patches[None, centres], axis=2)
    own = image[centres] == one
    radius = np.nan if own.all() else radius
    covered = (image != one) & own[away.argmin(1)] & ~(away.min(1) > 1.01 * radius)
    left = np.flatnonzero(covered if own.all() or not np.isnan(radius) else np.zeros(len(patches), bool))
    theirs = away[:, ~own].min(1, initial=np.inf)[left]
    chosen: list[int] = []
    while len(chosen) < own.sum() and theirs.max(initial=0) > 0.01 * np.nan_to_num(radius):
        chosen.append(left[theirs.argmax()])
        theirs = np.minimum(theirs, np.linalg.norm(patches[left] - patches[chosen[-1]], axis=1))
    bank: np.ndarray = patches[np.array(chosen, dtype=int)]
    return bank


sizes_of_images = st.lists(st.integers(1, 9), min_size=2, max_size=8)


@trials(deadline=None, max_examples=60)
@given(sizes_of_images, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_neighbours_are_the_nearest_bank_patches_of_other_images(sizes: list[int], k: int, seed: int) -> None:
    banks, patches, image, centres = some_banks(seed, sizes, k, 0.5)
    for one in range(len(sizes)):
        squared, rows = banks.neighbours(one, k)
        others = centres[image[centres] != one]
        away = np.linalg.norm(patches[image == one][:, None] - patches[None, others], axis=2)
        right = np.sort(away, axis=1)[:, : min(k, len(others))]
        assert squared.sqrt().numpy() == pytest.approx(right, abs=2e-3)
        assert (image[centres[rows.numpy()]] != one).all()


@trials(deadline=None, max_examples=60)
@given(sizes_of_images, st.integers(1, 4), st.sampled_from([0.3, 1.0, float("nan")]), st.integers(0, 2**32 - 1))
def test_as_many_replace_as_the_image_had(sizes: list[int], k: int, radius: float, seed: int) -> None:
    banks, patches, image, centres = some_banks(seed, sizes, k, radius)
    for one in range(len(sizes)):
        right = naive_replacements(patches, image, centres, one, radius)
        assert sorted(banks.replacements(one).tolist()) == sorted(right.tolist())


def test_of_thousands_that_one_image_alone_covers_some_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are copies and the bank is the first one's: its own copies are what it must meet, not ten thousand of each."""
    monkeypatch.setattr("offnominal.memory.leave_one_out.MIN_CANDIDATES", 10)
    image = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    patches = torch.from_numpy(np.tile(image, (50, 1)))
    banks = HeldOutBanks(patches, np.arange(0, 1000, 20), np.arange(20), 0.1, CPU)
    for one in range(50):
        squared, _ = banks.neighbours(one, 1)
        assert squared.shape[1] == (one > 0)
    replacements = banks.replacements(0)
    assert 10 <= len(replacements) <= 20
    assert len(replacements.unique(dim=0)) == len(replacements)
    assert all(len(banks.replacements(one)) == 0 for one in range(1, 50))


def test_only_those_left_farthest_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offnominal.memory.leave_one_out.MIN_CANDIDATES", 0)
    monkeypatch.setattr("offnominal.memory.leave_one_out.CANDIDATES_PER_PATCH", 1)
    patches = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    image, centres = np.arange(400) // 50, np.arange(0, 400, 8)
    banks = HeldOutBanks(torch.from_numpy(patches), np.arange(0, 400, 50), centres, 5.0, CPU)
    for one in range(8):
        banks.neighbours(one, 2)
    away = np.linalg.norm(patches[:, None] - patches[None, centres], axis=2)
    for one in range(8):
        own = image[centres] == one
        covered = np.flatnonzero((image != one) & own[away.argmin(1)])
        farthest = covered[np.argsort(-away[covered][:, ~own].min(1))][: own.sum()]
        assert banks.replacement_rows(one).tolist() == sorted(farthest.tolist())


def test_asking_again_for_neighbours_changes_nothing() -> None:
    banks, *_ = some_banks(0, [9] * 8, 2, 1.0)
    before = [banks.replacement_rows(one).tolist() for one in range(8)]
    for one in (3, 1, 3):
        banks.neighbours(one, 2)
    assert [banks.replacement_rows(one).tolist() for one in range(8)] == before
    assert any(before)


@pytest.mark.parametrize(("dims", "between", "share"), [(3, 0.3, 0.25), (6, 0.3, 0.25), (12, 0.3, 0.25), (12, 1.0, 0.8)])
def test_it_comes_near_a_bank_built_without_the_image(dims: int, between: float, share: float) -> None:
    """How far the image's own patches lie from the bank: nearer to a coreset chosen anew than with nothing put in.

    Images that differ in all as much as the patches within one (`between` 1) are the hard case: what comes in lies too near.
    """
    too_far = np.zeros(2)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        drawn = rng.normal(size=(12, 1, dims), scale=between) + rng.normal(size=(12, 80, dims))
        patches = torch.from_numpy(drawn.reshape(-1, dims).astype(np.float32))
        coreset = kcenter(patches, 60, 0)
        owner = coreset.indices // 80
        banks = HeldOutBanks(patches, np.arange(0, 960, 80), coreset.indices, coreset.radius, CPU)
        for one in range(12):
            banks.neighbours(one, 2)
        for one in np.unique(owner):
            own, others = banks.bank[torch.from_numpy(owner == one)], torch.arange(960) // 80 != one
            anew = patches[others][torch.from_numpy(kcenter(patches[others], 60, 0).indices)]
            left = banks.bank[torch.from_numpy(owner != one)]
            right, found, bare = (torch.cdist(own, bank).amin(1).sum() for bank in (anew, without(banks, owner, one), left))
            too_far += [float(found - right), float(bare - right)]
    assert too_far[1] > 0
    assert abs(too_far[0]) < share * too_far[1]


def without(banks: HeldOutBanks, owner: np.ndarray, image: int) -> torch.Tensor:
    """The bank less the image's own patches, with their replacements; `owner` is the image of every bank patch."""
    return torch.cat([banks.bank[torch.from_numpy(owner != image)], banks.replacements(image)])


@trials(deadline=None, max_examples=60)
@given(sizes_of_images, st.integers(1, 3), st.sampled_from([0.3, 1.0]), st.integers(0, 2**32 - 1))
def test_signals_are_those_of_a_bank_built_without_the_image(sizes: list[int], k: int, radius: float, seed: int) -> None:
    banks, _, image, centres = some_banks(seed, sizes, k, radius)
    settings = settings_from(neighbors=k, distance_neighbors=2, fusion={"response": 1})
    scale = DistanceScale(1.0, 0.5)
    found = held_out_signals(banks, len(sizes), settings, scale)
    for one in range(len(sizes)):
        naive = SignalEngine(without(banks, image[centres], one), settings, scale, CPU)(banks.patches(one)).values
        # Distances; where neighbours tie, influence and response may take either of them.
        assert found[one][:, 0] == pytest.approx(naive[:, 0], abs=2e-3)
        assert found[one].shape == naive.shape


def test_signals_without_ties_are_equal_in_all() -> None:
    rng = np.random.default_rng(3)
    patches = torch.from_numpy(rng.normal(size=(300, 12)).astype(np.float32))
    patches[71] = patches[10] = 30  # alike and rare: the one replaces the other
    starts = np.arange(0, 300, 50)
    centres = np.arange(0, 300, 5)
    banks = HeldOutBanks(patches, starts, centres, 4.0, CPU)
    settings = settings_from(fusion={"response": 1})
    scale = DistanceScale(1.0, 0.5)
    found = held_out_signals(banks, 6, settings, scale)
    assert sum(len(banks.replacements(one)) for one in range(6)) > 0
    for one in range(6):
        meets = SignalEngine(without(banks, centres // 50, one), settings, scale, CPU)
        naive = meets(banks.patches(one)).values
        assert found[one] == pytest.approx(naive, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("radius", [0.5, float("nan")])
def test_no_patch_of_the_image_is_left_and_the_others_stay(radius: float) -> None:
    rng = np.random.default_rng(0)
    patches = torch.from_numpy(rng.normal(size=(40, 4)).astype(np.float32))
    starts, centres = np.array([0, 10, 30]), np.array([3, 12, 35, 7])
    banks = HeldOutBanks(patches, starts, centres, radius, CPU)
    for image in range(3):
        banks.neighbours(image, 3)
    for image, end in enumerate([10, 30, 40]):
        rows = banks.neighbours(image, 3)[1]
        assert not np.isin(centres[rows], np.arange(starts[image], end)).any()
        assert not np.isin(banks.replacement_rows(image), np.arange(starts[image], end)).any()
    assert np.isin(banks.neighbours(0, 3)[1].numpy(), [1, 2]).all()
    with pytest.raises(ValueError, match="at least 2 images"):
        HeldOutBanks(patches, np.array([0]), centres, radius, CPU)


def test_a_rare_patch_that_two_images_share_does_not_look_alone() -> None:
    """The bank holds one of two alike rare patches; its own image must meet the other one, as a bank built anew would."""
    common = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    common[5] = common[25] = 100.0
    common[25, 0] += 0.1
    banks = HeldOutBanks(torch.from_numpy(common), np.array([0, 20, 40]), np.array([0, 5, 41]), 5.0, CPU)
    assert len(banks.replacements(0)) == 0  # nothing was asked yet, and what is found later counts
    for image in range(3):
        banks.neighbours(image, 1)
    away = torch.linalg.vector_norm(banks.replacements(0) - torch.from_numpy(common[5]), dim=1)
    assert len(away) == 2
    assert float(away.min()) == pytest.approx(0.1, abs=1e-3)
