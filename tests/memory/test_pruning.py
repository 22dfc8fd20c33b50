"""Candidate pruning by int8 dot products: exact results equal those of a float64 loop, on every processor."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from offnominal.memory import NearestPatches, compiled, search
from offnominal.memory.pruning import (
    LEVELS,
    MAX_FEATURES,
    MAX_NEIGHBOURS,
    OUTLIERS,
    PADDING_PRODUCT,
    PANEL,
    REGISTERS,
    PrunedBank,
    PrunedCentres,
    register_bits,
)
from offnominal.memory.search import squared_distances

pytestmark = pytest.mark.skipif(not compiled.compiled(), reason="installed without a compiler")
Points = tuple[torch.Tensor, torch.Tensor]


def in_question_at_most() -> int:
    most: int = importlib.import_module(compiled.PRUNING).MOST_IN_QUESTION
    return most


def able(bits: int) -> bool:
    return compiled.compiled() and importlib.import_module(compiled.PRUNING).multiplies(bits)


@pytest.fixture(params=[0, *REGISTERS], ids="{} bits".format)
def bits(request: pytest.FixtureRequest) -> int:
    """Every register width of this processor, and the scalar code."""
    asked: int = request.param
    if not able(asked):
        pytest.skip(f"this processor has no int8 dot products in registers of {asked} bits")
    return asked


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def naive(patches: torch.Tensor, bank: torch.Tensor, k: int) -> Points:
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
def test_what_is_sure_are_the_nearest(kind: str, k: int, bits: int) -> None:
    patches, bank = made(kind)
    squared, rows, sure = PrunedBank(bank, bits)(patches, k)
    right, _ = naive(patches, bank, k)
    own = (patches[:, None].double() - bank[rows].double()).square().sum(2)
    assert torch.allclose(squared[sure].double(), own[sure], rtol=1e-5, atol=1e-10), "the distances are those of the rows"
    assert torch.allclose(own[sure], right[sure], rtol=1e-6, atol=1e-12), "no other is nearer"
    assert all(len(set(row)) == k for row in rows[sure].tolist())
    if kind == "random":
        assert sure.float().mean() > 0.9, "pruning that is hardly ever sure is of no use"


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 31, 33, 152])
def test_however_many_features(dimensions: int, bits: int) -> None:
    patches, bank = made("random", dimensions)
    squared, rows, sure = PrunedBank(bank, bits)(patches[:101], 9)
    right, right_rows = naive(patches[:101], bank, 9)
    assert torch.equal(rows[sure], right_rows[sure])
    assert torch.allclose(squared[sure].double(), right[sure], rtol=1e-5)
    if dimensions >= 8:
        assert sure.float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_however_bytes_are_multiplied_the_same_is_found(kind: str, bits: int) -> None:
    patches, bank = made(kind)
    found, one_by_one = PrunedBank(bank, bits)(patches, 9), PrunedBank(bank, 0)(patches, 9)
    assert all(torch.equal(*pair) for pair in zip(found, one_by_one, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_in_whole_steps_is_off_by_no_more_than_it_is_said_to_be(kind: str) -> None:
    _, bank = made(kind, 26)
    pruned = PrunedBank(bank)
    near, count = bank[pruned._inliers].double(), len(pruned._inliers)
    columns_of, start, rows = pruned._packed
    panels, quads, width, four = columns_of.shape
    assert (width, four, quads) == (PANEL, 4, 7)
    columns = columns_of.transpose(1, 2).reshape(panels * width, quads * four).long()
    assert not columns[count:].any()
    assert not columns[:, 26:].any()
    assert (start[count:] == PADDING_PRODUCT).all()
    assert torch.equal(rows[:count], pruned._inliers)
    steps = columns[:count, :26]
    right = -(steps.square().sum(1) // 2) - 128 * steps.sum(1)
    assert torch.equal(start[:count].long(), right)
    lost = (near - pruned._mean.double()) / pruned._scale - steps
    lengths = torch.linalg.vector_norm(lost, dim=1)
    assert float(lengths.max()) <= pruned._error
    assert float(lengths.max()) > 0.9 * pruned._error or kind == "all equal"


def test_the_farthest_of_the_bank_make_no_long_steps() -> None:
    patches, bank = made("random")
    bank[:OUTLIERS] *= 1000
    pruned = PrunedBank(bank)
    assert sorted(pruned._outliers.tolist()) == list(range(OUTLIERS))
    assert pruned._scale < 0.1
    assert pruned(patches, 9)[2].float().mean() > 0.9


def test_many_features_at_their_largest_stay_in_32_bits(bits: int) -> None:
    bank = torch.zeros(520, MAX_FEATURES)
    bank[0], bank[1] = 1.0, -1.0
    bank[2:] = torch.linspace(-1, 1, 518)[:, None]
    patches = torch.stack([torch.ones(MAX_FEATURES), -torch.ones(MAX_FEATURES), torch.full((MAX_FEATURES,), 0.3)])
    squared, _, sure = PrunedBank(bank, bits)(patches, 3)
    assert sure.all()
    assert torch.allclose(squared.double(), naive(patches, bank, 3)[0], rtol=1e-5)


@pytest.mark.realdata
@pytest.mark.parametrize("k", [1, 9, 16])
def test_real_patches_are_searched_exactly(real: tuple[np.ndarray, np.ndarray], k: int, bits: int) -> None:
    patches, bank = (torch.from_numpy(part) for part in real)
    squared, rows, sure = PrunedBank(bank, bits)(patches, k)
    right, _ = naive(patches, bank, k)
    own = (patches[:, None].double() - bank[rows].double()).square().sum(2)
    assert torch.allclose(squared[sure].double(), own[sure], rtol=1e-5)
    assert torch.allclose(own[sure], right[sure], rtol=1e-6)
    assert sure.float().mean() > 0.98


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 100, 263, 265, 330, 511, 513])
def test_small_banks_and_what_fills_them_up(size: int, bits: int) -> None:
    patches, bank = made("random")
    bank, k = bank[:size], min(size, 9)
    squared, rows, sure = PrunedBank(bank, bits)(patches, k)
    right, right_rows = naive(patches, bank, k)
    assert torch.equal(rows[sure], right_rows[sure])
    assert torch.allclose(squared[sure].double(), right[sure], rtol=1e-5)
    assert int(rows.max()) < size
    assert sure.any()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 63])
def test_however_few_patches(count: int, bits: int) -> None:
    patches, bank = made("random")
    pruned = PrunedBank(bank, bits)
    everything, few = pruned(patches, 9), pruned(patches[:count], 9)
    assert all(torch.equal(part, whole[:count]) for part, whole in zip(few, everything, strict=True))
    assert [len(part) for part in pruned(patches[:0], 9)] == [0, 0, 0]


def test_more_in_question_than_pays_is_not_sure(bits: int) -> None:
    most = in_question_at_most()
    random = torch.Generator().manual_seed(5)
    around = 1000 * torch.randn(OUTLIERS + 100, 12, generator=random)  # these make the steps long
    close, patches = torch.randn(2 * most, 12, generator=random), torch.randn(20, 12, generator=random)
    assert not PrunedBank(torch.cat([around, close]), bits)(patches, 9)[2].any()
    squared, rows, sure = PrunedBank(torch.cat([around, close[:most]]), bits)(patches, 9)
    assert sure.all(), "just as many"
    assert torch.equal(rows, naive(patches, torch.cat([around, close[:most]]), 9)[1])
    assert torch.allclose(squared.double(), naive(patches, close[:most], 9)[0], rtol=1e-5)


def test_what_is_not_finite_is_never_sure(bits: int) -> None:
    patches, bank = made("random")
    patches[3, 2], patches[5, 0], patches[9, 1], patches[11, 4] = torch.nan, torch.inf, -torch.nan, 1e30
    sure = PrunedBank(bank, bits)(patches, 9)[2]
    assert not sure[[3, 5, 9, 11]].any()
    assert sure.float().mean() > 0.9


def test_differences_whose_squares_float32_does_not_hold_are_not_lost(bits: int) -> None:
    bank, patches = torch.randn(72, 4) * 1e-23, torch.randn(50, 4) * 1e-23
    bank[:4], bank[4:8] = 1, -1
    squared, rows, sure = PrunedBank(bank, bits)(patches, 1)
    assert sure.all()
    assert (rows >= 8).all()
    assert (squared == 0).all()
    centres = torch.tensor([[0.0], [1.0]])
    centre_search = PrunedCentres(centres, 1e-30, bits)
    centre_search.add(0, 2)
    near, sure = centre_search(torch.tensor([[1e-30]]), 0, 2)
    assert float(near) == 0 or not bool(sure)


@pytest.mark.usefixtures("threads")
def test_threads_find_the_same_and_torch_keeps_its_own(bits: int) -> None:
    patches, bank = made("random")
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(PrunedBank(bank, bits)(patches[:333], 9))
        assert torch.get_num_threads() == count
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_centres_that_are_added_by_and_by_are_searched_alike(bits: int) -> None:
    patches, made_centres = made("random")
    centres = torch.full((300, 24), torch.nan)
    reach = float(made_centres[:300].abs().amax(1).sort().values[-5])
    pruned, done, far = PrunedCentres(centres, reach, bits), 0, 0
    for count in (1, 2, 61, 1, 63, 64, 65, 43):
        last = done + count
        centres[done:last] = made_centres[done:last]
        pruned.add(done, last)
        far += int((made_centres[done:last].abs().amax(1) > reach).sum())
        for first in {0, done, max(0, done - 30), last - 1}:
            squared, sure = pruned(patches, first, last)
            every = naive(patches, made_centres[:last], 1)[0][:, 0]
            those = naive(patches, made_centres[first:last], 1)[0][:, 0]
            assert sure.float().mean() > 0.9
            assert (squared[sure].double() <= those[sure] * (1 + 1e-5)).all(), "none of those is missed"
            assert (squared[sure].double() >= every[sure] * (1 - 1e-5)).all(), "none is made up"
            if first == 0:
                assert torch.allclose(squared[sure].double(), every[sure], rtol=1e-5)
        done = last
        pruned.add(done, done)
    assert (done, far) == (300, 4)
    near = made_centres[:300][made_centres[:300].abs().amax(1) <= reach].double() / pruned._scale
    lost = torch.linalg.vector_norm(near - near.round(), dim=1)
    assert 0.99 * pruned._error < float(lost.max()) <= pruned._error
    assert pruned._outliers.tolist() == torch.nonzero(made_centres[:300].abs().amax(1) > reach).flatten().tolist()


def test_both_sides_agree() -> None:
    there = importlib.import_module(compiled.PRUNING)
    assert (there.PANEL, there.NEVER, there.STEPS) == (PANEL, PADDING_PRODUCT, LEVELS)
    assert there.MOST_IN_QUESTION == MAX_NEIGHBOURS
    assert [there.multiplies(bits) for bits in (0, 8, 128, 1024)] == [True, False, False, False]
    assert register_bits() == next((bits for bits in REGISTERS if there.multiplies(bits)), 0)


def test_what_does_not_fit_is_refused_before_it_is_read() -> None:
    patches, bank = made("random")
    pruned = PrunedBank(bank, 0)
    with pytest.raises(ValueError, match=r"contiguous .*float32 .*, got .*float64"):
        pruned(patches.double(), 3)
    with pytest.raises(ValueError, match=r"expected .*\(700, 24\).* got .*\(700, 23\)"):
        pruned(patches[:, :23], 3)
    for k in (0, len(bank) + 1):
        with pytest.raises(ValueError, match=f"{k} neighbours"):
            pruned(patches, k)
    with pytest.raises(ValueError, match="in registers of 64 bits"):
        PrunedBank(bank, 64)(patches, 3)
    with pytest.raises(ValueError, match=f"at most {MAX_FEATURES} features"):
        PrunedBank(torch.zeros(3, MAX_FEATURES + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_is_the_same_with_and_without(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = made(kind)
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: False)
    flat_squared, flat_rows = NearestPatches(bank)(patches, 9)
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: True)
    pruned = NearestPatches(bank)
    assert pruned._pruned is not None
    squared, rows = pruned(patches, 9)
    lengths = patches.square().sum(1, keepdim=True) + bank.square().sum(1).amax()
    assert ((squared - flat_squared).abs() <= 1e-6 * lengths).all()
    if kind == "random":
        assert torch.equal(rows, flat_rows)
    alone = torch.cat([pruned(part, 9)[0] for part in patches.split(100)])
    assert torch.allclose(alone, squared, rtol=1e-6), "what is near does not depend on what is searched beside it"


def test_few_patches_and_many_neighbours_are_searched_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = made("random")
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: True)
    pruned = NearestPatches(bank)
    monkeypatch.setattr(pruned, "_pruned", lambda *given: pytest.fail("pruned"))
    assert pruned(patches[:10], 9)[1].shape == (10, 9)
    assert pruned(patches, 100)[1].shape == (len(patches), 100)


def test_a_bank_is_pruned_by_its_size_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "register_bits", lambda: 512)
    sizes = (5, 511, 512, 2**19 - 1, 2**19)
    assert [search.uses_pruning(count, 152) for count in sizes] == [False, False, True, True, False]
    assert [search.uses_pruning(5000, dimensions) for dimensions in (4096, 4097)] == [True, False]
    monkeypatch.setattr(search, "register_bits", lambda: 0)
    assert not search.uses_pruning(5000, 152)


def test_where_it_could_not_be_compiled_banks_are_searched_without(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = made("random")
    monkeypatch.setattr(search, "register_bits", lambda: 512)
    assert NearestPatches(bank)._pruned is not None
    monkeypatch.setattr(compiled, "PRUNING", "offnominal.memory.none_of_this_name")
    without = NearestPatches(bank)
    assert without._pruned is None
    assert without._upsampled is None
    assert torch.equal(without(patches, 9)[1], naive(patches, bank, 9)[1])
    register_bits.cache_clear()
    try:
        assert register_bits() == 0
    finally:
        register_bits.cache_clear()


def test_a_small_bank_is_searched_by_the_smaller_map_where_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "register_bits", lambda: 512)
    kinds = {size: NearestPatches(torch.randn(size, 12)) for size in (10, 511, 512, 1500)}
    assert [one._upsampled is not None for one in kinds.values()] == [True, True, False, False]
    assert [one._pruned is not None for one in kinds.values()] == [False, False, True, True]


def test_a_defect_far_outside_the_bank_is_searched_all_the_same(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(3000)
    patches, bank = 30 * torch.randn(100, 12, generator=random), 30 * torch.randn(3000, 12, generator=random)
    patches[50:] *= 100
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: True)
    nearest = NearestPatches(bank)
    monkeypatch.setattr(nearest, "_pruned", PrunedBank(bank, bits))
    squared, rows = nearest(patches, 9)
    right, right_rows = naive(patches, bank, 9)
    assert np.mean(rows.numpy() == right_rows.numpy()) > 0.99
    assert torch.allclose(squared.double(), right, rtol=1e-5)
    assert not PrunedBank(bank, bits)(patches, 9)[2].all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2])
def test_torch_keeps_its_threads(count: int) -> None:
    """FAISS sets the threads of both where it shares them."""
    patches, bank = made("random")
    torch.set_num_threads(count)
    search._shares_threads.cache_clear()
    squared_distances(patches, bank, torch.zeros((len(patches), 3), dtype=torch.int64))
    assert torch.get_num_threads() == count


def test_squared_distances_are_those_of_the_rows() -> None:
    patches, bank = made("random")
    rows = torch.randint(-1, len(bank), (len(patches), 7), generator=torch.Generator().manual_seed(2))
    right = (patches[:, None].double() - bank[rows].double()).square().sum(2).masked_fill(rows < 0, torch.inf)
    assert torch.allclose(squared_distances(patches.T.contiguous().T, bank, rows).double(), right, rtol=1e-5)
