"""Normal images -> model: patches, memory banks, normal statistics, calibration; without the suspects of an audit if asked.

An image is never scored against a bank that holds its own patches: each is held out, alone or with its fold. The held-out
scores give the normal statistics and the calibration. Channel statistics are those of all images, an approximation.

The order of the images does not matter: they are sorted by a digest of their content first.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch

from offnominal.config import Settings
from offnominal.decisions import FOLDS, Method, calibrate, choose_method
from offnominal.errors import ImageError, InputError
from offnominal.fitting.appearance import AppearanceLearner
from offnominal.fitting.audit import Audit, audit
from offnominal.fitting.held_out_signals import distance_scale, fold_signals, held_out_signals
from offnominal.fitting.member_patches import MemberPatches, TrainingImage, choose
from offnominal.fitting.plan import plan_of
from offnominal.fitting.survey import common_exposure, survey
from offnominal.fitting.units import TrainingSource, content_key, held_together
from offnominal.images import ImageBatch, Thumbnails, ThumbnailStore, thumbnail
from offnominal.inference.engine import FeatureEngine, interior_patches
from offnominal.inference.held_out_scores import held_out_scores, normal_signals
from offnominal.inference.image_features import image_features
from offnominal.inference.parallel import one_beside, threads_for, work_through
from offnominal.memory import Coreset, HeldOutBanks, SourceImage
from offnominal.model.checks import require_numbers
from offnominal.model.model import HeldOut, LeftOut, Member, Model, Replacements, as_stored
from offnominal.scoring import to_grid
from offnominal.types import Float, Progress

FEWEST_IMAGES = 2
_VERSIONED = ("offnominal", "torch", "timm", "numpy", "openvino", "faiss-cpu", "opencv-python-headless", "pillow")


class Fitting:
    """One fit. `plan` is there before `run`, so that it can be shown."""

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        settings: Settings,
        engines: Sequence[FeatureEngine],
        progress: Progress,
    ) -> None:
        self._sources = sources
        self._settings, self._engines, self._progress = settings, engines, progress
        self._release: Callable[[], None] = lambda: None
        self._skipped: dict[int, str] = {}
        #: Pairs of names: an image, and an earlier one that it is a copy of. Complete after `run` or `audit`.
        self.copies: list[tuple[str, str]] = []
        self.seconds: dict[str, float] = {}
        names, given = [one.name for one in sources], [one.source for one in sources]
        self._values, originals = survey(
            given,
            names,
            self._skipped.__setitem__,
            lambda done: self._tell("survey", done, len(sources)),
            settings.memory,
        )
        self._require_enough(len(originals))
        self._images = self._sorted(originals)
        self._geometries = [engine.geometry(originals.values()) for engine in engines]
        self._views = tuple(dict.fromkeys(self._geometries))
        first = engines[0]
        self._appearance = AppearanceLearner(len(self._images), settings.seed, first.maps, first.device)
        if settings.exposure == "auto":
            kept = [given[image.source] for image in self._images]
            exposure = common_exposure(kept, self._geometries[0], self._values, settings.seed, self._tell, settings.memory)
            self._values = replace(self._values, exposure=exposure)
        self.plan = plan_of([image.original for image in self._images], self._geometries, settings, engines)

    def run(self) -> Model:
        """The model. Raises `InputError` if fewer than two images can be read or the held-out scores do not vary."""
        settings = self._settings
        with ExitStack() as stack:
            members, pictures = self._open(stack)
            shown = self._extracted(members, pictures)
            appearance = self._appearance.build()
            size = settings.bank_size(min(patches.count for patches in members))
            coresets = [self._coreset(patches, size) for patches in members]
            left_out: tuple[LeftOut, ...] = ()
            if settings.contamination != 0:
                found = self._audited(members, coresets)
                suspects = found.suspects(settings.contamination)
                if suspects.any():
                    left_out = found.listed(suspects)
                    shown = self._keep(~suspects, members, shown)
                    size = settings.bank_size(min(patches.count for patches in members))
                    coresets = [self._coreset(patches, size) for patches in members]
            units = self._units()
            method = choose_method(settings.calibration, len(self._images), settings.false_alarm_rate)
            fitted = tuple(
                self._member(patches, coreset, units, size, method) for patches, coreset in zip(members, coresets, strict=True)
            )
            thumbnails = self._thumbnails(pictures, shown, fitted) if settings.thumbnails else None
        started = perf_counter()
        signals = [(member.held_out.signals, patches.networks) for member, patches in zip(fitted, members, strict=True)]
        scores = held_out_scores(signals, settings, [image.unit for image in self._images])
        self._require_variation(scores)
        self.seconds["calibration"] = perf_counter() - started
        return Model(
            settings,
            fitted,
            self._values,
            self._source_images(units),
            calibrate(scores, settings.false_alarm_rate, method),
            appearance,
            left_out,
            self.skipped,
            {**{name: _version(name) for name in _VERSIONED}, "python": platform.python_version()},
            thumbnails,
        )

    def audit(self) -> Audit:
        """Scores of all images against what many of the others support. Raises `InputError` as `run`."""
        with ExitStack() as stack:
            members, pictures = self._open(stack)
            self._extracted(members, pictures)
            size = self._settings.bank_size(min(patches.count for patches in members))
            found = self._audited(members, [self._coreset(patches, size) for patches in members])
        return replace(found.in_order_of_data(), values=self._values, skipped=self.skipped)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Images that could not be read, with the reason; complete after `run` or `audit`."""
        return tuple((self._sources[index].name, reason) for index, reason in sorted(self._skipped.items()))

    def _sorted(self, originals: dict[int, tuple[int, int]]) -> list[TrainingImage]:
        """The images in an order that depends on their content alone, units together.

        Units are those of `held_together`.
        """
        places = list(originals)
        sources = [self._sources[at] for at in places]
        digests = [content_key(one.source) for one in sources]
        units = held_together(sources, digests)
        order = sorted(range(len(places)), key=lambda at: (units[at], digests[at], sources[at].name))
        numbers = {unit: number for number, unit in enumerate(sorted(set(units)))}
        return [
            TrainingImage(places[at], sources[at].name, originals[places[at]], sources[at].group, numbers[units[at]])
            for at in order
        ]

    def _units(self) -> list[slice]:
        """The images that are held out together, as slices of `_images`."""
        numbers = np.array([image.unit for image in self._images])
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        units = [slice(start, stop) for start, stop in pairwise(bounds)]
        if len(units) < FEWEST_IMAGES:
            raise InputError(
                f"all {len(numbers)} images are copies of one image or of one group: a fit needs at least two to hold one out; "
                "add other normal images, or correct the column group"
            )
        return units

    def _source_images(self, units: Sequence[slice]) -> tuple[SourceImage, ...]:
        """The images with what they are held out with: a group, several that a copy joins, or copies of one image."""
        sources: list[SourceImage] = []
        for unit in units:
            images = self._images[unit]
            groups = sorted({image.group for image in images if image.group is not None})
            together = " + ".join(groups) or f"copies of {images[0].name}"
            alone = len(images) == 1
            sources += [SourceImage(image.name, image.original, None if alone else together) for image in images]
        return tuple(sources)

    def _open(self, stack: ExitStack) -> tuple[list[MemberPatches], ThumbnailStore]:
        originals = [image.original for image in self._images]
        total = sum(member.patches * member.dimensions for member in self.plan.members)
        members = []
        for engine, geometry, plan in zip(self._engines, self._geometries, self.plan.members, strict=True):
            share = plan.patches * plan.dimensions / total
            memory = round(self._settings.memory * share)
            view = self._views.index(geometry)
            members.append(stack.enter_context(MemberPatches(engine, geometry, view, originals, memory)))

        def release() -> None:
            for patches in members:
                patches.release()

        self._release = release
        return members, stack.enter_context(ThumbnailStore())

    def _extracted(self, members: list[MemberPatches], pictures: ThumbnailStore) -> list[int]:
        """Fill and standardise the patches of all members; returns the picture of each image that could be read."""
        started = perf_counter()
        shown: dict[int, int] = {}
        first_of: dict[bytes, int] = {}
        images = self._images
        sources = [self._sources[image.source].source for image in images]
        threads = threads_for(len(images), self._engines[0].device)
        found = work_through(
            sources,
            self._views,
            self._values,
            lambda batch: [self._features_of(batch, members)],
            lambda batch: sum(one.engine.bytes_of_patches(batch.views[one.view]) for one in members),
            threads=threads,
            batch_size=self._settings.batch_size,
            failed=lambda place, error: self._fail(place, error),
            memory=self._settings.memory,
        )
        with one_beside(threads):
            for batch, of_members, wholes in found:
                self._appearance.add(batch, wholes)
                for at, place in enumerate(batch.index):
                    expected = [patches.rows[place].stop - patches.rows[place].start for patches in members]
                    if [len(of_member[at]) for of_member in of_members] != expected:
                        self._fail(place, ImageError(f"{images[place].name}: changed during the fit; fit again"))
                        continue
                    for patches, of_member in zip(members, of_members, strict=True):
                        patches.put(place, of_member[at])
                    pixels = np.ascontiguousarray(batch.views[0][at])
                    first = first_of.setdefault(blake2b(pixels.data, digest_size=16).digest(), place)
                    if first != place:
                        self.copies.append((images[place].name, images[first].name))
                    shown[place] = len(shown)
                    if self._settings.thumbnails:
                        pictures.add(thumbnail(pixels, batch.original[at]))
                self._tell("features", len(shown), len(images))
        self._require_enough(len(shown))
        kept = np.array([place in shown for place in range(len(images))])
        order = self._keep(kept, members, [shown.get(place, -1) for place in range(len(images))])
        for patches in members:
            patches.standardise()
        self.seconds["features"] = perf_counter() - started
        return order

    def _features_of(self, batch: ImageBatch, members: Sequence[MemberPatches]) -> tuple[ImageBatch, list[torch.Tensor], Float]:
        maps = [patches.engine.maps(batch.seen(patches.view)) for patches in members]
        wholes = image_features(batch, maps[0])
        require_numbers(wholes, *maps)
        return batch, [interior_patches(one) for one in maps], wholes

    def _keep(self, kept: npt.NDArray[np.bool_], members: Sequence[MemberPatches], shown: Sequence[int]) -> list[int]:
        """Go on with some of the images; returns their pictures."""
        self._require_enough(int(kept.sum()))
        self._images = [image for image, keep in zip(self._images, kept, strict=True) if keep]
        for patches in members:
            patches.keep(kept)
        return [picture for picture, keep in zip(shown, kept, strict=True) if keep]

    def _audited(self, members: Sequence[MemberPatches], coresets: Sequence[Coreset]) -> Audit:
        started = perf_counter()
        if self._settings.sampler != "greedy":  # a random bank has no covering radius
            greedy = self._settings.model_copy(update={"sampler": "greedy"})
            coresets = [choose(one.readable(), len(had.indices), greedy) for one, had in zip(members, coresets, strict=True)]
        units = self._units()
        total = len(members) * len(units)
        found = audit(members, coresets, self._images, units, self._settings, lambda done: self._tell("audit", done, total))
        self.seconds["audit"] = perf_counter() - started
        return found

    def _coreset(self, patches: MemberPatches, size: int) -> Coreset:
        started = perf_counter()
        coreset = choose(patches.readable(), size, self._settings, lambda done: self._tell("memory bank", done, size))
        self._tell("memory bank", size, size)
        self.seconds["coreset"] = self.seconds.get("coreset", 0.0) + perf_counter() - started
        return coreset

    def _member(self, patches: MemberPatches, coreset: Coreset, units: Sequence[slice], size: int, method: Method) -> Member:
        """Bank, held-out signals and statistics of a member."""
        settings, device, images = self._settings, patches.engine.device, len(self._images)
        started = perf_counter()
        banks = patches.held_out_banks(units, coreset)
        scale = distance_scale(banks, len(units), settings, device)
        left_one_out = held_out_signals(
            banks, len(units), settings, scale, device, lambda done: self._tell("held-out scores", done, len(units))
        )
        values = patches.by_image(left_one_out, units)
        if method == FOLDS:
            values = fold_signals(
                patches.readable(),
                patches.rows,
                units,
                size,
                settings,
                scale,
                device,
                [patches.engine.upsampling(network) for network in patches.networks],
                lambda done: self._tell("folds", done, images),
            )
        signals = [as_stored(to_grid(one, grid)) for one, grid in zip(values, patches.grids, strict=True)]
        self.seconds["held-out scores"] = self.seconds.get("held-out scores", 0.0) + perf_counter() - started
        assert patches.standard is not None
        bank = patches.bank(coreset)
        return Member(
            patches.engine.name,
            patches.engine.identity,
            patches.geometry,
            patches.standard,
            bank,
            scale,
            normal_signals(signals),
            HeldOut(tuple(signals), self._replacements(patches, banks, units), bank.radius),
        )

    def _replacements(self, patches: MemberPatches, banks: HeldOutBanks, units: Sequence[slice]) -> Replacements:
        found = [banks.replacement_rows(unit).numpy() for unit in range(len(units))]
        rows = np.concatenate(found)
        replaces = np.repeat([unit.start for unit in units], [len(one) for one in found]).astype(np.int64)
        return Replacements(patches.readable()[torch.from_numpy(rows)], replaces, *patches.whence(rows))

    def _thumbnails(self, pictures: ThumbnailStore, shown: Sequence[int], members: Sequence[Member]) -> Thumbnails:
        """A picture of every image, empty if no bank holds a patch of it."""
        named = np.unique(np.concatenate([member.bank.image for member in members])).tolist()
        return pictures.only({shown[image] for image in named}, shown)

    def _tell(self, what: str, done: int, total: int) -> None:
        """Report progress; memory of patches on disk that were read or written until then is given back."""
        self._release()
        self._progress(what, done, total)

    def _fail(self, place: int, error: ImageError) -> None:
        self._skipped[self._images[place].source] = str(error)

    def _require_enough(self, count: int) -> None:
        if count >= FEWEST_IMAGES:
            return
        why = (
            f"; the first of {len(self._skipped)} that cannot be read: {next(iter(self._skipped.values()))}"
            if self._skipped
            else ""
        )
        raise InputError(
            f"{count} readable good image{'' if count == 1 else 's'}: a fit needs at least {FEWEST_IMAGES}, "
            f"and 99 to promise 1 % false alarms{why}"
        )

    def _require_variation(self, scores: Float) -> None:
        """A threshold needs scores that differ: a model that scores all images the same is blind."""
        if len(scores) > 1 and float(scores.max()) == float(scores.min()):
            raise InputError(
                f"all {len(scores)} images score the same ({float(scores[0]):.3g}) when held out, so no threshold can be set: "
                "the images show the network nothing that varies; check their contrast, and that they are not copies"
            )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
