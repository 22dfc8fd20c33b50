"""Split calibration: a random share of the normal images is kept out of the fit, and then inspected like new images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from offnominal.config import Settings
from offnominal.decisions import SPLIT, calibrate, choose_method, split_size
from offnominal.errors import InputError
from offnominal.fitting.training_sources import TrainingSource
from offnominal.fitting.workers import Workers
from offnominal.model import Model
from offnominal.types import Index


def uses_split(images: int, settings: Settings) -> bool:
    """Whether the calibration of a fit on this many images is a split."""
    if settings.contamination != 0:  # an audit needs all images
        return False
    return choose_method(settings.calibration, images, settings.false_alarm_rate) == SPLIT


def split_images(groups: Sequence[str | None], settings: Settings) -> tuple[Index, Index]:
    """Split images at random into those to fit on and those to calibrate on.

    Images of one group stay together, so the calibration share may differ from a fifth.

    Parameters
    ----------
    groups
        Group of each image; None for an image on its own.

    Returns
    -------
    fitted_on, held_out
        Ascending indices; the second is empty if the calibration is not a split.

    Raises
    ------
    InputError
        If there are too few images or groups for a split.
    """
    images = len(groups)
    everything = np.arange(images)
    if not uses_split(images, settings):
        return everything, everything[:0]
    target = split_size(images)
    units = [f"group {group}" if group is not None else f"image {at}" for at, group in enumerate(groups)]
    names = sorted(set(units))
    calibrating: set[str] = set()
    count = 0
    for at in np.random.default_rng([settings.seed, images]).permutation(len(names)):
        if count >= target:
            break
        calibrating.add(names[at])
        count += units.count(names[at])
    held_out = np.array([unit in calibrating for unit in units])
    if held_out.all() or images - count < 2:
        raise InputError(
            f"{images} normal images in {len(names)} groups: a split needs at least 3 images, and a group to fit on; "
            "use --calibration folds"
        )
    return everything[~held_out], everything[held_out]


def calibrated_by_split(model: Model, sources: Sequence[TrainingSource], workers: Workers) -> Model:
    """A copy of the model, calibrated on images that it was not fitted on.

    Raises
    ------
    InputError
        If none of the images can be read.
    """
    found = workers.scores(model, [source.source for source in sources])
    scores = [score for score in found if not isinstance(score, str)]
    skipped = [(source.name, reason) for source, reason in zip(sources, found, strict=True) if isinstance(reason, str)]
    if not scores:
        raise InputError(
            f"none of the {len(sources)} images held out to calibrate can be read; the first error: {skipped[0][1]}"
        )
    calibration = calibrate(np.array(scores, dtype=np.float32), model.settings.false_alarm_rate, SPLIT)
    return replace(model, calibration=calibration, skipped=model.skipped + tuple(sorted(skipped)))
