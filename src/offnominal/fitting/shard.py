"""A shard: the images of a fit that one process holds, from their patches to their held-out scores.

A fit on one machine has one shard, a fit on a cluster has several. `fitting.fit` combines their results. Patches stay in their
shard: others get coresets, statistics and scores only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.features import ChannelMoments, ChannelStandard
from offnominal.fitting.appearance import AppearanceFeatures
from offnominal.fitting.extraction import Extraction, ShardTask
from offnominal.fitting.held_out_signals import distances_to_bank, held_out_signals
from offnominal.fitting.member_patches import TrainingImage, choose_coreset, thinned
from offnominal.fitting.supporters import supporters
from offnominal.fitting.training_set import units_of
from offnominal.inference import BLOCK, FeatureEngine, SignalEngine, held_out_maps, scores_of_maps, statistics_of
from offnominal.memory import Coreset, HeldOutBanks, NearestPatches, RemainingRows
from offnominal.model import DistanceScale, Replacements, as_stored
from offnominal.observer import Observer
from offnominal.scoring import NormalSignalsBuilder
from offnominal.types import Float, Index, Pose


@dataclass(frozen=True)
class Extracted:
    """Result of `Shard.extract`.

    Attributes
    ----------
    moments
        Channel moments of each member; empty without a readable image.
    pixel_digests
        Digest of the network pixels of each readable image.
    skipped
        Reason by index in the data, for images that could not be read.
    appearance
        Features of whole images.
    """

    moments: tuple[ChannelMoments, ...]
    pixel_digests: tuple[bytes, ...]
    skipped: dict[int, str]
    appearance: AppearanceFeatures


@dataclass(frozen=True)
class ShardCoreset:
    """A coreset of a shard.

    Attributes
    ----------
    coreset
        Rows and covering radius.
    patches
        (M, D) its patches.
    """

    coreset: Coreset
    patches: Tensor


@dataclass(frozen=True)
class BankShare:
    """A whole bank, as one shard sees it.

    Attributes
    ----------
    patches
        (M, D).
    rows
        (M,) rows of the bank patches among the patches of the shard; -1 for those of other shards.
    radius
        Covering radius over all shards; NaN for a random bank.
    """

    patches: Tensor
    rows: Index
    radius: float


class Shard:
    """Images of a fit. Use as a context manager, which deletes patches spilled to disk.

    Images, units and members are numbered from 0. Images that could not be read, or were dropped by `keep`, have no number.
    """

    def __init__(self, task: ShardTask, engines: Sequence[FeatureEngine], observer: Observer) -> None:
        self._settings, self._observer = task.settings, observer
        self._extraction = Extraction(task, engines, observer)
        self._banks: HeldOutBanks | None = None
        self._signals: dict[int, list[Float]] = {}
        self._coresets: dict[tuple[int, int, str, int, int], ShardCoreset] = {}

    def __enter__(self) -> Shard:
        self._extraction.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._extraction.__exit__(*error)

    @property
    def images(self) -> list[TrainingImage]:
        """The images."""
        return self._extraction.images

    @property
    def units(self) -> list[slice]:
        """Slices of `images` that are held out together."""
        return units_of(self.images)

    # The first pass: features

    def extract(self) -> Extracted:
        """Read all images and compute the raw patches of all members."""
        extraction = self._extraction
        extraction.run()
        moments = tuple(member.moments() for member in extraction.members) if extraction.images else ()
        return Extracted(moments, tuple(extraction.pixel_digests), extraction.skipped, extraction.appearance)

    def standardise(self, standards: Sequence[ChannelStandard]) -> None:
        """Standardise the patches of each member."""
        for member, standard in zip(self._extraction.members, standards, strict=True):
            member.standardise(standard)

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Drop the images where (n,) `kept` is false."""
        self._extraction.keep(kept)
        self._signals.clear()
        self._coresets.clear()

    def counts(self) -> list[int]:
        """Number of patches of each member."""
        return [member.count for member in self._extraction.members]

    def kept_images(self) -> list[TrainingImage]:
        """`images`, as a method."""
        return self.images

    def poses(self) -> list[Pose | None]:
        """Pose of the part in each image; None without alignment."""
        return self._extraction.poses

    # The second pass: coresets

    def coreset(self, member: int, size: int, sampler: str, without: slice | None = None) -> ShardCoreset:
        """A coreset of at most `size` patches, on request without the patches of the units `without`.

        It is computed once; each fold leaves most shards as they are.
        """
        patches = self._extraction.members[member]
        rows, first, omitted = patches.readable(), 0, 0
        if without is not None and without.stop > without.start:
            units = self.units
            first = patches.rows[units[without.start].start].start
            last = patches.rows[units[without.stop - 1].stop - 1].stop
            rows, omitted = RemainingRows(rows, first, last), last - first
        key = member, size, sampler, first, omitted
        if key not in self._coresets:
            coreset, step = Coreset(np.empty(0, np.int64), 0.0), 1
            if len(rows):
                tick = self._tick("memory bank", size)
                if patches.engine.tiled is not None:
                    rows, step = thinned(rows, size)
                coreset = choose_coreset(rows, min(size, len(rows)), sampler, self._settings.seed, tick)
            indices = coreset.indices * step
            indices = np.where(indices < first, indices, indices + omitted)
            selected, radius = patches.readable()[torch.from_numpy(indices)], coreset.radius
            if step > 1 and without is None and not np.isnan(radius):
                radius = self.radius(member, selected)  # over all patches
            self._coresets[key] = ShardCoreset(Coreset(indices, radius), selected)
        return self._coresets[key]

    def locate(self, member: int, rows: Index) -> tuple[Index, Index]:
        """Image and position of bank patches, for those of this shard among (M,) `rows`; -1 are left out."""
        return self._extraction.members[member].locate(rows[rows >= 0])

    def radius(self, member: int, bank: Tensor) -> float:
        """Largest distance of a patch to a bank."""
        patches = self._extraction.members[member]
        search, largest = NearestPatches(bank.to(patches.engine.device)), 0.0
        for image, rows in enumerate(patches.rows):
            all_points, upsampling = patches.readable()[rows].to(bank.device), patches.upsampling(image)
            for points in all_points.split(BLOCK) if upsampling is None else (all_points,):
                squared, nearest = search(points, 1, upsampling)
                farthest = int(squared[:, 0].argmax())  # measured again: products in float32 are coarse
                difference = points[farthest].double() - bank[nearest[farthest, 0]].double()
                largest = max(largest, float(difference.square().sum().sqrt()))
                patches.release()
        return largest

    def supporters(self, member: int, bank: BankShare) -> Index:
        """(M,) number of other images of this shard with a patch within the radius of each bank patch."""
        patches = self._extraction.members[member]
        starts = np.array([patches.rows[unit.start].start for unit in self.units])
        return supporters(patches.all, starts, bank.patches, bank.rows, bank.radius)

    # The third pass: held-out signals

    def hold_out(self, member: int, bank: BankShare, most: int) -> Tensor:
        """Prepare banks without each unit; returns the distances of patches of at most `most` units to their banks."""
        patches = self._extraction.members[member]
        self._banks = patches.held_out_banks(self.units, bank.rows, bank.radius, bank.patches)
        return distances_to_bank(self._banks, len(self.units), self._settings, most, tick=lambda done: patches.release())

    def leave_one_out(self, member: int, scale: DistanceScale, stage: str) -> Replacements:
        """Compute the leave-one-out signals; returns the replacement patches."""
        patches, units = self._extraction.members[member], self.units
        assert self._banks is not None
        values = held_out_signals(self._banks, len(units), self._settings, scale, tick=self._tick(stage, len(units)))
        self._store(member, dict(enumerate(patches.by_image(values, units))))
        of_units = [self._banks.replacement_rows(unit).numpy() for unit in range(len(units))]
        rows = np.concatenate(of_units)
        replaces = np.repeat([unit.start for unit in units], [len(of_unit) for of_unit in of_units]).astype(np.int64)
        return Replacements(patches.readable()[torch.from_numpy(rows)], replaces, *patches.locate(rows))

    def fold(self, member: int, units: slice, bank: Tensor, scale: DistanceScale) -> None:
        """Compute the signals of some units against a bank without their fold."""
        if units.start == units.stop:
            return
        patches, all_units = self._extraction.members[member], self.units
        engine = SignalEngine(bank, self._settings, scale, patches.engine.device)
        images = range(all_units[units.start].start, all_units[units.stop - 1].stop)
        values: dict[int, Float] = {}
        for image in images:
            points = patches.readable()[patches.rows[image]].to(patches.engine.device)
            values[image] = engine.searched_values(points, patches.upsampling(image), patches.release)
            self._extraction.report("folds", images.start + len(values), len(self.images))
        self._store(member, values)

    def statistics(self, member: int) -> NormalSignalsBuilder:
        """Sums of the held-out signals of a member."""
        return statistics_of(self._signals[member], self._settings.region)

    def maps(self, statistics: Sequence[NormalSignalsBuilder]) -> list[Float]:
        """Anomaly map of each image, from its held-out signals and the statistics of all shards for each member."""
        members = self._extraction.members
        signals = [(self._signals[number], member.networks) for number, member in enumerate(members)]
        return held_out_maps(signals, self._settings, [image.unit for image in self.images], statistics)

    def scores(self, statistics: Sequence[NormalSignalsBuilder]) -> Float:
        """(n,) float32 held-out scores of `maps`."""
        signals = [self._signals[number] for number in range(len(self._extraction.members))]
        return scores_of_maps(self.maps(statistics), signals, [image.listed for image in self.images], self._settings)

    def signals(self, member: int, kept: bool) -> list[Float]:
        """(h, w, S) held-out signals of each image, rounded as in a model file; S is 0 if they are not `kept`."""
        return [image if kept else image[:, :, :0] for image in self._signals[member]]

    def thumbnails(self, wanted: Sequence[int]) -> list[bytes]:
        """Thumbnails of some images."""
        return self._extraction.thumbnails(wanted)

    def _store(self, member: int, values: dict[int, Float]) -> None:
        layouts = self._extraction.members[member].layouts
        stored = self._signals.setdefault(member, [np.empty((0, 0, 0), np.float32)] * len(self.images))
        for image, of_image in values.items():
            stored[image] = as_stored(layouts[image].fill(of_image))

    def _tick(self, stage: str, total: int) -> Callable[[int], None]:
        return lambda done: self._extraction.report(stage, done, total)
