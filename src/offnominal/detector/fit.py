"""Good images -> model: patches, memory bank, usual signals, calibration.

Nothing that is held against the bank was put into it. The images are dealt into folds; each fold is scored with a bank of the
other folds. Those held-out scores say what is usual (standardisation) and what a good image can reach (calibration). The
bank that is kept is then built from all images, so it is a little denser than those of the folds: held-out scores lie, if
anything, a little too high, which errs towards fewer false alarms. Channel means are those of all images.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from offnominal.config import Settings
from offnominal.decisions import calibrate
from offnominal.detector.engine import FeatureEngine, SignalEngine
from offnominal.detector.model import Model, UsualDistance
from offnominal.errors import ImageError, InputError
from offnominal.features import channel_standard
from offnominal.images import (
    EIGHT_BIT,
    Source,
    ValueRange,
    batches,
    depth_of,
    image_range,
    join_ranges,
    pixels_of,
    read_header,
)
from offnominal.memory import Coreset, MemoryBank, PatchStore, SourceImage, kcenter, random_coreset
from offnominal.scoring import NormalSignalsBuilder, grid_of, image_score, working_map
from offnominal.types import Depth, Float, Progress

FEWEST_IMAGES = 2
_VERSIONED = ("offnominal", "torch", "timm", "numpy", "openvino", "faiss-cpu", "opencv-python-headless", "pillow")


@dataclass(frozen=True)
class Plan:
    """What a fit is going to do, known before it starts."""

    images: int
    patches: int
    dimensions: int
    bank: int
    bytes: int
    on_disk: bool


@dataclass(frozen=True)
class _Placed:
    """Where an image's patches stand in the store."""

    source: int
    rows: slice
    original: tuple[int, int]
    network: tuple[int, int]


class Fitting:
    """One fit; `plan` is there before `run`, so that a door can announce it."""

    def __init__(
        self, sources: Sequence[Source], names: Sequence[str], settings: Settings, engine: FeatureEngine, progress: Progress
    ) -> None:
        self._sources, self._names = sources, names
        self._settings, self._engine, self._progress = settings, engine, progress
        self._skipped: dict[int, str] = {}
        self.seconds: dict[str, float] = {}
        self._values, self._originals = self._survey()
        self._require_enough(len(self._originals))
        counts = [self._patches_of(original) for original in self._originals.values()]
        total = sum(counts)
        size = total * engine.dimensions * 4
        self.plan = Plan(len(counts), total, engine.dimensions, settings.bank_size(total), size, on_disk=size > settings.memory)

    def run(self) -> Model:
        """Raises `InputError` when fewer than two images can be read."""
        settings = self._settings
        with PatchStore(self.plan.patches, self.plan.dimensions, settings.memory) as store:
            started = perf_counter()
            placed = self._extract(store)
            self._require_enough(len(placed))
            patches = store.patches[: placed[-1].rows.stop]
            standard = channel_standard(patches)
            standard.apply_(patches)
            self.seconds["features"] = perf_counter() - started
            usual, signals = self._hold_out(patches, placed)
            bank = self._bank(patches, placed, self._coreset(patches, None, "memory bank"))
        started = perf_counter()
        builder = NormalSignalsBuilder()
        for image in signals:
            builder.add(image)
        weights = (settings.fusion.distance, settings.fusion.influence, settings.fusion.response)
        scores = [
            image_score(working_map(image, builder.without(image), weights, place.network, settings.smoothing))
            for image, place in zip(signals, placed, strict=True)
        ]
        self.seconds["calibration"] = perf_counter() - started
        return Model(
            settings,
            self._engine.identity,
            self._engine.geometry,
            self._values,
            standard,
            bank,
            usual,
            builder.build(),
            calibrate(np.array(scores, dtype=np.float32), settings.false_alarm_rate),
            tuple((self._names[index], reason) for index, reason in sorted(self._skipped.items())),
            {**{name: _version(name) for name in _VERSIONED}, "python": platform.python_version()},
        )

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

    def _survey(self) -> tuple[ValueRange, dict[int, tuple[int, int]]]:
        """Depth and size of every source; the value range where it is not fixed. The most common depth wins."""
        sizes: dict[int, tuple[int, int]] = {}
        depths: dict[int, Depth] = {}
        for index, source in enumerate(self._sources):
            self._progress("survey", index, len(self._sources))
            try:
                sizes[index], depths[index] = _size_and_depth(source)
            except ImageError as error:
                self._fail(index, error)
        self._progress("survey", len(self._sources), len(self._sources))
        if not depths:
            return EIGHT_BIT, {}
        depth = Counter(depths.values()).most_common(1)[0][0]
        for index, other in depths.items():
            if other != depth:
                self._skipped[index] = f"{self._names[index]}: is {other}, most images are {depth}; convert it"
        kept = {index: size for index, size in sizes.items() if depths[index] == depth}
        return (EIGHT_BIT if depth == "8-bit" else self._range(depth, kept)), kept

    def _range(self, depth: Depth, kept: dict[int, tuple[int, int]]) -> ValueRange:
        ranges = []
        for index in list(kept):
            try:
                ranges.append(image_range(pixels_of(self._sources[index])))
            except ImageError as error:
                self._fail(index, error)
                del kept[index]
        return join_ranges(depth, ranges) if ranges else EIGHT_BIT

    def _patches_of(self, original: tuple[int, int]) -> int:
        grids = self._engine.grids(self._engine.geometry.network_size(original))
        return sum(height * width for height, width in grids)

    def _extract(self, store: PatchStore) -> list[_Placed]:
        kept = list(self._originals)
        placed: list[_Placed] = []
        row = 0
        found = batches(
            [self._sources[index] for index in kept],
            self._engine.geometry,
            self._values,
            batch_size=self._settings.batch_size,
            failed=lambda place, error: self._fail(kept[place], error),
        )
        for batch in found:
            patches = self._engine.patches(batch)
            for place, original, image in zip(batch.index, batch.original, patches, strict=True):
                rows = slice(row, row + len(image))
                store.patches[rows] = image.cpu()
                placed.append(_Placed(kept[place], rows, original, (batch.pixels.shape[2], batch.pixels.shape[3])))
                row = rows.stop
            self._progress("features", len(placed), len(kept))
        return placed

    def _coreset(self, patches: torch.Tensor, allowed: torch.Tensor | None, stage: str) -> Coreset:
        started = perf_counter()
        settings = self._settings
        free = np.arange(len(patches)) if allowed is None else np.flatnonzero(allowed.numpy())
        size = settings.bank_size(len(free))
        if settings.sampler == "random":
            chosen = random_coreset(len(patches), size, settings.seed, None if allowed is None else allowed.numpy())
            coreset = Coreset(chosen, float("nan"))
        else:
            start = int(free[np.random.default_rng(settings.seed).integers(len(free))])
            tick = lambda done: self._progress(stage, done, size)  # noqa: E731
            coreset = kcenter(patches, size, start, allowed=allowed, tick=tick)
        self._progress(stage, size, size)
        self.seconds["coreset"] = self.seconds.get("coreset", 0.0) + perf_counter() - started
        return coreset

    def _hold_out(self, patches: torch.Tensor, placed: list[_Placed]) -> tuple[UsualDistance, list[Float]]:
        """Signals of every image against a bank of the other folds, in the order of `placed`."""
        settings, device = self._settings, self._engine.device
        folds = min(settings.folds, len(placed))
        fold_of = np.random.default_rng(settings.seed).permutation(len(placed)) % folds
        signals: dict[int, Float] = {}
        usual: UsualDistance | None = None
        for fold in range(folds):
            allowed = torch.ones(len(patches), dtype=torch.bool)
            held_out = np.flatnonzero(fold_of == fold)
            for image in held_out:
                allowed[placed[image].rows] = False
            coreset = self._coreset(patches, allowed, f"held-out bank {fold + 1} of {folds}")
            bank = patches[torch.from_numpy(coreset.indices)]
            started = perf_counter()
            if usual is None:
                usual = _usual_distance(patches, [placed[image].rows for image in held_out], bank, settings, device)
            engine = SignalEngine(bank, settings, usual, device)
            for image in held_out:
                place = placed[image]
                values = engine(patches[place.rows].to(device)).values
                signals[int(image)] = grid_of(values, self._engine.grids(place.network))
                self._progress("held-out scores", len(signals), len(placed))
            self.seconds["held-out scores"] = self.seconds.get("held-out scores", 0.0) + perf_counter() - started
        assert usual is not None
        return usual, [signals[image] for image in range(len(placed))]

    def _bank(self, patches: torch.Tensor, placed: list[_Placed], coreset: Coreset) -> MemoryBank:
        starts = np.array([place.rows.start for place in placed])
        image = np.searchsorted(starts, coreset.indices, side="right") - 1
        places = [
            _place(int(row), self._engine.grids(placed[at].network))
            for row, at in zip(coreset.indices - starts[image], image, strict=True)
        ]
        return MemoryBank(
            patches[torch.from_numpy(coreset.indices)].clone(),
            image.astype(np.int64),
            np.array(places, dtype=np.int64),
            tuple(SourceImage(self._names[place.source], place.original) for place in placed),
            None if np.isnan(coreset.radius) else coreset.radius,
        )


def _size_and_depth(source: Source) -> tuple[tuple[int, int], Depth]:
    if isinstance(source, (str, Path)):
        header = read_header(Path(source))
        return header.size, header.depth
    pixels = pixels_of(source)
    return (pixels.shape[0], pixels.shape[1]), depth_of(pixels)


def _place(row: int, grids: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Row among an image's patches -> (segment, row, column)."""
    for segment, (height, width) in enumerate(grids):
        if row < height * width:
            return segment, row // width, row % width
        row -= height * width
    raise AssertionError("a patch outside its image")


def _usual_distance(
    patches: torch.Tensor, rows: list[slice], bank: torch.Tensor, settings: Settings, device: torch.device
) -> UsualDistance:
    """Mean and deviation of the distance over K neighbours of up to 8,192 held-out patches, evenly spread."""
    held_out = torch.cat([torch.arange(place.start, place.stop) for place in rows])
    sample = patches[held_out[:: max(1, len(held_out) // 8192)]].to(device)
    distances = SignalEngine(bank, settings, None, device)(sample, with_noise=False).around.distances.mean(1)
    deviation = float(distances.std(unbiased=False))
    return UsualDistance(float(distances.mean()), deviation if deviation > 0 else 1.0)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
