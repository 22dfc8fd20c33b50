"""What products of bytes leave in question: the compiled selection against a sort, on however many threads."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from offnominal.memory import NearestPatches, search, selection
from offnominal.memory.screening import ScreenedBank, multiplies_bytes

pytestmark = pytest.mark.skipif(not selection.compiled(), reason="installed without a compiler")
MOST = 512

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def selected(patches: torch.Tensor, bank: torch.Tensor, k: int, *, slack: float, far: int = 0) -> Found:
    """With products that are right: squared distances in steps of 1 are 0 - 2 product, but for rounding to whole numbers."""
    squared = torch.cdist(patches.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    near = torch.arange(far, len(bank))
    product = torch.full((len(patches), len(near) + -len(near) % 64), selection.NEVER, dtype=torch.int32)
    product[:, : len(near)] = (squared[:, far:] / -2).round()
    given = torch.zeros(len(patches), dtype=torch.int64), torch.full((len(patches),), slack, dtype=torch.float64), patches
    found = torch.zeros((len(patches), k)), torch.zeros((len(patches), k), dtype=torch.int64)
    sure = torch.zeros(len(patches), dtype=torch.bool)
    selection.nearest(product, given, 1.0, (bank, near, torch.arange(far)), (*found, sure))
    return *found, sure


def naive(patches: torch.Tensor, bank: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    squared = (patches[:, None].double() - bank[None].double()).square().sum(2)
    order = squared.argsort(dim=1, stable=True)[:, :k]
    return squared.gather(1, order), order


def made(rows: int, size: int, scale: float = 30.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(size)
    return torch.randn(rows, 12, generator=random) * scale, torch.randn(size, 12, generator=random) * scale


@pytest.mark.parametrize("size", [9, 63, 64, 65, 600, 1000])
@pytest.mark.parametrize("k", [1, 9])
@pytest.mark.parametrize("far", [0, 5])
def test_the_nearest_are_those_of_a_sort(size: int, k: int, far: int) -> None:
    patches, bank = made(80, size)
    squared, rows, sure = selected(patches, bank, k, slack=2.0, far=far)
    right, right_rows = naive(patches, bank, k)
    assert sure.all()
    assert torch.equal(rows, right_rows)
    assert torch.allclose(squared.double(), right, rtol=1e-5)


def test_both_sides_agree_on_what_stands_for_nothing() -> None:
    compiled = importlib.import_module(selection.COMPILED)
    assert (compiled.NEVER, compiled.GROUP**2, compiled.MOST_IN_QUESTION) == (selection.NEVER, selection.COLUMNS, MOST)
    assert compiled.MOST_AT_ONCE == selection.MOST_AT_ONCE


def test_more_in_question_than_pays_is_not_sure() -> None:
    patches, bank = made(20, 2 * MOST)
    assert not selected(patches, bank, 9, slack=1e4)[2].any()
    assert not selected(patches, bank, 9, slack=float("inf"))[2].any()
    assert not selected(patches, bank, 9, slack=float("nan"))[2].any()
    as_many = bank[:MOST]
    assert selected(patches, as_many, 9, slack=1e4)[2].all()


def test_what_is_not_finite_is_not_sure() -> None:
    patches, bank = made(20, 300)
    bank[:] = torch.nan
    product = torch.full((20, 320), selection.NEVER, dtype=torch.int32)
    product[:, :300] = -5
    of_patches = torch.zeros(20, dtype=torch.int64), torch.ones(20, dtype=torch.float64), patches
    sure = torch.ones(20, dtype=torch.bool)
    none = torch.empty(0, dtype=torch.int64)
    rows = torch.zeros((20, 3), dtype=torch.int64)
    selection.nearest(product, of_patches, 1.0, (bank, torch.arange(300), none), (torch.zeros((20, 3)), rows, sure))
    assert not sure.any()


@pytest.mark.usefixtures("threads")
def test_threads_find_the_same_and_torch_keeps_its_own() -> None:
    patches, bank = made(333, 1000)
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(selected(patches, bank, 9, slack=2.0))
        assert torch.get_num_threads() == count
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_what_does_not_fit_is_refused_before_it_is_read() -> None:
    patches, bank = made(20, 100)
    product = torch.full((20, 128), selection.NEVER, dtype=torch.int32)
    of_patches = torch.zeros(20, dtype=torch.int64), torch.zeros(20, dtype=torch.float64), patches
    of_bank = bank, torch.arange(100), torch.empty(0, dtype=torch.int64)
    found = torch.zeros((20, 3)), torch.zeros((20, 3), dtype=torch.int64), torch.zeros(20, dtype=torch.bool)
    selection.nearest(product, of_patches, 1.0, of_bank, found)
    with pytest.raises(ValueError, match=r"contiguous .*int32 .*, got .*int64"):
        selection.nearest(product.long(), of_patches, 1.0, of_bank, found)
    with pytest.raises(ValueError, match=r"contiguous .*float32"):
        selection.nearest(product, (*of_patches[:2], patches.T.contiguous().T), 1.0, of_bank, found)
    with pytest.raises(ValueError, match=r"a product of \(20, 127\)"):
        selection.nearest(product[:, :127].contiguous(), of_patches, 1.0, of_bank, found)
    with pytest.raises(ValueError, match=r"a product of \(19, 128\)"):
        selection.nearest(product[:19], of_patches, 1.0, of_bank, found)
    with pytest.raises(ValueError, match=r"expected .*\(20, 12\).* got .*\(20, 11\)"):
        selection.nearest(product, (*of_patches[:2], patches[:, :11].contiguous()), 1.0, of_bank, found)
    products, corners = (torch.zeros(4, 10), torch.zeros(20, 10)), torch.zeros((20, 4), dtype=torch.int64)
    selection.nearest_upsampled(products, (corners, torch.zeros(20, 4)), 0, found[:2])
    with pytest.raises(ValueError, match=r"expected .*float32 \(20, 4\)"):
        selection.nearest_upsampled(products, (corners, torch.zeros(20, 3)), 0, found[:2])
    with pytest.raises(ValueError, match="at most 512 bank patches at once, got 600"):
        selection.nearest_upsampled((torch.zeros(4, 600), torch.zeros(20, 600)), (corners, torch.zeros(20, 4)), 0, found[:2])


def test_where_it_could_not_be_compiled_banks_are_searched_without(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = made(100, 3000)
    monkeypatch.setattr(search, "multiplies_bytes", lambda: True)
    assert NearestPatches(bank)._screened is not None
    monkeypatch.setattr(selection, "COMPILED", "offnominal.memory.none_of_this_name")
    without = NearestPatches(bank)
    assert without._screened is without._upsampled is None
    assert torch.equal(without(patches, 9)[1], naive(patches, bank, 9)[1])


def test_a_small_bank_is_searched_by_the_smaller_map_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "multiplies_bytes", lambda: True)
    kinds = {size: NearestPatches(made(1, size)[1]) for size in (10, 999, 1000, 1499, 1500)}
    assert [one._upsampled is not None for one in kinds.values()] == [True, True, True, True, False]
    assert [one._screened is not None for one in kinds.values()] == [False, False, True, True, True]


@pytest.mark.skipif(not multiplies_bytes(), reason="this processor has no products of bytes")
def test_a_defect_far_outside_the_bank_is_searched_all_the_same() -> None:
    patches, bank = made(100, 3000)
    patches[50:] *= 100
    squared, rows = NearestPatches(bank)(patches, 9)
    right, right_rows = naive(patches, bank, 9)
    assert np.mean(rows.numpy() == right_rows.numpy()) > 0.99
    assert torch.allclose(squared.double(), right, rtol=1e-5)
    assert not ScreenedBank(bank)(patches, 9)[2].all()
