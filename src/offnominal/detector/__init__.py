"""The detector: chains the rooms into fit, inspect, evaluate, save and load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np

from offnominal.config import Settings, settings_from
from offnominal.detector.engine import FeatureEngine
from offnominal.detector.evaluation import Evaluated, Evaluation, MapStore
from offnominal.detector.inspector import Explanation, Inspector
from offnominal.detector.learning.audit import Audit
from offnominal.detector.learning.calibration import calibrated_by_split, split
from offnominal.detector.learning.choice import chosen_preset
from offnominal.detector.learning.fit import Fitting
from offnominal.detector.learning.partial import PartialBank
from offnominal.detector.learning.plan import Estimate, Plan
from offnominal.detector.learning.trial import judged_head
from offnominal.detector.learning.update import Change, updated
from offnominal.detector.model import Model
from offnominal.detector.model_file import load_model, save_model, write_whole
from offnominal.errors import ImageError, InputError, ModelFileError, nearest
from offnominal.images import (
    Item,
    Pages,
    Source,
    count_unlabelled,
    labelled_images,
    normal_images,
    page_paths,
    raise_unreadable,
    read_mask,
    several,
)
from offnominal.images.decode import Pixels
from offnominal.images.tables import SUFFIXES as MANIFESTS
from offnominal.metrics import Judged, figures_and_curves, figures_by_class
from offnominal.types import Float, Inspection, Mask, Progress, silent

__all__ = [
    "Audit",
    "Change",
    "Detector",
    "Estimate",
    "Evaluated",
    "Evaluation",
    "Explanation",
    "Model",
    "Plan",
    "load",
    "load_model",
    "write_whole",
]

_RUN_SETTINGS = ("runtime", "precision", "device", "batch_size", "memory")


class Detector:
    """Learns from good images alone, then scores, locates and explains what is off in new ones.

    Args:
        weights: weights file of a backbone that is not embedded (safetensors or PyTorch).
        settings: see `offnominal.config.Settings`; an unknown name is an error that suggests the nearest.
    """

    def __init__(self, *, weights: str | Path | None = None, **settings: Any) -> None:
        self.settings: Settings = settings_from(**settings)
        self._asked = self.settings
        self._stored: dict[str, Any] = {}  # of a model that was loaded: the run settings that its file keeps
        self._weights = None if weights is None else Path(weights)
        self._inspector: Inspector | None = None
        self._partial: PartialBank | None = None
        self.seconds: dict[str, float] = {}

    @property
    def model(self) -> Model:
        """The fitted model. Raises `InputError` before `fit`."""
        return self._ready().model

    def fit(
        self,
        data: str | Path | Sequence[Source],
        *,
        progress: Progress = silent,
        announce: Callable[[Plan], None] = lambda plan: None,
        foretell: Callable[[Estimate], None] = lambda rest: None,
        partial: str | Path | None = None,
        tell: Callable[[str], None] = lambda line: None,
        pages: Pages = "one",
    ) -> Self:
        """Learn from a folder, MVTec root, manifest or glob of good images, or from a sequence of paths and arrays.

        Arrays are as for `inspect`. Images that cannot be read are left out: `model.skipped` names them and says why. Where
        the images are too few for the rate that was asked for, `model.calibration.enough` is False and `.rate` the one used.
        `announce` is told what will be done before it begins, `foretell` once how long the rest takes, after the first images.
        A long choice of the bank is kept in the file `partial` now and then and when Ctrl-C stops it; the next fit of the same
        images with the same settings goes on from there to the same model, and `save` removes the file. `tell` is given a line
        where that happens or the file is of no use, where images are copies of others, and about the preset `auto`. With
        `pages` = `all` each page of a file is an image; otherwise a file of several pages cannot be read.

        Raises:
            InputError: fewer than two readable images.
            BackboneError: the backbone, a layer or its weights cannot be had.
        """
        given = _named(data, pages)
        self._stored = {}
        bank = PartialBank(None if partial is None else Path(partial), tell)
        learn, held = split(len(given), self.settings)
        choice, chosen_in = None, 0.0
        if self.settings.preset == "auto":
            started = perf_counter()
            sources = [given[at][1] for at in learn]
            self.settings, choice = chosen_preset(sources, self._asked, self._weights, progress)
            chosen_in = perf_counter() - started
            tell(f"preset {choice.chosen}: {choice.reason}")
        engine = FeatureEngine(self.settings, self._weights)
        fitting = self._fitting([given[at] for at in learn], engine, progress, foretell, bank)
        announce(fitting.plan)
        started = perf_counter()
        head = judged_head([given[at][1] for at in learn], self.settings, engine, progress)
        tried = perf_counter() - started
        self._inspector = Inspector(replace(fitting.run(head), choice=choice), engine)
        if fitting.copies:
            why = "held out, an image is compared with its copy, so the threshold comes out too low"
            tell(f"{_told_of(fitting.copies, len(learn))}: {why}; take the copies out and fit anew")
        self.seconds = fitting.seconds | ({"trial of the head": tried} if self.settings.head != "none" else {})
        self.seconds |= {} if choice is None else {"trial of the presets": chosen_in}
        if len(held):
            started = perf_counter()
            model = calibrated_by_split(
                self._inspector.model, self._inspector, [given[at][1] for at in held], [given[at][0] for at in held], progress
            )
            self._inspector = Inspector(model, engine)
            self.seconds["split calibration"] = perf_counter() - started
        self._partial = bank
        return self

    def audit(
        self,
        data: str | Path | Sequence[Source],
        *,
        progress: Progress = silent,
        announce: Callable[[Plan], None] = lambda plan: None,
        foretell: Callable[[Estimate], None] = lambda rest: None,
        tell: Callable[[str], None] = lambda line: None,
        pages: Pages = "one",
    ) -> Audit:
        """Which of the images that are held to be good do not look like the others; `data` as in `fit`. Fits nothing.

        `tell` is given a line where images are copies of others.

        Raises:
            InputError: fewer than two readable images.
            BackboneError: the backbone, a layer or its weights cannot be had.
        """
        fitting = self._fitting(_named(data, pages), FeatureEngine(self.settings, self._weights), progress, foretell)
        announce(fitting.plan)
        found = fitting.audit()
        if fitting.copies:
            why = "copies vouch for one another"
            tell(f"{_told_of(fitting.copies, len(found.scores))}: {why}; take them out and audit anew")
        self.seconds = fitting.seconds
        return found

    def update(
        self,
        *,
        add: str | Path | Sequence[Source] = (),
        remove: Iterable[str | Path] = (),
        progress: Progress = silent,
    ) -> Change:
        """Take images out of the fitted model by their names, and add others, without a new fit; see `detector.update`.

        `add` is a folder, image, glob or manifest of good images, or a sequence of these and of arrays. The calibration
        counts the images that the model then knows, one by one as by `leave-one-image-out`, also where it was a split; the
        threshold follows. When this raises, the model is as before.

        Raises:
            InputError: an unknown name (the nearest is suggested) or a doubled one, fewer than two images left, or none of
                the new ones can be read.
        """
        inspector = self._ready()
        given = _expanded([add] if isinstance(add, (str, Path)) else add, _unused_number(inspector.model))
        if isinstance(remove, (str, Path)):
            raise InputError(f"remove = {str(remove)!r}: put the names in a list, even a single one")
        names = [name.as_posix() if isinstance(name, Path) else name for name in remove]
        model, change = updated(inspector.model, inspector.engine, given, names, progress)
        self._inspector = Inspector(model, inspector.engine)
        return change

    def _fitting(
        self,
        given: Sequence[tuple[str, Source]],
        engine: FeatureEngine,
        progress: Progress,
        foretell: Callable[[Estimate], None],
        partial: PartialBank | None = None,
    ) -> Fitting:
        names, sources = [name for name, _ in given], [source for _, source in given]
        return Fitting(sources, names, self.settings, engine, progress, foretell, partial)

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
    ) -> Iterator[tuple[int, Inspection, Pixels]]:
        """As `inspect_many`, each with the (H, W, 3) stored values of its image, so that drawing need not decode it anew."""
        for index, inspection, pixels in self._inspected(sources, failed, keep=True, evidence=evidence, maps=maps):
            assert pixels is not None
            yield index, inspection, pixels

    def explain(self, source: Source) -> Explanation:
        """Distances, influence, proposed noise and response of every patch of one image."""
        return self._ready().explain(source)

    def evaluate(
        self, data: str | Path, *, evidence: bool = False, progress: Progress = silent, pages: Pages = "one"
    ) -> Evaluation:
        """Figures on labelled images: an MVTec root with `test`, or a manifest with `label` (and `mask`).

        With `evidence` every region of the inspections says what stands behind it; with `pages` = `all` each page of a file
        is an image. Maps and masks beyond the setting `memory` wait in a temporary file until the result is let go.

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
        if self._partial is not None:  # the model is safe now
            self._partial.remove()

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
    settings = model.settings.model_copy(update={name: getattr(checked, name) for name in kept})
    engine = FeatureEngine(settings, None if weights is None else Path(weights))
    if engine.identity.digest != model.backbone.digest:
        raise ModelFileError(
            f"{path}: was fitted with other weights of {model.backbone.name} (SHA-256 {model.backbone.digest[:12]}..., "
            f"here {engine.identity.digest[:12]}...); give the same with --weights, or fit anew"
        )
    detector = Detector(weights=weights)
    detector.settings = detector._asked = settings
    detector._stored = {name: getattr(model.settings, name) for name in kept}
    detector._inspector = Inspector(replace(model, settings=settings), engine)
    return detector


def _told_of(copies: Sequence[tuple[str, str]], images: int) -> str:
    copy, of = copies[0]
    return f"{len(copies)} of {images} images are copies, the first '{copy}' of '{of}'"


def _named(data: str | Path | Sequence[Source], pages: Pages = "one") -> list[tuple[str, Source]]:
    """Name and source of every image that is pointed at."""
    if isinstance(data, (str, Path)):
        return [(item.name, item.path) for item in normal_images(data, pages)]
    named: list[tuple[str, Source]] = []
    for number, given in enumerate(several(data)):
        if not isinstance(given, (str, Path)):
            named.append((f"array {number}", given))
        elif pages == "all":
            named += [(str(path), path) for path in page_paths(Path(given))]
        else:
            named.append((str(given), given))
    return named


def _expanded(given: Sequence[Source], first: int) -> list[tuple[str, Source]]:
    """As `_named` of each: folders, globs and manifests become their images, arrays are numbered from `first` on."""
    found: list[tuple[str, Source]] = []
    for number, one in enumerate(several(given), first):
        if not isinstance(one, (str, Path)):
            found.append((f"array {number}", one))
        elif Path(one).is_file() and Path(one).suffix.lower() not in MANIFESTS:
            found.append((str(one), one))
        else:
            found += _named(one)
    return found


def _unused_number(model: Model) -> int:
    """One more than the highest number of an array among the model's images."""
    numbers = [source.name.removeprefix("array ") for source in model.bank.sources if source.name.startswith("array ")]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def _mask(item: Item, inspection: Inspection, memory: int) -> Mask | None:
    return None if item.mask is None else read_mask(item.mask, inspection.anomaly_map.shape, memory)


def _judged(image: Evaluated) -> Judged:
    found = image.inspection
    return Judged(image.item.good, image.item.label or "defect", found.score, found.anomalous, found.anomaly_map, image.mask)
