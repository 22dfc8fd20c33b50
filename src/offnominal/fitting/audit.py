"""Which of the "good" images do not look like the others.

Every image is scored as a fit would score it, against a bank without its own patches; but greedy k-center takes outliers
first, and alike defects in several images would cover each other. So the bank is cut to patches that many images support:
one counts only if, within the covering radius, at least `supporters_needed` images other than its own have a patch. Alike
defects in at most that many images are then scored against normal patches alone. A patch that counts and is the image's own is
replaced by one of another image, as in a fit.
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

#: Share of the images, and how many at least, that may carry the same defect without covering each other.
ALIKE = 0.02
FEWEST_ALIKE = 3
#: Patches of the bank that are held against all those of an image at once.
ROWS = 1024


@dataclass(frozen=True)
class Audit:
    """What an audit found, image by image.

    Attributes:
        names: of the images, and `sources` the place of each in the data.
        scores: (n,) float32, higher = less like the others.
        p_values: (n,) see `decisions.outlier_p_values`.
        maps: working maps, one an image.
        supporters: how many other images had to support a patch of the bank.
        values: how stored pixel values are read, for drawing.
        skipped: images that could not be read, with the reason.
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
        """(n,) the images to leave out: by the false discovery rate of `decisions.called_suspect`, or a share, the worst."""
        return called_suspect(self.p_values) if contamination == "auto" else worst_share(self.scores, contamination)

    def in_order_of_data(self) -> Audit:
        """The same with the images in the order of the data."""
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
        """These images, worst first."""
        order = [at for at in np.argsort(-self.scores, kind="stable") if images[at]]
        return tuple(LeftOut(self.names[at], float(self.scores[at]), float(self.p_values[at])) for at in order)


def audit(
    members: Sequence[MemberPatches],
    coresets: Sequence[Coreset],
    images: Sequence[TrainingImage],
    units: Sequence[slice],
    settings: Settings,
    tick: Callable[[int], None],
) -> Audit:
    """Audit the standardised patches of all members; `coresets` are greedy ones, one a member.

    `units` are slices of the images that are held out together, such as copies: they do not support each other.
    """
    needed = supporters_needed(len(units))
    found: list[MemberSignals] = []
    for number, (patches, coreset) in enumerate(zip(members, coresets, strict=True)):
        starts = np.array([patches.rows[unit.start].start for unit in units])
        supported = supporters(patches.all, starts, coreset) >= needed
        centres = coreset.indices[supported] if supported.any() else coreset.indices
        banks = patches.held_out_banks(units, Coreset(centres, coreset.radius))
        device = patches.engine.device
        scale = distance_scale(banks, len(units), settings, device)
        before = number * len(units)
        values = held_out_signals(
            banks,
            len(units),
            settings,
            scale,
            device,
            lambda done, before=before: tick(before + done),  # type: ignore[misc]
        )
        on_grids = [to_grid(one, grid) for one, grid in zip(patches.by_image(values, units), patches.grids, strict=True)]
        found.append((on_grids, patches.networks))
    maps = held_out_maps(found, settings, [image.unit for image in images])
    scores = np.array([image_score(one) for one in maps], dtype=np.float32)
    return Audit(
        tuple(image.name for image in images),
        tuple(image.source for image in images),
        scores,
        outlier_p_values(scores),
        tuple(maps),
        needed,
    )


def supporters_needed(images: int) -> int:
    """At least `FEWEST_ALIKE` and `ALIKE` of the images, but no more than there are besides two."""
    return max(0, min(max(FEWEST_ALIKE, math.ceil(ALIKE * images)), images - 2))


def supporters(patches: Tensor, starts: Index, coreset: Coreset) -> Index:
    """(M,) how many images other than its own have a patch within the covering radius of each bank patch."""
    centres = torch.from_numpy(coreset.indices)
    bank = patches[centres]
    own = np.searchsorted(starts, coreset.indices, side="right") - 1
    lengths = bank.square().sum(1)
    count = np.zeros(len(bank), dtype=np.int64)
    for image, (start, end) in enumerate(zip(starts, [*starts[1:], len(patches)], strict=True)):
        points = patches[int(start) : int(end)]
        own_lengths = points.square().sum(1)[None]
        nearest = [torch.addmm(own_lengths, some, points.T, alpha=-2).amin(1) for some in bank.split(ROWS)]
        squared = torch.cat(nearest) + lengths
        count += (squared <= coreset.radius**2).numpy() & (own != image)
    return count
