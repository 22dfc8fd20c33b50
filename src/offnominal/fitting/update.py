"""Incremental update: add images to a model and remove images from it, without a new fit.

Normal statistics and calibration scores are computed anew from all held-out signals, so the threshold is that of the images in
the updated model. `removal` is exact in the banks; `addition` keeps the covering radius.

Two things are approximate: the held-out signals of the other images refer to the previous bank, and channel statistics,
distance scale and drift monitor stay those of the fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np

from offnominal.decisions import FOLDS, LEAVE_ONE_OUT, calibrate
from offnominal.errors import InputError
from offnominal.fitting.addition import with_images
from offnominal.fitting.removal import without_images
from offnominal.fitting.training_set import MIN_IMAGES
from offnominal.fitting.training_sources import TrainingSource
from offnominal.inference import FeatureEngine, normal_signals, scores_of_model
from offnominal.model import Model
from offnominal.observer import Observer


@dataclass(frozen=True)
class UpdateResult:
    """Result of an update.

    Attributes
    ----------
    added, removed
        Names of the images.
    skipped
        Name and reason of each image that could not be added.
    patches_added, patches_removed
        Number of patches in all banks; replacement patches count as added.

    Examples
    --------
    >>> result = UpdateResult(added=("new.png",), removed=(), skipped=(), patches_added=12, patches_removed=0)
    >>> result.added, result.patches_added
    (('new.png',), 12)
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    patches_added: int
    patches_removed: int


def update_model(
    model: Model,
    engines: Sequence[FeatureEngine],
    add: Sequence[TrainingSource],
    remove: Sequence[str],
    observer: Observer,
) -> tuple[Model, UpdateResult]:
    """Remove images from a copy of the model, then add others.

    Parameters
    ----------
    model
        The fitted model; it is not changed.
    engines
        The network of each member.
    add
        Images to add.
    remove
        Names of images to remove.
    observer
        Receives the progress.

    Raises
    ------
    InputError
        If the model keeps no held-out signals, a name is unknown or ambiguous, too few images would remain, or none of the new
        images can be read.

    Examples
    --------
    >>> from offnominal.inference import engines_of
    >>> from offnominal.observer import SILENT
    >>> engines = engines_of(model, None, "part.safetensors")  # doctest: +SKIP
    >>> model, change = update_model(model, engines, [TrainingSource("new.png", "new.png")], [], SILENT)  # doctest: +SKIP
    """
    if not add and not remove:
        raise InputError("nothing to update: name images to add or to remove")
    if not model.updatable:
        raise InputError(
            f"the model was fitted on {len(model.sources)} images, and keeps no held-out signals for updates: "
            "fit again, with the images to add and without those to remove"
        )
    leaving = _indices_of(model, remove)
    staying = {source.name for at, source in enumerate(model.sources) if at not in leaving}
    counts = Counter(source.name for source in add)
    duplicates = sorted(name for name, count in counts.items() if count > 1 or name in staying)
    if duplicates:
        raise InputError(
            f"'{duplicates[0]}' would be in the model twice: remove it in the same update, or add its parent folder, so that "
            "its name differs"
        )
    remove = tuple(dict.fromkeys(remove))
    patches_removed = patches_added = 0
    skipped: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = ()
    if leaving:
        patches_removed = sum(int(np.isin(member.bank.image, list(leaving)).sum()) for member in model.members)
        before = _bank_patches(model)
        model = without_images(model, leaving)
        patches_added = _bank_patches(model) - before + patches_removed
    if add:
        before = _bank_patches(model)
        model, names, skipped = with_images(model, engines, add, observer)
        patches_added += _bank_patches(model) - before
    observer.on_progress("calibration", 0, 1)
    members = tuple(replace(member, normal=normal_signals(member.held_out.signals, model.region)) for member in model.members)
    model = replace(model, members=members)
    method = FOLDS if model.calibration.method == FOLDS and not add else LEAVE_ONE_OUT
    calibration = calibrate(scores_of_model(model), model.calibration.requested_rate, method)
    observer.on_progress("calibration", 1, 1)
    return replace(model, calibration=calibration), UpdateResult(names, remove, skipped, patches_added, patches_removed)


def _bank_patches(model: Model) -> int:
    return sum(len(member.bank.patches) for member in model.members)


def _indices_of(model: Model, names: Sequence[str]) -> set[int]:
    """Indices of the images to remove. Raises `InputError` for unknown and ambiguous names, or if too few images remain."""
    known = [source.name for source in model.sources]
    for name in names:
        if name not in known:
            same_ending = [other for other in known if other.endswith(f"/{name}") or name.endswith(f"/{other}")]
            close = same_ending or get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"its images are named like '{known[0]}'"
            raise InputError(f"the model was not fitted on '{name}': {hint}")
        if known.count(name) > 1:
            raise InputError(
                f"the model was fitted on {known.count(name)} images named '{name}': fit again without the one to remove"
            )
    indices = {at for at, name in enumerate(known) if name in set(names)}
    if len(known) - len(indices) < MIN_IMAGES:
        raise InputError(
            f"removing {len(indices)} of {len(known)} images would leave {len(known) - len(indices)}; "
            f"a model needs {MIN_IMAGES}: fit again on other images"
        )
    return indices
