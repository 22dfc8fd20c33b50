"""The guarantee of a model on false alarms, in numbers and in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from offnominal.decisions import FOLDS, SPLIT, images_needed
from offnominal.inference import scores_of_model
from offnominal.model import Model

#: Images named in a warning, so that it stays readable.
MOST_NAMED = 3


def calibration_facts(model: Model) -> dict[str, Any]:
    """The entry `calibration` of `info --json`."""
    calibration = model.calibration
    return {
        "method": calibration.method,
        "n": calibration.count,
        "asked_alpha": calibration.requested_rate,
        "alpha": calibration.rate,
        "threshold": calibration.threshold,
        "smallest_alpha": calibration.smallest_rate,
        "marginal_rate": calibration.marginal_rate,
        "fpr_bound_95": calibration.bound_95,
        "exact": calibration.exact and model.guaranteed,
        "guaranteed": model.guaranteed,
        "rests_on": rests_on(model),
    }


def rests_on(model: Model) -> list[str]:
    """Names of the images that alone determine the threshold, highest score first.

    These are the images at and above a threshold that is far above all other scores. Empty if there are none, after a split,
    whose calibration images the model does not name, and if the model keeps no held-out signals.
    """
    calibration = model.calibration
    if calibration.method == SPLIT or not calibration.threshold_isolated or not model.updatable:
        return []
    scores = scores_of_model(model)
    return [model.sources[index].name for index in np.argsort(-scores, kind="stable")[: calibration.rank]]


def drift_facts(model: Model) -> dict[str, Any]:
    """The entry `drift` of `info --json`."""
    appearance = model.appearance
    return {
        "watched": appearance is not None,
        "reference": 0 if appearance is None else len(appearance.reference),
        "statistics": [] if appearance is None else list(appearance.names),
    }


def promise(model: Model) -> str:
    """The guarantee on false alarms in one sentence, or the reason why none applies."""
    calibration = model.calibration
    n = calibration.count
    if model.settings.contamination != 0 or model.left_out:
        return "no guarantee applies: suspects were left out by their scores, so the calibration images are a biased sample."
    if model.threshold_removed:
        return "no guarantee applies: an image that the threshold rested on was removed because of its score."
    numbers = (
        f"on average at most {calibration.marginal_rate:.2%} of good images are flagged, and with 95 % confidence at most "
        f"{calibration.bound_95:.2%} of future ones"
    )
    if calibration.exact:
        return f"{numbers}: proved for images exchangeable with the {n} calibration images, which are not in the bank."
    if calibration.method == FOLDS:
        return (
            f"{numbers}: approximate, because each of the {n} images was scored by a bank selected without its fold "
            "(--calibration split is exact)."
        )
    return (
        f"{numbers}: approximate, because each of the {n} images was scored without its own patches by a bank selected with "
        "them (--calibration folds is closer, split is exact)."
    )


def calibration_warnings(model: Model) -> list[str]:
    """Warnings if the stated rate is not attainable, and if the threshold rests on very few images."""
    calibration = model.calibration
    warnings, split = [], calibration.method == SPLIT
    if not calibration.enough:
        warnings.append(
            f"A false-alarm rate of {calibration.requested_rate:.2%} needs at least "
            f"{images_needed(calibration.requested_rate)} images"
            f"{' held out to calibrate' if split else ''}; with {calibration.count} the smallest attainable rate is "
            f"{calibration.rate:.2%}, which is used" + ("; folds and leave-one-out calibrate on every image." if split else ".")
        )
    if names := rests_on(model):
        below = float(calibration.scores[calibration.count - calibration.rank - 1])
        listed = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
        warnings.append(
            f"The threshold of {calibration.threshold:.2f} rests on {listed} alone: all other images score up to {below:.2f}, "
            "so images that score in between are not flagged. Look at every image named here: if it is normal, add more normal "
            "images like it; if it is anomalous or was taken under other conditions, leave it out and fit again."
        )
    return warnings
