"""Good images -> model: patches, memory bank, usual signals, calibration; without the suspects of an audit where that is asked.

Nothing that is held against the bank was put into it: each image is scored with a bank in which no patch of its own is left
(`memory.held_out`). Those held-out scores say what is usual (standardisation) and what a good image can reach (calibration).
Channel means and the choice of the other images' patches are those of all images; that is what is approximate about it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter

import numpy as np
import torch

from offnominal.config import Settings
from offnominal.decisions import calibrate
from offnominal.detector.appearances import AppearanceLearner, whole_images
from offnominal.detector.engine import FeatureEngine, whole_patches
from offnominal.detector.learning.audit import Audit, audit
from offnominal.detector.learning.hold_out import (
    HEAD_STEPS,
    cross_fitted_heads,
    held_out_signals,
    search_error,
    usual_distance,
)
from offnominal.detector.learning.partial import PartialBank
from offnominal.detector.learning.placed import Placed, whence, without
from offnominal.detector.learning.plan import Estimate, Rehearsal, plan_of
from offnominal.detector.learning.survey import survey, usual_exposure
from offnominal.detector.learnt import Learnt, LeftOut, StandIns, as_kept, usual_and_scores
from offnominal.detector.model import NO_HEAD, HeadVerdict, Model, UsualDistance
from offnominal.detector.threads import one_beside, threads_for, work_through
from offnominal.errors import ImageError, InputError
from offnominal.features import ChannelStandard, channel_standard
from offnominal.images import ImageBatch, Source, Thumbnails, ThumbnailStore, thumbnail
from offnominal.memory import Coreset, HeldOutBanks, MemoryBank, PatchRows, PatchStore, SourceImage, random_coreset
from offnominal.noising import Head
from offnominal.scoring import grid_of
from offnominal.types import Float, Index, Progress

FEWEST_IMAGES = 2
#: Seconds of work after which the rest is estimated: start-up weighs little by then.
SETTLED = 2.0
_VERSIONED = ("offnominal", "torch", "timm", "numpy", "openvino", "faiss-cpu", "opencv-python-headless", "pillow")


class Fitting:
    """One fit; `plan` is there before `run`, so that a door can announce it. `foretell` is called while it runs."""

    def __init__(
        self,
        sources: Sequence[Source],
        names: Sequence[str],
        settings: Settings,
        engine: FeatureEngine,
        progress: Progress,
        foretell: Callable[[Estimate], None],
        partial: PartialBank | None = None,
    ) -> None:
        self._partial = partial or PartialBank(None)
        self._sources, self._names = sources, names
        self._settings, self._engine, self._progress, self._foretell = settings, engine, progress, foretell
        self._release: Callable[[], None] = lambda: None
        self._skipped: dict[int, str] = {}
        #: Names of images that are copies of others, and of those; complete after `run`.
        self.copies: list[tuple[str, str]] = []
        self.seconds: dict[str, float] = {}
        self._values, self._originals = survey(
            sources, names, self._skipped.__setitem__, lambda done: self._tell("survey", done, len(sources)), settings.memory
        )
        self._require_enough(len(self._originals))
        self._appearance = AppearanceLearner(len(self._originals), settings.seed, engine.maps, engine.device)
        self._geometry = engine.geometry(self._originals.values())
        if settings.exposure == "even":
            kept = [sources[index] for index in self._originals]
            exposure = usual_exposure(kept, self._geometry, self._values, settings.seed, self._tell, settings.memory)
            self._values = replace(self._values, exposure=exposure)
        self.plan = plan_of(self._originals.values(), self._geometry, settings, engine)

    def run(self, head: HeadVerdict = NO_HEAD) -> Model:
        """The model, with heads where `head` is kept. Raises `InputError` where fewer than two images can be read."""
        settings = self._settings
        with PatchStore(self.plan.patches, self.plan.dimensions, settings.memory) as store, ThumbnailStore() as pictures:
            self._release = store.release
            placed, patches, standard = self._standardised(store, pictures)
            appearance = self._appearance.build()
            coreset = self._coreset(store.rows(len(patches)))
            left_out: tuple[LeftOut, ...] = ()
            if settings.contamination != 0:
                found = self._audited(store, patches, placed, coreset)
                suspects = found.suspects(settings.contamination)
                if suspects.any():
                    left_out = found.listed(suspects)
                    placed, patches = without(patches, placed, suspects)
                    self._require_enough(len(placed))
                    coreset = self._coreset(store.rows(len(patches)))
            rows = store.rows(len(patches))
            usual, signals, banks, heads = self._hold_out(rows, placed, coreset, with_heads=head.kept)
            error = search_error(banks, len(placed), settings)
            bank = self._bank(rows, placed, coreset)
            stand_ins = self._stand_ins(rows, placed, banks)
            thumbnails = self._thumbnails(pictures, placed, bank) if settings.thumbnails else None
        started = perf_counter()
        normal, scores = usual_and_scores(signals, [place.network for place in placed], settings, head=bool(heads))
        self.seconds["calibration"] = perf_counter() - started
        return Model(
            settings,
            self._engine.identity,
            self._geometry,
            self._values,
            standard,
            bank,
            usual,
            normal,
            calibrate(scores, settings.false_alarm_rate),
            head if heads or not head.kept else HeadVerdict(False, "all of the bank is one image's own", head.gain),
            heads,
            appearance,
            Learnt(tuple(signals), stand_ins, bank.radius),
            left_out,
            self.skipped,
            {**{name: _version(name) for name in _VERSIONED}, "python": platform.python_version()},
            thumbnails,
            error,
        )

    def audit(self) -> Audit:
        """Scores of all images against what many of the others support. Raises `InputError` as `run`."""
        with PatchStore(self.plan.patches, self.plan.dimensions, self._settings.memory) as store, ThumbnailStore() as pictures:
            self._release = store.release
            placed, patches, _ = self._standardised(store, pictures)
            found = self._audited(store, patches, placed, self._coreset(store.rows(len(patches))))
        return replace(found, values=self._values, skipped=self.skipped)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Images that could not be read, with the reason; complete after `run` or `audit`."""
        return tuple((self._names[index], reason) for index, reason in sorted(self._skipped.items()))

    def _standardised(self, store: PatchStore, pictures: ThumbnailStore) -> tuple[list[Placed], torch.Tensor, ChannelStandard]:
        """Where every image's patches stand, all patches, standardised, and the standardisation."""
        started = perf_counter()
        placed = self._extract(store, pictures)
        self._require_enough(len(placed))
        patches = store.patches[: placed[-1].rows.stop]
        standard = channel_standard(patches, done=store.release).emphasised(self._engine.emphasis)
        for place in placed:
            patches[place.rows] = self._engine.standardise(patches[place.rows], standard, place.network)
            store.release()
        self.seconds["features"] = perf_counter() - started
        return placed, patches, standard

    def _audited(self, store: PatchStore, patches: torch.Tensor, placed: list[Placed], coreset: Coreset) -> Audit:
        if np.isnan(coreset.radius):  # a random bank covers nothing for sure
            coreset = self._coreset(store.rows(len(patches)), "greedy")
        started = perf_counter()
        found = audit(
            patches,
            np.array([place.rows.start for place in placed]),
            [place.network for place in placed],
            coreset,
            self._engine,
            self._settings,
            [(self._names[place.source], place.source) for place in placed],
            lambda done: self._tell("audit", done, len(placed)),
        )
        self.seconds["audit"] = perf_counter() - started
        return found

    def _tell(self, what: str, done: int, total: int) -> None:
        """How far it is; patches on disk that were read or written until then are given back to it."""
        self._release()
        self._progress(what, done, total)

    def _fail(self, index: int, error: ImageError) -> None:
        self._skipped[index] = str(error)

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

    def _extract(self, store: PatchStore, pictures: ThumbnailStore) -> list[Placed]:
        kept = list(self._originals)
        sources = [self._sources[index] for index in kept]
        sizes = [self._geometry.network_size(self._originals[index]) for index in kept]
        counts = [self._engine.count(size) for size in sizes]
        rows_of = [slice(end - count, end) for end, count in zip(np.cumsum(counts).tolist(), counts, strict=True)]
        placed: list[Placed] = []
        seen: dict[bytes, int] = {}
        rehearsal = Rehearsal(self.plan, self._geometry, self._settings, self._engine, sources, self._values)
        started, told = perf_counter(), False
        threads = threads_for(len(kept), self._engine.device)
        found = work_through(
            sources,
            self._geometry,
            self._values,
            self._features_of,
            self._engine.size_of_patches,
            threads=threads,
            batch_size=self._settings.batch_size,
            failed=lambda place, error: self._fail(kept[place], error),
            memory=self._settings.memory,
        )
        with one_beside(threads):
            for batch, patches, wholes in found:
                self._appearance.add(batch, wholes)
                for place, original, pixels, image in zip(batch.index, batch.original, batch.pixels, patches, strict=True):
                    if len(image) != counts[place]:
                        self._fail(kept[place], ImageError(f"{self._names[kept[place]]}: changed during the fit; fit anew"))
                        continue
                    store.patches[rows_of[place]] = image.cpu()
                    network = pixels.shape[1], pixels.shape[2]
                    placed.append(Placed(kept[place], len(placed), rows_of[place], original, network))
                    first = seen.setdefault(blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest(), kept[place])
                    if first != kept[place]:
                        self.copies.append((self._names[kept[place]], self._names[first]))
                    if self._settings.thumbnails:
                        pictures.add(thumbnail(pixels, original))
                self._tell("features", len(placed), len(kept))
                passed = perf_counter() - started
                if not told and (passed > SETTLED or len(placed) + len(self._skipped) == len(self._sources)):
                    told = True
                    self._foretell(rehearsal.estimate(passed / max(1, len(placed)), len(placed)))
        # As the images were given, however they came, so that the bank does not depend on that; no gaps for the unreadable.
        placed.sort(key=lambda place: place.source)
        return without(store.patches, placed, np.zeros(len(placed), np.bool_))[0]

    def _features_of(self, batch: ImageBatch) -> list[tuple[ImageBatch, torch.Tensor, Float]]:
        maps = self._engine.maps(batch)
        return [(batch, whole_patches(maps), whole_images(batch, maps))]

    def _coreset(self, patches: PatchRows, sampler: str | None = None) -> Coreset:
        started = perf_counter()
        settings, size = self._settings, self._settings.bank_size(len(patches))
        if (sampler or settings.sampler) == "random":
            coreset = Coreset(random_coreset(len(patches), size, settings.seed), float("nan"))
        else:
            start = int(np.random.default_rng(settings.seed).integers(len(patches)))
            coreset = self._partial.kcenter(patches, size, start, lambda done: self._tell("memory bank", done, size))
        self._tell("memory bank", size, size)
        self.seconds["coreset"] = self.seconds.get("coreset", 0.0) + perf_counter() - started
        return coreset

    def _hold_out(
        self, patches: PatchRows, placed: list[Placed], coreset: Coreset, *, with_heads: bool
    ) -> tuple[UsualDistance, list[Float], HeldOutBanks, tuple[Head, ...]]:
        """Signals of every image against a bank that holds none of its patches, in the order of `placed`."""
        settings, device = self._settings, self._engine.device
        started = perf_counter()
        starts = np.array([place.rows.start for place in placed])
        upsamplings = [self._engine.upsampling(place.network) for place in placed]
        banks = HeldOutBanks(patches, starts, coreset.indices, coreset.radius, device, upsamplings)
        usual = usual_distance(banks, len(placed), settings, device)
        heads: tuple[Head, ...] = ()
        if with_heads:
            heads = cross_fitted_heads(banks, len(placed), settings, lambda done: self._tell("head", done, HEAD_STEPS))
            self.seconds["head"] = perf_counter() - started
            started = perf_counter()
        values = held_out_signals(
            banks,
            len(placed),
            settings,
            usual,
            device,
            lambda done: self._tell("held-out scores", done, len(placed)),
            heads=heads,
        )
        signals = [as_kept(grid_of(one, self._engine.grids(place.network))) for one, place in zip(values, placed, strict=True)]
        self.seconds["held-out scores"] = perf_counter() - started
        return usual, signals, banks, heads

    def _thumbnails(self, pictures: ThumbnailStore, placed: list[Placed], bank: MemoryBank) -> Thumbnails:
        """Pictures of those placed, empty where an image has no patch in the bank."""
        shown = {placed[image].picture for image in np.unique(bank.image).tolist()}
        return pictures.only(shown, [place.picture for place in placed])

    def _bank(self, patches: PatchRows, placed: list[Placed], coreset: Coreset) -> MemoryBank:
        image, place = self._whence(coreset.indices, placed)
        return MemoryBank(
            patches[torch.from_numpy(coreset.indices)],
            image,
            place,
            tuple(SourceImage(self._names[place.source], place.original) for place in placed),
            None if np.isnan(coreset.radius) else coreset.radius,
        )

    def _stand_ins(self, patches: PatchRows, placed: list[Placed], banks: HeldOutBanks) -> StandIns:
        found = [banks.stand_in_rows(image).numpy() for image in range(len(placed))]
        rows = np.concatenate(found)
        replaces = np.repeat(np.arange(len(placed)), [len(one) for one in found])
        return StandIns(patches[torch.from_numpy(rows)], replaces, *self._whence(rows, placed))

    def _whence(self, rows: Index, placed: list[Placed]) -> tuple[Index, Index]:
        """(n,) rows among all patches -> (n,) image of each, and (n, 3) its place there."""
        grids = [self._engine.grids(place.network) for place in placed]
        return whence(rows, np.array([place.rows.start for place in placed]), grids)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
