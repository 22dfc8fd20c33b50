"""Labelled images -> figures and curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from offnominal.datasets import Item
from offnominal.errors import ImageError, InputError
from offnominal.images import Source, measured, read_mask
from offnominal.inference.inspector import Inspector
from offnominal.metrics import Curves, Figures, Judged, figures_and_curves, figures_by_class
from offnominal.model import Model
from offnominal.observer import SILENT, Observer
from offnominal.storage.spill import ArrayStore
from offnominal.types import Inspection, Mask

#: `inspect(sources, failed, evidence)`: index and inspection of each image that can be read.
Inspect = Callable[[Sequence[Source], Callable[[int, ImageError], None], bool], Iterator[tuple[int, Inspection]]]


@dataclass(frozen=True)
class Evaluated:
    """One evaluated image.

    Attributes
    ----------
    item
        Path and label.
    inspection
        Result of the inspection.
    mask
        (H, W) true on the defect; None if there is no mask.

    Examples
    --------
    >>> from pathlib import Path
    >>> normal = np.zeros((8, 8), np.float32)
    >>> inspection = Inspection("a.png", 1.2, 0.4, False, 3.0, normal, normal, regions=())
    >>> image = Evaluated(Item(Path("a.png"), "a.png", label="good"), inspection, mask=None)
    >>> image.item.good, image.inspection.anomalous
    (True, False)
    """

    item: Item
    inspection: Inspection
    mask: Mask | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of a labelled set of images.

    Attributes
    ----------
    figures, curves
        Figures and curves over all images.
    classes
        Figures of each class of defects.
    images
        The images that could be read.
    unreadable
        Name and reason of each image that could not be read, or whose mask could not be read.
    seconds
        Duration of the inspection.
    unlabelled
        Number of manifest rows without a label.
    rate
        False-alarm rate of the calibration.

    Examples
    --------
    >>> from offnominal import load
    >>> evaluation = load("part.safetensors").evaluate("parts")  # doctest: +SKIP
    >>> round(evaluation.figures["image_auroc"], 3)  # doctest: +SKIP
    0.994
    """

    figures: Figures
    curves: Curves
    classes: dict[str, Figures]
    images: tuple[Evaluated, ...]
    unreadable: tuple[tuple[str, str], ...]
    seconds: float
    unlabelled: int
    rate: float

    @property
    def without_mask(self) -> int:
        """Number of defective images that the pixel figures leave out; 0 if there are no pixel figures."""
        if self.figures["pixel_auroc"] is None:
            return 0
        return sum(not image.item.good and image.mask is None for image in self.images)

    def as_json(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        count = max(1, len(self.images))
        scored = {image.item.name for image in self.images}
        not_scored = sum(name not in scored for name, _ in self.unreadable)
        return {
            **self.figures,
            "ms_per_image": 1000 * self.seconds / count,
            "images_per_second": count / self.seconds if self.seconds > 0 else None,
            "n_unreadable": not_scored,
            "n_masks_unreadable": len(self.unreadable) - not_scored,
            "n_without_mask": sum(not image.item.good and image.mask is None for image in self.images),
            "n_unlabelled": self.unlabelled,
            "classes": self.classes,
            "whole_image": self._image_level_rates(),
        }

    def _image_level_rates(self) -> dict[str, Any] | None:
        """Shares of the good images, the defective images and each class with an image-level p-value of at most the rate."""
        flagged: dict[str, list[bool]] = {}
        for image in self.images:
            if image.inspection.whole_p_value is None:
                return None
            label = "good" if image.item.good else image.item.label or "defect"
            flagged.setdefault(label, []).append(image.inspection.whole_p_value <= self.rate)
        good = flagged.pop("good", [])
        defective = [flag for flags in flagged.values() for flag in flags]
        return {
            "false_alarm_rate": float(np.mean(good)) if good else None,
            "detection_rate": float(np.mean(defective)) if defective else None,
            "classes": {label: float(np.mean(flags)) for label, flags in sorted(flagged.items())},
        }


def evaluate(
    inspector: Inspector,
    items: Sequence[Item],
    *,
    unlabelled: int = 0,
    evidence: bool = False,
    observer: Observer = SILENT,
    inspect: Inspect | None = None,
) -> Evaluation:
    """Inspect labelled images and compute the figures.

    Maps and masks beyond the setting `memory` spill to disk.

    Parameters
    ----------
    items
        Good and defective images.
    unlabelled
        Number of rows without a label, for the result.
    evidence
        Whether evidence for each region is computed.
    inspect
        Inspects the images, such as on a cluster; by default, `inspector` does.

    Raises
    ------
    InputError
        If no good or no defective image can be read.
    OutputError
        If the disk is too full for the maps.

    Examples
    --------
    >>> from offnominal.datasets import labelled_images
    >>> inspector = Inspector(model, engines)  # doctest: +SKIP
    >>> evaluate(inspector, labelled_images("parts")).figures["detection_rate"]  # doctest: +SKIP
    0.96
    """
    with ArrayStore(inspector.model.settings.memory) as store:
        images, unreadable, seconds = _inspected(inspector, items, store, observer, evidence, inspect)
    judged = [_judged(image, inspector.model) for image in images]
    if not any(image.good for image in judged) or all(image.good for image in judged):
        reason = next(iter(unreadable.values()), "")
        raise InputError(f"an evaluation needs good and defective images that can be read; the first that cannot: {reason}")
    observer.on_progress("figures", 0, 1)
    figures, curves = figures_and_curves(judged)
    evaluation = Evaluation(
        figures=figures,
        curves=curves,
        classes=figures_by_class(judged),
        images=tuple(images),
        unreadable=tuple((items[index].name, reason) for index, reason in sorted(unreadable.items())),
        seconds=seconds,
        unlabelled=unlabelled,
        rate=inspector.model.calibration.rate,
    )
    observer.on_progress("figures", 1, 1)
    return evaluation


def _inspected(
    inspector: Inspector,
    items: Sequence[Item],
    store: ArrayStore,
    observer: Observer,
    evidence: bool,
    inspect: Inspect | None,
) -> tuple[list[Evaluated], dict[int, str], float]:
    """The images that can be read, the reason by index for the others, and the seconds that the inspection took."""
    unreadable: dict[int, str] = {}
    inspections: dict[int, Inspection] = {}
    started = perf_counter()

    def failed(index: int, error: ImageError) -> None:
        unreadable[index] = str(error)

    sources = [measured(item.path, item.mm_per_pixel) for item in items]
    inspected = (
        ((index, inspection) for index, inspection, _ in inspector.inspect(sources, failed, evidence=evidence))
        if inspect is None
        else inspect(sources, failed, evidence)
    )
    for index, inspection in inspected:
        inspections[index] = replace(
            inspection,
            anomaly_map=store.keep(inspection.anomaly_map),
            influence_map=store.keep(inspection.influence_map),
        )
        observer.on_progress("inspect", len(inspections), len(items))
    seconds = perf_counter() - started
    images = []
    for index, inspection in sorted(inspections.items()):
        mask: Mask | None = None
        try:
            mask = _mask(items[index], inspection, inspector.model.settings.memory)
        except ImageError as error:
            unreadable[index] = str(error)
        images.append(Evaluated(items[index], inspection, None if mask is None else store.keep(mask)))
    return images, unreadable, seconds


def _mask(item: Item, inspection: Inspection, memory: int) -> Mask | None:
    return None if item.mask is None else read_mask(item.mask, inspection.anomaly_map.shape, memory)


def _judged(image: Evaluated, model: Model) -> Judged:
    inspection = image.inspection
    label = image.item.label or "defect"
    return Judged(
        image.item.good,
        label,
        inspection.score,
        inspection.anomalous,
        inspection.anomaly_map,
        image.mask,
        model.counted(inspection),
    )
