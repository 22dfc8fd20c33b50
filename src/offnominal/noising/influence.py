"""Influence: how much a nudge of each feature moves a patch away from normal, in three equal forms.

influence(x)_j = | d/dx_j  1/K sum_k ||x - m_k|| | over the K nearest bank patches m_k. Its length over all features is the
mean resultant length of the unit vectors to the neighbours, 1 minus the local spatial depth (Vardi and Zhang 2000): near 1
for a patch outside the cloud of its neighbours, near 0 for one in its midst. At K = 1 it is always 1.
"""

from __future__ import annotations

from typing import Any, Literal, overload

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
    """Influence of every feature of every patch on its mean distance to the K nearest bank patches.

    Args:
        patches: (N, D) or (B, N, D) finite numbers, NumPy or torch.
        bank: (M, D).
        k: neighbours; all of the bank when it holds fewer.
        method: `closed_form` needs the neighbours only; `autograd` is one backward pass; `perturbation` is the central
            difference over one feature at a time, D times the work, as the first version of the method did.

    Returns:
        Non-negative influence, of the same shape and kind as `patches`, float32; 0 where a distance is 0.

    Raises:
        ValueError: shapes that do not fit, or an unknown method.
    """
    require(method in ("closed_form", "autograd", "perturbation"), f"unknown method '{method}'")
    native_threads()
    given, normal = torch.as_tensor(patches), torch.as_tensor(bank)
    require(given.ndim in (2, 3), f"patches must be (N, D) or (B, N, D), got {tuple(given.shape)}")
    require(
        normal.ndim == 2 and len(normal) > 0 and normal.shape[1] == given.shape[-1],
        f"bank must be (M, {given.shape[-1]}) with M > 0, got {tuple(normal.shape)}",
    )
    require(k >= 1, f"k must be at least 1, got {k}")
    flat = given.reshape(-1, given.shape[-1])
    exact = flat.dtype == torch.float64
    flat, normal = (flat, normal.double()) if exact else (flat.float(), normal.float())
    squared, indices = nearest(flat, normal, min(k, len(normal)))
    if method == "closed_form":
        result = neighbourhood(flat, normal, squared, indices).gradient.abs()
    elif method == "autograd":
        result = _autograd(flat, normal, indices)
    else:
        result = _perturbation(flat, normal, indices)
    result = result.float().reshape(given.shape)
    return result if isinstance(patches, Tensor) else result.numpy()


def nearest(patches: Tensor, bank: Tensor, k: int, rows: int = 2048) -> tuple[Tensor, Tensor]:
    """(N, K) squared distances, ascending, and rows of the K nearest bank patches, by brute force."""
    lengths = bank.square().sum(1)[None]
    squared, indices = patches.new_empty((len(patches), k)), patches.new_empty((len(patches), k), dtype=torch.int64)
    for first in range(0, len(patches), rows):
        block = patches[first : first + rows]
        found = torch.addmm(lengths, block, bank.T, alpha=-2).topk(k, largest=False)
        squared[first : first + rows] = (found.values + block.square().sum(1, keepdim=True)).clamp_(min=0)
        indices[first : first + rows] = found.indices
    return squared, indices


def _mean_distance(patches: Tensor, neighbours: Tensor) -> Tensor:
    """(n, D), (n, K, D) -> (n,); vector_norm has the subgradient 0 at 0."""
    distance: Tensor = torch.linalg.vector_norm(patches[:, None] - neighbours, dim=2).mean(1)
    return distance


def _autograd(patches: Tensor, bank: Tensor, indices: Tensor, rows: int = 2048) -> Tensor:
    gradients = []
    with torch.enable_grad():
        for block, near in zip(patches.split(rows), indices.split(rows), strict=True):
            leaf = block.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(_mean_distance(leaf, bank[near]).sum(), leaf)
            gradients.append(gradient.abs())
    return torch.cat(gradients)


def _perturbation(patches: Tensor, bank: Tensor, indices: Tensor, rows: int = 256) -> Tensor:
    """Central differences in float64, the step a small share of the nearest distance that is not 0."""
    result = torch.empty_like(patches)
    for start in range(0, len(patches), rows):
        block = patches[start : start + rows].double()
        neighbours = bank[indices[start : start + rows]].double()
        distances = torch.linalg.vector_norm(block[:, None] - neighbours, dim=2)
        moving = distances > 0
        step = 1e-5 * torch.where(moving, distances, torch.inf).amin(1).clamp(max=1e6)
        for feature in range(patches.shape[1]):
            sides = []
            for sign in (1, -1):
                moved = block.clone()
                moved[:, feature] += sign * step
                away = torch.linalg.vector_norm(moved[:, None] - neighbours, dim=2)
                sides.append(torch.where(moving, away, 0).mean(1))
            result[start : start + rows, feature] = ((sides[0] - sides[1]) / (2 * step)).abs().to(result.dtype)
    return result
