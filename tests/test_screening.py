"""Products of bytes that tell who comes into question: what is sure is what a float64 loop finds, on whatever processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offnominal.memory import NearestPatches, screening, search, selection
from offnominal.memory.screening import MOST_FEATURES, STEPS, Rounded, ScreenedBank, multiplies_bytes
from offnominal.memory.search import squared_distances

pytestmark = pytest.mark.skipif(not selection.compiled(), reason="installed without a compiler")
Points = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without these instructions may sum bytes with overflow: it is never asked to, the rest is tested there."""

    def multiply(rows: torch.Tensor, columns: torch.Tensor, *, out: torch.Tensor) -> None:
        out.copy_(rows.double() @ columns.double())

    if not multiplies_bytes():
        monkeypatch.setattr(torch, "_int_mm", multiply)


def screened_bank(bank: torch.Tensor) -> ScreenedBank:
    return ScreenedBank(bank)


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
    squared, rows, sure = screened_bank(bank)(patches, k)
    right, _ = naive(patches, bank, k)
    own = (patches[:, None].double() - bank[rows].double()).square().sum(2)
    assert torch.allclose(squared[sure].double(), own[sure], rtol=1e-5, atol=1e-10), "the distances are those of the rows"
    assert torch.allclose(own[sure], right[sure], rtol=1e-6, atol=1e-12), "no other is nearer"
    assert all(len(set(row)) == k for row in rows[sure].tolist())
    if kind == "random":
        assert sure.float().mean() > 0.9, "screening that is hardly ever sure is of no use"


def by_product(screened: ScreenedBank, patches: torch.Tensor) -> tuple[torch.Tensor, Rounded]:
    """(N, M) squared distances in steps of all that is screened, as the product tells them."""
    rounded = screened._rounded(patches)
    product = torch.empty((len(patches), len(screened._columns)), dtype=torch.int32)
    screened._multiply(screened._steps(rounded), product)
    told = rounded.square[:, None].long() + 2 * screened._middle - 2 * product.long()
    count = len(screened._near)
    assert (told[:, count:] > told[:, :count].amax()).all(), "what fills up comes last"
    return told[:, :count], rounded


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_exact_in_steps_and_off_by_no_more_than_what_it_is_said_to_be(kind: str) -> None:
    patches, bank = made(kind)
    screened = screened_bank(bank)
    told, rounded = by_product(screened, patches)
    near = screened._rounded(bank[screened._near])
    steps = torch.cdist(rounded.steps.double(), near.steps.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    assert ((steps - told).abs() < 1.5).all(), "half of an odd number is rounded, nothing else"
    right, _ = naive(patches, bank[screened._near], 9)
    for rank in (0, 8):
        lengths = right[:, rank].sqrt() / screened._step + rounded.error + screened._error
        below = (told <= (lengths.square() * (1 + 1e-5) + 2)[:, None]).sum(1)
        assert (below > rank).all(), "as many as are that near stay below the limit"


def test_many_features_at_their_largest_stay_in_32_bits() -> None:
    bank = torch.zeros(520, MOST_FEATURES)
    bank[0], bank[1] = 1.0, -1.0
    bank[2:] = torch.linspace(-1, 1, 518)[:, None]
    patches = torch.stack([torch.ones(MOST_FEATURES), -torch.ones(MOST_FEATURES), torch.zeros(MOST_FEATURES)])
    told, rounded = by_product(screened_bank(bank), patches)
    assert int(rounded.square.max()) == MOST_FEATURES * STEPS**2
    assert told.min() >= -1
    assert int(told.max()) >= 2 * MOST_FEATURES * STEPS**2


@pytest.mark.parametrize("largest", [0, 1, 127, 128, 127**2, 127**2 + 1, 10**6])
def test_digits_are_the_number(largest: int) -> None:
    values = torch.tensor([-largest, -largest // 2, 0, largest // 3, largest])
    count = -(-largest // STEPS**2)
    digits = screening._digits(values, count)
    assert digits.shape == (5, count + 1)
    assert digits.abs().max() <= STEPS
    assert torch.equal(STEPS * digits[:, :-1].sum(1).long() + digits[:, -1].long(), values)


@pytest.mark.realdata
@pytest.mark.parametrize("k", [1, 9, 16])
def test_real_patches_are_searched_exactly(real: tuple[np.ndarray, np.ndarray], k: int) -> None:
    patches, bank = (torch.from_numpy(part) for part in real)
    squared, rows, sure = screened_bank(bank)(patches, k)
    right, _ = naive(patches, bank, k)
    own = (patches[:, None].double() - bank[rows].double()).square().sum(2)
    assert torch.allclose(squared[sure].double(), own[sure], rtol=1e-5)
    assert torch.allclose(own[sure], right[sure], rtol=1e-6)
    assert sure.float().mean() > 0.98


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 64, 65, 100, 263, 265, 511, 513])
def test_small_banks_and_what_fills_them_up(size: int) -> None:
    patches, bank = made("random")
    bank, k = bank[:size], min(size, 9)
    squared, rows, sure = screened_bank(bank)(patches, k)
    right, right_rows = naive(patches, bank, k)
    assert torch.equal(rows[sure], right_rows[sure])
    assert torch.allclose(squared[sure].double(), right[sure], rtol=1e-5)
    assert int(rows.max()) < size
    assert sure.any()


def test_what_is_not_finite_is_never_sure() -> None:
    patches, bank = made("random")
    patches[3, 2], patches[5, 0], patches[9, 1] = torch.nan, torch.inf, -torch.nan
    sure = screened_bank(bank)(patches, 9)[2]
    assert not sure[[3, 5, 9]].any()
    assert sure.float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_is_the_same_with_and_without(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = made(kind)
    flat_squared, flat_rows = NearestPatches(bank, "flat")(patches, 9)
    monkeypatch.setattr(search, "screens", lambda count, dimensions: True)
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
    monkeypatch.setattr(search, "screens", lambda count, dimensions: True)
    screened = NearestPatches(bank)
    monkeypatch.setattr(screened, "_screened", lambda *given: pytest.fail("screened"))
    assert screened(patches[:10], 9)[1].shape == (10, 9)
    assert screened(patches, 100)[1].shape == (len(patches), 100)


def test_a_bank_is_screened_by_its_size_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "multiplies_bytes", lambda: True)
    sizes = (500, 999, 1000, 2**19 - 1, 2**19)
    assert [search.screens(count, 152) for count in sizes] == [False, False, True, True, False]
    assert [search.screens(5000, dimensions) for dimensions in (4096, 4097)] == [True, False]
    monkeypatch.setattr(search, "multiplies_bytes", lambda: False)
    assert not search.screens(5000, 152)


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_keeps_its_threads(threads: int) -> None:
    """FAISS sets the threads of both where it shares them."""
    patches, bank = made("random")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        search._shares_threads.cache_clear()
        squared_distances(patches, bank, torch.zeros((len(patches), 3), dtype=torch.int64))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_squared_distances_are_those_of_the_rows() -> None:
    patches, bank = made("random")
    rows = torch.randint(-1, len(bank), (len(patches), 7), generator=torch.Generator().manual_seed(2))
    right = (patches[:, None].double() - bank[rows].double()).square().sum(2).masked_fill(rows < 0, torch.inf)
    assert torch.allclose(squared_distances(patches.T.contiguous().T, bank, rows).double(), right, rtol=1e-5)
