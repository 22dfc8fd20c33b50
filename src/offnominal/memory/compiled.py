"""Availability of the C extensions, and how tensors are passed to them.

The extensions are optional: without a compiler at installation, all searches use FAISS.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor

from offnominal.types import require

PRUNING, UPSAMPLED = "offnominal.memory._screening", "offnominal.memory._upsampled"


def compiled() -> bool:
    """Whether the C extensions are available and can be loaded."""
    try:
        for name in (PRUNING, UPSAMPLED):
            import_module(name)
    except ImportError:
        return False
    return True


def address(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> int:
    """Address of a tensor's values.

    Raises
    ------
    ValueError
        If the tensor has another type or shape, is not contiguous or is not on the CPU.
    """
    fits = tensor.dtype == dtype and tuple(tensor.shape) == tuple(shape)
    fits = fits and tensor.is_contiguous() and tensor.device.type == "cpu"
    require(fits, f"expected contiguous {dtype} {tuple(shape)} on a CPU, got {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.data_ptr()


def threads(rows: int) -> int:
    """Number of threads for work on `rows` rows: that of torch, at most one per row."""
    return max(1, min(torch.get_num_threads(), rows))
