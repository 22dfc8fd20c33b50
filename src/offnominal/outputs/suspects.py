"""What `audit` leaves in a folder: audit.csv, worst first, and a picture of every suspect."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from offnominal.errors import raise_unless_of_one_image, reason_of
from offnominal.fitting import Audit
from offnominal.images import MEMORY, Source, displayed, pixels_of, to_original
from offnominal.outputs.report_files import as_text, make_folder, picture_name, write_picture
from offnominal.reports import overlay
from offnominal.storage import write_whole
from offnominal.storage.owned_files import own, remove_own

#: Where the pictures of suspects lie.
SUSPECTS = "suspects"


def begin_audit(folder: Path) -> None:
    """Make the folder and an empty `audit.csv`, before the work that ends in it, and remove the pictures of an earlier audit.

    Raises:
        OutputError: it cannot be made.
    """
    make_folder(folder)
    remove_own(folder, lambda name, command: command == "audit")
    write_whole(own(folder, "audit.csv", "audit"), b"")


def write_audit(
    found: Audit,
    sources: list[Source],
    folder: Path,
    contamination: float | Literal["auto"],
    failed: Callable[[str], None] = lambda reason: None,
    memory: int = MEMORY,
) -> list[dict[str, Any]]:
    """Write `audit.csv` and `suspects/`; returns the rows, worst first: path, score, p_value, suspect, picture (or None).

    In the pictures what lies above the lowest score of a suspect is outlined. `failed(reason)` is called for each suspect that
    cannot be drawn.

    Raises:
        OutputError: the place cannot be written.
    """
    suspect = found.suspects(contamination)
    # Just below, so that the least of them shows its region too.
    level = float(np.nextafter(found.scores[suspect].min(), np.float32(-np.inf))) if suspect.any() else 0.0
    rows: list[dict[str, Any]] = []
    for at in np.argsort(-found.scores, kind="stable"):
        picture = None
        if suspect[at]:
            try:
                pixels = pixels_of(sources[found.sources[at]], memory)
                map_ = to_original(found.maps[at], (pixels.shape[0], pixels.shape[1]))
                drawn = overlay(displayed(pixels, found.values), map_, level)
                name = f"{SUSPECTS}/{picture_name(f'{len(rows):03d}', found.names[at])}.jpg"
                write_picture(own(folder, name, "audit"), drawn)
                picture = name
            except Exception as error:  # noqa: BLE001 - whatever it is raised by, it costs this picture alone
                raise_unless_of_one_image(error)
                failed(f"{found.names[at]}: cannot be drawn ({reason_of(error)})")
        rows.append(
            {
                "path": found.names[at],
                "score": float(found.scores[at]),
                "p_value": float(found.p_values[at]),
                "suspect": bool(suspect[at]),
                "picture": picture,
            }
        )
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "score", "p_value", "suspect"])
    for row in rows:
        writer.writerow([row["path"], f"{row['score']:.6g}", f"{row['p_value']:.6g}", int(row["suspect"])])
    write_whole(folder / "audit.csv", as_text(table.getvalue()))
    return rows
