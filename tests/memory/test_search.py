"""The nearest bank patches by every way of searching, against distances worked out one by one."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from offnominal.memory import NearestPatches, Upsampling, compiled, search

WAYS = ["flat", "pruned", "product"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """FAISS alone, int8 dot products first, or one matrix product as on a GPU."""
    asked: str = request.param
    if asked == "pruned" and not compiled.compiled():
        pytest.skip("installed without a compiler")
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: asked == "pruned")
    if asked == "product":
        monkeypatch.setattr(search, "_flat", lambda bank: None)
    return asked


def naive(patches: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    squared = ((patches[:, None].astype(np.float64) - bank[None]) ** 2).sum(2)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squared, order, 1), order


def made(count: int, seed: int, dimensions: int = 12) -> np.ndarray:
    """(count, dimensions) in clusters that overlap."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(0, 1, (30, dimensions))
    return (centres[rng.integers(0, 30, count)] + rng.normal(size=(count, dimensions))).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_what_is_found_are_the_nearest_and_their_distances(k: int, way: str) -> None:
    bank, patches = made(2000, 1), made(300, 2)
    squared, rows = NearestPatches(torch.from_numpy(bank))(torch.from_numpy(patches), k)
    right, right_rows = naive(patches, bank, k)
    own = ((patches[:, None].astype(np.float64) - bank[rows.numpy()]) ** 2).sum(2)
    assert squared.numpy() == pytest.approx(own, rel=1e-4, abs=1e-3)
    assert (np.diff(squared.numpy(), axis=1) >= 0).all()
    assert all(len(set(row)) == k for row in rows.tolist())
    assert (own >= right - 1e-9).all()
    assert np.mean([np.isin(a, b).mean() for a, b in zip(right_rows, rows.numpy(), strict=True)]) > 0.9999


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_small_banks_give_all_that_they_have(size: int, way: str) -> None:
    bank, patches = made(size, 3), made(80, 4)
    squared, rows = NearestPatches(torch.from_numpy(bank))(torch.from_numpy(patches), 9)
    assert rows.shape == squared.shape == (80, min(9, size))
    assert rows.tolist() == naive(patches, bank, 9)[1].tolist()


def test_the_same_is_found_every_time(way: str) -> None:
    bank, patches = torch.from_numpy(made(3000, 1)), torch.from_numpy(made(200, 2))
    first, second = (NearestPatches(bank)(patches, 9) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_a_bank_and_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bank must be \(M, D\) with M > 0"):
        NearestPatches(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="the bank has 3 features, the patches 4: use the backbone"):
        NearestPatches(torch.zeros(2, 3))(torch.zeros(1, 4), 1)


def test_no_neighbours_are_not_searched() -> None:
    for told in (None, Upsampling(1, (4, 4), torch.ones(2, 2))):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            NearestPatches(torch.randn(9, 3))(torch.randn(4, 3), 0, told)


def test_faiss_with_threads_of_its_own_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it was imported before torch: several would wait for torch's."""
    patches, bank, asked = torch.randn(20, 5), torch.randn(30, 5), list[int]()
    rows = torch.randint(30, (20, 3))
    right = search.squared_distances(patches, bank, rows)
    monkeypatch.setattr(search, "_shares_threads", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("offnominal.memory.search.faiss.omp_set_num_threads", asked.append)
    assert torch.equal(search.squared_distances(patches, bank, rows), right)
    assert asked == [1]


def can_compile() -> bool:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return sys.platform == "linux" and shutil.which("cc") is not None and header.is_file()


@pytest.mark.skipif(not can_compile(), reason="no compiler, or none that knows Python and OpenMP for sure")
def test_what_can_be_compiled_was() -> None:
    """An installation goes on without it, so nothing else would tell of C that no longer compiles."""
    assert compiled.compiled()
