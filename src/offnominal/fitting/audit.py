"""Audit: which of the training images do not look like the others.

Each image is scored as in a fit, against a bank without its own patches. But greedy k-center selects outliers first, and
similar defects in several images would hide each other. Therefore the audit uses only bank patches with support: at least
`supporters_needed` other images have a patch within the covering radius. Similar defects in at most that many images are then
scored against normal patches only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.decisions import called_suspect, outlier_p_values, worst_share
from offnominal.fitting.held_out_signals import distance_scale, held_out_signals
from offnominal.fitting.member_patches import MemberPatches, TrainingImage
from offnominal.images import EIGHT_BIT, ValueRange
from offnominal.inference import MemberSignals, held_out_maps
from offnominal.memory import Coreset
from offnominal.model import LeftOut
from offnominal.scoring import image_score, to_grid
from offnominal.types import Float, Index

#: Share of the images, and smallest number of images, that may have the same defect without hiding each other.
ALIKE_SHARE, MIN_ALIKE = 0.02, 3
#: Bank patches per block of distances, which bounds the memory.
BLOCK = 1024


@dataclass(frozen=True)
class Audit:
    """Result of an audit, image by image.

    Attributes
    ----------
    names
        Names of the images.
    sources
        Index of each image in the data.
    scores
        (n,) float32; higher is less like the other images.
    p_values
        (n,) float64; see `decisions.outlier_p_values`.
    maps
        Anomaly map of each image at a quarter of the network size.
    supporters
        Number of other images that had to support a bank patch.
    values
        Range of pixel values, for drawing.
    skipped
        Name and reason of each image that could not be read.

    Examples
    --------
    >>> audited = Audit(
    ...     names=("a.png", "b.png", "c.png"), sources=(0, 1, 2), scores=np.array([1.0, 9.0, 2.0], np.float32),
    ...     p_values=np.array([0.9, 0.001, 0.4]), maps=(), supporters=1,
    ... )
    >>> suspects = audited.suspects(0.4)
    >>> [suspect.name for suspect in audited.listed(suspects)]
    ['b.png']
    """

    names: tuple[str, ...]
    sources: tuple[int, ...]
    scores: Float
    p_values: npt.NDArray[np.float64]
    maps: tuple[Float, ...]
    supporters: int
    values: ValueRange = EIGHT_BIT
    skipped: tuple[tuple[str, str], ...] = ()

    def suspects(self, contamination: float | Literal["auto"]) -> npt.NDArray[np.bool_]:
        """(n,) true for the images to leave out.

        Parameters
        ----------
        contamination
            `auto` controls the false discovery rate (`decisions.called_suspect`); a number leaves out this share, worst first.
        """
        return called_suspect(self.p_values) if contamination == "auto" else worst_share(self.scores, contamination)

    def in_order_of_data(self) -> Audit:
        """A copy with the images in the order of the data."""
        order = np.argsort(self.sources, kind="stable")
        return replace(
            self,
            names=tuple(self.names[at] for at in order),
            sources=tuple(self.sources[at] for at in order),
            scores=self.scores[order],
            p_values=self.p_values[order],
            maps=tuple(self.maps[at] for at in order),
        )

    def listed(self, images: npt.NDArray[np.bool_]) -> tuple[LeftOut, ...]:
        """The images where (n,) `images` is true, worst first."""
        order = [at for at in np.argsort(-self.scores, kind="stable") if images[at]]
        return tuple(LeftOut(self.names[at], float(self.scores[at]), float(self.p_values[at])) for at in order)


def audit(
    members: Sequence[MemberPatches],
    coresets: Sequence[Coreset],
    images: Sequence[TrainingImage],
    *,
    units: Sequence[slice],
    settings: Settings,
    tick: Callable[[int], None],
) -> Audit:
    """Audit the standardised patches of all members.

    Parameters
    ----------
    members
        Patches of each member.
    coresets
        A greedy coreset of each member.
    images
        The training images.
    units
        Slices of `images` that are held out together, such as duplicates; they do not support each other.
    tick
        Called with the number of units done, over all members.
    """
    needed = supporters_needed(len(units))
    signals: list[MemberSignals] = []
    for number, (patches, coreset) in enumerate(zip(members, coresets, strict=True)):
        starts = np.array([patches.rows[unit.start].start for unit in units])
        supported = supporters(patches.all, starts, coreset) >= needed
        centres = coreset.indices[supported] if supported.any() else coreset.indices
        banks = patches.held_out_banks(units, Coreset(centres, coreset.radius))
        scale = distance_scale(banks, len(units), settings)
        before = number * len(units)
        values = held_out_signals(
            banks,
            len(units),
            settings,
            scale,
            tick=lambda done, before=before: tick(before + done),  # type: ignore[misc]
        )
        by_image = zip(patches.by_image(values, units), patches.grids, strict=True)
        signals.append(([to_grid(image, grid) for image, grid in by_image], patches.networks))
    maps = held_out_maps(signals, settings, [image.unit for image in images])
    scores = np.array([image_score(values) for values in maps], dtype=np.float32)
    return Audit(
        names=tuple(image.name for image in images),
        sources=tuple(image.source for image in images),
        scores=scores,
        p_values=outlier_p_values(scores),
        maps=tuple(maps),
        supporters=needed,
    )


def supporters_needed(images: int) -> int:
    """Number of other images that must support a bank patch: `ALIKE_SHARE`, at least `MIN_ALIKE`, at most all but two."""
    return max(0, min(max(MIN_ALIKE, math.ceil(ALIKE_SHARE * images)), images - 2))


def supporters(patches: Tensor, starts: Index, coreset: Coreset) -> Index:
    """Number of other images with a patch within the covering radius of each bank patch.

    Parameters
    ----------
    patches
        (N, D) patches, image by image.
    starts
        First row of each image.
    coreset
        The bank; M rows of `patches`.

    Returns
    -------
    array
        (M,) int64.
    """
    bank = patches[torch.from_numpy(coreset.indices)]
    own = np.searchsorted(starts, coreset.indices, side="right") - 1
    bank_lengths = bank.square().sum(1)
    count = np.zeros(len(bank), dtype=np.int64)
    for image, (start, end) in enumerate(zip(starts, [*starts[1:], len(patches)], strict=True)):
        points = patches[int(start) : int(end)]
        lengths = points.square().sum(1)[None]
        nearest = [torch.addmm(lengths, block, points.T, alpha=-2).amin(1) for block in bank.split(BLOCK)]
        squared = torch.cat(nearest) + bank_lengths
        count += (squared <= coreset.radius**2).numpy() & (own != image)
    return count
