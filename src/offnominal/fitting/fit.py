"""Normal images -> model: patches, memory banks, normal statistics, calibration.

The images are divided into shards. Each shard computes with its own patches (`fitting.shard`), and the fit combines what the
shards return: channel moments, coresets, held-out scores. A fit on one machine has one shard.

No image is scored against its own patches: each is held out, alone or with its fold. Held-out signals give the normal
statistics and the calibration scores. The channel statistics are those of all images, which is an approximation.

The images are sorted by a digest of their content, so their order does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from offnominal.config import Settings
from offnominal.decisions import FOLDS, Method, calibrate, choose_method, outlier_p_values
from offnominal.features import ChannelMoments, ChannelStandard
from offnominal.fitting.all_shards import (
    AllImages,
    duplicates_of,
    joined,
    merge_of,
    merged,
    require_variation,
    shares_of,
    tasks_of,
)
from offnominal.fitting.appearance import learn_from
from offnominal.fitting.audit import Audit
from offnominal.fitting.held_out_signals import SCALE_UNITS, distance_scale, folds_of
from offnominal.fitting.shard import BankShare, Extracted, Shard
from offnominal.fitting.split import calibrated_by_split, split_images, uses_split
from offnominal.fitting.stopwatch import Stopwatch
from offnominal.fitting.supporters import supporters_needed
from offnominal.fitting.training_set import (
    TrainingSet,
    require_enough,
    source_images,
    training_set,
    units_of,
)
from offnominal.fitting.training_sources import TrainingSource, content_key, unit_keys
from offnominal.fitting.versions import versions
from offnominal.fitting.workers import Shards, ThisProcess, Workers
from offnominal.inference import FeatureEngine
from offnominal.memory import MemoryBank, MergedCoreset
from offnominal.model import DistanceScale, HeldOut, LeftOut, Member, Model, Replacements
from offnominal.observer import Observer
from offnominal.scoring import NormalSignalsBuilder

#: With several shards, each selects this multiple of the bank, so that the merged bank covers nearly as well as that of one.
OVERSAMPLING = 4
#: Images up to which a model keeps held-out signals for updates: a few kB of each.
SIGNALS_UP_TO = 100_000


def fit_model(
    sources: Sequence[TrainingSource],
    settings: Settings,
    engines: Sequence[FeatureEngine],
    observer: Observer,
    stopwatch: Stopwatch,
    workers: Workers | None = None,
) -> Model:
    """Fit and calibrate a model.

    Parameters
    ----------
    sources
        Normal images.
    settings
        Settings of the fit.
    engines
        The network of each member.
    observer
        Receives plan, progress and notes.
    stopwatch
        Receives the duration of each stage.
    workers
        Where the work is done; by default in this process.

    Raises
    ------
    InputError
        If fewer than two images can be read, or the held-out scores do not vary.

    Examples
    --------
    >>> from offnominal.inference import member_engines
    >>> from offnominal.observer import SILENT
    >>> sources, settings = training_sources("parts/train/good"), Settings()  # doctest: +SKIP
    >>> model = fit_model(sources, settings, member_engines(settings), SILENT, Stopwatch())  # doctest: +SKIP
    """
    workers = workers or ThisProcess(engines, observer)
    fitted_on, held_out = split_images(_split_groups(sources, settings, workers), settings)
    model = Fit([sources[at] for at in fitted_on], settings, engines, observer, stopwatch, workers).run()
    if len(held_out):
        with stopwatch.stage("split calibration"):
            model = calibrated_by_split(model, [sources[at] for at in held_out], workers)
    return model


def audit_images(
    sources: Sequence[TrainingSource],
    settings: Settings,
    engines: Sequence[FeatureEngine],
    observer: Observer,
    stopwatch: Stopwatch,
    workers: Workers | None = None,
) -> Audit:
    """Score how much each image differs from the others.

    Parameters are those of `fit_model`.

    Raises
    ------
    InputError
        If fewer than two images can be read.

    Examples
    --------
    >>> from offnominal.inference import member_engines
    >>> from offnominal.observer import SILENT
    >>> sources, settings = training_sources("parts/train/good"), Settings()  # doctest: +SKIP
    >>> audited = audit_images(sources, settings, member_engines(settings), SILENT, Stopwatch())  # doctest: +SKIP
    >>> audited.listed(audited.suspects("auto"))  # doctest: +SKIP
    (LeftOut(name='017.png', score=9.2, p_value=0.001),)
    """
    return Fit(sources, settings, engines, observer, stopwatch, workers or ThisProcess(engines, observer)).audit()


def _split_groups(sources: Sequence[TrainingSource], settings: Settings, workers: Workers) -> Sequence[str | None]:
    """Groups of images that a split keeps together. Files are read only if there is a split."""
    if not uses_split(len(sources), settings):
        return [None] * len(sources)
    return unit_keys(sources, list(workers.map(content_key, [source.source for source in sources], "content")))


class Fit:
    """One fit or audit. The constructor surveys the images."""

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        settings: Settings,
        engines: Sequence[FeatureEngine],
        observer: Observer,
        stopwatch: Stopwatch,
        workers: Workers,
    ) -> None:
        self._settings, self._engines, self._observer, self._stopwatch = settings, engines, observer, stopwatch
        self._workers = workers
        self._training: TrainingSet = training_set(sources, settings, engines, observer, workers.map)
        self._skipped = dict(self._training.skipped)
        observer.on_plan(self._training.plan)

    def run(self) -> Model:
        """The model, with leave-one-out or fold calibration."""
        settings = self._settings
        with self._workers.start(tasks_of(self._training, self._settings, self._workers.shards)) as shards:
            extracted, standards = self._extract(shards, "they are held out together")
            held, coresets = AllImages.of(shards), self._coresets(shards)
            left_out: tuple[LeftOut, ...] = ()
            if settings.contamination != 0:
                audited = self._audited(shards, coresets)
                suspects = audited.suspects(settings.contamination)
                if suspects.any():
                    left_out = audited.listed(suspects)
                    require_enough(int((~suspects).sum()), self._skipped)
                    ends = np.cumsum([len(images) for images in shards.each(Shard.kept_images)])
                    shards.each_with(Shard.keep, [(part,) for part in np.split(~suspects, ends[:-1])])
                    held = AllImages.of(shards)
                    coresets = self._coresets(shards)
            method = choose_method(settings.calibration, len(held.images), settings.false_alarm_rate)
            members = [
                self._member(shards, held, number, standard, coreset, method)
                for number, (standard, coreset) in enumerate(zip(standards, coresets, strict=True))
            ]
            with self._stopwatch.stage("calibration"):
                scores = np.concatenate(shards.each(Shard.scores, [statistics for _, statistics in members]))
                require_variation(scores)
            thumbnails = held.thumbnails(shards, [member for member, _ in members]) if settings.thumbnails else None
        return Model(
            settings=settings,
            members=tuple(member for member, _ in members),
            values=self._training.preprocessing.values,
            alignment=self._training.preprocessing.alignment,
            sources=source_images(held.images),
            calibration=calibrate(scores, settings.false_alarm_rate, method),
            appearance=learn_from([shard.appearance for shard in extracted]),
            left_out=left_out,
            skipped=self._skipped_images(),
            versions=versions(),
            thumbnails=thumbnails,
        )

    def audit(self) -> Audit:
        """Audit scores of all images, in the order of the data."""
        with self._workers.start(tasks_of(self._training, self._settings, self._workers.shards)) as shards:
            self._extract(shards, "they hide each other, so remove them and audit again")
            audited = self._audited(shards, self._coresets(shards))
        return replace(
            audited.in_order_of_data(),
            values=self._training.preprocessing.values,
            region=self._settings.region,
            skipped=self._skipped_images(),
        )

    def _extract(self, shards: Shards, consequence: str) -> tuple[list[Extracted], list[ChannelStandard]]:
        """Extract and standardise the patches of all shards."""
        with self._stopwatch.stage("features"):
            extracted = shards.each(Shard.extract)
            for shard in extracted:
                self._skipped |= shard.skipped
            require_enough(sum(len(shard.pixel_digests) for shard in extracted), self._skipped)
            images = AllImages.of(shards).images
            standards = [
                ChannelMoments.merged(of_member).standard()
                for of_member in zip(*(shard.moments for shard in extracted if shard.moments), strict=True)
            ]
            shards.each(Shard.standardise, standards)
        duplicates = duplicates_of(images, [digest for shard in extracted for digest in shard.pixel_digests])
        if duplicates:
            copy, original = duplicates[0]
            self._observer.on_note(
                f"{len(duplicates)} of {len(self._training.sources)} images are duplicates (the first: "
                f"'{copy}' of '{original}'); {consequence}"
            )
        return extracted, standards

    def _skipped_images(self) -> tuple[tuple[str, str], ...]:
        return tuple((self._training.sources[at].name, reason) for at, reason in sorted(self._skipped.items()))

    def _bank_size(self, shards: Shards) -> tuple[int, int]:
        """Number of patches of each bank, and of each shard's coreset: all members get the size that suits the smallest."""
        counts = shards.each(Shard.counts)
        size = self._settings.bank_size(int(np.sum(counts, axis=0).min()))
        return size, size if len(counts) == 1 else OVERSAMPLING * size

    def _coresets(self, shards: Shards, sampler: str | None = None) -> list[MergedCoreset]:
        """The coreset of each member."""
        size, of_shard = self._bank_size(shards)
        with self._stopwatch.stage("coreset"):
            coresets = []
            for member in range(len(self._engines)):
                coresets.append(merged(shards.each(Shard.coreset, member, of_shard, sampler or self._settings.sampler), size))
                self._observer.on_progress("memory bank", size, size)
        return coresets

    def _radius(self, shards: Shards, member: int, coreset: MergedCoreset) -> float:
        """Covering radius over all patches."""
        if coreset.shards == 1:
            return coreset.merge_radius
        return max(shards.each(Shard.radius, member, coreset.patches))

    def _audited(self, shards: Shards, coresets: list[MergedCoreset]) -> Audit:
        """Audit scores of all images.

        Each image is scored as in a fit, against a bank without its own patches. But greedy k-center selects outliers first,
        and similar defects in several images would hide each other. Therefore the audit uses only bank patches with support: at
        least `supporters_needed` other images have a patch within the covering radius. Similar defects in at most that many
        images are then scored against normal patches only.
        """
        if self._settings.sampler != "greedy":  # a random bank has no covering radius
            coresets = self._coresets(shards, "greedy")
        with self._stopwatch.stage("audit"):
            held = AllImages.of(shards)
            needed = supporters_needed(len(units_of(held.images)))
            statistics = []
            for member, coreset in enumerate(coresets):
                radius = self._radius(shards, member, coreset)
                whole = [(member, share) for share in shares_of(coreset, radius)]
                supported = np.sum(shards.each_with(Shard.supporters, whole), axis=0) >= needed
                if not supported.any():
                    supported[:] = True
                _, of_member = self._held_out(shards, member, shares_of(coreset, radius, supported), "audit")
                statistics.append(of_member)
            maps = [image_map for of_shard in shards.each(Shard.maps, statistics) for image_map in of_shard]
            scores = np.concatenate(shards.each(Shard.scores, statistics))
        return Audit(
            names=tuple(image.name for image in held.images),
            sources=tuple(image.source for image in held.images),
            scores=scores,
            p_values=outlier_p_values(scores),
            maps=tuple(maps),
            poses=tuple(pose for of_shard in shards.each(Shard.poses) for pose in of_shard),
            supporters=needed,
        )

    def _held_out(
        self, shards: Shards, member: int, bank: list[BankShare], stage: str
    ) -> tuple[tuple[DistanceScale, list[Replacements]], NormalSignalsBuilder]:
        """Leave-one-out signals: the scale of the distance, the replacement patches of each shard, and the statistics."""
        most = math.ceil(SCALE_UNITS / len(bank))
        distances = shards.each_with(Shard.hold_out, [(member, share, most) for share in bank])
        scale = distance_scale(torch.cat(distances))
        replacements = shards.each(Shard.leave_one_out, member, scale, stage)
        return (scale, replacements), joined(shards.each(Shard.statistics, member))

    def _member(
        self,
        shards: Shards,
        held: AllImages,
        number: int,
        standard: ChannelStandard,
        coreset: MergedCoreset,
        method: Method,
    ) -> tuple[Member, NormalSignalsBuilder]:
        """Bank, held-out signals and statistics of a member."""
        engine = self._engines[number]
        with self._stopwatch.stage("held-out scores"):
            radius = self._radius(shards, number, coreset)
            bank = shares_of(coreset, radius)
            (scale, replacements), statistics = self._held_out(shards, number, bank, "held-out scores")
            if method == FOLDS:
                self._folds(shards, held, number, len(coreset.patches), scale)
                statistics = joined(shards.each(Shard.statistics, number))
            kept = len(held.images) <= SIGNALS_UP_TO
            signals = [image for of_shard in shards.each(Shard.signals, number, kept) for image in of_shard]
        located = shards.each_with(Shard.locate, [(number, share.rows) for share in bank])
        image, position = held.located(coreset, located)
        known_radius = None if np.isnan(radius) else radius
        member = Member(
            name=engine.name,
            backbone=engine.identity,
            geometry=self._training.preprocessing.geometries[number],
            standard=standard,
            bank=MemoryBank(coreset.patches, image, position, known_radius),
            distance_scale=scale,
            normal=statistics.build(),
            held_out=HeldOut(tuple(signals), held.joined(replacements), known_radius),
            merge=merge_of(coreset),
        )
        return member, statistics

    def _folds(self, shards: Shards, held: AllImages, member: int, size: int, scale: DistanceScale) -> None:
        """Replace the leave-one-out signals by those of folds: for each fold, a new coreset of the patches outside it."""
        of_shard = size if len(held.units) == 1 else OVERSAMPLING * size
        for fold in folds_of(len(units_of(held.images))):
            without = held.units_by_shard(fold)
            sampler = self._settings.sampler
            coresets = shards.each_with(Shard.coreset, [(member, of_shard, sampler, part) for part in without])
            bank = merged(coresets, size).patches
            shards.each_with(Shard.fold, [(member, part, bank, scale) for part in without])
