"""Distances and unit vectors from patches to their neighbours, which influence and response are made of.

For the mean distance to K neighbours m_k, f(x) = 1/K sum_k d_k with d_k = ||x - m_k|| and u_k = (x - m_k) / d_k:

    gradient    df/dx_j     = 1/K sum_k u_kj
    curvature   d2f/dx_j^2  = 1/K sum_k (1 - u_kj^2) / d_k

Where d_k = 0 both terms take the subgradient 0.

The search knows the distances already, so the gradient is one weighted sum of bank rows, (sum_k w_k) x - sum_k w_k m_k with
w_k = 1 / (K d_k): no difference is formed. Only for a patch so near to a neighbour that products round too coarsely, and
for the curvature, are the differences worked out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows worked on at once: on a CPU so many that the (rows, K, D) differences stay in its cache, on a GPU that it is busy.
BLOCK, ON_GPU = 256, 8192
#: A squared distance below this share of a patch's squared length is worked out from differences: float32 products leave
#: about 1e-7 of the length's square, so the distances above are good to about 1e-5.
NEAR = 1e-2


@dataclass(frozen=True)
class Neighbourhood:
    """What the neighbours say of each patch.

    Attributes:
        distances: (N, K) ascending.
        indices: (N, K) rows of the bank, in the same order.
        gradient: (N, D) of the mean distance to the K neighbours; its length lies in 0 to 1.
        curvature: (N, D) diagonal of the second derivative, at least 0; None when not asked for.
    """

    distances: Tensor
    indices: Tensor
    gradient: Tensor
    curvature: Tensor | None

    def split(self, parts: int) -> list[Neighbourhood]:
        """Equal parts of the patches, in their order."""
        curvature = (None,) * parts if self.curvature is None else self.curvature.chunk(parts)
        fields = (values.chunk(parts) for values in (self.distances, self.indices, self.gradient))
        return [Neighbourhood(*one) for one in zip(*fields, curvature, strict=True)]


def neighbourhood(patches: Tensor, bank: Tensor, squared: Tensor, indices: Tensor, *, curvature: bool = False) -> Neighbourhood:
    """(N, D) patches, (M, D) bank, (N, K) squared distances, ascending, and rows of their nearest bank patches.

    The squared distances may come from products; those that these leave too rough are worked out anew.
    """
    distances = squared.sqrt()
    weights = distances.reciprocal() / indices.shape[1]
    summed = F.embedding_bag(indices, bank, per_sample_weights=-weights, mode="sum")
    gradient = summed.addcmul_(patches, weights.sum(1, keepdim=True))  # in place: (N, D) is written once
    near = torch.nonzero(distances[:, 0] <= NEAR**0.5 * torch.linalg.vector_norm(patches, dim=1)).flatten()
    if len(near):
        exact = from_differences(patches[near], bank, indices[near])
        indices = indices.clone()
        distances[near], indices[near], gradient[near] = exact.distances, exact.indices, exact.gradient
    curved = from_differences(patches, bank, indices, curvature=True).curvature if curvature else None
    return Neighbourhood(distances, indices, gradient, curved)


def from_differences(patches: Tensor, bank: Tensor, indices: Tensor, *, curvature: bool = False) -> Neighbourhood:
    """(N, D) patches, (M, D) bank and (N, K) indices of their nearest bank patches, in any order -> `Neighbourhood`."""
    rows = BLOCK if patches.device.type == "cpu" else ON_GPU
    parts = [_block(block, bank, near, curvature) for block, near in zip(patches.split(rows), indices.split(rows), strict=True)]
    order = torch.cat([part[1] for part in parts])
    curved = [part[3] for part in parts if part[3] is not None]
    return Neighbourhood(
        torch.cat([part[0] for part in parts]),
        indices.gather(1, order),
        torch.cat([part[2] for part in parts]),
        torch.cat(curved) if curved else None,
    )


def _block(patches: Tensor, bank: Tensor, indices: Tensor, curvature: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    k = indices.shape[1]
    difference = patches[:, None] - bank[indices]
    distances = torch.linalg.vector_norm(difference, dim=2)
    inverse = torch.where(distances > 0, 1 / distances, 0)
    gradient = torch.bmm((inverse / k)[:, None], difference)[:, 0]
    curved = None
    if curvature:
        curved = inverse.sum(1, keepdim=True) - torch.bmm(inverse.pow(3)[:, None], difference.square_())[:, 0]
        curved = curved.clamp_(min=0) / k
    distances, order = distances.sort(dim=1, stable=True)
    return distances, order, gradient, curved
