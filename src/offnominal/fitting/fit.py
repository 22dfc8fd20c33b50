"""Normal images -> model: patches, memory banks, normal statistics, calibration.

No image is scored against its own patches: each is held out, alone or with its fold. Held-out signals give the normal
statistics and the calibration scores. The channel statistics are those of all images, which is an approximation.

The images are sorted by a digest of their content, so their order does not matter.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter

import numpy as np
import torch

from offnominal.config import Settings
from offnominal.decisions import FOLDS, Method, calibrate, choose_method
from offnominal.errors import InputError
from offnominal.fitting.audit import Audit, audit
from offnominal.fitting.extraction import Extraction
from offnominal.fitting.held_out_signals import distance_scale, fold_signals, held_out_signals
from offnominal.fitting.member_patches import MemberPatches, choose_coreset
from offnominal.fitting.split import calibrated_by_split, split_images, uses_split
from offnominal.fitting.training_set import TrainingSet, held_out_units, source_images, training_set
from offnominal.fitting.training_sources import TrainingSource, content_key, unit_keys
from offnominal.inference import FeatureEngine, Inspector, held_out_scores, normal_signals
from offnominal.memory import Coreset, HeldOutBanks
from offnominal.model import HeldOut, LeftOut, Member, Model, Replacements, as_stored
from offnominal.observer import Observer
from offnominal.scoring import to_grid
from offnominal.types import Float

#: Packages whose versions the model records, because they affect its numbers.
_PACKAGES = ("offnominal", "torch", "timm", "numpy", "openvino", "faiss-cpu", "opencv-python-headless", "pillow")


@dataclass
class Stopwatch:
    """Measures the seconds spent in each stage; repeated stages add up.

    Examples
    --------
    >>> stopwatch = Stopwatch()
    >>> with stopwatch.stage("features"):
    ...     pass
    >>> list(stopwatch.seconds)
    ['features']
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        started = perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - started


def fit_model(
    sources: Sequence[TrainingSource],
    settings: Settings,
    engines: Sequence[FeatureEngine],
    observer: Observer,
    stopwatch: Stopwatch,
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
    fitted_on, held_out = split_images(_split_groups(sources, settings), settings)
    model = Fit([sources[at] for at in fitted_on], settings, engines, observer, stopwatch).run()
    if len(held_out):
        with stopwatch.stage("split calibration"):
            inspector = Inspector(model, engines)
            model = calibrated_by_split(model, inspector, [sources[at] for at in held_out], observer)
    return model


def audit_images(
    sources: Sequence[TrainingSource],
    settings: Settings,
    engines: Sequence[FeatureEngine],
    observer: Observer,
    stopwatch: Stopwatch,
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
    return Fit(sources, settings, engines, observer, stopwatch).audit()


def _split_groups(sources: Sequence[TrainingSource], settings: Settings) -> Sequence[str | None]:
    """Groups of images that a split keeps together. Files are read only if there is a split."""
    if not uses_split(len(sources), settings):
        return [None] * len(sources)
    return unit_keys(sources, [content_key(source.source) for source in sources])


class Fit:
    """One fit or audit. The constructor surveys the images."""

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        settings: Settings,
        engines: Sequence[FeatureEngine],
        observer: Observer,
        stopwatch: Stopwatch,
    ) -> None:
        self._settings, self._engines, self._observer, self._stopwatch = settings, engines, observer, stopwatch
        self._training: TrainingSet = training_set(sources, settings, engines, observer)
        observer.on_plan(self._training.plan)

    def run(self) -> Model:
        """The model, with leave-one-out or fold calibration."""
        settings = self._settings
        with Extraction(self._training, self._engines, settings, self._observer) as extraction:
            self._extract(extraction, "they are held out together")
            coresets = self._coresets(extraction)
            left_out: tuple[LeftOut, ...] = ()
            if settings.contamination != 0:
                audited = self._audited(extraction, coresets)
                suspects = audited.suspects(settings.contamination)
                if suspects.any():
                    left_out = audited.listed(suspects)
                    extraction.keep(~suspects)
                    coresets = self._coresets(extraction)
            units = held_out_units(extraction.images)
            method = choose_method(settings.calibration, len(extraction.images), settings.false_alarm_rate)
            size = self._bank_size(extraction)
            members = tuple(
                self._member(extraction, patches, coreset, units=units, size=size, method=method)
                for patches, coreset in zip(extraction.members, coresets, strict=True)
            )
            thumbnails = extraction.thumbnails(members) if settings.thumbnails else None
        with self._stopwatch.stage("calibration"):
            signals = [
                (member.held_out.signals, patches.networks) for member, patches in zip(members, extraction.members, strict=True)
            ]
            scores = held_out_scores(signals, settings, [image.unit for image in extraction.images])
            _require_variation(scores)
        return Model(
            settings=settings,
            members=members,
            values=self._training.values,
            sources=source_images(extraction.images, units),
            calibration=calibrate(scores, settings.false_alarm_rate, method),
            appearance=extraction.appearance,
            left_out=left_out,
            skipped=self._skipped(extraction),
            versions={**{name: _version(name) for name in _PACKAGES}, "python": platform.python_version()},
            thumbnails=thumbnails,
        )

    def audit(self) -> Audit:
        """Audit scores of all images, in the order of the data."""
        with Extraction(self._training, self._engines, self._settings, self._observer) as extraction:
            self._extract(extraction, "they hide each other, so remove them and audit again")
            audited = self._audited(extraction, self._coresets(extraction))
        return replace(audited.in_order_of_data(), values=self._training.values, skipped=self._skipped(extraction))

    def _extract(self, extraction: Extraction, consequence: str) -> None:
        with self._stopwatch.stage("features"):
            extraction.run()
        if extraction.duplicates:
            copy, original = extraction.duplicates[0]
            self._observer.on_note(
                f"{len(extraction.duplicates)} of {len(self._training.sources)} images are duplicates (the first: "
                f"'{copy}' of '{original}'); {consequence}"
            )

    def _skipped(self, extraction: Extraction) -> tuple[tuple[str, str], ...]:
        return tuple((self._training.sources[at].name, reason) for at, reason in sorted(extraction.skipped.items()))

    def _bank_size(self, extraction: Extraction) -> int:
        """Number of patches of each bank: all members get the size that suits the smallest."""
        return self._settings.bank_size(min(patches.count for patches in extraction.members))

    def _coresets(self, extraction: Extraction) -> list[Coreset]:
        size, stage = self._bank_size(extraction), "memory bank"
        coresets = []
        for patches in extraction.members:
            with self._stopwatch.stage("coreset"):
                coreset = choose_coreset(
                    patches.readable(), size, self._settings, lambda done: extraction.report(stage, done, size)
                )
                extraction.report(stage, size, size)
            coresets.append(coreset)
        return coresets

    def _audited(self, extraction: Extraction, coresets: Sequence[Coreset]) -> Audit:
        with self._stopwatch.stage("audit"):
            if self._settings.sampler != "greedy":  # a random bank has no covering radius
                greedy = self._settings.model_copy(update={"sampler": "greedy"})
                coresets = [
                    choose_coreset(patches.readable(), len(coreset.indices), greedy)
                    for patches, coreset in zip(extraction.members, coresets, strict=True)
                ]
            units = held_out_units(extraction.images)
            total = len(extraction.members) * len(units)
            return audit(
                extraction.members,
                coresets,
                extraction.images,
                units=units,
                settings=self._settings,
                tick=lambda done: extraction.report("audit", done, total),
            )

    def _member(
        self,
        extraction: Extraction,
        patches: MemberPatches,
        coreset: Coreset,
        *,
        units: Sequence[slice],
        size: int,
        method: Method,
    ) -> Member:
        """Bank, held-out signals and statistics of a member."""
        settings = self._settings
        with self._stopwatch.stage("held-out scores"):
            banks = patches.held_out_banks(units, coreset)
            scale = distance_scale(banks, len(units), settings)
            leave_one_out = held_out_signals(
                banks,
                len(units),
                settings,
                scale,
                tick=lambda done: extraction.report("held-out scores", done, len(units)),
            )
            values = patches.by_image(leave_one_out, units)
            if method == FOLDS:
                values = fold_signals(
                    patches.readable(),
                    patches.rows,
                    units,
                    size=size,
                    settings=settings,
                    scale=scale,
                    device=patches.engine.device,
                    upsamplings=[patches.engine.upsampling(network) for network in patches.networks],
                    tick=lambda done: extraction.report("folds", done, len(extraction.images)),
                )
            signals = [as_stored(to_grid(image, grid)) for image, grid in zip(values, patches.grids, strict=True)]
        assert patches.standard is not None
        bank = patches.bank(coreset)
        return Member(
            name=patches.engine.name,
            backbone=patches.engine.identity,
            geometry=patches.geometry,
            standard=patches.standard,
            bank=bank,
            distance_scale=scale,
            normal=normal_signals(signals),
            held_out=HeldOut(tuple(signals), _replacements(patches, banks, units), bank.radius),
        )


def _replacements(patches: MemberPatches, banks: HeldOutBanks, units: Sequence[slice]) -> Replacements:
    of_units = [banks.replacement_rows(unit).numpy() for unit in range(len(units))]
    rows = np.concatenate(of_units)
    replaces = np.repeat([unit.start for unit in units], [len(of_unit) for of_unit in of_units]).astype(np.int64)
    return Replacements(patches.readable()[torch.from_numpy(rows)], replaces, *patches.locate(rows))


def _require_variation(scores: Float) -> None:
    """A threshold needs scores that differ."""
    if len(scores) > 1 and float(scores.max()) == float(scores.min()):
        raise InputError(
            f"all {len(scores)} images score the same ({float(scores[0]):.3g}) when held out, so no threshold can be set: "
            "check the contrast of the images, and that they are not duplicates"
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
