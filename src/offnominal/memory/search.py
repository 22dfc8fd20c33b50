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

    def __call__(self, patches: Tensor, k: int) -> Tensor:
        """(N, D) -> (N, K) int64 indices of the K nearest bank patches, K = min(k, M), about in order of distance.

        Raises:
            ValueError: another number of features than the bank's.
        """
        require(
            patches.shape[-1] == self.bank.shape[1],
            f"bank has D={self.bank.shape[1]}, the patches D={patches.shape[-1]}: use the backbone that it was fitted with",
        )
        k = min(k, len(self.bank))
        if self._index is None:
            return torch.cat([self._by_product(block, k) for block in patches.split(8192)])
        _, indices = self._index.search(np.ascontiguousarray(patches.numpy(), dtype=np.float32), k)
        return torch.from_numpy(indices)

    def _by_product(self, patches: Tensor, k: int) -> Tensor:
        squared = torch.addmm(self.bank.square().sum(1)[None], patches, self.bank.T, alpha=-2)
        return squared.topk(k, largest=False).indices
