"""Nearest bank patches by every search method, against brute force."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from offnominal.memory import NearestPatches, Upsampling, compiled, search

METHODS = ["flat", "pruned", "product"]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """FAISS alone, candidate pruning, or one matrix product as on a GPU."""
    name: str = request.param
    if name == "pruned" and not compiled.compiled():
        pytest.skip("installed without a compiler")
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: name == "pruned")
    if name == "product":
        monkeypatch.setattr(search, "_flat", lambda bank: None)
    return name


def brute_force(patches: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    squared = ((patches[:, None].astype(np.float64) - bank[None]) ** 2).sum(2)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squared, order, 1), order


def clustered_points(count: int, seed: int, dimensions: int = 12) -> np.ndarray:
    """(count, dimensions) points in overlapping clusters."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(0, 1, (30, dimensions))
    return (centres[rng.integers(0, 30, count)] + rng.normal(size=(count, dimensions))).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_and_distances_equal_brute_force(k: int, method: str) -> None:
    bank, patches = clustered_points(2000, 1), clustered_points(300, 2)
    squared, rows = NearestPatches(torch.from_numpy(bank))(torch.from_numpy(patches), k)
    expected, expected_rows = brute_force(patches, bank, k)
    of_rows = ((patches[:, None].astype(np.float64) - bank[rows.numpy()]) ** 2).sum(2)
    assert squared.numpy() == pytest.approx(of_rows, rel=1e-4, abs=1e-3)
    assert (np.diff(squared.numpy(), axis=1) >= 0).all()
    assert all(len(set(row)) == k for row in rows.tolist())
    assert (of_rows >= expected - 1e-9).all()
    assert np.mean([np.isin(a, b).mean() for a, b in zip(expected_rows, rows.numpy(), strict=True)]) > 0.9999


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_small_banks_return_all_their_patches(size: int, method: str) -> None:
    bank, patches = clustered_points(size, 3), clustered_points(80, 4)
    squared, rows = NearestPatches(torch.from_numpy(bank))(torch.from_numpy(patches), 9)
    assert rows.shape == squared.shape == (80, min(9, size))
    assert rows.tolist() == brute_force(patches, bank, 9)[1].tolist()


def test_searches_are_deterministic(method: str) -> None:
    bank, patches = torch.from_numpy(clustered_points(3000, 1)), torch.from_numpy(clustered_points(200, 2))
    first, second = (NearestPatches(bank)(patches, 9) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_empty_banks_and_wrong_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bank must be \(M, D\) with M > 0"):
        NearestPatches(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="the bank has 3 features, the patches 4: use the backbone"):
        NearestPatches(torch.zeros(2, 3))(torch.zeros(1, 4), 1)


def test_zero_neighbours_are_refused() -> None:
    for upsampling in (None, Upsampling(1, (4, 4), torch.ones(2, 2))):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            NearestPatches(torch.randn(9, 3))(torch.randn(4, 3), 0, upsampling)


def test_faiss_with_its_own_threads_uses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS has its own threads if it is imported before torch. More than one would wait for those of torch."""
    patches, bank, requested = torch.randn(20, 5), torch.randn(30, 5), list[int]()
    rows = torch.randint(30, (20, 3))
    expected = search.squared_distances(patches, bank, rows)
    monkeypatch.setattr(search, "_shares_threads", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("offnominal.memory.search.faiss.omp_set_num_threads", requested.append)
    assert torch.equal(search.squared_distances(patches, bank, rows), expected)
    assert requested == [1]


def can_compile() -> bool:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return sys.platform == "linux" and shutil.which("cc") is not None and header.is_file()


@pytest.mark.skipif(not can_compile(), reason="no compiler, or no headers of Python")
def test_the_extensions_are_compiled() -> None:
    """An installation succeeds without the extensions, so only this test fails if the C code does not compile."""
    assert compiled.compiled()
