"""What the shards of a fit return, combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from offnominal.config import Settings
from offnominal.errors import InputError, SettingsError
from offnominal.fitting.extraction import ShardTask
from offnominal.fitting.member_patches import TrainingImage
from offnominal.fitting.shard import BankShare, Shard, ShardCoreset
from offnominal.fitting.training_set import MIN_IMAGES, TrainingSet, require_units, shard_bounds, units_of
from offnominal.fitting.workers import Shards
from offnominal.images import Thumbnails
from offnominal.memory import MergedCoreset, merge_coresets
from offnominal.model import Member, Merge, Replacements
from offnominal.scoring import NormalSignalsBuilder
from offnominal.types import Float, Index


@dataclass(frozen=True)
class AllImages:
    """The images of all shards.

    Attributes
    ----------
    images
        The images, shard by shard.
    firsts
        Number of the first image of each shard.
    units
        Number of units of each shard.
    """

    images: list[TrainingImage]
    firsts: list[int]
    units: list[int]

    @classmethod
    def of(cls, shards: Shards) -> AllImages:
        """The images that the shards hold now. Raises `InputError` if a shard has none that can be held out."""
        by_shard = shards.each(Shard.kept_images)
        images = [image for of_shard in by_shard for image in of_shard]
        require_units(images)
        units = [len(units_of(of_shard)) if of_shard else 0 for of_shard in by_shard]
        if min(units) < MIN_IMAGES:
            raise InputError(
                f"one of {len(units)} shards has {min(units)} readable images that can be held out separately, and needs "
                f"{MIN_IMAGES}: use fewer shards"
            )
        firsts = np.cumsum([0, *map(len, by_shard[:-1])]).tolist()
        return cls(images, firsts, units)

    def by_shard(self, images: Index) -> list[list[int]]:
        """Numbers of images, shard by shard, as numbers within the shard."""
        bounds = [*self.firsts, len(self.images)]
        return [(images[(images >= start) & (images < stop)] - start).tolist() for start, stop in pairwise(bounds)]

    def units_by_shard(self, units: slice) -> list[slice]:
        """Consecutive units as slices of the units of each shard; empty where a shard has none of them."""
        firsts = np.cumsum([0, *self.units])
        bounds = [np.clip([units.start - first, units.stop - first], 0, stop - first) for first, stop in pairwise(firsts)]
        return [slice(int(start), int(stop)) for start, stop in bounds]

    def located(self, coreset: MergedCoreset, shards: Sequence[tuple[Index, Index]]) -> tuple[Index, Index]:
        """Image and position of the patches of a coreset, from those that each shard knows."""
        image, position = np.zeros(len(coreset.row), np.int64), np.zeros((len(coreset.row), 2), np.int64)
        for number, (first, (of_shard, positions)) in enumerate(zip(self.firsts, shards, strict=True)):
            own = coreset.shard == number
            image[own], position[own] = of_shard + first, positions
        return image, position

    def thumbnails(self, shards: Shards, members: Sequence[Member]) -> Thumbnails:
        """Thumbnails of the images with a patch in a bank."""
        wanted = self.by_shard(np.unique(np.concatenate([member.bank.image for member in members])))
        pictures = [b""] * len(self.images)
        by_shard = shards.each_with(Shard.thumbnails, [(local,) for local in wanted])
        for first, local, of_shard in zip(self.firsts, wanted, by_shard, strict=True):
            for image, picture in zip(local, of_shard, strict=True):
                pictures[first + image] = picture
        return Thumbnails.of(pictures)

    def joined(self, shards: Sequence[Replacements]) -> Replacements:
        """Replacement patches of all shards."""
        return Replacements(
            torch.cat([shard.patches for shard in shards]),
            np.concatenate([shard.replaces + first for shard, first in zip(shards, self.firsts, strict=True)]),
            np.concatenate([shard.image + first for shard, first in zip(shards, self.firsts, strict=True)]),
            np.concatenate([shard.position for shard in shards]),
        )


def merged(coresets: Sequence[ShardCoreset], size: int) -> MergedCoreset:
    """The coresets of all shards as one of at most `size` patches."""
    patches = [shard.patches for shard in coresets]
    return merge_coresets(patches, [shard.coreset for shard in coresets], min(size, sum(map(len, patches))))


def merge_of(coreset: MergedCoreset) -> Merge | None:
    """The record of a merge; None for a single shard."""
    if coreset.shards == 1:
        return None
    return Merge(coreset.shards, coreset.merge_radius, coreset.shard_radius, coreset.ratio)


def shares_of(coreset: MergedCoreset, radius: float, kept: npt.NDArray[np.bool_] | None = None) -> list[BankShare]:
    """The bank, as each shard sees it; on request only some of its patches."""
    at = np.arange(len(coreset.row)) if kept is None else np.flatnonzero(kept)
    patches = coreset.patches[torch.from_numpy(at)]
    return [BankShare(patches, coreset.rows_of(shard)[at], radius) for shard in range(coreset.shards)]


def joined(shards: Sequence[NormalSignalsBuilder]) -> NormalSignalsBuilder:
    """Sums over the images of all shards."""
    first, *others = shards
    for other in others:
        first.merge(other)
    return first


def duplicates_of(images: Sequence[TrainingImage], digests: Sequence[bytes]) -> list[tuple[str, str]]:
    """Names of images with the same pixels as an earlier one, each with the name of the first."""
    first_with: dict[bytes, int] = {}
    pairs = []
    for at, digest in enumerate(digests):
        first = first_with.setdefault(digest, at)
        if first != at:
            pairs.append((images[at].name, images[first].name))
    return pairs


def tasks_of(training: TrainingSet, settings: Settings, shards: int) -> list[ShardTask]:
    """At most `shards` shards of consecutive images. Raises `SettingsError` for several shards and a random coreset."""
    images = training.images
    bounds = shard_bounds(images, shards)
    if len(bounds) > 1 and settings.sampler != "greedy":
        raise SettingsError("sampler = random: only a greedy coreset can be merged from several shards")
    return [
        ShardTask(
            images=images[part],
            sources=tuple(training.sources[image.source].source for image in images[part]),
            first=part.start,
            total=len(images),
            shards=len(bounds),
            preprocessing=training.preprocessing,
            settings=settings,
        )
        for part in bounds
    ]


def require_variation(scores: Float) -> None:
    """A threshold needs scores that differ."""
    if len(scores) > 1 and float(scores.max()) == float(scores.min()):
        raise InputError(
            f"all {len(scores)} images score the same ({float(scores[0]):.3g}) when held out, so no threshold can be set: "
            "check the contrast of the images, and that they are not duplicates"
        )
