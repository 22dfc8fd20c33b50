"""Leave-one-image-out banks, and the signals of images against them."""

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


def random_banks(seed: int, sizes: list[int], k: int, radius: float) -> tuple[HeldOutBanks, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    patches = rng.normal(size=(len(owner), 3)).astype(np.float32)
    patches[rng.random(len(patches)) < 0.2] = patches[0]  # duplicates, also across images
    centres = rng.choice(len(owner), rng.integers(1, len(owner) + 1), replace=False)
    banks = HeldOutBanks(torch.from_numpy(patches), np.cumsum([0, *sizes[:-1]]), centres, radius, CPU)
    for image in range(len(sizes)):
        banks.neighbours(image, k)
    return banks, patches, owner, centres


def naive_replacements(patches: np.ndarray, owner: np.ndarray, centres: np.ndarray, image: int, radius: float) -> np.ndarray:
    """Replacement patches by brute force.

    Candidates are patches of other images whose nearest bank patch belongs to the image. They are selected farthest first, at
    most as many as the image has bank patches.
    """
    distances = np.linalg.norm(patches[:, None].astype(np.float64) - patches[None, centres], axis=2)
    own = owner[centres] == image
    radius = np.nan if own.all() else radius
    covered = (owner != image) & own[distances.argmin(1)] & ~(distances.min(1) > 1.01 * radius)
    candidates = np.flatnonzero(covered if own.all() or not np.isnan(radius) else np.zeros(len(patches), bool))
    remaining = distances[:, ~own].min(1, initial=np.inf)[candidates]
    chosen: list[int] = []
    while len(chosen) < own.sum() and remaining.max(initial=0) > 0.01 * np.nan_to_num(radius):
        chosen.append(candidates[remaining.argmax()])
        remaining = np.minimum(remaining, np.linalg.norm(patches[candidates] - patches[chosen[-1]], axis=1))
    bank: np.ndarray = patches[np.array(chosen, dtype=int)]
    return bank


image_sizes = st.lists(st.integers(1, 9), min_size=2, max_size=8)


@trials(deadline=None, max_examples=60)
@given(image_sizes, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_neighbours_are_the_nearest_bank_patches_of_other_images(sizes: list[int], k: int, seed: int) -> None:
    banks, patches, owner, centres = random_banks(seed, sizes, k, 0.5)
    for image in range(len(sizes)):
        squared, rows = banks.neighbours(image, k)
        others = centres[owner[centres] != image]
        distances = np.linalg.norm(patches[owner == image][:, None] - patches[None, others], axis=2)
        expected = np.sort(distances, axis=1)[:, : min(k, len(others))]
        assert squared.sqrt().numpy() == pytest.approx(expected, abs=2e-3)
        assert (owner[centres[rows.numpy()]] != image).all()


@trials(deadline=None, max_examples=60)
@given(image_sizes, st.integers(1, 4), st.sampled_from([0.3, 1.0, float("nan")]), st.integers(0, 2**32 - 1))
def test_replacements_equal_the_naive_ones(sizes: list[int], k: int, radius: float, seed: int) -> None:
    banks, patches, owner, centres = random_banks(seed, sizes, k, radius)
    for image in range(len(sizes)):
        expected = naive_replacements(patches, owner, centres, image, radius)
        assert sorted(banks.replacements(image).tolist()) == sorted(expected.tolist())


def test_many_duplicate_candidates_give_few_distinct_replacements(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are duplicates, and the bank holds the patches of the first one. Duplicate candidates are used once."""
    monkeypatch.setattr("offnominal.memory.leave_one_out.MIN_CANDIDATES", 10)
    content = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    patches = torch.from_numpy(np.tile(content, (50, 1)))
    banks = HeldOutBanks(patches, np.arange(0, 1000, 20), np.arange(20), 0.1, CPU)
    for image in range(50):
        squared, _ = banks.neighbours(image, 1)
        assert squared.shape[1] == (image > 0)
    replacements = banks.replacements(0)
    assert 10 <= len(replacements) <= 20
    assert len(replacements.unique(dim=0)) == len(replacements)
    assert all(len(banks.replacements(image)) == 0 for image in range(1, 50))


def test_only_the_farthest_candidates_are_considered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offnominal.memory.leave_one_out.MIN_CANDIDATES", 0)
    monkeypatch.setattr("offnominal.memory.leave_one_out.CANDIDATES_PER_PATCH", 1)
    patches = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    owner, centres = np.arange(400) // 50, np.arange(0, 400, 8)
    banks = HeldOutBanks(torch.from_numpy(patches), np.arange(0, 400, 50), centres, 5.0, CPU)
    for image in range(8):
        banks.neighbours(image, 2)
    distances = np.linalg.norm(patches[:, None] - patches[None, centres], axis=2)
    for image in range(8):
        own = owner[centres] == image
        covered = np.flatnonzero((owner != image) & own[distances.argmin(1)])
        farthest = covered[np.argsort(-distances[covered][:, ~own].min(1))][: own.sum()]
        assert banks.replacement_rows(image).tolist() == sorted(farthest.tolist())


def test_repeated_searches_do_not_change_the_replacements() -> None:
    banks, *_ = random_banks(0, [9] * 8, 2, 1.0)
    before = [banks.replacement_rows(image).tolist() for image in range(8)]
    for image in (3, 1, 3):
        banks.neighbours(image, 2)
    assert [banks.replacement_rows(image).tolist() for image in range(8)] == before
    assert any(before)


@pytest.mark.parametrize(("dims", "between", "share"), [(3, 0.3, 0.25), (6, 0.3, 0.25), (12, 0.3, 0.25), (12, 1.0, 0.8)])
def test_distances_approximate_those_of_a_rebuilt_bank(dims: int, between: float, share: float) -> None:
    """With replacements, distances are closer to those of a rebuilt coreset than without replacements.

    Compares the distances of an image's own bank patches to the bank. The hard case is `between` = 1, where images differ as
    much as the patches within an image: there, replacements are too near.
    """
    error = np.zeros(2)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        samples = rng.normal(size=(12, 1, dims), scale=between) + rng.normal(size=(12, 80, dims))
        patches = torch.from_numpy(samples.reshape(-1, dims).astype(np.float32))
        coreset = kcenter(patches, 60, 0)
        owner = coreset.indices // 80
        banks = HeldOutBanks(patches, np.arange(0, 960, 80), coreset.indices, coreset.radius, CPU)
        for image in range(12):
            banks.neighbours(image, 2)
        for image in np.unique(owner):
            own, others = banks.bank[torch.from_numpy(owner == image)], torch.arange(960) // 80 != image
            rebuilt = patches[others][torch.from_numpy(kcenter(patches[others], 60, 0).indices)]
            reduced = banks.bank[torch.from_numpy(owner != image)]
            expected, replaced, without_replacements = (
                torch.cdist(own, bank).amin(1).sum() for bank in (rebuilt, without(banks, owner, image), reduced)
            )
            error += [float(replaced - expected), float(without_replacements - expected)]
    assert error[1] > 0
    assert abs(error[0]) < share * error[1]


def without(banks: HeldOutBanks, owner: np.ndarray, image: int) -> torch.Tensor:
    """The bank without the patches of the image, plus their replacements. `owner` is the image of each bank patch."""
    return torch.cat([banks.bank[torch.from_numpy(owner != image)], banks.replacements(image)])


@trials(deadline=None, max_examples=60)
@given(image_sizes, st.integers(1, 3), st.sampled_from([0.3, 1.0]), st.integers(0, 2**32 - 1))
def test_held_out_signals_equal_those_of_the_naive_bank(sizes: list[int], k: int, radius: float, seed: int) -> None:
    banks, _, owner, centres = random_banks(seed, sizes, k, radius)
    settings = settings_from(neighbors=k, distance_neighbors=2, fusion={"response": 1})
    scale = DistanceScale(1.0, 0.5)
    signals = held_out_signals(banks, len(sizes), settings, scale)
    for image in range(len(sizes)):
        naive = SignalEngine(without(banks, owner[centres], image), settings, scale, CPU)(banks.patches(image)).values
        # Only the distances: with tied neighbours, influence and response may use either of them.
        assert signals[image][:, 0] == pytest.approx(naive[:, 0], abs=2e-3)
        assert signals[image].shape == naive.shape


def test_all_held_out_signals_are_equal_without_ties() -> None:
    rng = np.random.default_rng(3)
    patches = torch.from_numpy(rng.normal(size=(300, 12)).astype(np.float32))
    patches[71] = patches[10] = 30  # equal and rare, so each one replaces the other
    starts = np.arange(0, 300, 50)
    centres = np.arange(0, 300, 5)
    banks = HeldOutBanks(patches, starts, centres, 4.0, CPU)
    settings = settings_from(fusion={"response": 1})
    scale = DistanceScale(1.0, 0.5)
    signals = held_out_signals(banks, 6, settings, scale)
    assert sum(len(banks.replacements(image)) for image in range(6)) > 0
    for image in range(6):
        engine = SignalEngine(without(banks, centres // 50, image), settings, scale, CPU)
        naive = engine(banks.patches(image)).values
        assert signals[image] == pytest.approx(naive, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("radius", [0.5, float("nan")])
def test_held_out_banks_exclude_the_patches_of_the_image_only(radius: float) -> None:
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


def test_rare_patches_shared_by_two_images_replace_each_other() -> None:
    """The bank holds one of two similar rare patches. Its image must be compared with the other one, as in a rebuilt bank."""
    patches = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    patches[5] = patches[25] = 100.0
    patches[25, 0] += 0.1
    banks = HeldOutBanks(torch.from_numpy(patches), np.array([0, 20, 40]), np.array([0, 5, 41]), 5.0, CPU)
    assert len(banks.replacements(0)) == 0  # no search yet; later searches add candidates
    for image in range(3):
        banks.neighbours(image, 1)
    distances = torch.linalg.vector_norm(banks.replacements(0) - torch.from_numpy(patches[5]), dim=1)
    assert len(distances) == 2
    assert float(distances.min()) == pytest.approx(0.1, abs=1e-3)
