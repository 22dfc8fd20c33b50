"""The bank as an image would meet it had it not been there.

A bank built anew without the image is what is meant, but costs a coreset an image. Leaving the image's own patches out comes
near it, except where they stood alone for a rare patch that another image has too: that hole is wider than the covering
radius, so greedy k-center would have taken a patch there, and the other image's nearest one is put in. Nowhere else: a bank
that had fitted itself to the image would make it look better than an image that is new.

One search of all patches in the whole bank answers for every image: its own patches are struck from the lists, and what
others find in the bank tells which of their patches would stand in for which of its.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from offnominal.memory.search import NearestPatches
from offnominal.memory.store import PatchRows
from offnominal.memory.upsampled import Upsampling
from offnominal.types import Index, require

#: Neighbours looked for beyond those wanted, so that enough are left when an image's own are struck out.
SPARE = 7


class HeldOutBanks:
    """For each image a bank in which no patch of its own is left.

    Call `neighbours` for every image first: what stands in for an image's patches is found among the others' on the way.

    Args:
        patches: (N, D), those of one image standing together.
        starts: (images,) first row of every image, rising.
        centres: (M,) rows of the coreset.
        radius: its covering radius; not a number where it was not built to cover.
        device: where to search.
        upsamplings: how the patches of every image came about, where that is known.

    Raises:
        ValueError: fewer than two images.
    """

    def __init__(
        self,
        patches: Tensor | PatchRows,
        starts: Index,
        centres: Index,
        radius: float,
        device: torch.device,
        upsamplings: Sequence[Upsampling | None] = (),
    ) -> None:
        require(len(starts) > 1, "holding an image out needs another one")
        require(len(upsamplings) in (0, len(starts)), f"{len(starts)} images, {len(upsamplings)} upsamplings")
        rounded = patches.dtype != torch.float32  # to be kept on disk: no longer what they were brought up to
        self._upsamplings = (None,) * len(starts) if rounded or not upsamplings else upsamplings
        self._patches = patches
        self._starts, self._ends = starts, np.append(starts[1:], len(patches))
        self._owner = torch.from_numpy(np.searchsorted(starts, centres, side="right") - 1).to(device)
        self._search = NearestPatches(patches[torch.from_numpy(centres)].to(device))
        self._lengths = self.bank.square().sum(1)
        self._radius = math.inf if math.isnan(radius) else radius
        self._nearest = torch.full((len(centres),), torch.inf, device=device)
        self._stand_in = torch.zeros(len(centres), dtype=torch.int64, device=device)
        self._known: dict[int, Tensor] = {}

    @property
    def bank(self) -> Tensor:
        """(M, D): the whole bank."""
        return self._search.bank

    def patches(self, image: int) -> Tensor:
        """(n, D): the image's own patches."""
        return self._patches[int(self._starts[image]) : int(self._ends[image])].to(self.bank.device)

    def neighbours(self, image: int, k: int) -> tuple[Tensor, Tensor]:
        """(n, K) squared distances, ascending, and rows of `bank`: the K nearest of its patches that are of other images.

        K is `k`, or less where the bank holds fewer of others. What stands in for the image's own is not among them.
        """
        points = self.patches(image)
        squared, rows, own = self._found(self._search, image, points, k, self._upsamplings[image])
        self._note(squared.masked_fill(own, torch.inf), rows, int(self._starts[image]))
        others = torch.nonzero(self._owner != image).flatten()
        k = min(k, len(others))
        order = own.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        squared, rows = squared.gather(1, order), rows.gather(1, order)
        short = (~own).sum(1) < k
        if bool(short.any()):
            squared[short], found = NearestPatches(self.bank[others])(points[short], k)
            rows[short] = others[found]
        return squared, rows

    def found_by(self, search: NearestPatches, image: int, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `neighbours`, by another search of the same bank and for any (n, D) points in place of the image's patches:
        (n, k) rows, and (n,) whether these are all of other images."""
        _, rows, own = self._found(search, image, points, k)
        order = own.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        return rows.gather(1, order), ~own.gather(1, order).any(1)

    def stand_ins(self, image: int) -> Tensor:
        """(s, D) patches of other images that stand in for the image's own.

        For each of the image's patches in the bank, the nearest patch of another image that counts it among its neighbours:
        taken where the bank's patches of other images leave it uncovered.
        """
        return self._patches[self.stand_in_rows(image)].to(self.bank.device)

    def stand_in_rows(self, image: int) -> Tensor:
        """(s,) int64, rising: the rows of `stand_ins` among all patches."""
        if image not in self._known:
            self._known[image] = self._stand_in_rows(image)
        return self._known[image]

    def _stand_in_rows(self, image: int) -> Tensor:
        own = self._owner == image
        rows: Tensor = self._stand_in[own & self._nearest.isfinite()].unique().cpu()
        if len(rows) == 0 or bool(own.all()):
            return rows
        found = self._patches[rows].to(self.bank.device)
        squared = torch.addmm(self._lengths, found, self.bank.T, alpha=-2).masked_fill_(own, torch.inf).amin(1)
        away = (squared + found.square().sum(1)).clamp_(min=0).sqrt_()
        uncovered: Tensor = rows[(away > self._radius).cpu()]
        return uncovered

    def _found(
        self, search: NearestPatches, image: int, points: Tensor, k: int, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(n, K + some) squared distances, rows, and whether they are the image's own."""
        squared, rows = search(points.to(search.bank.device), k + SPARE, upsampling)
        squared, rows = squared.to(self.bank.device), rows.to(self.bank.device)
        return squared, rows, self._owner[rows] == image

    def _note(self, squared: Tensor, rows: Tensor, first: int) -> None:
        """Remember, for every bank patch, the nearest of the patches (from row `first` on) that found it."""
        self._known.clear()
        flat, found = squared.flatten(), rows.flatten()
        finder = torch.arange(first, first + len(rows), device=rows.device).repeat_interleave(rows.shape[1])
        least = torch.full_like(self._nearest, torch.inf).scatter_reduce_(0, found, flat, "amin")
        better = (flat == least[found]) & (flat < self._nearest[found])
        # Of several as near the last counts, on every device.
        self._stand_in.scatter_reduce_(0, found[better], finder[better], "amax", include_self=False)
        self._nearest = torch.minimum(self._nearest, least)
