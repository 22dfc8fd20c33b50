"""The K nearest bank patches from products of them: calls `_selection.c`, where that was compiled.

It is compiled when the package is installed; without a compiler the package does without, and searches by FAISS alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor

from offnominal.types import require

COMPILED = "offnominal.memory._selection"
#: The number of columns is a multiple of this: groups of groups of eight.
COLUMNS = 64
#: A product that says of what fills up the last columns that it is near nothing.
NEVER = -(2**29)
#: Bank patches of one part of a bank that is searched part by part, at most.
MOST_AT_ONCE = 512


def compiled() -> bool:
    """Whether there is what was compiled, and for this machine."""
    try:
        import_module(COMPILED)
    except ImportError:
        return False
    return True


def nearest(
    product: Tensor, of_patches: Sequence[Tensor], step: float, of_bank: Sequence[Tensor], found: Sequence[Tensor]
) -> None:
    """Of what products of bytes leave in question, write the nearest of n patches into what is to be found.

    Works on as many threads as torch has, as the other does.

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
    count, k, columns = *squared.shape, product.shape[1]
    fits = columns % COLUMNS == 0 and len(near) <= columns and len(product) >= count
    require(fits, f"a product of {tuple(product.shape)} does not fit {count} patches and {len(near)} columns")
    require(0 < k <= _selection.MOST_IN_QUESTION, f"{k} neighbours")
    addresses = [_address(product, torch.int32, (len(product), columns))]
    addresses += [_address(whole, torch.int64, (count,)), _address(slack, torch.float64, (count,))]
    addresses += [_address(patches, torch.float32, (count, bank.shape[1])), _address(bank, torch.float32, bank.shape)]
    addresses += [_address(near, torch.int64, (len(near),)), _address(far, torch.int64, (len(far),))]
    addresses += [_address(squared, torch.float32, (count, k)), _address(rows, torch.int64, (count, k))]
    addresses += [_address(sure, torch.bool, (count,))]
    _selection.nearest(tuple(addresses), step, (count, columns, bank.shape[1], len(far), k), _threads(count))


def nearest_upsampled(products: Sequence[Tensor], of_patches: Sequence[Tensor], first: int, found: Sequence[Tensor]) -> None:
    """Put what is nearer in one more part of a bank to what was found in others.

    Args:
        products: float32 (places, n) of the map's features with n bank patches, and (N, n) of the others; their sum, after the
            first was interpolated, is what is compared.
        of_patches: `corners` and `weights` of `memory.upsampled.Upsampling`.
        first: row of the first of the n bank patches.
        found: (N, K) float32, ascending, and (N, K) int64 rows of the bank: infinite and -1 before the first part.

    Raises:
        ValueError: tensors of another type or shape, or whose values do not lie one after another.
    """
    from offnominal.memory import _selection

    (coarse, fine), (corners, weights), (squared, rows) = products, of_patches, found
    count, k, n = *squared.shape, fine.shape[1]
    require(0 < n <= MOST_AT_ONCE, f"at most {MOST_AT_ONCE} bank patches at once, got {n}")
    addresses = [_address(coarse, torch.float32, (len(coarse), n)), _address(fine, torch.float32, (count, n))]
    addresses += [_address(corners, torch.int64, (count, 4)), _address(weights, torch.float32, (count, 4))]
    addresses += [_address(squared, torch.float32, (count, k)), _address(rows, torch.int64, (count, k))]
    _selection.nearest_upsampled(tuple(addresses), (count, n, k, first), _threads(count))


def _address(tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> int:
    fits = tensor.dtype == dtype and tuple(tensor.shape) == tuple(shape)
    fits = fits and tensor.is_contiguous() and tensor.device.type == "cpu"
    require(fits, f"expected contiguous {dtype} {tuple(shape)} on a CPU, got {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.data_ptr()


def _threads(count: int) -> int:
    return max(1, min(torch.get_num_threads(), count))
