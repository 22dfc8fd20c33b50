"""The bank as an image would meet it had it not been there: its own patches replaced by the nearest ones of other images.

A bank built anew without the image is what is meant, but costs a coreset an image. Leaving its patches out alone would tear
holes: where two images share a rare patch, only one of them is in the bank, and that one would look alone. Greedy k-center
without the image would have taken the other's patch or one near it, so that is what stands in for it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from offnominal.types import Index, require

#: Numbers of the product of centres and patches that are held at once.
_BLOCK = 16_000_000


class HeldOutBanks:
    """`without(i)` is the bank (M, D) in which no patch of image `i` is left.

    Args:
        patches: (N, D), those of one image standing together.
        starts: (images,) first row of every image, rising.
        centres: (M,) rows of the coreset.

    Raises:
        ValueError: fewer than two images.
    """

    def __init__(self, patches: Tensor, starts: Index, centres: Index) -> None:
        require(len(starts) > 1, "holding an image out needs another one")
        self._owner = np.searchsorted(starts, centres, side="right") - 1
        self._bank = patches[torch.from_numpy(centres)]
        stand_ins = nearest_of_another_image(patches, starts, self._bank, self._owner)
        self._stand_ins = patches[torch.from_numpy(stand_ins)]

    def without(self, image: int) -> Tensor:
        """(M, D): the bank, the image's own patches replaced by the nearest patches of other images."""
        own = torch.from_numpy(self._owner == image)
        return torch.where(own[:, None], self._stand_ins, self._bank)


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
