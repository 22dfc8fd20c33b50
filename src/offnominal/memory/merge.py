"""Merge the coresets of shards into one: greedy k-center on their union, with a certified bound.

Each shard selects a coreset of at least k patches; the more it selects, the better the merged coreset covers. Let r_i be the
covering radius of shard i, and r the covering radius of the merged coreset over the union of the coresets. Every patch lies
within r_i of its shard's coreset, hence within r + r_i of the merged one. The k merged patches and the patch farthest from them
are k + 1 points with pairwise distances of at least r. Two of them share a centre of the best coreset of k patches, so its
radius is at least r / 2. The radius of the merged coreset is therefore at most 2 (1 + max r_i / r) times the smallest possible
one. The first k + 1 patches of shard i have pairwise distances of at least r_i, so the smallest possible radius is also at
least max r_i / 2, and the factor is at most 4.

References
----------
Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
Malkomes et al., "Fast distributed k-center clustering with outliers on massive data", 2015.
Ceccarello et al., "Solving k-center clustering (with outliers) in MapReduce and streaming", 2019: larger coresets of shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from offnominal.memory.coreset import Coreset, farthest_from_mean, kcenter
from offnominal.types import Index


@dataclass(frozen=True)
class MergedCoreset:
    """The coreset of several shards.

    Attributes
    ----------
    patches
        (M, D) selected patches, in the order of selection.
    shard, row
        (M,) shard of each patch, and its row among the patches of that shard.
    merge_radius
        Covering radius over the union of the shards' coresets.
    shard_radius
        Largest covering radius of a shard's coreset; 0 for a single shard.
    shards
        Number of shards.

    Examples
    --------
    >>> merged = MergedCoreset(torch.zeros(1, 2), np.array([0]), np.array([7]), 2.0, shard_radius=1.0, shards=2)
    >>> merged.ratio, merged.bound
    (3.0, 3.0)
    """

    patches: Tensor
    shard: Index
    row: Index
    merge_radius: float
    shard_radius: float
    shards: int

    @property
    def ratio(self) -> float:
        """Upper bound of the covering radius, as a multiple of the smallest possible with this number of patches.

        2 for a single shard, whose coreset is the result of one greedy selection; at most 4.
        """
        largest = max(self.merge_radius, self.shard_radius)
        return 1.0 if largest == 0 else 2 * self.bound / largest

    @property
    def bound(self) -> float:
        """Upper bound of the covering radius over all patches."""
        return self.merge_radius + self.shard_radius

    def rows_of(self, shard: int) -> Index:
        """(M,) rows of the selected patches among those of one shard; -1 for patches of other shards."""
        return np.where(self.shard == shard, self.row, -1)


def merge_coresets(patches: Sequence[Tensor], coresets: Sequence[Coreset], size: int) -> MergedCoreset:
    """Merge the coresets of shards.

    The coreset of a single shard is returned as it is. Coresets may be empty, but not all.

    Parameters
    ----------
    patches
        The (M_i, D) patches of each coreset.
    coresets
        The coreset of each shard.
    size
        Number M of patches to select, at most as many as there are.

    Examples
    --------
    >>> first, second = torch.tensor([[0.0], [9.0]]), torch.tensor([[10.0], [1.0]])
    >>> coresets = [Coreset(np.array([3, 5]), radius=0.5), Coreset(np.array([0, 2]), radius=1.0)]
    >>> merged = merge_coresets([first, second], coresets, size=2)
    >>> merged.patches.flatten().tolist(), merged.shard.tolist(), merged.row.tolist()
    ([0.0, 10.0], [0, 1], [3, 0])
    >>> merged.merge_radius, merged.bound, merged.ratio
    (1.0, 2.0, 4.0)
    """
    if len(coresets) == 1:
        (coreset,) = coresets
        shard = np.zeros(len(coreset.indices), np.int64)
        return MergedCoreset(patches[0], shard, coreset.indices, coreset.radius, 0.0, 1)
    union = torch.cat(list(patches))
    merged = kcenter(union, size, farthest_from_mean(union))
    shard = np.repeat(np.arange(len(coresets)), [len(coreset.indices) for coreset in coresets])
    row = np.concatenate([coreset.indices for coreset in coresets])
    return MergedCoreset(
        union[torch.from_numpy(merged.indices)],
        shard[merged.indices],
        row[merged.indices],
        merged.radius,
        max(coreset.radius for coreset in coresets),
        len(coresets),
    )
