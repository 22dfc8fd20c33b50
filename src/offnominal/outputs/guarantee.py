"""What a model guarantees about false alarms, in numbers and in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from offnominal.decisions import FOLDS, SPLIT, images_needed
from offnominal.inference import scores_of_model
from offnominal.model import Model

#: Images that a sentence names.
MOST_NAMED = 3


def calibration_facts(model: Model) -> dict[str, Any]:
    """The entry `calibration` of `info --json`."""
    calibration = model.calibration
    return {
        "method": calibration.method,
        "n": calibration.count,
        "asked_alpha": calibration.asked,
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
    """Names of the images at and above a threshold that lies far above all others' scores, highest first; else empty.

    Empty also after a split, whose images the model does not name.
    """
    calibration = model.calibration
    if calibration.method == SPLIT or not calibration.apart:
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
    """What is promised about false alarms, and how surely, in one sentence."""
    calibration = model.calibration
    n = calibration.count
    if model.settings.contamination != 0 or model.left_out:
        return "no guarantee applies: suspects were left out by their scores, so the calibration images are a selection."
    if model.threshold_removed:
        return "no guarantee applies: an image that the threshold rested on was removed because of its score."
    numbers = (
        f"on average at most {calibration.marginal_rate:.2%} of good images are flagged, and with 95 % confidence at most "
        f"{calibration.bound_95:.2%} of future ones"
    )
    if calibration.exact:
        return f"{numbers}: proved for images exchangeable with the {n} calibration images, which the bank does not hold."
    if calibration.method == FOLDS:
        return (
            f"{numbers}: approximate, since each of the {n} images was scored by a bank chosen without its fold "
            "(--calibration split is exact)."
        )
    return (
        f"{numbers}: approximate, since each of the {n} images was held out of a bank that had been chosen with it "
        "(--calibration folds is closer, split is exact)."
    )


def calibration_warnings(model: Model) -> list[str]:
    """What cannot be promised, and what the threshold rests on, one sentence each."""
    calibration = model.calibration
    found, split = [], model.calibration.method == SPLIT
    if not calibration.enough:
        found.append(
            f"A false-alarm rate of {calibration.asked:.2%} needs at least {images_needed(calibration.asked)} images"
            f"{' held out to calibrate' if split else ''}; with {calibration.count} the smallest attainable rate is "
            f"{calibration.rate:.2%}, which is used" + ("; folds and leave-one-out calibrate on every image." if split else ".")
        )
    if names := rests_on(model):
        below = float(calibration.scores[calibration.count - calibration.rank - 1])
        listed = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
        found.append(
            f"The threshold of {calibration.threshold:.2f} rests on {listed} alone: all other images score up to {below:.2f}, "
            "so images that score between are not flagged. Look at it: if it is good, add more normal images like it. If it is "
            "not good, or was taken under other conditions, leave it out and fit again."
        )
    return found
