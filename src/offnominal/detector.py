"""The detector: chains the rooms into fit, inspect, evaluate, save and load."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np

from offnominal.config import Settings, settings_from
from offnominal.datasets import Item, Pages, count_unlabelled, labelled_images, normal_images, page_paths
from offnominal.datasets.tables import MANIFESTS
from offnominal.errors import ImageError, InputError, ModelFileError, nearest
from offnominal.fitting.audit import Audit
from offnominal.fitting.fit import Fitting
from offnominal.fitting.plan import Plan
from offnominal.fitting.split import calibrated_by_split, split, splits
from offnominal.fitting.units import TrainingSource, content_key, held_together
from offnominal.fitting.update import Change, updated
from offnominal.images import Source, raise_unreadable, read_mask, several
from offnominal.images.decode import Pixels
from offnominal.inference.engine import FeatureEngine, member_engines
from offnominal.inference.evaluation import Evaluated, Evaluation, MapStore
from offnominal.inference.inspector import Explanation, Inspector
from offnominal.metrics import Judged, figures_and_curves, figures_by_class
from offnominal.model.file import load_model, save_model, write_whole
from offnominal.model.model import Member, Model
from offnominal.types import Float, Inspection, Mask, Progress, silent
from offnominal.weights_file import require_weights

__all__ = [
    "Audit",
    "Change",
    "Detector",
    "Evaluated",
    "Evaluation",
    "Explanation",
    "Member",
    "Model",
    "Plan",
    "load",
    "load_model",
    "write_whole",
]

_RUN_SETTINGS = ("runtime", "precision", "device", "batch_size", "memory")


class Detector:
    """Learns from normal images alone, then detects, localises and explains anomalies in new ones.

    Args:
        weights: weights file of a backbone that is not embedded (safetensors or PyTorch).
        settings: see `offnominal.config.Settings`; an unknown name is an error that suggests the nearest.

    Raises:
        BackboneError: the weights file does not exist or is none.
    """

    def __init__(self, *, weights: str | Path | None = None, **settings: Any) -> None:
        self.settings: Settings = settings_from(**settings)
        self._stored: dict[str, Any] = {}  # of a model that was loaded: the run settings in its file
        self._weights = None if weights is None else Path(weights)
        if self._weights is not None:
            require_weights(self._weights)
        self._inspector: Inspector | None = None
        self._unready: Model | None = None  # of a copy, whose networks are set up when they are first needed
        self.seconds: dict[str, float] = {}

    @property
    def model(self) -> Model:
        """The fitted model. Raises `InputError` before `fit`."""
        return self._unready or self._ready().model

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs, in this process or in another: the model, and how it is run. Its network is set up anew there."""
        model = self._unready or (None if self._inspector is None else self._inspector.model)
        weights = None if self._weights is None else self._weights.absolute()
        return {**self.__dict__, "_unready": model, "_inspector": None, "_weights": weights}

    def fit(
        self,
        data: str | Path | Sequence[Source],
        *,
        progress: Progress = silent,
        announce: Callable[[Plan], None] = lambda plan: None,
        tell: Callable[[str], None] = lambda line: None,
        pages: Pages = "one",
    ) -> Self:
        """Learn from a folder, MVTec root, manifest or glob of normal images, or from a sequence of paths and arrays.

        Arrays are as for `inspect`. Images that cannot be read are left out: `model.skipped` names them and the reason. If
        the images are too few for the stated rate, `model.calibration.enough` is False and `.rate` the one in use. The order
        of the images does not matter.

        Args:
            progress: called with the stage, what is done and the total.
            announce: called with the plan before the work begins.
            tell: called with a line if images are copies of others.
            pages: with `all` each page of a file is an image; otherwise a file of several pages cannot be read.

        Raises:
            InputError: fewer than two readable images, or images that show nothing to learn from.
            BackboneError: the backbone, a layer or its weights cannot be had.
        """
        given = _named(data, pages)
        self._stored = {}
        learn, held = split(_held_together(given, self.settings), self.settings)
        engines = member_engines(self.settings, self._weights)
        fitting = Fitting([given[at] for at in learn], self.settings, engines, progress)
        announce(fitting.plan)
        self._inspector = Inspector(fitting.run(), engines)
        self._unready = None
        if fitting.copies:
            tell(f"{_copies(fitting.copies, len(learn))}; copies of a file are held out together")
        self.seconds = fitting.seconds
        if len(held):
            started = perf_counter()
            model = calibrated_by_split(
                self._inspector.model,
                self._inspector,
                [given[at].source for at in held],
                [given[at].name for at in held],
                progress,
            )
            self._inspector = Inspector(model, engines)
            self.seconds["split calibration"] = perf_counter() - started
        return self

    def audit(
        self,
        data: str | Path | Sequence[Source],
        *,
        progress: Progress = silent,
        announce: Callable[[Plan], None] = lambda plan: None,
        tell: Callable[[str], None] = lambda line: None,
        pages: Pages = "one",
    ) -> Audit:
        """Find images labelled good that do not look like the others; arguments as in `fit`. Fits nothing.

        Raises:
            InputError: fewer than two readable images.
            BackboneError: the backbone, a layer or its weights cannot be had.
        """
        engines = member_engines(self.settings, self._weights)
        fitting = Fitting(_named(data, pages), self.settings, engines, progress)
        announce(fitting.plan)
        found = fitting.audit()
        if fitting.copies:
            tell(f"{_copies(fitting.copies, len(found.scores))}; near copies hide each other, so remove them and audit again")
        self.seconds = fitting.seconds
        return found

    def update(
        self,
        *,
        add: str | Path | Sequence[Source] = (),
        remove: Iterable[str | Path] = (),
        progress: Progress = silent,
        pages: Pages = "one",
    ) -> Change:
        """Remove images from the fitted model by their names, and add others, without a new fit.

        `add` is a folder, image, glob or manifest of normal images, or a sequence of these and of arrays; with `pages` =
        `all` each page of a file is an image. The calibration then holds out each image alone that the model knows,
        whatever the fit did, and groups of new images are not kept; the threshold follows. When this raises, the model is as
        before. What is exact and what is not: `offnominal.fitting.update`.

        Raises:
            InputError: an unknown name (the nearest is suggested) or a doubled one, fewer than two images left, or none of
                the new ones can be read.
        """
        inspector = self._ready()
        given = _expanded([add] if isinstance(add, (str, Path)) else add, _unused_number(inspector.model), pages)
        if isinstance(remove, (str, Path)):
            raise InputError(f"remove = {str(remove)!r}: put the names in a list, even a single one")
        names = [name.as_posix() if isinstance(name, Path) else name for name in remove]
        model, change = updated(inspector.model, inspector.engines, given, names, progress)
        self._inspector = Inspector(model, inspector.engines)
        return change

    def inspect(self, source: Source, *, evidence: bool = False, maps: bool = False) -> Inspection:
        """Inspect one image: a path, a Pillow image, or an (H, W[, 3]) uint8, uint16 or float array.

        An array with channels is in the order red, green, blue; that of OpenCV is the reverse. Float values are on the scale
        of those that the model was fitted on.

        With `evidence` every region says what stands behind it (`Inspection.evidence`); with `maps` the inspection holds the
        maps of the proposed noise and of the layers' shares too.

        Raises:
            ImageError: it cannot be read, or its depth is not that of the training images.
        """
        ((_, inspection),) = self.inspect_many([source], failed=raise_unreadable, evidence=evidence, maps=maps)
        return inspection

    def inspect_many(
        self,
        sources: Iterable[Source],
        *,
        failed: Callable[[int, ImageError], None],
        evidence: bool = False,
        maps: bool = False,
    ) -> Iterator[tuple[int, Inspection]]:
        """Inspect many images; `failed(index, error)` is called for each that cannot be read, and the others go on.

        Yields `(index, inspection)`; images of several shapes may come out of order. The sources are listed before the first
        is inspected: of a stream without end, `inspect` one by one.
        """
        for index, inspection, _ in self._inspected(sources, failed, keep=False, evidence=evidence, maps=maps):
            yield index, inspection

    def inspect_with_pixels(
        self,
        sources: Iterable[Source],
        *,
        failed: Callable[[int, ImageError], None],
        evidence: bool = False,
        maps: bool = False,
    ) -> Generator[tuple[int, Inspection, Pixels]]:
        """As `inspect_many`, each with the (H, W, 3) stored values of its image, so that drawing need not decode it anew."""
        for index, inspection, pixels in self._inspected(sources, failed, keep=True, evidence=evidence, maps=maps):
            assert pixels is not None
            yield index, inspection, pixels

    def explain(self, source: Source, member: int = 0) -> Explanation:
        """Distances, influence, proposed noise and response of every patch of one image, by one of `model.members`."""
        return self._ready().explain(source, member)

    def evaluate(
        self, data: str | Path, *, evidence: bool = False, progress: Progress = silent, pages: Pages = "one"
    ) -> Evaluation:
        """Figures on labelled images: an MVTec root with `test`, or a manifest with `label` (and `mask`).

        With `evidence` every region of the inspections has its evidence; with `pages` = `all` each page of a file is an
        image. Maps and masks beyond the setting `memory` spill to a temporary file until the result is released.

        Raises:
            InputError: no labels, or not both good and defective images.
            OutputError: the disk is too full for the maps.
        """
        items, unlabelled = labelled_images(data, pages), count_unlabelled(data)
        with MapStore(self.settings.memory) as store:
            images, unreadable, seconds = self._evaluated(items, store, progress, evidence)
        judged = [_judged(image) for image in images]
        if not any(image.good for image in judged) or all(image.good for image in judged):
            raise InputError(
                f"{data}: too few images could be read to evaluate; the first: {next(iter(unreadable.values()), '')}"
            )
        progress("figures", 0, 1)
        measured, curves = figures_and_curves(judged)
        result = Evaluation(
            measured,
            curves,
            figures_by_class(judged),
            tuple(images),
            tuple((items[index].name, reason) for index, reason in sorted(unreadable.items())),
            seconds,
            unlabelled,
            self.model.calibration.rate,
        )
        progress("figures", 1, 1)
        return result

    def score_samples(self, sources: Iterable[Source]) -> Float:
        """(n,) scores, higher = more anomalous (the opposite sign of scikit-learn's outlier detectors)."""
        scores = {index: found.score for index, found in self.inspect_many(sources, failed=raise_unreadable)}
        return np.array([scores[index] for index in range(len(scores))], dtype=np.float32)

    def decision_function(self, sources: Iterable[Source]) -> Float:
        """(n,) scores less the threshold: above 0 is anomalous (the opposite sign of scikit-learn's)."""
        return self.score_samples(sources) - np.float32(self.model.calibration.threshold)

    def predict(self, sources: Iterable[Source]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """(n,) -1 for anomalous and 1 for good, as scikit-learn's outlier detectors."""
        return np.where(self.decision_function(sources) > 0, -1, 1)

    def save(self, path: str | Path) -> None:
        """Write the model file, whole or not at all; how `load` was told to run it is not in it. Raises `OutputError`."""
        model = self.model
        save_model(replace(model, settings=model.settings.model_copy(update=self._stored)), Path(path))

    def _inspected(
        self, sources: Iterable[Source], failed: Callable[[int, ImageError], None], *, keep: bool, evidence: bool, maps: bool
    ) -> Iterator[tuple[int, Inspection, Pixels | None]]:
        given = several(sources)
        for index, inspection, pixels in self._ready().inspect(given, failed, keep=keep, evidence=evidence, maps=maps):
            source = given[index]
            yield index, replace(inspection, path=str(source)) if isinstance(source, (str, Path)) else inspection, pixels

    def _evaluated(
        self, items: Sequence[Item], store: MapStore, progress: Progress, evidence: bool
    ) -> tuple[list[Evaluated], dict[int, str], float]:
        """The images that can be read, why the others cannot, and how many seconds the inspection took."""
        unreadable: dict[int, str] = {}
        found: dict[int, Inspection] = {}
        started = perf_counter()
        for index, inspection in self.inspect_many(
            [item.path for item in items],
            failed=lambda at, error: unreadable.__setitem__(at, str(error)),
            evidence=evidence,
        ):
            found[index] = replace(
                inspection,
                anomaly_map=store.keep(inspection.anomaly_map),
                influence_map=store.keep(inspection.influence_map),
            )
            progress("inspect", len(found), len(items))
        seconds = perf_counter() - started
        images = []
        for index, inspection in sorted(found.items()):
            try:
                mask = _mask(items[index], inspection, self.settings.memory)
                images.append(Evaluated(items[index], inspection, None if mask is None else store.keep(mask)))
            except ImageError as error:
                unreadable[index] = str(error)
                images.append(Evaluated(items[index], inspection, None))
        return images, unreadable, seconds

    def _ready(self) -> Inspector:
        model = self._unready
        if model is not None:
            self._inspector = Inspector(model, _engines_of(model, self._weights, "this detector"))
            self._unready = None
        if self._inspector is None:
            raise InputError("this detector has not been fitted: call fit first, or load a model file")
        return self._inspector


def load(path: str | Path, *, weights: str | Path | None = None, **run: Any) -> Detector:
    """Read a model file and set up its network.

    Args:
        weights: the weights file, for a backbone that was fitted with one.
        run: `runtime`, `precision`, `device` or `batch_size`, where they should differ from those of the fit.

    Raises:
        ModelFileError: the file cannot be trusted, or the backbone's weights are not those that it was fitted with.
    """
    model = load_model(Path(path))
    kept = {name: value for name, value in run.items() if value is not None}
    unknown = [name for name in kept if name not in _RUN_SETTINGS]
    if unknown:
        if unknown[0] not in Settings.model_fields:
            raise InputError(f"unknown setting '{unknown[0]}': {nearest(unknown[0], _RUN_SETTINGS)}")
        raise InputError(f"{unknown[0]} is fixed in the model; only {', '.join(_RUN_SETTINGS)} may change")
    checked = settings_from(**kept)
    stored = {name: getattr(model.settings, name) for name in kept}
    settings = model.settings.model_copy(update={name: getattr(checked, name) for name in kept})
    model = replace(model, settings=settings)
    engines = _engines_of(model, None if weights is None else Path(weights), str(path))
    detector = Detector(weights=weights)
    detector.settings = settings
    detector._stored = stored
    detector._inspector = Inspector(model, engines)
    return detector


def _engines_of(model: Model, weights: Path | None, name: str) -> tuple[FeatureEngine, ...]:
    """The networks of a model that messages call `name`. Raises `ModelFileError` if they are not those of the fit."""
    engines = member_engines(model.settings, weights)
    named = [engine.name for engine in engines]
    if named != [member.name for member in model.members]:
        raise ModelFileError(f"{name}: is inconsistent (its settings name the members {', '.join(named)}); fit again")
    for engine, member in zip(engines, model.members, strict=True):
        if engine.identity.digest != member.backbone.digest:
            raise ModelFileError(
                f"{name}: was fitted with other weights of {member.backbone.name} (SHA-256 {member.backbone.digest[:12]}..., "
                f"here {engine.identity.digest[:12]}...); give the same with --weights, or fit again"
            )
        if engine.dimensions != member.bank.patches.shape[1]:
            raise ModelFileError(
                f"{name}: is inconsistent (its patches have {member.bank.patches.shape[1]} features, those of its backbone "
                f"{engine.dimensions}); fit again"
            )
    return engines


def _held_together(given: Sequence[TrainingSource], settings: Settings) -> Sequence[str | None]:
    """Which images stay on one side of a split; files are read for it only if there is one."""
    if not splits(len(given), settings):
        return [None] * len(given)
    return held_together(given, [content_key(one.source) for one in given])


def _copies(copies: Sequence[tuple[str, str]], images: int) -> str:
    copy, of = copies[0]
    return f"{len(copies)} of {images} images are copies, the first '{copy}' of '{of}'"


def _named(data: str | Path | Sequence[Source], pages: Pages = "one") -> list[TrainingSource]:
    """Name, source and group of every image in the data."""
    if isinstance(data, (str, Path)):
        return [TrainingSource(item.name, item.path, item.group) for item in normal_images(data, pages)]
    named: list[TrainingSource] = []
    for number, given in enumerate(several(data)):
        if not isinstance(given, (str, Path)):
            named.append(TrainingSource(f"array {number}", given))
        elif pages == "all":
            named += [TrainingSource(str(path), path) for path in page_paths(Path(given))]
        else:
            named.append(TrainingSource(str(given), given))
    return named


def _expanded(given: Sequence[Source], first: int, pages: Pages) -> list[tuple[str, Source]]:
    """As `_named` of each: folders, globs and manifests become their images, arrays are numbered from `first` on."""
    found: list[tuple[str, Source]] = []
    for number, one in enumerate(several(given), first):
        if not isinstance(one, (str, Path)):
            found.append((f"array {number}", one))
        elif Path(one).is_file() and Path(one).suffix.lower() not in MANIFESTS:
            found += [(named.name, named.source) for named in _named([one], pages)]
        else:
            found += [(named.name, named.source) for named in _named(one, pages)]
    return found


def _unused_number(model: Model) -> int:
    """One more than the highest number of an array among the model's images."""
    numbers = [source.name.removeprefix("array ") for source in model.sources if source.name.startswith("array ")]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def _mask(item: Item, inspection: Inspection, memory: int) -> Mask | None:
    return None if item.mask is None else read_mask(item.mask, inspection.anomaly_map.shape, memory)


def _judged(image: Evaluated) -> Judged:
    found = image.inspection
    return Judged(image.item.good, image.item.label or "defect", found.score, found.anomalous, found.anomaly_map, image.mask)
