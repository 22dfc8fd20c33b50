"""Exact search for the K nearest bank patches. This is the only file that imports FAISS.

References
----------
Douze et al., "The Faiss library", 2024.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import numpy as np
import torch  # before FAISS, see `_shares_threads`
from torch import Tensor

# isort: split
import faiss

from offnominal.forks import native_threads
from offnominal.memory.compiled import compiled
from offnominal.memory.pruning import BANK_LIMIT, MAX_FEATURES, PrunedBank, register_bits
from offnominal.memory.upsampled import UpsampledBank, Upsampling
from offnominal.types import require

#: Bank sizes, fewest patches at a time and largest K for which candidate pruning is faster than the FAISS flat index.
PRUNED_BANKS = range(512, BANK_LIMIT)
MIN_PRUNED_PATCHES, MAX_PRUNED_NEIGHBOURS = 64, 16
#: Largest number of distances in one matrix product, 128 MB of float32.
PRODUCT_SIZE = 2**25


class NearestPatches:
    """Exact search for the nearest patches of a bank.

    A GPU uses a matrix product in torch. A CPU uses the FAISS flat index, or one of two faster searches if the C extension is
    available: candidate pruning (`memory.pruning`) if the processor has int8 dot products and the bank is large enough, else
    `memory.upsampled` for patches with known upsampling. The choice never depends on timing, so results are reproducible.
    `benchmarks/search.py` and `benchmarks/upsampled.py` compare the searches.

    Parameters
    ----------
    bank
        (M, D) patches.

    Examples
    --------
    >>> search = NearestPatches(torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]))
    >>> squared, rows = search(torch.tensor([[3.0, 3.0]]), k=2)
    >>> squared, rows
    (tensor([[ 1., 18.]]), tensor([[1, 0]]))
    """

    def __init__(self, bank: Tensor) -> None:
        require(bank.ndim == 2 and len(bank) > 0, f"bank must be (M, D) with M > 0, got {tuple(bank.shape)}")
        native_threads()
        self.bank = bank.float().contiguous()
        on_cpu = self.bank.device.type == "cpu"
        self._index: Any = _flat(self.bank.numpy()) if on_cpu else None
        extension = on_cpu and compiled()
        pruned = extension and uses_pruning(*bank.shape)
        self._pruned = PrunedBank(self.bank) if pruned else None
        self._upsampled = UpsampledBank(self.bank) if extension and not pruned else None

    @property
    def uses_upsampling(self) -> bool:
        """Whether the search is faster for patches with known upsampling."""
        return self._upsampled is not None

    def __call__(self, patches: Tensor, k: int, upsampling: Upsampling | None = None) -> tuple[Tensor, Tensor]:
        """Search the K = min(k, M) nearest bank patches.

        Parameters
        ----------
        patches
            (N, D).
        k
            Number of neighbours, at least 1.
        upsampling
            How the features of the patches were upsampled, if known.

        Returns
        -------
        squared, rows
            (N, K) squared distances, ascending; (N, K) int64 rows of the bank. The distances come from float32 products, so
            their error is relative to the lengths of the patches. `noising.neighbourhood` recomputes them where that matters.

        Raises
        ------
        ValueError
            If the number of features differs from the bank's, or `k` is below 1.
        """
        require(k >= 1, f"k must be at least 1, got {k}")
        require(
            patches.shape[-1] == self.bank.shape[1],
            f"the bank has {self.bank.shape[1]} features, the patches {patches.shape[-1]}: use the backbone of the fit",
        )
        k = min(k, len(self.bank))
        if self._index is None:
            return self._by_product(patches, k)
        if self._upsampled is not None and upsampling is not None:
            return self._completed(patches, *self._upsampled(patches.float(), k, upsampling))
        if self._pruned is not None and k <= MAX_PRUNED_NEIGHBOURS and len(patches) >= MIN_PRUNED_PATCHES:
            squared, rows, exact = self._pruned(patches.float(), k)
            remaining = torch.nonzero(~exact).flatten()
            if len(remaining):
                points = patches[remaining].float()
                squared[remaining], rows[remaining] = self._sorted(points, self._by_product(points, k)[1], k)
            return squared, rows
        return self._by_index(patches, k)

    def _by_index(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor]:
        faiss.omp_set_num_threads(torch.get_num_threads())  # a setting of the calling thread
        squared, rows = self._index.search(np.ascontiguousarray(patches.numpy(), dtype=np.float32), k)
        return self._completed(patches, torch.from_numpy(squared).clamp_(min=0), torch.from_numpy(rows))

    def _completed(self, patches: Tensor, squared: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Search patches with fewer than K neighbours again, by matrix product."""
        missing = torch.nonzero((rows < 0).any(1)).flatten()
        if len(missing):
            squared[missing], rows[missing] = self._by_product(patches[missing].float(), rows.shape[1])
        return squared, rows

    @cached_property
    def _lengths(self) -> Tensor:
        """(1, M) squared lengths of the bank patches."""
        return self.bank.square().sum(1)[None]

    def _by_product(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor]:
        parts = []
        for block in patches.split(max(1, PRODUCT_SIZE // len(self.bank))):
            nearest = torch.addmm(self._lengths, block, self.bank.T, alpha=-2).topk(k, largest=False)
            parts.append(((nearest.values + block.square().sum(1, keepdim=True)).clamp_(min=0), nearest.indices))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _sorted(self, patches: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The nearest `k` of (N, C) candidates, ranked by distances from differences."""
        squared = squared_distances(patches, self.bank, candidates)
        order = squared.argsort(dim=1, stable=True)[:, :k]
        return squared.gather(1, order), candidates.gather(1, order)


def squared_distances(patches: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """Squared distances of patches to selected bank patches, computed from differences.

    Parameters
    ----------
    patches, bank
        (n, D) and (M, D) float32.
    rows
        (n, C) int64 rows of the bank, or -1.

    Returns
    -------
    Tensor
        (n, C) float32; infinite where the row is -1.
    """
    patches, bank, rows, squared = patches.contiguous(), bank.contiguous(), rows.contiguous(), torch.empty(rows.shape)
    _limit_faiss_threads()
    pointers = (faiss.swig_ptr(part.numpy()) for part in (squared, patches, bank, rows))
    faiss.fvec_L2sqr_by_idx(*pointers, patches.shape[1], *rows.shape)  # type: ignore[attr-defined]
    return squared


def _limit_faiss_threads() -> None:
    """Set the number of FAISS threads for short calls between torch operations.

    If FAISS and torch have separate thread pools, use one: idle torch threads spin for a while and would slow down the others.
    """
    faiss.omp_set_num_threads(torch.get_num_threads() if _shares_threads() else 1)


@cache
def _shares_threads() -> bool:
    """Whether FAISS and torch share a thread pool, as they do if torch was imported first."""
    count = torch.get_num_threads()
    faiss.omp_set_num_threads(count + 1)
    shared = torch.get_num_threads() > count
    faiss.omp_set_num_threads(count)
    return shared


def _flat(bank: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank)
    return index


def uses_pruning(count: int, dimensions: int) -> bool:
    """Whether a bank of `count` patches with `dimensions` features is searched by candidate pruning on this processor."""
    return count in PRUNED_BANKS and dimensions <= MAX_FEATURES and register_bits() > 0
