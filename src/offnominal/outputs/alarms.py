"""What a model promises about its alarms, in numbers and in words; and a lot of parts judged together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.decisions import FOLDS, SPLIT, Calibration, images_needed, judge_lot
from offnominal.errors import InputError
from offnominal.inference.held_out_scores import scores_of_model
from offnominal.model.model import Model
from offnominal.storage import write_whole
from offnominal.storage.owned_files import own

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


def require_lot(calibration: Calibration, fdr: float) -> None:
    """Raises `InputError` where no lot whatever could have a part pulled at this false discovery rate."""
    if not 0 < fdr < 1:
        raise InputError(f"--fdr {fdr}: the false discovery rate must lie between 0 and 1")
    if fdr < calibration.smallest_rate:
        raise InputError(
            f"--fdr {fdr:g}: {calibration.count} calibration images cannot carry it, since no p-value is "
            f"below {calibration.smallest_rate:.4f}; give that or more, or calibrate on {images_needed(fdr)} images"
        )


def write_lot(rows: Sequence[dict[str, Any]], calibration: Calibration, fdr: float, folder: Path) -> dict[str, Any]:
    """Judge the images that could be read as one lot; write `lot.json` and return its content.

    Args:
        rows: as in `results.jsonl`.

    Raises:
        InputError: see `require_lot`.
        OutputError: it cannot be written.
    """
    require_lot(calibration, fdr)
    read = [row for row in rows if row["error"] is None]
    found: dict[str, Any] = {
        "flagged": [],
        "fdr": fdr,
        "estimated_bad": 0.0,
        "images": len(read),
        "unreadable": len(rows) - len(read),
        "calibration_images": calibration.count,
        "exact": calibration.exact,
        "fewest": None,
        "note": None,
    }
    if read:
        lot = judge_lot([row["p_value"] for row in read], calibration.count, fdr)
        pulled = [row for row, out in zip(read, lot.pulled, strict=True) if out]
        found["flagged"] = [row["path"] for row in sorted(pulled, key=lambda row: -row["score"])]
        found["estimated_bad"], found["fewest"] = lot.estimated_bad, lot.fewest
        if lot.fewest > 1:
            found["note"] = (
                f"with {calibration.count} calibration images a part of a lot of {len(read)} can be pulled at a false "
                f"discovery rate of {fdr:g} only together with others: at least {lot.fewest} must stand out"
            )
    write_whole(own(folder, "lot.json", "inspect"), (json.dumps(found, indent=2) + "\n").encode())
    return found
