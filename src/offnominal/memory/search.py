"""The K nearest bank patches, exactly, by FAISS: the only file that imports it."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor

from offnominal.types import require


class NearestPatches:
    """Exact search over a bank (M, D). On a GPU the same result comes from one matrix product in torch."""

    def __init__(self, bank: Tensor) -> None:
        require(bank.ndim == 2 and len(bank) > 0, f"bank must be (M, D) with M > 0, got {tuple(bank.shape)}")
        self.bank = bank.float().contiguous()
        self._index = None
        if self.bank.device.type == "cpu":
            self._index = faiss.IndexFlatL2(self.bank.shape[1])
            self._index.add(self.bank.numpy())

    def __call__(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(N, D) -> (N, K) squared distances, ascending, and (N, K) int64 rows of the K nearest bank patches, K = min(k, M).

        The squared distances come from products: their error is that of float32 relative to the lengths of the patches, not
        to the distances. `noising.neighbourhood` works them out anew where that matters.

        Raises:
            ValueError: another number of features than the bank's.
        """
        require(
            patches.shape[-1] == self.bank.shape[1],
            f"bank has D={self.bank.shape[1]}, the patches D={patches.shape[-1]}: use the backbone that it was fitted with",
        )
        k = min(k, len(self.bank))
        if self._index is None:
            parts = [self._by_product(block, k) for block in patches.split(8192)]
            return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        squared, indices = self._index.search(np.ascontiguousarray(patches.numpy(), dtype=np.float32), k)
        return torch.from_numpy(squared).clamp_(min=0), torch.from_numpy(indices)

    def _by_product(self, patches: Tensor, k: int) -> tuple[Tensor, Tensor]:
        squared = torch.addmm(self.bank.square().sum(1)[None], patches, self.bank.T, alpha=-2)
        nearest = squared.topk(k, largest=False)
        return (nearest.values + patches.square().sum(1, keepdim=True)).clamp_(min=0), nearest.indices
