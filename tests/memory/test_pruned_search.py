"""When the search prunes candidates; its results are the same."""

from __future__ import annotations

import pytest
import torch
from test_pruning import KINDS, brute_force, random_points

from offnominal.memory import NearestPatches, compiled, search
from offnominal.memory.pruning import (
    register_bits,
)

pytestmark = pytest.mark.skipif(not compiled.compiled(), reason="installed without a compiler")


@pytest.mark.parametrize("kind", KINDS)
def test_search_results_do_not_depend_on_pruning(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = random_points(kind)
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
    in_parts = torch.cat([pruned(part, 9)[0] for part in patches.split(100)])
    assert torch.allclose(in_parts, squared, rtol=1e-6), "results do not depend on the other patches of a batch"


def test_few_patches_and_many_neighbours_are_searched_without_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = random_points("random")
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: True)
    pruned = NearestPatches(bank)
    monkeypatch.setattr(pruned, "_pruned", lambda *args: pytest.fail("pruned"))
    assert pruned(patches[:10], 9)[1].shape == (10, 9)
    assert pruned(patches, 100)[1].shape == (len(patches), 100)


def test_pruning_depends_on_the_bank_size_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "register_bits", lambda: 512)
    sizes = (5, 511, 512, 2**19 - 1, 2**19)
    assert [search.uses_pruning(count, 152) for count in sizes] == [False, False, True, True, False]
    assert [search.uses_pruning(5000, dimensions) for dimensions in (4096, 4097)] == [True, False]
    monkeypatch.setattr(search, "register_bits", lambda: 0)
    assert not search.uses_pruning(5000, 152)


def test_banks_are_searched_without_compiled_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, bank = random_points("random")
    monkeypatch.setattr(search, "register_bits", lambda: 512)
    assert NearestPatches(bank)._pruned is not None
    monkeypatch.setattr(compiled, "PRUNING", "offnominal.memory.missing")
    without = NearestPatches(bank)
    assert without._pruned is None
    assert without._upsampled is None
    assert torch.equal(without(patches, 9)[1], brute_force(patches, bank, 9)[1])
    register_bits.cache_clear()
    try:
        assert register_bits() == 0
    finally:
        register_bits.cache_clear()


def test_small_banks_use_upsampling_and_larger_ones_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "register_bits", lambda: 512)
    searches = {size: NearestPatches(torch.randn(size, 12)) for size in (10, 511, 512, 1500)}
    assert [neighbour_search._upsampled is not None for neighbour_search in searches.values()] == [True, True, False, False]
    assert [neighbour_search._pruned is not None for neighbour_search in searches.values()] == [False, False, True, True]
