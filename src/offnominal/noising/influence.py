"""Influence of each feature on the distance of a patch to normal, by three equivalent methods.

influence(x)_j = | d/dx_j  1/K sum_k ||x - m_k|| | over the K nearest bank patches m_k. Its length over all features is the mean
resultant length of the unit vectors to the neighbours, which is 1 minus the local spatial depth: near 1 for a patch outside the
cloud of its neighbours, near 0 in its centre, and always 1 for K = 1.

References
----------
Vardi and Zhang, "The multivariate L1-median and associated data depth", 2000.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.forks import native_threads
from offnominal.noising.neighbourhood import neighbourhood
from offnominal.types import require

Method = Literal["closed_form", "autograd", "perturbation"]


@overload
def influence(patches: Tensor, bank: Tensor, k: int = 9, *, method: Method = "closed_form") -> Tensor: ...
@overload
def influence(
    patches: npt.NDArray[Any], bank: npt.NDArray[Any], k: int = 9, *, method: Method = "closed_form"
) -> npt.NDArray[np.float32]: ...
def influence(patches: Any, bank: Any, k: int = 9, *, method: Method = "closed_form") -> Any:
    """Influence of each feature on the mean distance of a patch to its K nearest bank patches.

    Parameters
    ----------
    patches
        (N, D) or (B, N, D) finite values, NumPy array or torch tensor.
    bank
        (M, D).
    k
        Number of neighbours; a smaller bank is used in full.
    method
        `closed_form` is the fastest; `autograd` uses one backward pass; `perturbation` uses central differences of one feature
        at a time, which is D times the work.

    Returns
    -------
    array or tensor
        Non-negative float32 of the shape and kind of `patches`. Neighbours at distance 0 contribute 0.

    Raises
    ------
    ValueError
        If the shapes do not match, `k` is below 1, or the method is unknown.

    Examples
    --------
    >>> bank = np.array([[0.0, 0.0], [0.0, 1.0]])
    >>> influence(np.array([[3.0, 0.5]]), bank, k=2).round(2)
    array([[0.99, 0.  ]], dtype=float32)
    """
    require(method in get_args(Method), f"unknown method '{method}': give one of {', '.join(get_args(Method))}")
    native_threads()
    tensor, normal = torch.as_tensor(patches), torch.as_tensor(bank)
    require(tensor.ndim in (2, 3), f"patches must be (N, D) or (B, N, D), got {tuple(tensor.shape)}")
    require(
        normal.ndim == 2 and len(normal) > 0 and normal.shape[1] == tensor.shape[-1],
        f"bank must be (M, {tensor.shape[-1]}) with M > 0, got {tuple(normal.shape)}",
    )
    require(k >= 1, f"k must be at least 1, got {k}")
    flat = tensor.reshape(-1, tensor.shape[-1])
    flat, normal = (flat, normal.double()) if flat.dtype == torch.float64 else (flat.float(), normal.float())
    squared, indices = nearest(flat, normal, min(k, len(normal)))
    if method == "closed_form":
        result = neighbourhood(flat, normal, squared, indices).gradient.abs()
    elif method == "autograd":
        result = _autograd(flat, normal, indices)
    else:
        result = _perturbation(flat, normal, indices)
    result = result.float().reshape(tensor.shape)
    return result if isinstance(patches, Tensor) else result.numpy()


def nearest(patches: Tensor, bank: Tensor, k: int, rows: int = 2048) -> tuple[Tensor, Tensor]:
    """Nearest bank patches by brute force.

    Parameters
    ----------
    patches, bank
        (N, D) and (M, D).
    k
        Number of neighbours, at most M.
    rows
        Number of patches in one matrix product.

    Returns
    -------
    squared, indices
        (N, K) squared distances, ascending; (N, K) int64 rows of the bank.

    Examples
    --------
    >>> nearest(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 3.0]]), k=2)
    (tensor([[ 1., 25.]]), tensor([[1, 0]]))
    """
    lengths = bank.square().sum(1)[None]
    squared, indices = patches.new_empty((len(patches), k)), patches.new_empty((len(patches), k), dtype=torch.int64)
    for first in range(0, len(patches), rows):
        block = patches[first : first + rows]
        neighbours = torch.addmm(lengths, block, bank.T, alpha=-2).topk(k, largest=False)
        squared[first : first + rows] = (neighbours.values + block.square().sum(1, keepdim=True)).clamp_(min=0)
        indices[first : first + rows] = neighbours.indices
    return squared, indices


def _mean_distance(patches: Tensor, neighbours: Tensor) -> Tensor:
    """(n, D), (n, K, D) -> (n,). The subgradient of vector_norm at 0 is 0."""
    distance: Tensor = torch.linalg.vector_norm(patches[:, None] - neighbours, dim=2).mean(1)
    return distance


def _autograd(patches: Tensor, bank: Tensor, indices: Tensor, rows: int = 2048) -> Tensor:
    gradients = []
    with torch.enable_grad():
        for block, block_indices in zip(patches.split(rows), indices.split(rows), strict=True):
            leaf = block.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(_mean_distance(leaf, bank[block_indices]).sum(), leaf)
            gradients.append(gradient.abs())
    return torch.cat(gradients)


def _perturbation(patches: Tensor, bank: Tensor, indices: Tensor, rows: int = 256) -> Tensor:
    """Central differences in float64, with steps proportional to the smallest distance above 0."""
    result = torch.empty_like(patches)
    for start in range(0, len(patches), rows):
        block = patches[start : start + rows].double()
        neighbours = bank[indices[start : start + rows]].double()
        distances = torch.linalg.vector_norm(block[:, None] - neighbours, dim=2)
        positive = distances > 0
        step = 1e-5 * torch.where(positive, distances, torch.inf).amin(1).clamp(max=1e6)
        for feature in range(patches.shape[1]):
            means = []
            for sign in (1, -1):
                moved = block.clone()
                moved[:, feature] += sign * step
                distances = torch.linalg.vector_norm(moved[:, None] - neighbours, dim=2)
                means.append(torch.where(positive, distances, 0).mean(1))
            result[start : start + rows, feature] = ((means[0] - means[1]) / (2 * step)).abs().to(result.dtype)
    return result
