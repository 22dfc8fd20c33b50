"""How many other images support each bank patch, for audits."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from offnominal.types import Index

#: Share of the images, and smallest number of images, that may have the same defect without hiding each other.
ALIKE_SHARE, MIN_ALIKE = 0.02, 3
#: Bank patches per block of distances, which bounds the memory.
BLOCK = 1024


def supporters_needed(images: int) -> int:
    """Number of other images that must support a bank patch: `ALIKE_SHARE`, at least `MIN_ALIKE`, at most all but two."""
    return max(0, min(max(MIN_ALIKE, math.ceil(ALIKE_SHARE * images)), images - 2))


def supporters(patches: Tensor, starts: Index, bank: Tensor, rows: Index, radius: float) -> Index:
    """Number of other images with a patch within a radius of each bank patch.

    Parameters
    ----------
    patches
        (N, D) patches, image by image.
    starts
        First row of each image.
    bank
        (M, D) bank patches.
    rows
        (M,) rows of the bank patches among `patches`; -1 for those of other images.
    radius
        Covering radius of the bank.

    Returns
    -------
    array
        (M,) int64.
    """
    own = np.searchsorted(starts, rows, side="right") - 1
    bank_lengths = bank.square().sum(1)
    count = np.zeros(len(bank), dtype=np.int64)
    for image, (start, end) in enumerate(zip(starts, [*starts[1:], len(patches)], strict=True)):
        points = patches[int(start) : int(end)]
        lengths = points.square().sum(1)[None]
        nearest = [torch.addmm(lengths, block, points.T, alpha=-2).amin(1) for block in bank.split(BLOCK)]
        squared = torch.cat(nearest) + bank_lengths
        count += (squared <= radius**2).numpy() & (own != image)
    return count
