"""What is compiled when the package is installed, and how tensors are handed to it.

Without a compiler the package does without, and searches by FAISS alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor

from offnominal.types import require

PRUNING, UPSAMPLED = "offnominal.memory._screening", "offnominal.memory._upsampled"


def compiled() -> bool:
    """Whether there is what was compiled, and for this machine."""
    try:
        for name in (PRUNING, UPSAMPLED):
            import_module(name)
    except ImportError:
        return False
    return True


def address(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> int:
    """Where the values of a tensor lie.

    Raises:
        ValueError: a tensor of another type or shape, or whose values do not lie one after another.
    """
    fits = tensor.dtype == dtype and tuple(tensor.shape) == tuple(shape)
    fits = fits and tensor.is_contiguous() and tensor.device.type == "cpu"
    require(fits, f"expected contiguous {dtype} {tuple(shape)} on a CPU, got {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.data_ptr()


def threads(rows: int) -> int:
    """On how many threads so many rows are worked on: as many as torch has."""
    return max(1, min(torch.get_num_threads(), rows))
