"""Judging a lot: which parts to pull at a false discovery rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offnominal.decisions import Calibration, images_needed, judge_lot
from offnominal.errors import InputError
from offnominal.storage import write_atomically
from offnominal.storage.owned_files import own


def require_lot(calibration: Calibration, fdr: float) -> None:
    """Check that a false discovery rate is attainable.

    Parameters
    ----------
    calibration
        Calibration of the model.
    fdr
        False discovery rate: share of good parts among the pulled ones, on average over lots.

    Raises
    ------
    InputError
        The rate does not lie between 0 and 1, or no part of any lot could be pulled at it.

    Examples
    --------
    >>> import numpy as np
    >>> from offnominal.decisions import calibrate
    >>> require_lot(calibrate(np.zeros(99, np.float32), 0.05), fdr=0.1)
    >>> require_lot(calibrate(np.zeros(3, np.float32), 0.5), fdr=0.1)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    offnominal.errors.InputError: --fdr 0.1: not attainable with 3 calibration images, whose smallest p-value is 0.2500; ...
    """
    if not 0 < fdr < 1:
        raise InputError(f"--fdr {fdr}: the false discovery rate must lie between 0 and 1")
    if fdr < calibration.smallest_rate:
        raise InputError(
            f"--fdr {fdr:g}: not attainable with {calibration.count} calibration images, whose smallest p-value is "
            f"{calibration.smallest_rate:.4f}; give at least that rate, or calibrate on {images_needed(fdr)} images"
        )


def write_lot(rows: Sequence[dict[str, Any]], calibration: Calibration, fdr: float, folder: Path) -> dict[str, Any]:
    """Judge the readable images as one lot and write `lot.json`.

    Parts that were not found are pulled in any case; the false discovery rate is that of the others.

    Parameters
    ----------
    rows
        Rows of `results.jsonl`.
    calibration
        Calibration of the model.
    fdr
        False discovery rate.
    folder
        Output folder.

    Returns
    -------
    dict
        The content of `lot.json`.

    Raises
    ------
    InputError
        See `require_lot`.
    OutputError
        The file cannot be written.
    """
    require_lot(calibration, fdr)
    read = [row for row in rows if row["error"] is None]
    result: dict[str, Any] = {
        "flagged": [],
        "not_found": [],
        "fdr": fdr,
        "estimated_bad": 0.0,
        "images": len(read),
        "unreadable": len(rows) - len(read),
        "calibration_images": calibration.count,
        "exact": calibration.exact,
        "fewest": None,
        "note": None,
    }
    result["flagged"] = result["not_found"] = [row["path"] for row in read if not _is_found(row)]
    read = [row for row in read if _is_found(row)]
    if read:
        lot = judge_lot([row["p_value"] for row in read], calibration.count, fdr)
        pulled = [row for row, is_pulled in zip(read, lot.pulled, strict=True) if is_pulled]
        result["flagged"] = [*result["not_found"], *(row["path"] for row in sorted(pulled, key=lambda row: -row["score"]))]
        result["estimated_bad"], result["fewest"] = lot.estimated_bad, lot.smallest_pull
        if lot.smallest_pull > 1:
            result["note"] = (
                f"with {calibration.count} calibration images, a lot of {len(read)} and a false discovery rate of {fdr:g}, "
                f"parts can only be pulled together: at least {lot.smallest_pull} must stand out"
            )
    write_atomically(own(folder, "lot.json", "inspect"), (json.dumps(result, indent=2) + "\n").encode())
    return result


def _is_found(row: dict[str, Any]) -> bool:
    pose = row.get("pose")
    return pose is None or pose["problem"] is None
