"""Which new patches a bank needs so that it covers them too: greedy k-center, gone on with from centres that are kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from offnominal.memory.coreset import by_difference, squared_distances
from offnominal.memory.search import NearestPatches
from offnominal.types import Index, require


def cover(patches: Tensor, bank: Tensor, radius: float) -> Index:
    """Rows of (N, D) new patches to add to an (M, D) bank, in the order of choice.

    The farthest patch from the bank and from those already added comes next, the lowest row among equals, until none is
    farther than `radius`: Gonzalez's farthest-first choice (1985) with the bank's patches as the first centres. So what
    is added lies more than `radius` from the bank and from one another, and afterwards no patch is farther than it.

    Raises:
        ValueError: another number of features than the bank's.
    """
    require(radius >= 0, f"radius must be at least 0, got {radius}")
    squared, _ = NearestPatches(bank)(patches, 1)
    # Float32 products are rough; what may lie outside by them is measured again in float64.
    slack = 1e-3 * (1 + patches.square().sum(1).sqrt())
    rows = torch.nonzero(squared[:, 0].sqrt() + slack > radius).flatten()
    points = patches[rows].double()
    parts = [squared_distances(part, bank.double()).min(1) for part in points.split(1024)]
    away = torch.from_numpy(np.sqrt(np.concatenate([np.empty(0), *parts])))
    return rows[torch.tensor(farthest_first(points, away, radius), dtype=torch.int64)].numpy()


def farthest_first(points: Tensor, away: Tensor, radius: float, most: int | None = None) -> list[int]:
    """Rows of (n, D) float64 points, the farthest from all before it first, until none of the others is farther than `radius`.

    `away` (n,) float64 are their distances to centres that are there already, infinite where there are none. No more than
    `most` are chosen; the lowest row among equals.
    """
    chosen: list[int] = []
    rows = torch.arange(len(points))
    while len(rows) and (most is None or len(chosen) < most):
        farthest = int(away.argmax())
        if not away[farthest] > radius:
            break
        chosen.append(int(rows[farthest]))
        away = torch.minimum(away, torch.from_numpy(np.sqrt(by_difference(points, points[farthest]))))
        away[farthest] = 0
        outside = away > radius
        if 2 * int(outside.sum()) < len(rows):
            rows, points, away = rows[outside], points[outside], away[outside]
    return chosen
