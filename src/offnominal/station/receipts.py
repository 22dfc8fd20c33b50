"""Receipts: the evidence of the leading region as a picture, drawn when it is first asked for."""

from __future__ import annotations

import os
from pathlib import Path

from offnominal.detector import Detector, load
from offnominal.images import displayed, raise_unreadable
from offnominal.outputs.optional_outputs import receipt_picture
from offnominal.outputs.report_writer import write_picture
from offnominal.station import inspections
from offnominal.station.errors import NotFoundError
from offnominal.station.media import QUALITY, RECEIPT
from offnominal.station.station import Station


def receipt_file(station: Station, id: str) -> Path:
    """Path of the receipt of an inspection; it is drawn by the model version that judged the part.

    Raises
    ------
    NotFoundError
        The inspection does not exist, has no region, or its image is not kept.
    """
    with station.database.read() as session:
        row, line, digest = inspections.one(session, id)
    image = inspections.media_file(station.folder, row, "image")
    target = image.with_name(RECEIPT)
    if not row.regions:
        raise NotFoundError(f"inspection {id}: has no region, so there is nothing to explain")
    if target.is_file():
        return target

    def draw(detector: Detector) -> None:
        loaded = station.judge.loaded(line)
        if loaded is None or loaded.digest != digest:
            detector = load(station.folder.model(digest))
        ((_, result, pixels),) = detector.inspect_with_pixels([image], failed=raise_unreadable, evidence=True)
        picture = receipt_picture(detector.model, result, displayed(pixels, detector.model.values))
        unfinished = target.with_name(f"{station.folder.new_upload().name}.jpg")
        write_picture(unfinished, picture, QUALITY)
        os.replace(unfinished, target)

    station.judge.call(line, draw).result()
    return target
