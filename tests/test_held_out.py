"""Banks that an image is held out of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offnominal.memory import HeldOutBanks, held_out, nearest_of_another_image


def naive(patches: np.ndarray, image: np.ndarray, centre: int) -> set[int]:
    distance = np.linalg.norm(patches - patches[centre], axis=1)
    distance[image == image[centre]] = np.inf
    return set(np.flatnonzero(distance <= distance.min() + 1e-5).tolist())


@pytest.mark.parametrize("block", [1, 60, 16_000_000])
@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.integers(0, 2**32 - 1))
def test_stand_ins_are_the_nearest_of_other_images(block: int, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum([0, *sizes[:-1]])
    patches = rng.integers(0, 5, (len(image), 3)).astype(np.float32)
    centres = rng.choice(len(image), rng.integers(1, len(image) + 1), replace=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "_BLOCK", block)
        tensor = torch.from_numpy(patches)
        found = nearest_of_another_image(tensor, starts, tensor[torch.from_numpy(centres)], image[centres])
    for centre, stand_in in zip(centres, found, strict=True):
        assert int(stand_in) in naive(patches, image, int(centre))


@pytest.mark.parametrize("radius", [0.5, float("nan")])
def test_no_patch_of_the_image_is_left_and_the_others_stay(radius: float) -> None:
    rng = np.random.default_rng(0)
    patches = torch.from_numpy(rng.normal(size=(40, 4)).astype(np.float32))
    starts, centres = np.array([0, 10, 30]), np.array([3, 12, 35, 7])
    banks = HeldOutBanks(patches, starts, centres, radius)
    own = {tuple(row) for row in patches[:10].tolist()}
    assert not own & {tuple(row) for row in banks.without(0).tolist()}
    assert torch.equal(banks.without(0)[:2], patches[[12, 35]])
    assert len(HeldOutBanks(patches, starts, np.array([3]), radius).without(0)) == 1
    with pytest.raises(ValueError, match="another"):
        HeldOutBanks(patches, np.array([0]), centres, radius)


def test_a_rare_patch_that_two_images_share_does_not_look_alone() -> None:
    """The bank holds one of two alike rare patches; its own image must meet the other one, as a bank built anew would."""
    common = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    common[5] = common[25] = 100.0
    common[25, 0] += 0.1
    banks = HeldOutBanks(torch.from_numpy(common), np.array([0, 20, 40]), np.array([0, 5, 41]), 5.0)
    away = torch.linalg.vector_norm(banks.without(0) - torch.from_numpy(common[5]), dim=1).min()
    assert float(away) == pytest.approx(0.1, abs=1e-3)
    assert len(banks.without(0)) == 2  # nothing stands in for the common patch: the others cover its place
