"""Banks that an image is held out of, and the signals of images against them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from offnominal.config import settings_from
from offnominal.detector.engine import SignalEngine
from offnominal.detector.hold_out import held_out_signals
from offnominal.detector.model import UsualDistance
from offnominal.memory import HeldOutBanks
from offnominal.memory.held_out import SPARE
from offnominal.noising import Head

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


def listed(patches: np.ndarray, centres: np.ndarray, k: int) -> np.ndarray:
    """(N, M) whether a patch counts a centre among its nearest; ties at the end of the list are counted in."""
    distance = np.linalg.norm(patches[:, None] - patches[None, centres], axis=2)
    last = np.sort(distance, axis=1)[:, min(k + SPARE, len(centres)) - 1]
    return np.asarray(distance <= last[:, None] + 1e-4)


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
def test_what_stands_in_is_near_foreign_and_uncovered(sizes: list[int], k: int, radius: float, seed: int) -> None:
    banks, patches, image, centres = some_banks(seed, sizes, k, radius)
    found_by = listed(patches, centres, k)
    for one in range(len(sizes)):
        stand_ins = banks.stand_ins(one).numpy()
        others = patches[centres[image[centres] != one]]
        right = set()
        for at in np.flatnonzero(image[centres] == one):
            distance = np.linalg.norm(patches - patches[centres[at]], axis=1)
            distance[(image == one) | ~found_by[:, at]] = np.inf
            if np.isfinite(distance.min()):
                right.add(round(float(distance.min()), 2))
        for row in stand_ins:
            own = patches[centres[image[centres] == one]]
            away = np.linalg.norm(own - row, axis=1)
            assert any(abs(distance - value) < 0.02 for distance in away for value in right)
            assert len(others) == 0 or np.linalg.norm(others - row, axis=1).min() > radius - 1e-4
        if len(others) == 0:
            assert len(stand_ins) > 0


def without(banks: HeldOutBanks, owner: np.ndarray, image: int) -> torch.Tensor:
    """The bank less the image's own patches, with what stands in for them; `owner` is the image of every bank patch."""
    return torch.cat([banks.bank[torch.from_numpy(owner != image)], banks.stand_ins(image)])


@trials(deadline=None, max_examples=60)
@given(sizes_of_images, st.integers(1, 3), st.sampled_from([0.3, 1.0]), st.integers(0, 2**32 - 1))
def test_signals_are_those_of_a_bank_built_without_the_image(sizes: list[int], k: int, radius: float, seed: int) -> None:
    banks, _, image, centres = some_banks(seed, sizes, k, radius)
    settings = settings_from(neighbors=k, distance_neighbors=2, fusion={"response": 1})
    usual = UsualDistance(1.0, 0.5)
    found = held_out_signals(banks, len(sizes), settings, usual, CPU)
    for one in range(len(sizes)):
        naive = SignalEngine(without(banks, image[centres], one), settings, usual, CPU)(banks.patches(one)).values
        # Distances; where neighbours tie, influence and response may take either of them.
        assert found[one][:, 0] == pytest.approx(naive[:, 0], abs=2e-3)
        assert found[one].shape == naive.shape


def test_signals_without_ties_are_equal_in_all() -> None:
    rng = np.random.default_rng(3)
    patches = torch.from_numpy(rng.normal(size=(300, 12)).astype(np.float32))
    patches[71] = patches[10] = 30  # alike and rare: the one stands in for the other
    starts = np.arange(0, 300, 50)
    centres = np.arange(0, 300, 5)
    banks = HeldOutBanks(patches, starts, centres, 4.0, CPU)
    settings = settings_from(fusion={"response": 1})
    usual = UsualDistance(1.0, 0.5)
    draws = torch.Generator().manual_seed(0)
    heads = [Head(torch.randn(4, 24, generator=draws), torch.zeros(4), torch.ones(4), torch.zeros(1)) for _ in range(2)]
    found = held_out_signals(banks, 6, settings, usual, CPU, heads=heads)
    assert sum(len(banks.stand_ins(one)) for one in range(6)) > 0
    for one in range(6):
        meets = SignalEngine(without(banks, centres // 50, one), settings, usual, CPU, heads)
        naive = meets(banks.patches(one), fold=one % 2).values
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
        assert not np.isin(banks.stand_in_rows(image), np.arange(starts[image], end)).any()
    assert np.isin(banks.neighbours(0, 3)[1].numpy(), [1, 2]).all()
    with pytest.raises(ValueError, match="another"):
        HeldOutBanks(patches, np.array([0]), centres, radius, CPU)


def test_a_rare_patch_that_two_images_share_does_not_look_alone() -> None:
    """The bank holds one of two alike rare patches; its own image must meet the other one, as a bank built anew would."""
    common = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    common[5] = common[25] = 100.0
    common[25, 0] += 0.1
    banks = HeldOutBanks(torch.from_numpy(common), np.array([0, 20, 40]), np.array([0, 5, 41]), 5.0, CPU)
    assert len(banks.stand_ins(0)) == 0  # nothing was asked yet, and what is found later counts
    for image in range(3):
        banks.neighbours(image, 1)
    away = torch.linalg.vector_norm(banks.stand_ins(0) - torch.from_numpy(common[5]), dim=1)
    assert away.numpy() == pytest.approx(np.array([0.1]), abs=1e-3)
