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


def max_candidates() -> int:
    count: int = importlib.import_module(compiled.PRUNING).MOST_IN_QUESTION
    return count


def supports(bits: int) -> bool:
    return compiled.compiled() and importlib.import_module(compiled.PRUNING).multiplies(bits)


@pytest.fixture(params=[0, *REGISTERS], ids="{} bits".format)
def bits(request: pytest.FixtureRequest) -> int:
    """Every register width of this processor, and the scalar code."""
    width: int = request.param
    if not supports(width):
        pytest.skip(f"this processor has no int8 dot products in registers of {width} bits")
    return width


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def brute_force(patches: torch.Tensor, bank: torch.Tensor, k: int) -> Points:
    squared = torch.cdist(patches.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    order = squared.argsort(dim=1, stable=True)[:, :k]
    return squared.gather(1, order), order


def random_points(kind: str, dimensions: int = 24) -> Points:
    """(N, D) patches and an (M, D) bank, with a kind of `KINDS`."""
    random = torch.Generator().manual_seed(3)
    patches, bank = torch.randn(700, dimensions, generator=random), torch.randn(1500, dimensions, generator=random)
    if kind == "far from the origin":
        return patches + 40, bank + 40
    if kind == "all lengths":
        return patches * torch.logspace(-3, 3, 700)[:, None], bank * torch.logspace(-3, 3, 1500)[:, None]
    if kind == "near the bank":
        return bank[:700] + 1e-3 * patches, bank
    if kind == "duplicates":
        return bank[:700].clone(), bank[torch.arange(1500) % 300]
    if kind == "all equal":
        return torch.ones(5, dimensions), torch.ones(1500, dimensions)
    return patches, bank


KINDS = ("random", "far from the origin", "all lengths", "near the bank", "duplicates", "all equal")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 9, 16])
def test_exact_results_are_the_nearest_neighbours(kind: str, k: int, bits: int) -> None:
    patches, bank = random_points(kind)
    squared, rows, exact = PrunedBank(bank, bits)(patches, k)
    expected, _ = brute_force(patches, bank, k)
    of_rows = (patches[:, None].double() - bank[rows].double()).square().sum(2)
    assert torch.allclose(squared[exact].double(), of_rows[exact], rtol=1e-5, atol=1e-10), "distances are those of the rows"
    assert torch.allclose(of_rows[exact], expected[exact], rtol=1e-6, atol=1e-12), "no other patch is nearer"
    assert all(len(set(row)) == k for row in rows[exact].tolist())
    if kind == "random":
        assert exact.float().mean() > 0.9, "pruning must succeed for most patches"


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 31, 33, 152])
def test_any_number_of_features(dimensions: int, bits: int) -> None:
    patches, bank = random_points("random", dimensions)
    squared, rows, exact = PrunedBank(bank, bits)(patches[:101], 9)
    expected, expected_rows = brute_force(patches[:101], bank, 9)
    assert torch.equal(rows[exact], expected_rows[exact])
    assert torch.allclose(squared[exact].double(), expected[exact], rtol=1e-5)
    if dimensions >= 8:
        assert exact.float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_all_register_widths_give_the_same_results(kind: str, bits: int) -> None:
    patches, bank = random_points(kind)
    vectorised, scalar = PrunedBank(bank, bits)(patches, 9), PrunedBank(bank, 0)(patches, 9)
    assert all(torch.equal(*pair) for pair in zip(vectorised, scalar, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_quantisation_error_is_within_its_bound(kind: str) -> None:
    _, bank = random_points(kind, 26)
    pruned = PrunedBank(bank)
    inliers, count = bank[pruned._inliers].double(), len(pruned._inliers)
    columns_of, start, rows = pruned._packed
    panels, quads, width, four = columns_of.shape
    assert (width, four, quads) == (PANEL, 4, 7)
    columns = columns_of.transpose(1, 2).reshape(panels * width, quads * four).long()
    assert not columns[count:].any()
    assert not columns[:, 26:].any()
    assert (start[count:] == PADDING_PRODUCT).all()
    assert torch.equal(rows[:count], pruned._inliers)
    levels = columns[:count, :26]
    expected = -(levels.square().sum(1) // 2) - 128 * levels.sum(1)
    assert torch.equal(start[:count].long(), expected)
    errors = (inliers - pruned._mean.double()) / pruned._scale - levels
    lengths = torch.linalg.vector_norm(errors, dim=1)
    assert float(lengths.max()) <= pruned._error
    assert float(lengths.max()) > 0.9 * pruned._error or kind == "all equal"


def test_outliers_do_not_enlarge_the_quantisation_step() -> None:
    patches, bank = random_points("random")
    bank[:OUTLIERS] *= 1000
    pruned = PrunedBank(bank)
    assert sorted(pruned._outliers.tolist()) == list(range(OUTLIERS))
    assert pruned._scale < 0.1
    assert pruned(patches, 9)[2].float().mean() > 0.9


def test_the_largest_products_fit_in_32_bits(bits: int) -> None:
    bank = torch.zeros(520, MAX_FEATURES)
    bank[0], bank[1] = 1.0, -1.0
    bank[2:] = torch.linspace(-1, 1, 518)[:, None]
    patches = torch.stack([torch.ones(MAX_FEATURES), -torch.ones(MAX_FEATURES), torch.full((MAX_FEATURES,), 0.3)])
    squared, _, exact = PrunedBank(bank, bits)(patches, 3)
    assert exact.all()
    assert torch.allclose(squared.double(), brute_force(patches, bank, 3)[0], rtol=1e-5)


@pytest.mark.realdata
@pytest.mark.parametrize("k", [1, 9, 16])
def test_real_patches_are_searched_exactly(real: tuple[np.ndarray, np.ndarray], k: int, bits: int) -> None:
    patches, bank = (torch.from_numpy(part) for part in real)
    squared, rows, exact = PrunedBank(bank, bits)(patches, k)
    expected, _ = brute_force(patches, bank, k)
    of_rows = (patches[:, None].double() - bank[rows].double()).square().sum(2)
    assert torch.allclose(squared[exact].double(), of_rows[exact], rtol=1e-5)
    assert torch.allclose(of_rows[exact], expected[exact], rtol=1e-6)
    assert exact.float().mean() > 0.98


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 100, 263, 265, 330, 511, 513])
def test_small_banks_with_padding(size: int, bits: int) -> None:
    patches, bank = random_points("random")
    bank, k = bank[:size], min(size, 9)
    squared, rows, exact = PrunedBank(bank, bits)(patches, k)
    expected, expected_rows = brute_force(patches, bank, k)
    assert torch.equal(rows[exact], expected_rows[exact])
    assert torch.allclose(squared[exact].double(), expected[exact], rtol=1e-5)
    assert int(rows.max()) < size
    assert exact.any()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 63])
def test_any_number_of_patches(count: int, bits: int) -> None:
    patches, bank = random_points("random")
    pruned = PrunedBank(bank, bits)
    all_results, results = pruned(patches, 9), pruned(patches[:count], 9)
    assert all(torch.equal(part, full[:count]) for part, full in zip(results, all_results, strict=True))
    assert [len(part) for part in pruned(patches[:0], 9)] == [0, 0, 0]


def test_too_many_candidates_are_not_exact(bits: int) -> None:
    limit = max_candidates()
    random = torch.Generator().manual_seed(5)
    outliers = 1000 * torch.randn(OUTLIERS + 100, 12, generator=random)  # these enlarge the quantisation step
    close, patches = torch.randn(2 * limit, 12, generator=random), torch.randn(20, 12, generator=random)
    assert not PrunedBank(torch.cat([outliers, close]), bits)(patches, 9)[2].any()
    squared, rows, exact = PrunedBank(torch.cat([outliers, close[:limit]]), bits)(patches, 9)
    assert exact.all(), "exactly at the limit"
    assert torch.equal(rows, brute_force(patches, torch.cat([outliers, close[:limit]]), 9)[1])
    assert torch.allclose(squared.double(), brute_force(patches, close[:limit], 9)[0], rtol=1e-5)


def test_non_finite_patches_are_never_exact(bits: int) -> None:
    patches, bank = random_points("random")
    patches[3, 2], patches[5, 0], patches[9, 1], patches[11, 4] = torch.nan, torch.inf, -torch.nan, 1e30
    exact = PrunedBank(bank, bits)(patches, 9)[2]
    assert not exact[[3, 5, 9, 11]].any()
    assert exact.float().mean() > 0.9


def test_differences_with_underflowing_squares_are_ranked(bits: int) -> None:
    bank, patches = torch.randn(72, 4) * 1e-23, torch.randn(50, 4) * 1e-23
    bank[:4], bank[4:8] = 1, -1
    squared, rows, exact = PrunedBank(bank, bits)(patches, 1)
    assert exact.all()
    assert (rows >= 8).all()
    assert (squared == 0).all()
    centres = torch.tensor([[0.0], [1.0]])
    centre_search = PrunedCentres(centres, 1e-30, bits)
    centre_search.add(0, 2)
    squared_centre, exact = centre_search(torch.tensor([[1e-30]]), 0, 2)
    assert float(squared_centre) == 0 or not bool(exact)


@pytest.mark.usefixtures("threads")
def test_results_do_not_depend_on_threads_and_torch_keeps_its_own(bits: int) -> None:
    patches, bank = random_points("random")
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(PrunedBank(bank, bits)(patches[:333], 9))
        assert torch.get_num_threads() == count
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_centres_added_step_by_step_are_searched_exactly(bits: int) -> None:
    patches, all_centres = random_points("random")
    centres = torch.full((300, 24), torch.nan)
    reach = float(all_centres[:300].abs().amax(1).sort().values[-5])
    pruned, done, outliers = PrunedCentres(centres, reach, bits), 0, 0
    for count in (1, 2, 61, 1, 63, 64, 65, 43):
        last = done + count
        centres[done:last] = all_centres[done:last]
        pruned.add(done, last)
        outliers += int((all_centres[done:last].abs().amax(1) > reach).sum())
        for first in {0, done, max(0, done - 30), last - 1}:
            squared, exact = pruned(patches, first, last)
            to_all = brute_force(patches, all_centres[:last], 1)[0][:, 0]
            to_range = brute_force(patches, all_centres[first:last], 1)[0][:, 0]
            assert exact.float().mean() > 0.9
            assert (squared[exact].double() <= to_range[exact] * (1 + 1e-5)).all(), "no centre of the range is missed"
            assert (squared[exact].double() >= to_all[exact] * (1 - 1e-5)).all(), "the distance is to an existing centre"
            if first == 0:
                assert torch.allclose(squared[exact].double(), to_all[exact], rtol=1e-5)
        done = last
        pruned.add(done, done)
    assert (done, outliers) == (300, 4)
    inliers = all_centres[:300][all_centres[:300].abs().amax(1) <= reach].double() / pruned._scale
    errors = torch.linalg.vector_norm(inliers - inliers.round(), dim=1)
    assert 0.99 * pruned._error < float(errors.max()) <= pruned._error
    assert pruned._outliers.tolist() == torch.nonzero(all_centres[:300].abs().amax(1) > reach).flatten().tolist()


def test_constants_equal_those_of_the_c_code() -> None:
    extension = importlib.import_module(compiled.PRUNING)
    assert (extension.PANEL, extension.NEVER, extension.STEPS) == (PANEL, PADDING_PRODUCT, LEVELS)
    assert extension.MOST_IN_QUESTION == MAX_NEIGHBOURS
    assert [extension.multiplies(bits) for bits in (0, 8, 128, 1024)] == [True, False, False, False]
    assert register_bits() == next((bits for bits in REGISTERS if extension.multiplies(bits)), 0)


def test_invalid_arguments_are_refused() -> None:
    patches, bank = random_points("random")
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


def test_patches_far_from_the_bank_are_searched(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(3000)
    patches, bank = 30 * torch.randn(100, 12, generator=random), 30 * torch.randn(3000, 12, generator=random)
    patches[50:] *= 100
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: True)
    nearest = NearestPatches(bank)
    monkeypatch.setattr(nearest, "_pruned", PrunedBank(bank, bits))
    squared, rows = nearest(patches, 9)
    expected, expected_rows = brute_force(patches, bank, 9)
    assert np.mean(rows.numpy() == expected_rows.numpy()) > 0.99
    assert torch.allclose(squared.double(), expected, rtol=1e-5)
    assert not PrunedBank(bank, bits)(patches, 9)[2].all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2])
def test_the_number_of_torch_threads_is_kept(count: int) -> None:
    """If FAISS shares its OpenMP runtime with torch, FAISS sets the threads of both."""
    patches, bank = random_points("random")
    torch.set_num_threads(count)
    search._shares_threads.cache_clear()
    squared_distances(patches, bank, torch.zeros((len(patches), 3), dtype=torch.int64))
    assert torch.get_num_threads() == count


def test_squared_distances_are_those_of_the_given_rows() -> None:
    patches, bank = random_points("random")
    rows = torch.randint(-1, len(bank), (len(patches), 7), generator=torch.Generator().manual_seed(2))
    expected = (patches[:, None].double() - bank[rows].double()).square().sum(2).masked_fill(rows < 0, torch.inf)
    assert torch.allclose(squared_distances(patches.T.contiguous().T, bank, rows).double(), expected, rtol=1e-5)
