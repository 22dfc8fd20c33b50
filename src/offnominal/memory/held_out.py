"""The bank as an image would meet it had it not been there.

A bank built anew without the image is what is meant, but costs a coreset an image. Leaving the image's own patches out comes
near it, except where they stood alone for a rare patch that another image has too: that hole is wider than the covering
radius, so greedy k-center would have taken a patch there, and the other image's nearest one is put in. Nowhere else: a bank
that had fitted itself to the image would make it look better than an image that is new.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from offnominal.types import Index, require

#: Numbers of the product of centres and patches that are held at once.
_BLOCK = 16_000_000


class HeldOutBanks:
    """`without(i)` is a bank in which no patch of image `i` is left.

    Args:
        patches: (N, D), those of one image standing together.
        starts: (images,) first row of every image, rising.
        centres: (M,) rows of the coreset.
        radius: its covering radius; not a number where it was not built to cover.

    Raises:
        ValueError: fewer than two images.
    """

    def __init__(self, patches: Tensor, starts: Index, centres: Index, radius: float) -> None:
        require(len(starts) > 1, "holding an image out needs another one")
        self._owner = np.searchsorted(starts, centres, side="right") - 1
        self._bank = patches[torch.from_numpy(centres)]
        self._stand_ins = patches[torch.from_numpy(nearest_of_another_image(patches, starts, self._bank, self._owner))]
        self._radius = math.inf if math.isnan(radius) else radius

    def without(self, image: int) -> Tensor:
        """(m, D), m at least 1 and at most M: the bank less the image's own patches, with what stands in for them."""
        own = torch.from_numpy(self._owner == image)
        others, stand_ins = self._bank[~own], self._stand_ins[own]
        if len(others) == 0:
            return stand_ins
        uncovered = torch.cdist(stand_ins, others).amin(1) > self._radius
        return torch.cat([others, stand_ins[uncovered]])


def nearest_of_another_image(patches: Tensor, starts: Index, bank: Tensor, owner: Index) -> Index:
    """(M,) rows of the patches (N, D) nearest to each bank patch (M, D) among those of images other than its `owner` (M,)."""
    ends = np.append(starts[1:], len(patches))
    best = torch.full((len(bank),), torch.inf)
    nearest = torch.zeros(len(bank), dtype=torch.int64)
    images = max(1, _BLOCK // (len(bank) * max(1, int((ends - starts).max()))))
    for first in range(0, len(starts), images):
        group = range(first, min(first + images, len(starts)))
        low = int(starts[group[0]])
        block = patches[low : int(ends[group[-1]])]
        distance = torch.addmm(block.square().sum(1)[None], bank, block.T, alpha=-2)
        for image in group:
            own = torch.from_numpy(np.flatnonzero(owner == image))
            distance[own, int(starts[image]) - low : int(ends[image]) - low] = torch.inf
        found = distance.min(1)
        better = found.values < best
        best = torch.where(better, found.values, best)
        nearest = torch.where(better, found.indices + low, nearest)
    return nearest.numpy()
