"""The detector: fit, inspect, evaluate, audit, update, save and load."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from offnominal.config import Settings, settings_from
from offnominal.datasets import Pages, count_unlabelled, labelled_images
from offnominal.errors import ImageError, InputError, SettingsError, suggest
from offnominal.fitting import (
    Audit,
    Stopwatch,
    UpdateResult,
    Workers,
    added_sources,
    audit_images,
    first_unused_number,
    fit_model,
    training_sources,
    update_model,
)
from offnominal.gates import MmPerPixel
from offnominal.images import Source, measured, raise_unreadable, require_sequence, with_region
from offnominal.images.arrays import Pixels
from offnominal.inference import Evaluation, Explanation, Inspect, Inspector, engines_of, evaluate, member_engines
from offnominal.model import Model, load_model, save_model
from offnominal.observer import SILENT, Observer
from offnominal.types import Float, Inspection
from offnominal.weights_file import require_weights

#: Training images: a folder, MVTec root, manifest or glob, or paths and arrays.
Data = str | Path | Sequence[Source]
#: Settings that say how a model is run; they may differ from those of the fit.
RUN_SETTINGS = ("runtime", "precision", "device", "batch_size", "memory", "mm_per_pixel")


class Detector:
    """Learns from normal images alone, then detects, localises and explains anomalies in new images.

    Parameters
    ----------
    weights
        Weights file of a backbone that is not embedded (safetensors or PyTorch).
    **settings
        See `offnominal.config.Settings`.

    Raises
    ------
    SettingsError
        A setting is unknown (the nearest name is suggested) or out of range.
    BackboneError
        The weights file does not exist or is not a weights file.

    Examples
    --------
    >>> detector = Detector(image_size=256, false_alarm_rate=0.05)
    >>> detector.settings.image_size
    (256, 256)
    >>> detector.fit("parts/train/good").inspect("part.png").anomalous  # doctest: +SKIP
    True
    """

    def __init__(self, *, weights: str | Path | None = None, **settings: Any) -> None:
        self.settings: Settings = with_region(settings_from(**settings))
        self.seconds: dict[str, float] = {}
        self._weights = None if weights is None else Path(weights)
        if self._weights is not None:
            require_weights(self._weights)
        self._model: Model | None = None
        self._inspector: Inspector | None = None  # of the model; a copy sets its networks up when it first needs them
        self._stored_settings: dict[str, Any] = {}  # run settings in the file that the model was loaded from

    @property
    def weights(self) -> Path | None:
        """The weights file; None for the weights that belong to the backbone."""
        return self._weights

    @property
    def model(self) -> Model:
        """The fitted model. Raises `InputError` before `fit`."""
        if self._model is None:
            raise InputError("this detector has not been fitted: call fit first, or load a model file")
        return self._model

    def fit(self, data: Data, *, observer: Observer = SILENT, pages: Pages = "one", workers: Workers | None = None) -> Self:
        """Learn from normal images.

        Parameters
        ----------
        data
            A folder, MVTec root, manifest or glob, or a sequence of paths and arrays (see `inspect`). The order of the images
            does not matter. Images that cannot be read are left out; `model.skipped` names them and the reason.
        observer
            Receives the plan, progress, and a note about duplicate images.
        pages
            `all`: each page of a file is an image; `one`: a file of several pages cannot be read.
        workers
            Where the work is done, such as the workers of a cluster; by default in this process.

        Returns
        -------
        Detector
            The detector itself. With too few images for the stated false-alarm rate, `model.calibration.enough` is False and
            `model.calibration.rate` is the rate in use.

        Raises
        ------
        InputError
            Fewer than two images can be read, or they show nothing to learn from.
        BackboneError
            The backbone, a layer or the weights are not available.
        """
        sources = training_sources(data, pages)
        engines = member_engines(self.settings, self._weights)
        stopwatch = Stopwatch()
        model = fit_model(sources, self.settings, engines, observer, stopwatch, workers)
        self._use(Inspector(model, engines))
        self._stored_settings = {}
        self.seconds = stopwatch.seconds
        return self

    def audit(self, data: Data, *, observer: Observer = SILENT, pages: Pages = "one", workers: Workers | None = None) -> Audit:
        """Find images labelled good that do not look like the others. Parameters and errors as in `fit`; nothing is fitted."""
        stopwatch = Stopwatch()
        engines = member_engines(self.settings, self._weights)
        audit = audit_images(training_sources(data, pages), self.settings, engines, observer, stopwatch, workers)
        self.seconds = stopwatch.seconds
        return audit

    def update(
        self,
        *,
        add: str | Path | Sequence[Source] = (),
        remove: Iterable[str | Path] = (),
        observer: Observer = SILENT,
        pages: Pages = "one",
    ) -> UpdateResult:
        """Remove images from the fitted model by name, and add others, without a new fit.

        Added images are calibrated one by one; their groups are ignored. The threshold is recomputed. If this raises, the model
        stays as it was. `offnominal.fitting.update` says what is exact.

        Parameters
        ----------
        add
            A folder, image, glob or manifest of normal images, or a sequence of these and of arrays.
        remove
            Names of images, as in `model.sources`.
        observer, pages
            As in `fit`.

        Raises
        ------
        InputError
            A name is unknown (the nearest is suggested) or appears twice, fewer than two images are left, or none of the new
            ones can be read.
        """
        inspector = self._ready()
        if isinstance(remove, (str, Path)):
            raise InputError(f"remove = {str(remove)!r}: put the names in a list, even a single one")
        added = [add] if isinstance(add, (str, Path)) else add
        sources = added_sources(added, first_unused_number(inspector.model.sources), pages)
        names = [name.as_posix() if isinstance(name, Path) else name for name in remove]
        model, change = update_model(inspector.model, inspector.engines, sources, names, observer)
        self._use(Inspector(model, inspector.engines))
        return change

    def inspect(
        self, source: Source, *, evidence: bool = False, maps: bool = False, mm_per_pixel: float | MmPerPixel | None = None
    ) -> Inspection:
        """Inspect one image.

        Parameters
        ----------
        source
            A path, a Pillow image, or an (H, W[, 3]) uint8, uint16 or float array. Channels are in the order red, green, blue
            (OpenCV uses the reverse). Float values have the scale of the training images.
        evidence, maps
            Include the evidence of each region; the maps of the proposed noise and of the layers' shares.
        mm_per_pixel
            Size of a pixel in mm, or width and height; by default that of the model.

        Raises
        ------
        SettingsError
            `mm_per_pixel` is not a size.
        ImageError
            The image cannot be read, or its depth is not that of the training images.
        """
        size = settings_from(mm_per_pixel=mm_per_pixel).mm_per_pixel
        ((_, inspection),) = self.inspect_many([measured(source, size)], failed=raise_unreadable, evidence=evidence, maps=maps)
        return inspection

    def inspect_many(
        self,
        sources: Iterable[Source],
        *,
        failed: Callable[[int, ImageError], None],
        evidence: bool = False,
        maps: bool = False,
    ) -> Iterator[tuple[int, Inspection]]:
        """Inspect many images; an image that cannot be read does not stop the others.

        Parameters
        ----------
        sources
            As in `inspect`. They are listed before the first is inspected; use `inspect` for an endless stream.
        failed
            Called with index and error of each image that cannot be read.
        evidence, maps
            As in `inspect`.

        Yields
        ------
        tuple of int and Inspection
            The index among the sources and the inspection. Images of several shapes may come out of order.
        """
        for index, inspection, _ in self._ready().inspect(require_sequence(sources), failed, evidence=evidence, with_maps=maps):
            yield index, inspection

    def inspect_with_pixels(
        self,
        sources: Iterable[Source],
        *,
        failed: Callable[[int, ImageError], None],
        evidence: bool = False,
        maps: bool = False,
    ) -> Generator[tuple[int, Inspection, Pixels]]:
        """Inspect as `inspect_many` does, and yield the (H, W, 3) stored values too, so that drawing need not decode again."""
        inspected = self._ready().inspect(
            require_sequence(sources), failed, keep_pixels=True, evidence=evidence, with_maps=maps
        )
        for index, inspection, pixels in inspected:
            assert pixels is not None
            yield index, inspection, pixels

    def explain(self, source: Source, member: int = 0) -> Explanation:
        """Distances, influence, proposed noise and response of every patch of one image, by one of `model.members`."""
        return self._ready().explain(source, member)

    def evaluate(
        self,
        data: str | Path,
        *,
        evidence: bool = False,
        observer: Observer = SILENT,
        pages: Pages = "one",
        inspect: Inspect | None = None,
    ) -> Evaluation:
        """Compute figures on labelled images: an MVTec root with `test`, or a manifest with `label` (and `mask`).

        Maps and masks beyond `memory` spill to a temporary file. `inspect` inspects elsewhere, such as on a cluster.

        Raises
        ------
        InputError
            There are no labels, or not both good and defective images can be read.
        OutputError
            The disk is too full for the maps.
        """
        inspector, items, unlabelled = self._ready(), labelled_images(data, pages), count_unlabelled(data)
        try:
            return evaluate(inspector, items, unlabelled=unlabelled, evidence=evidence, observer=observer, inspect=inspect)
        except InputError as error:
            raise InputError(f"{data}: {error}") from None

    def score_samples(self, sources: Iterable[Source]) -> Float:
        """(n,) float32 scores; higher is more anomalous (the opposite sign of scikit-learn's outlier detectors)."""
        scores = {index: inspection.score for index, inspection in self.inspect_many(sources, failed=raise_unreadable)}
        return np.array([scores[index] for index in range(len(scores))], dtype=np.float32)

    def decision_function(self, sources: Iterable[Source]) -> Float:
        """(n,) float32 scores minus the threshold; above 0 is anomalous (the opposite sign of scikit-learn's)."""
        return self.score_samples(sources) - np.float32(self.model.calibration.threshold)

    def predict(self, sources: Iterable[Source]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """(n,) -1 for anomalous and 1 for good, as scikit-learn's outlier detectors."""
        verdicts = {index: inspection.anomalous for index, inspection in self.inspect_many(sources, failed=raise_unreadable)}
        return np.array([-1 if verdicts[index] else 1 for index in range(len(verdicts))], dtype=np.int64)

    def save(self, path: str | Path) -> None:
        """Write the model file, completely or not at all. Run settings given to `load` are not written.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        model = self.model
        save_model(replace(model, settings=model.settings.model_copy(update=self._stored_settings)), Path(path))

    def __getstate__(self) -> dict[str, Any]:
        """State of a copy in this or another process: without the networks, which the copy sets up when it needs them."""
        weights = None if self._weights is None else self._weights.absolute()
        return {**self.__dict__, "_inspector": None, "_weights": weights}

    def _use(self, inspector: Inspector) -> None:
        self._model, self._inspector = inspector.model, inspector

    def _ready(self) -> Inspector:
        if self._inspector is None:
            model = self.model
            self._inspector = Inspector(model, engines_of(model, self._weights, "this detector"))
        return self._inspector

    @classmethod
    def _load(cls, path: Path, weights: str | Path | None, run: dict[str, Any]) -> Self:
        model = load_model(path)
        detector = cls(weights=weights)
        detector._stored_settings = {name: getattr(model.settings, name) for name in run}
        checked = settings_from(**run)
        detector.settings = model.settings.model_copy(update={name: getattr(checked, name) for name in run})
        model = replace(model, settings=detector.settings)
        detector._use(Inspector(model, engines_of(model, detector._weights, str(path))))
        return detector


def load(path: str | Path, *, weights: str | Path | None = None, **run: Any) -> Detector:
    """Read a model file and set up its networks.

    Parameters
    ----------
    path
        The model file.
    weights
        The weights file, if the backbone was fitted with one.
    **run
        `RUN_SETTINGS`, such as `runtime` or `memory`, to override those of the fit. None is ignored.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or incompatible, or the backbone's weights are not those of the fit.
    SettingsError
        A setting is unknown, or fixed in the model.

    Examples
    --------
    >>> detector = load("part.safetensors", runtime="torch")  # doctest: +SKIP
    """
    run = {name: value for name, value in run.items() if value is not None}
    for name in run:
        if name not in Settings.model_fields:
            raise SettingsError(f"unknown setting '{name}': {suggest(name, RUN_SETTINGS)}")
        if name not in RUN_SETTINGS:
            raise SettingsError(f"{name} is fixed in the model; only {', '.join(RUN_SETTINGS)} may change")
    return Detector._load(Path(path), weights, run)
