"""Distances of patches to their neighbours, with the gradient and curvature that give influence and response.

For the mean distance to K neighbours m_k, f(x) = 1/K sum_k d_k with d_k = ||x - m_k|| and u_k = (x - m_k) / d_k:

    gradient    df/dx_j     = 1/K sum_k u_kj
    curvature   d2f/dx_j^2  = 1/K sum_k (1 - u_kj^2) / d_k

Where d_k = 0, both terms are 0.

The search has already computed the distances, so the gradient is a weighted sum of bank rows, (sum_k w_k) x - sum_k w_k m_k
with w_k = 1 / (K d_k). Differences are computed for the curvature only, and for patches too close to a neighbour for the
precision of products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Patches per block of (rows, K, D) differences: on a CPU they fit in the cache, on a GPU they keep it busy.
CPU_ROWS, GPU_ROWS = 256, 8192
#: Squared distances below this share of the squared length of a patch are recomputed from differences. Float32 products have an
#: error of about 1e-7 of the squared length, so other distances are accurate to about 1e-5.
NEAR = 1e-2


@dataclass(frozen=True)
class Neighbourhood:
    """Distances of N patches to their K neighbours, with derivatives of the mean distance.

    Attributes
    ----------
    distances
        (N, K), ascending.
    indices
        (N, K) rows of the bank, in the same order.
    gradient
        (N, D) gradient of the mean distance; its length lies in [0, 1].
    curvature
        (N, D) non-negative diagonal of the second derivative; None unless requested.

    Examples
    --------
    >>> part = torch.zeros(4, 2)
    >>> [len(half.distances) for half in Neighbourhood(part, part.long(), part, None).split(2)]
    [2, 2]
    """

    distances: Tensor
    indices: Tensor
    gradient: Tensor
    curvature: Tensor | None

    def split(self, parts: int) -> list[Neighbourhood]:
        """Split the patches into equal parts, in order."""
        curvature = (None,) * parts if self.curvature is None else self.curvature.chunk(parts)
        fields = (values.chunk(parts) for values in (self.distances, self.indices, self.gradient))
        return [Neighbourhood(*part) for part in zip(*fields, curvature, strict=True)]

    def take(self, rows: Tensor) -> Neighbourhood:
        """The patches of some rows."""
        curvature = None if self.curvature is None else self.curvature[rows]
        return Neighbourhood(self.distances[rows], self.indices[rows], self.gradient[rows], curvature)


def neighbourhood(patches: Tensor, bank: Tensor, squared: Tensor, indices: Tensor, *, curvature: bool = False) -> Neighbourhood:
    """Compute the gradient of the mean distance from known neighbours.

    Parameters
    ----------
    patches, bank
        (N, D) and (M, D).
    squared, indices
        (N, K) squared distances, ascending, and rows of the bank. The distances may come from products; inaccurate ones are
        recomputed.
    curvature
        Whether to compute the curvature as well.

    Examples
    --------
    >>> patches, bank = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    >>> near = neighbourhood(patches, bank, torch.tensor([[4.0]]), torch.tensor([[0]]), curvature=True)
    >>> near.gradient.tolist(), near.curvature.tolist()
    ([[0.0, 1.0]], [[0.5, 0.0]])
    """
    distances = squared.sqrt()
    weights = distances.reciprocal() / indices.shape[1]
    summed = F.embedding_bag(indices, bank, per_sample_weights=-weights, mode="sum")
    gradient = summed.addcmul_(patches, weights.sum(1, keepdim=True))  # in place, to save memory bandwidth
    near = torch.nonzero(distances[:, 0] <= NEAR**0.5 * torch.linalg.vector_norm(patches, dim=1)).flatten()
    if len(near):
        exact = from_differences(patches[near], bank, indices[near])
        indices = indices.clone()
        distances[near], indices[near], gradient[near] = exact.distances, exact.indices, exact.gradient
    second = from_differences(patches, bank, indices, curvature=True).curvature if curvature else None
    return Neighbourhood(distances, indices, gradient, second)


def from_differences(patches: Tensor, bank: Tensor, indices: Tensor, *, curvature: bool = False) -> Neighbourhood:
    """Compute a `Neighbourhood` from differences.

    Parameters
    ----------
    patches, bank
        (N, D) and (M, D).
    indices
        (N, K) rows of the nearest bank patches, in any order.
    curvature
        Whether to compute the curvature as well.

    Examples
    --------
    >>> near = from_differences(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 6.0], [0.0, 1.0]]), torch.tensor([[0, 1]]))
    >>> near.distances.tolist(), near.indices.tolist(), near.gradient.tolist()
    ([[1.0, 4.0]], [[1, 0]], [[0.0, 0.0]])
    """
    rows = CPU_ROWS if patches.device.type == "cpu" else GPU_ROWS
    blocks = zip(patches.split(rows), indices.split(rows), strict=True)
    parts = [_block(block, bank, block_indices, curvature) for block, block_indices in blocks]
    order = torch.cat([part[1] for part in parts])
    second = [part[3] for part in parts if part[3] is not None]
    return Neighbourhood(
        torch.cat([part[0] for part in parts]),
        indices.gather(1, order),
        torch.cat([part[2] for part in parts]),
        torch.cat(second) if second else None,
    )


def _block(patches: Tensor, bank: Tensor, indices: Tensor, curvature: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    k = indices.shape[1]
    difference = patches[:, None] - bank[indices]
    distances = torch.linalg.vector_norm(difference, dim=2)
    inverse = torch.where(distances > 0, 1 / distances, 0)
    gradient = torch.bmm((inverse / k)[:, None], difference)[:, 0]
    second = None
    if curvature:
        second = inverse.sum(1, keepdim=True) - torch.bmm(inverse.pow(3)[:, None], difference.square_())[:, 0]
        second = second.clamp_(min=0) / k
    distances, order = distances.sort(dim=1, stable=True)
    return distances, order, gradient, second
