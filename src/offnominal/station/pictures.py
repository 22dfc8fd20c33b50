"""Pictures of stored parts that are drawn on first request: receipts, and images in a format that browsers show."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from offnominal.detector import Detector, load
from offnominal.images import displayed, pixels_of, raise_unreadable
from offnominal.outputs.optional_outputs import receipt_picture
from offnominal.outputs.report_writer import write_picture
from offnominal.reports import Picture, shrink
from offnominal.station import inspections
from offnominal.station.errors import NotFoundError, UnavailableError
from offnominal.station.media import PICTURE, QUALITY, RECEIPT
from offnominal.station.station import Station
from offnominal.types import Pose

#: Suffixes of images that every browser shows.
SHOWN = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
#: Longest side of a converted image.
LONGEST = 4096
#: Pictures that are drawn at the same time: each holds a thread that answers requests.
MOST = 16
_drawing = threading.BoundedSemaphore(MOST)


def receipt_file(station: Station, id: str) -> Path:
    """Path of the receipt of an inspection: the evidence of its leading region, by the model version that judged it.

    Raises
    ------
    NotFoundError
        The inspection does not exist, has no region, or its image is not kept.
    """

    def draw(detector: Detector, image: Path) -> Picture:
        ((_, result, pixels),) = detector.inspect_with_pixels([image], failed=raise_unreadable, evidence=True)
        return receipt_picture(detector.model, result, displayed(pixels, detector.model.values, detector.model.counted(result)))

    with station.database.read() as session:
        row, _, _ = inspections.one(session, id)
    if not row.regions:
        raise NotFoundError(f"inspection {id}: has no region, so there is nothing to explain")
    return _drawn(station, id, RECEIPT, draw)


def picture_file(station: Station, id: str) -> Path:
    """Path of the image of an inspection in a format that browsers show, TIFF converted with the model's range of values.

    Raises
    ------
    NotFoundError
        The inspection does not exist, or its image is not kept.
    """
    with station.database.read() as session:
        row, _, _ = inspections.one(session, id)
    image = inspections.media_file(station.folder, row, "image")
    if image.suffix in SHOWN:
        return image
    pose = None if row.pose is None else Pose(**row.pose)

    def shown_picture(detector: Detector, image: Path) -> Picture:
        pixels, model = pixels_of(image), detector.model
        return displayed(pixels, model.values, model.counted_at((pixels.shape[0], pixels.shape[1]), pose))

    return _drawn(
        station,
        id,
        PICTURE,
        lambda detector, image: shrink(shown_picture(detector, image), LONGEST),
    )


def _drawn(station: Station, id: str, name: str, draw: Callable[[Detector, Path], Picture]) -> Path:
    with station.database.read() as session:
        row, line, digest = inspections.one(session, id)
    image = inspections.media_file(station.folder, row, "image")
    target = image.with_name(name)
    if target.is_file():
        return target

    def work(detector: Detector) -> None:
        loaded = station.judge.loaded(line)
        of_part = detector if loaded is not None and loaded.digest == digest else load(station.folder.model(digest))
        unfinished = target.with_name(f"{station.folder.new_upload().name}.jpg")
        write_picture(unfinished, draw(of_part, image), QUALITY)
        os.replace(unfinished, target)

    if not _drawing.acquire(blocking=False):
        raise UnavailableError("too many pictures are drawn at the same time; try again", retry_after=1)
    try:
        station.judge.call(line, work).result()
    finally:
        _drawing.release()
    return target
