"""Extend a bank so that it covers new patches: greedy k-center, continued from the existing centres."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from offnominal.memory.exact_distances import pairwise_squared, squared_to
from offnominal.memory.search import NearestPatches
from offnominal.types import Index, require


def cover(patches: Tensor, bank: Tensor, radius: float) -> Index:
    """Select the new patches that a bank needs to cover all of them within `radius`.

    The selection continues greedy k-center with the bank as first centres: repeatedly the patch farthest from all centres is
    added, the lowest row among equals, until none is farther than `radius`. So the added patches lie more than `radius` from
    the bank and from one another.

    Parameters
    ----------
    patches
        (N, D) new patches.
    bank
        (M, D).
    radius
        Covering radius, at least 0.

    Returns
    -------
    array
        (n,) int64 rows of `patches`, in the order of selection.

    Raises
    ------
    ValueError
        If the numbers of features differ or `radius` is negative.

    Examples
    --------
    >>> cover(torch.tensor([[0.5], [3.0], [3.2]]), torch.tensor([[0.0]]), radius=1.0)
    array([2])

    References
    ----------
    Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    require(radius >= 0, f"radius must be at least 0, got {radius}")
    squared, _ = NearestPatches(bank)(patches, 1)
    # Float32 products are coarse; patches that may lie outside are measured again in float64.
    slack = 1e-3 * (1 + patches.square().sum(1).sqrt())
    rows = torch.nonzero(squared[:, 0].sqrt() + slack > radius).flatten()
    points = patches[rows].double()
    parts = [pairwise_squared(part, bank.double()).min(1) for part in points.split(1024)]
    distances = torch.from_numpy(np.sqrt(np.concatenate([np.empty(0), *parts])))
    return rows[torch.tensor(farthest_first(points, distances, radius), dtype=torch.int64)].numpy()


def farthest_first(points: Tensor, distances: Tensor, radius: float, limit: int | None = None) -> list[int]:
    """Select points in farthest-first order until no other is farther than `radius`; the lowest row among equals.

    Parameters
    ----------
    points
        (n, D) float64.
    distances
        (n,) float64 distances to the existing centres; infinite if there are none.
    radius
        Covering radius.
    limit
        Largest number of points to select.
    """
    selected: list[int] = []
    rows = torch.arange(len(points))
    while len(rows) and (limit is None or len(selected) < limit):
        farthest = int(distances.argmax())
        if not distances[farthest] > radius:
            break
        selected.append(int(rows[farthest]))
        distances = torch.minimum(distances, torch.from_numpy(np.sqrt(squared_to(points, points[farthest]))))
        distances[farthest] = 0
        outside = distances > radius
        if 2 * int(outside.sum()) < len(rows):
            rows, points, distances = rows[outside], points[outside], distances[outside]
    return selected
