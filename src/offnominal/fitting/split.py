"""Split calibration: a random share of the good images waits outside the fit and is then inspected as any new image is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from offnominal.config import Settings
from offnominal.decisions import SPLIT, calibrate, choose_method, held_count
from offnominal.errors import ImageError, InputError
from offnominal.fitting.sources import TrainingSource
from offnominal.inference import Inspector
from offnominal.model import Model
from offnominal.observer import Observer
from offnominal.types import Index


def splits(images: int, settings: Settings) -> bool:
    """Whether a share of so many images waits outside the fit."""
    if settings.contamination != 0:  # suspects must be found among all images
        return False
    return choose_method(settings.calibration, images, settings.false_alarm_rate) == SPLIT


def split(groups: Sequence[str | None], settings: Settings) -> tuple[Index, Index]:
    """(to fit on, to calibrate on), both rising; the second is empty if the images are held out in another way.

    `groups` has one entry an image. Images of one group stay together, so that the share held out may differ from a fifth;
    None is on its own.

    Raises:
        InputError: a split was asked for and there are too few images or groups for it.
    """
    images = len(groups)
    everything = np.arange(images)
    if not splits(images, settings):
        return everything, everything[:0]
    held = held_count(images)
    units = [f"group {group}" if group is not None else f"image {at}" for at, group in enumerate(groups)]
    names = sorted(set(units))
    calibrating: set[str] = set()
    counted = 0
    for at in np.random.default_rng([settings.seed, images]).permutation(len(names)):
        if counted >= held:
            break
        calibrating.add(names[at])
        counted += units.count(names[at])
    chosen = np.array([unit in calibrating for unit in units])
    if chosen.all() or images - counted < 2:
        raise InputError(
            f"{images} normal images in {len(names)} groups: a split needs at least 3, and a group left to fit on; "
            "use --calibration folds"
        )
    return everything[~chosen], everything[chosen]


def calibrated_by_split(model: Model, inspector: Inspector, sources: Sequence[TrainingSource], observer: Observer) -> Model:
    """The model with a calibration on images that it was not fitted on.

    Raises:
        InputError: none of them can be read.
    """
    skipped: list[tuple[str, str]] = []

    def fail(index: int, error: ImageError) -> None:
        skipped.append((sources[index].name, str(error)))

    scores = []
    for _, inspection, _ in inspector.inspect([source.source for source in sources], fail):
        scores.append(inspection.score)
        observer.on_progress("calibration", len(scores), len(sources))
    observer.on_progress("calibration", len(sources), len(sources))
    if not scores:
        raise InputError(f"none of the {len(sources)} images held out to calibrate can be read; the first: {skipped[0][1]}")
    calibration = calibrate(np.array(scores, dtype=np.float32), model.settings.false_alarm_rate, SPLIT)
    return replace(model, calibration=calibration, skipped=model.skipped + tuple(sorted(skipped)))
