"""Outputs of `audit`: audit.csv, worst image first, and a picture of every suspect."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from offnominal.errors import raise_if_fatal, reason_of
from offnominal.fitting import Audit
from offnominal.images import DEFAULT_MEMORY, Source, displayed, pixels_of, to_image, to_original
from offnominal.outputs.report_writer import as_text, make_folder, picture_name, write_picture
from offnominal.reports import overlay
from offnominal.storage import write_atomically
from offnominal.storage.owned_files import own, remove_own

#: Folder of the pictures.
SUSPECTS = "suspects"


def begin_audit(folder: Path) -> None:
    """Create the folder and an empty `audit.csv`, so that an error comes before the work.

    The outputs of an earlier audit are removed.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    make_folder(folder)
    remove_own(folder, lambda name, command: command == "audit")
    write_atomically(own(folder, "audit.csv", "audit"), b"")


def write_audit(
    audit: Audit,
    sources: list[Source],
    folder: Path,
    contamination: float | Literal["auto"],
    failed: Callable[[str], None] = lambda reason: None,
    memory: int = DEFAULT_MEMORY,
) -> list[dict[str, Any]]:
    """Write `audit.csv`, and `suspects/` with overlays in which the lowest score of a suspect is the threshold.

    Parameters
    ----------
    audit
        The audited scores and maps.
    sources
        The audited images.
    folder
        Output folder.
    contamination
        Expected share of anomalous images, or `auto`.
    failed
        Called with the reason for each suspect that cannot be drawn.
    memory
        Bytes that decoding an image may take.

    Returns
    -------
    list of dict
        One row per image, worst first: `path`, `score`, `p_value`, `suspect`, and `picture` (None without one).

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    suspect = audit.suspects(contamination)
    # Just below, so that the suspect with the lowest score shows a region too.
    threshold = float(np.nextafter(audit.scores[suspect].min(), np.float32(-np.inf))) if suspect.any() else 0.0
    rows: list[dict[str, Any]] = []
    for index in np.argsort(-audit.scores, kind="stable"):
        picture = None
        if suspect[index]:
            try:
                pixels = pixels_of(sources[audit.sources[index]], memory)
                anomaly_map = to_original(audit.maps[index], (pixels.shape[0], pixels.shape[1]))
                shown = displayed(pixels, audit.values, audit.counted(index, anomaly_map.shape))
                drawn = overlay(shown, to_image(anomaly_map, audit.poses[index]), threshold)
                name = f"{SUSPECTS}/{picture_name(f'{len(rows):03d}', audit.names[index])}.jpg"
                write_picture(own(folder, name, "audit"), drawn)
                picture = name
            except Exception as error:  # noqa: BLE001 - any failure costs this picture alone
                raise_if_fatal(error)
                failed(f"{audit.names[index]}: cannot be drawn ({reason_of(error)})")
        rows.append(
            {
                "path": audit.names[index],
                "score": float(audit.scores[index]),
                "p_value": float(audit.p_values[index]),
                "suspect": bool(suspect[index]),
                "picture": picture,
            }
        )
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "score", "p_value", "suspect"])
    for row in rows:
        writer.writerow([row["path"], f"{row['score']:.6g}", f"{row['p_value']:.6g}", int(row["suspect"])])
    write_atomically(folder / "audit.csv", as_text(table.getvalue()))
    return rows
