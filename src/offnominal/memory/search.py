"""The K nearest bank patches by FAISS, exactly unless another index is asked for: the only file that imports it.

Indexes of Douze et al., "The Faiss library" (2024); `ivf` after Jégou et al. (2011), `hnsw` after Malkov and Yashunin (2020).
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any, get_args

import numpy as np
import torch  # before FAISS, see `_shares_threads`
from torch import Tensor

# isort: split
import faiss

from offnominal.config import SearchIndex
from offnominal.forks import native_threads
from offnominal.memory.compiled import compiled
from offnominal.memory.screening import MOST_FEATURES, ScreenedBank, registers
from offnominal.memory.upsampled import UpsampledBank, Upsampling
from offnominal.types import require

EXACT_INDEXES = ("auto", "flat")
#: Compressed indexes look for this many times K candidates, which exact distances put in order.
CANDIDATES = 2
#: Lists of the inverted file that are searched, of sqrt(M).
PROBES = 8
#: Links of a patch in the graph, and patches that a search keeps in view.
LINKS, EFFORT = 32, 64
#: Screening is worth its while from so many bank patches (to so many) and patches at once, up to such a K.
SCREENED_BANKS = range(512, 2**19)
FEWEST_SCREENED, MOST_SCREENED = 64, 16
#: Distances of one matrix product.
AT_ONCE = 2**25


class NearestPatches:
    """Search over a bank (M, D), by one of these indexes:

    - `auto`: exact. On a CPU `flat`, or what finds the same neighbours sooner where that is compiled: `memory.screening`,
      where the processor has products of bytes and the bank some hundred patches, else `memory.upsampled`, where the patches
      are known to be so; on a GPU one matrix product in torch. By what there is, not by the clock: that must not decide
      between results that differ in rounding. `benchmarks/search.py`, `upsampled.py` and `indexes.py` compare them.
    - `flat`: FAISS's exact search.
    - `fp16`, `sq8`: patches of 2 or 1 bytes a feature; the nearest 2 K by them, put in order by exact float32 distances.
    - `ivf`: sqrt(M) lists around k-means centres, the nearest 8 are searched, exactly.
    - `hnsw`: a graph of near patches that is followed, 64 kept in view; distances are exact.

    What the last four miss is replaced by patches farther away, so distances come out too large, never too small. A patch for
    which they find fewer than K is searched exactly. On a GPU every index is the exact product.
    """

    def __init__(self, bank: Tensor, index: SearchIndex = "auto") -> None:
        require(bank.ndim == 2 and len(bank) > 0, f"bank must be (M, D) with M > 0, got {tuple(bank.shape)}")
        require(index in get_args(SearchIndex), f"index must be one of {', '.join(get_args(SearchIndex))}, got {index}")
        native_threads()
        self.bank = bank.float().contiguous()
        self._kind = index
        on_cpu = self.bank.device.type == "cpu"
        self._index: Any = _built(self.bank.numpy(), index) if on_cpu else None
        sooner = on_cpu and index == "auto" and compiled()
        screened = sooner and screens(*bank.shape)
        self._screened = ScreenedBank(self.bank) if screened else None
        self._upsampled = UpsampledBank(self.bank) if sooner and not screened else None

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
        if self._screened is not None and k <= MOST_SCREENED and len(patches) >= FEWEST_SCREENED:
            squared, rows, sure = self._screened(patches.float(), k)
            unsure = torch.nonzero(~sure).flatten()
            if len(unsure):
                points = patches[unsure].float()
                squared[unsure], rows[unsure] = self._in_order(points, self._by_product(points, k)[1], k)
            return squared, rows
        return self._by_index(patches, k)

    def _by_index(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor]:
        compressed = self._kind in ("fp16", "sq8")
        wanted = min(CANDIDATES * k, len(self.bank)) if compressed else k
        faiss.omp_set_num_threads(torch.get_num_threads())  # counts in this thread alone
        found = self._index.search(np.ascontiguousarray(patches.numpy(), dtype=np.float32), wanted)
        squared, indices = torch.from_numpy(found[0]).clamp_(min=0), torch.from_numpy(found[1])
        if compressed:
            squared, indices = self._in_order(patches.float(), indices, k)
        return self._completed(patches, squared, indices)

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


def _built(bank: np.ndarray[Any, np.dtype[np.float32]], kind: SearchIndex) -> Any:
    """The FAISS index of a bank; built on one thread, since a graph that several build depends on who comes first."""
    count, dimensions = bank.shape
    index: Any
    if kind in ("fp16", "sq8"):
        width = faiss.ScalarQuantizer.QT_fp16 if kind == "fp16" else faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexScalarQuantizer(dimensions, width, faiss.METRIC_L2)
    elif kind == "ivf":
        lists = max(1, round(count**0.5))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimensions), dimensions, lists)
        index.nprobe = min(PROBES, lists)
        index.cp.min_points_per_centroid = 1  # a small bank is no reason to warn
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimensions, LINKS)
        index.hnsw.efSearch = EFFORT
    else:
        index = faiss.IndexFlatL2(dimensions)
    threads = faiss.omp_get_max_threads()
    try:
        index.train(bank)
        index.add(bank)
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def screens(count: int, dimensions: int) -> bool:
    """Whether a bank of so many patches is screened by products of bytes on this processor."""
    return count in SCREENED_BANKS and dimensions <= MOST_FEATURES and registers() > 0
