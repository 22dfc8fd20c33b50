"""Exact search for the K nearest bank patches: the only file that imports FAISS (Douze et al., "The Faiss library", 2024)."""

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
from offnominal.memory.pruning import MAX_FEATURES, PrunedBank, register_bits
from offnominal.memory.upsampled import UpsampledBank, Upsampling
from offnominal.types import require

#: Pruning is worth its while from so many bank patches (to so many) and patches at once, up to such a K.
PRUNED_BANKS = range(512, 2**19)
FEWEST_SCREENED, MOST_SCREENED = 64, 16
#: Distances of one matrix product.
AT_ONCE = 2**25


class NearestPatches:
    """Exact search over a bank (M, D).

    On a CPU FAISS's flat index, or a faster way to the same neighbours if it is compiled: `memory.pruning` if the processor
    has int8 dot products and the bank some hundred patches, else `memory.upsampled` for patches that are known to be upsampled.
    On a GPU one matrix product in torch. The choice depends on what there is, never on timing, so results do not vary by a
    rounding error from run to run. `benchmarks/search.py` and `upsampled.py` compare them.
    """

    def __init__(self, bank: Tensor) -> None:
        require(bank.ndim == 2 and len(bank) > 0, f"bank must be (M, D) with M > 0, got {tuple(bank.shape)}")
        native_threads()
        self.bank = bank.float().contiguous()
        on_cpu = self.bank.device.type == "cpu"
        self._index: Any = _flat(self.bank.numpy()) if on_cpu else None
        faster = on_cpu and compiled()
        pruned = faster and uses_pruning(*bank.shape)
        self._pruned = PrunedBank(self.bank) if pruned else None
        self._upsampled = UpsampledBank(self.bank) if faster and not pruned else None

    def __call__(self, patches: Tensor, k: int, upsampling: Upsampling | None = None) -> tuple[Tensor, Tensor]:
        """(N, D) -> (N, K) squared distances, ascending, and (N, K) int64 rows of the K nearest bank patches, K = min(k, M).

        The squared distances come from products: their error is that of float32 relative to the lengths of the patches, not
        to the distances. `noising.neighbourhood` works them out anew where that matters.

        Raises:
            ValueError: another number of features than the bank's; no neighbours asked for.
        """
        require(k >= 1, f"k must be at least 1, got {k}")
        require(
            patches.shape[-1] == self.bank.shape[1],
            f"bank has D={self.bank.shape[1]}, the patches D={patches.shape[-1]}: use the backbone that it was fitted with",
        )
        k = min(k, len(self.bank))
        if self._index is None:
            return self._by_product(patches, k)
        if self._upsampled is not None and upsampling is not None:
            return self._completed(patches, *self._upsampled(patches.float(), k, upsampling))
        if self._pruned is not None and k <= MOST_SCREENED and len(patches) >= FEWEST_SCREENED:
            squared, rows, sure = self._pruned(patches.float(), k)
            unsure = torch.nonzero(~sure).flatten()
            if len(unsure):
                points = patches[unsure].float()
                squared[unsure], rows[unsure] = self._in_order(points, self._by_product(points, k)[1], k)
            return squared, rows
        return self._by_index(patches, k)

    def _by_index(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor]:
        faiss.omp_set_num_threads(torch.get_num_threads())  # counts in this thread alone
        found = self._index.search(np.ascontiguousarray(patches.numpy(), dtype=np.float32), k)
        return self._completed(patches, torch.from_numpy(found[0]).clamp_(min=0), torch.from_numpy(found[1]))

    def _completed(self, patches: Tensor, squared: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Patches of which fewer than K were found are searched by the whole product."""
        missing = torch.nonzero((indices < 0).any(1)).flatten()
        if len(missing):
            squared[missing], indices[missing] = self._by_product(patches[missing].float(), indices.shape[1])
        return squared, indices

    @cached_property
    def _lengths(self) -> Tensor:
        """(1, M) squared lengths of the bank's patches."""
        return self.bank.square().sum(1)[None]

    def _by_product(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor]:
        parts = []
        for block in patches.split(max(1, AT_ONCE // len(self.bank))):
            nearest = torch.addmm(self._lengths, block, self.bank.T, alpha=-2).topk(k, largest=False)
            parts.append(((nearest.values + block.square().sum(1, keepdim=True)).clamp_(min=0), nearest.indices))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _in_order(self, patches: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The nearest `k` of (N, C) candidates by exact differences."""
        squared = squared_distances(patches, self.bank, candidates)
        order = squared.argsort(dim=1, stable=True)[:, :k]
        return squared.gather(1, order), candidates.gather(1, order)


def squared_distances(patches: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """(n, D) and (M, D) float32, (n, C) rows -> (n, C) squared distances by differences; infinite where a row is -1."""
    patches, bank, rows, squared = patches.contiguous(), bank.contiguous(), rows.contiguous(), torch.empty(rows.shape)
    _between_products()
    pointers = (faiss.swig_ptr(part.numpy()) for part in (squared, patches, bank, rows))
    faiss.fvec_L2sqr_by_idx(*pointers, patches.shape[1], *rows.shape)  # type: ignore[attr-defined]
    return squared


def _between_products() -> None:
    """Set how many threads FAISS takes for short work that goes on in turns with torch's.

    One where they do not share them: others would wait for those of torch, which look out for more work for a while after
    each step, and inspecting one image after another took three times as long.
    """
    faiss.omp_set_num_threads(torch.get_num_threads() if _shares_threads() else 1)


@cache
def _shares_threads() -> bool:
    """Whether FAISS works on torch's threads, as it does where torch was imported first."""
    before = torch.get_num_threads()
    faiss.omp_set_num_threads(before + 1)
    shared = torch.get_num_threads() > before
    faiss.omp_set_num_threads(before)
    return shared


def _flat(bank: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank)
    return index


def uses_pruning(count: int, dimensions: int) -> bool:
    """Whether a bank of so many patches is pruned by products of bytes on this processor."""
    return count in PRUNED_BANKS and dimensions <= MAX_FEATURES and register_bits() > 0
