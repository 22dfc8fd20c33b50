"""The K nearest of what products of bytes leave in question: calls `_selection.c`, where that was compiled.

It is compiled when the package is installed; without a compiler the package does without, and searches by FAISS alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from offnominal.types import require

COMPILED = "offnominal.memory._selection"
#: The number of columns is a multiple of this: groups of groups of eight.
COLUMNS = 64
#: A product that says of what fills up the last columns that it is near nothing.
NEVER = -(2**29)


def compiled() -> bool:
    """Whether there is what was compiled."""
    return find_spec(COMPILED) is not None


def nearest(
    product: Tensor, of_patches: Sequence[Tensor], step: float, of_bank: Sequence[Tensor], found: Sequence[Tensor]
) -> None:
    """Write the nearest of n patches into what is to be found, on as many threads as torch has.

    Args:
        product: at least (n, columns) int32, the more the nearer; columns that no bank patch belongs to are `NEVER`.
        of_patches: (n,) int64, which less twice the product is a squared distance in steps; (n,) float64, how far its root may
            be from the true distance, not finite where a patch is not; the (n, D) float32 patches.
        step: length of a step.
        of_bank: (M, D) float32; int64 rows of it, one a column; int64 rows of it that are compared with every patch.
        found: (n, K) float32 squared distances, ascending; (n, K) int64 rows of the bank; (n,) bool, whether they are sure.

    A patch that is not sure has too much in question, or is not finite; what is written for it means nothing.

    Raises:
        ValueError: tensors of another type or shape, or whose values do not lie one after another.
    """
    from offnominal.memory import _selection

    (whole, slack, patches), (bank, near, far), (squared, rows, sure) = of_patches, of_bank, found
    tensors = product, whole, slack, patches, bank, near, far, squared, rows, sure
    types = torch.int32, torch.int64, torch.float64, torch.float32, torch.float32, torch.int64, torch.int64
    for tensor, dtype in zip(tensors, (*types, torch.float32, torch.int64, torch.bool), strict=True):
        fits = tensor.dtype == dtype and tensor.is_contiguous() and tensor.device.type == "cpu"
        require(fits, f"expected contiguous {dtype} on a CPU, got {tensor.dtype} {tuple(tensor.shape)}")
    count, k = squared.shape
    shapes = [tuple(tensor.shape) for tensor in (whole, slack, patches, rows, sure)]
    wanted = [(count,), (count,), (count, bank.shape[1]), (count, k), (count,)]
    require(shapes == wanted and 0 < k <= _selection.MOST_IN_QUESTION, f"expected {wanted}, got {shapes}")
    columns = product.shape[1]
    fits = columns % COLUMNS == 0 and len(near) <= columns and len(product) >= count
    require(fits, f"a product of {tuple(product.shape)} does not fit {count} patches and {len(near)} columns")
    addresses = tuple(tensor.data_ptr() for tensor in tensors)
    threads = max(1, min(torch.get_num_threads(), count))
    _selection.nearest(addresses, step, (count, columns, bank.shape[1], len(far), k), threads)
