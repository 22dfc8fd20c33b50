"""Leave-one-image-out banks: the bank as an image would meet it if it were new.

A bank chosen again without the image is exact, but costs a coreset an image. Leaving out the image's own patches alone makes it
look more anomalous than a new image: greedy k-center keeps its patches apart, so each of them leaves a hole, which patches of
other images would have filled. So each is replaced by a patch of another image that it covered, in the same greedy order.

One search of all patches in the whole bank serves every image: its own patches are struck from the lists, and the neighbours
of the others show which patches its own cover.

Copies of an image, and images of one group, are held out together: here they are one image with more patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from offnominal.memory.cover import farthest_first
from offnominal.memory.search import NearestPatches
from offnominal.memory.store import PatchRows
from offnominal.memory.upsampled import Upsampling
from offnominal.types import Index, require

#: Neighbours looked for beyond those wanted, so that enough are left when an image's own are struck out.
SPARE = 7
#: Of the patches that an image's own were nearest to, so many are looked at, those that it leaves farthest from the others'
#: bank patches; or as many times those that it has in the bank, where that is more.
LEFT, TIMES = 512, 2
#: Rounding, in shares of the covering radius: what is nearer to the bank is there already, what is farther than radius and
#: this is not covered.
SLACK = 0.01
_NOBODY = -1


class HeldOutBanks:
    """For each image a bank in which no patch of its own is left.

    Call `neighbours` for every image first: it records which patches of the others can replace an image's own.

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
        # One image's bank covers the others only as well as it can.
        self._radius = radius if bool((self._owner != self._owner[0]).any()) else math.nan
        #: Of every patch the other image whose bank patch covers it, being the nearest; which of the others' is next, and its
        #: squared distance.
        self._coverer = np.full(len(patches), _NOBODY, np.int32)
        self._next = np.zeros(len(patches), np.int32)
        self._away = np.zeros(len(patches), np.float32)
        self._by_coverer: tuple[Index, Index] | None = None
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

        K is `k`, or less if the bank holds fewer of others. Replacement patches are not among them.
        """
        points = self.patches(image)
        squared, rows = self._search(points.to(self.bank.device), k + SPARE, self._upsamplings[image])
        squared, rows = squared.to(self.bank.device), rows.to(self.bank.device)
        own = self._owner[rows] == image
        self._note(image, squared, rows)
        others = torch.nonzero(self._owner != image).flatten()
        k = min(k, len(others))
        order = own.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        squared, rows = squared.gather(1, order), rows.gather(1, order)
        short = (~own).sum(1) < k
        if bool(short.any()):
            squared[short], found = NearestPatches(self.bank[others])(points[short], k)
            rows[short] = others[found]
        return squared, rows

    def replacements(self, image: int) -> Tensor:
        """(s, D) patches of other images that replace the image's own.

        As many as it has in the bank, or all that those covered: the farthest from the others' bank patches and from those
        already taken comes next. None where the bank was not built to cover, unless all of it is the image's own.
        """
        return self._patches[self.replacement_rows(image)].to(self.bank.device)

    def replacement_rows(self, image: int) -> Tensor:
        """(s,) int64, rising: the rows of `replacements` among all patches."""
        if image not in self._known:
            self._known[image] = self._replacement_rows(image)
        return self._known[image]

    def _replacement_rows(self, image: int) -> Tensor:
        own = self._owner == image
        most = int(own.sum())
        if math.isnan(self._radius) and most < len(own):
            return torch.zeros(0, dtype=torch.int64)
        rows = self._covered_by(image)[: max(LEFT, TIMES * most)].sort().values
        points = self._patches[rows].to(self.bank)
        if most < len(own):
            away, copies = self._away_from_others(rows, points, own), SLACK * self._radius
        else:
            away, copies = torch.full((len(rows),), torch.inf, dtype=torch.float64), 0.0
        taken = farthest_first(points.double().cpu(), away, copies, most)
        return rows[torch.tensor(taken, dtype=torch.int64)].sort().values

    def _covered_by(self, image: int) -> Tensor:
        """(n,) rows of the other images' patches that one of the image's covers; the farthest from all others comes first."""
        if self._by_coverer is None:
            order = np.lexsort((-self._away, self._coverer))
            self._by_coverer = order.astype(np.int64), self._coverer[order].astype(np.int64)
        order, coverers = self._by_coverer
        return torch.from_numpy(order[slice(*np.searchsorted(coverers, [image, image + 1]))])

    def _away_from_others(self, rows: Tensor, points: Tensor, own: Tensor) -> Tensor:
        """(n,) float64 distances of patches that the image's cover to the bank's patches of others; alike by every search and
        on every device, since the choice hangs on them."""
        nearest = torch.from_numpy(self._next)[rows].to(self.bank.device, torch.int64)
        unlisted = torch.from_numpy(self._away)[rows].isinf().to(self.bank.device)
        if bool(unlisted.any()):
            others = torch.nonzero(~own).flatten()
            nearest[unlisted] = others[NearestPatches(self.bank[others])(points[unlisted], 1)[1][:, 0]]
        return (points.double() - self.bank[nearest].double()).square_().sum(1).sqrt_().cpu()

    def _note(self, image: int, squared: Tensor, rows: Tensor) -> None:
        """Remember which other image's patch is nearest to each of the image's, where it covers it, and what is next to it."""
        owner = self._owner[rows]
        nearest = owner[:, 0]
        covered = (nearest != image) & ~(squared[:, 0] > ((1 + SLACK) * self._radius) ** 2)
        away, place = squared.masked_fill(owner == nearest[:, None], torch.inf).min(1)
        here = slice(int(self._starts[image]), int(self._ends[image]))
        self._coverer[here] = torch.where(covered, nearest, _NOBODY).cpu().numpy()
        self._next[here] = rows.gather(1, place[:, None])[:, 0].cpu().numpy()
        self._away[here] = away.cpu().numpy()
        self._by_coverer = None
        self._known.clear()
