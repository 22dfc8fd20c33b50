"""Bfloat16 products that tell who comes into question: what is sure is what a float64 loop finds, on whatever processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offnominal.memory import NearestPatches, search
from offnominal.memory.screening import ScreenedBank, as_columns, as_rows

Points = tuple[torch.Tensor, torch.Tensor]


def naive(patches: torch.Tensor, bank: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    squared = torch.cdist(patches.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    order = squared.argsort(dim=1, stable=True)[:, :k]
    return squared.gather(1, order), order


def made(kind: str, dimensions: int = 24) -> Points:
    """(N, D) patches and an (M, D) bank."""
    random = torch.Generator().manual_seed(3)
    patches, bank = torch.randn(700, dimensions, generator=random), torch.randn(1500, dimensions, generator=random)
    if kind == "far from the origin":
        return patches + 40, bank + 40
    if kind == "of all lengths":
        return patches * torch.logspace(-3, 3, 700)[:, None], bank * torch.logspace(-3, 3, 1500)[:, None]
    if kind == "among the bank":
        return bank[:700] + 1e-3 * patches, bank
    if kind == "copies":
        return bank[:700].clone(), bank[torch.arange(1500) % 300]
    if kind == "all equal":
        return torch.ones(5, dimensions), torch.ones(1500, dimensions)
    return patches, bank


KINDS = ("random", "far from the origin", "of all lengths", "among the bank", "copies", "all equal")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 9, 16])
def test_what_is_sure_are_the_nearest(kind: str, k: int) -> None:
    patches, bank = made(kind)
    squared, rows, sure = ScreenedBank(bank)(patches, k)
    right, _ = naive(patches, bank, k)
    own = (patches[:, None].double() - bank[rows].double()).square().sum(2)
    assert torch.allclose(squared.double(), own, rtol=1e-5, atol=1e-10), "the distances are those of the rows"
    assert torch.allclose(own[sure], right[sure], rtol=1e-6, atol=1e-12), "no other is nearer"
    assert all(len(set(row)) == k for row in rows.tolist())
    if kind == "random":
        assert sure.float().mean() > 0.9, "screening that is hardly ever sure is of no use"


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_off_by_no_more_than_what_it_is_said_to_be(kind: str) -> None:
    patches, bank = made(kind)
    screened, rows = ScreenedBank(bank), as_rows(patches)
    product = torch.mm(rows.factor, as_columns(bank).factor.T).double()
    right, order = naive(patches, bank, 9)
    limit = screened._limit(right[:, 8].float(), rows)
    assert (product.gather(1, order) <= limit[:, None]).all(), "the nearest stay below the limit"


@pytest.mark.realdata
@pytest.mark.parametrize("k", [1, 9, 16])
def test_real_patches_are_searched_exactly(real: tuple[np.ndarray, np.ndarray], k: int) -> None:
    patches, bank = (torch.from_numpy(part) for part in real)
    squared, rows, sure = ScreenedBank(bank)(patches, k)
    right, _ = naive(patches, bank, k)
    own = (patches[:, None].double() - bank[rows].double()).square().sum(2)
    assert torch.allclose(squared.double(), own, rtol=1e-5)
    assert torch.allclose(own[sure], right[sure], rtol=1e-6)
    assert sure.float().mean() > 0.98


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 100, 511, 513])
def test_small_banks_and_what_fills_them_up(size: int) -> None:
    patches, bank = made("random")
    bank, k = bank[:size], min(size, 9)
    squared, rows, sure = ScreenedBank(bank)(patches, k)
    right, right_rows = naive(patches, bank, k)
    assert torch.equal(rows[sure], right_rows[sure])
    assert torch.allclose(squared[sure].double(), right[sure], rtol=1e-5)
    assert int(rows.max()) < size
    assert sure.any()


def test_what_is_not_finite_is_never_sure() -> None:
    patches, bank = made("random")
    patches[3, 2], patches[5, 0], patches[9, 1] = torch.nan, torch.inf, -torch.nan
    sure = ScreenedBank(bank)(patches, 9)[2]
    assert not sure[[3, 5, 9]].any()
    assert sure.float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_is_the_same_with_and_without(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = made(kind)
    flat_squared, flat_rows = NearestPatches(bank, "flat")(patches, 9)
    monkeypatch.setattr(search, "screens", lambda count: True)
    screened = NearestPatches(bank)
    assert screened._screened is not None
    squared, rows = screened(patches, 9)
    lengths = patches.square().sum(1, keepdim=True) + bank.square().sum(1).amax()
    assert ((squared - flat_squared).abs() <= 1e-6 * lengths).all()
    if kind == "random":
        assert torch.equal(rows, flat_rows)
    alone = torch.cat([screened(part, 9)[0] for part in patches.split(100)])
    assert torch.allclose(alone, squared, rtol=1e-6), "what is near does not depend on what is searched beside it"


def test_few_patches_and_many_neighbours_are_searched_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = made("random")
    monkeypatch.setattr(search, "screens", lambda count: True)
    screened = NearestPatches(bank)
    monkeypatch.setattr(screened, "_screened", lambda *given: pytest.fail("screened"))
    assert screened(patches[:10], 9)[1].shape == (10, 9)
    assert screened(patches, 100)[1].shape == (len(patches), 100)


def test_a_bank_is_screened_by_its_size_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "multiplies_bfloat16", lambda: True)
    assert [search.screens(count) for count in (1000, 2999, 3000, 2**20 - 1, 2**20)] == [False, False, True, True, False]
    monkeypatch.setattr(search, "multiplies_bfloat16", lambda: False)
    assert not search.screens(5000)
