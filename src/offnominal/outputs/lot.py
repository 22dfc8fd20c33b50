"""A lot of parts judged together: which parts to pull."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offnominal.decisions import Calibration, images_needed, judge_lot
from offnominal.errors import InputError
from offnominal.storage import write_whole
from offnominal.storage.owned_files import own


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
