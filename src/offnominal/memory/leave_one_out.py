"""Leave-one-image-out banks: for each image an approximation of the bank that would be built without it.

Building a new coreset for each image is exact but slow. Only removing the image's own patches makes the image look more
anomalous than a new one: greedy k-center keeps bank patches apart, so each removed patch leaves a hole that patches of other
images would have filled. Therefore each removed patch is replaced by patches of other images that it covered, selected in
greedy order.

One search of all patches in the whole bank serves all images: an image's own patches are removed from its lists of neighbours,
and the lists of the other images show which patches they cover.

Duplicates and images of one group are held out together; here they count as one image with more patches.
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

#: Additional neighbours per search, so that enough remain after removing an image's own patches.
SPARE = 7
#: Fewest candidates for replacement patches, in total and per bank patch of the image. Patches far from the other images' bank
#: patches come first.
MIN_CANDIDATES, CANDIDATES_PER_PATCH = 512, 2
#: Share of the covering radius within which patches count as duplicates, and by which covered patches may exceed the radius.
TOLERANCE = 0.01
#: Patches that are searched at a time.
SEARCHED = 65_536
_NOT_COVERED = -1


class HeldOutBanks:
    """For each image, a bank without its own patches.

    Call `neighbours` for every image before `replacements`: it records which patches can replace an image's own.

    Parameters
    ----------
    patches
        (N, D), the patches of an image in consecutive rows.
    starts
        (images,) first row of each image, ascending.
    centres
        (M,) rows of the coreset; -1 for bank patches of images that are not among `patches`.
    radius
        Covering radius of the coreset; NaN for a random coreset.
    device
        Device of the search.
    upsamplings
        Upsampling of each image's patches, if known.
    bank
        (M, D) features of the coreset; needed if some of `centres` are -1.

    Raises
    ------
    ValueError
        If there are fewer than two images.

    Examples
    --------
    >>> patches = torch.tensor([[0.0], [4.0], [1.0], [5.0]])  # two images of two patches
    >>> banks = HeldOutBanks(patches, np.array([0, 2]), np.array([0, 3]), 1.0, torch.device("cpu"))
    >>> squared, rows = banks.neighbours(0, k=1)
    >>> squared.flatten().tolist(), rows.flatten().tolist()
    ([25.0, 1.0], [1, 1])
    >>> _ = banks.neighbours(1, k=1)
    >>> banks.replacements(0)
    tensor([[1.]])
    """

    def __init__(
        self,
        patches: Tensor | PatchRows,
        starts: Index,
        centres: Index,
        radius: float,
        device: torch.device,
        upsamplings: Sequence[Upsampling | None] = (),
        bank: Tensor | None = None,
    ) -> None:
        require(len(starts) > 1, f"holding out an image needs at least 2 images, got {len(starts)}")
        require(len(upsamplings) in (0, len(starts)), f"{len(starts)} images, {len(upsamplings)} upsamplings")
        rounded = patches.dtype != torch.float32  # rounded features are no exact interpolation of their coarse map
        self._upsamplings = (None,) * len(starts) if rounded or not upsamplings else upsamplings
        self._patches = patches
        self._starts, self._ends = starts, np.append(starts[1:], len(patches))
        self._owner = torch.from_numpy(np.searchsorted(starts, centres, side="right") - 1).to(device)  # -1 for centres of -1
        self._search = NearestPatches((patches[torch.from_numpy(centres)] if bank is None else bank).to(device))
        # Without a second image in the bank, no radius limits what counts as covered.
        self._radius = radius if bool((self._owner != self._owner[0]).any()) else math.nan
        #: Per patch: `_coverer`, the image whose bank patch covers it, or -1; `_second`, the nearest bank row not owned by the
        #: image of its nearest neighbour; `_second_squared`, its squared distance.
        self._coverer = np.full(len(patches), _NOT_COVERED, np.int32)
        self._second = np.zeros(len(patches), np.int32)
        self._second_squared = np.zeros(len(patches), np.float32)
        self._by_coverer: tuple[Index, Index] | None = None
        self._replacements: dict[int, Tensor] = {}

    @property
    def bank(self) -> Tensor:
        """(M, D) whole bank."""
        return self._search.bank

    def patches(self, image: int) -> Tensor:
        """(n, D) patches of an image."""
        return self._patches[int(self._starts[image]) : int(self._ends[image])].to(self.bank.device)

    def neighbours(self, image: int, k: int) -> tuple[Tensor, Tensor]:
        """Search the nearest bank patches of other images for each patch of an image; replacement patches are not included.

        Returns
        -------
        squared, rows
            (n, K) squared distances, ascending; (n, K) rows of `bank`. K is `k`, or less if the bank holds fewer patches of
            other images.
        """
        points = self.patches(image)
        squared, rows = self._searched(image, k + SPARE)
        own = self._owner[rows] == image
        self._record(image, squared, rows)
        others = torch.nonzero(self._owner != image).flatten()
        k = min(k, len(others))
        order = own.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        squared, rows = squared.gather(1, order), rows.gather(1, order)
        short = torch.nonzero((~own).sum(1) < k).flatten()
        if len(short):
            search = NearestPatches(self.bank[others])
            for part in short.split(SEARCHED):
                squared[part], positions = search(points[part], k)
                rows[part] = others[positions]
                self.release()
        return squared, rows

    def _searched(self, image: int, k: int) -> tuple[Tensor, Tensor]:
        """Squared distances and rows of the `k` nearest bank patches, searched in blocks: a large image has many patches."""
        upsampling, points, parts = self._upsamplings[image], self.patches(image), list[tuple[Tensor, Tensor]]()
        for block in points.split(SEARCHED) if upsampling is None else (points,):
            parts.append(self._search(block, k, upsampling))
            self.release()
        return torch.cat([squared for squared, _ in parts]), torch.cat([rows for _, rows in parts])

    def release(self) -> None:
        """Release the resident memory of patches on disk."""
        if isinstance(self._patches, PatchRows):
            self._patches.release()

    def replacements(self, image: int) -> Tensor:
        """(s, D) replacement patches of other images for an image's own bank patches.

        They are selected farthest first, from the other images' bank patches and from one another, until they are as many as
        the image's own bank patches, or until all patches that those covered are used. A random coreset has no replacement
        patches, unless the image owns the whole bank.
        """
        return self._patches[self.replacement_rows(image)].to(self.bank.device)

    def replacement_rows(self, image: int) -> Tensor:
        """(s,) int64 ascending rows of the `replacements` in all patches."""
        if image not in self._replacements:
            self._replacements[image] = self._select_replacements(image)
        return self._replacements[image]

    def _select_replacements(self, image: int) -> Tensor:
        own = self._owner == image
        count = int(own.sum())
        if math.isnan(self._radius) and count < len(own):
            return torch.zeros(0, dtype=torch.int64)
        rows = self._covered_by(image)[: max(MIN_CANDIDATES, CANDIDATES_PER_PATCH * count)].sort().values
        points = self._patches[rows].to(self.bank)
        if count < len(own):
            distances, duplicate = self._distances_to_others(rows, points, own), TOLERANCE * self._radius
        else:
            distances, duplicate = torch.full((len(rows),), torch.inf, dtype=torch.float64), 0.0
        selected = farthest_first(points.double().cpu(), distances, duplicate, count)
        return rows[torch.tensor(selected, dtype=torch.int64)].sort().values

    def _covered_by(self, image: int) -> Tensor:
        """(n,) rows of patches that the image's bank patches cover, farthest from the other bank patches first."""
        if self._by_coverer is None:
            order = np.lexsort((-self._second_squared, self._coverer))
            self._by_coverer = order.astype(np.int64), self._coverer[order].astype(np.int64)
        order, coverers = self._by_coverer
        return torch.from_numpy(order[slice(*np.searchsorted(coverers, [image, image + 1]))])

    def _distances_to_others(self, rows: Tensor, points: Tensor, own: Tensor) -> Tensor:
        """(n,) distances of covered patches to the other images' bank patches.

        They are computed in float64 from differences, so that the selection is the same for every search and device.
        """
        nearest = torch.from_numpy(self._second)[rows].to(self.bank.device, torch.int64)
        unlisted = torch.from_numpy(self._second_squared)[rows].isinf().to(self.bank.device)
        if bool(unlisted.any()):
            others = torch.nonzero(~own).flatten()
            nearest[unlisted] = others[NearestPatches(self.bank[others])(points[unlisted], 1)[1][:, 0]]
        return (points.double() - self.bank[nearest].double()).square_().sum(1).sqrt_().cpu()

    def _record(self, image: int, squared: Tensor, rows: Tensor) -> None:
        """Record for each patch of an image which other image covers it, and the nearest bank patch of a further image."""
        owner = self._owner[rows]
        nearest = owner[:, 0]
        covered = (nearest != image) & ~(squared[:, 0] > ((1 + TOLERANCE) * self._radius) ** 2)
        second, position = squared.masked_fill(owner == nearest[:, None], torch.inf).min(1)
        own = slice(int(self._starts[image]), int(self._ends[image]))
        self._coverer[own] = torch.where(covered, nearest, _NOT_COVERED).cpu().numpy()
        self._second[own] = rows.gather(1, position[:, None])[:, 0].cpu().numpy()
        self._second_squared[own] = second.cpu().numpy()
        self._by_coverer = None
        self._replacements.clear()
