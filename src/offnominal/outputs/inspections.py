"""What `inspect` leaves in a folder: results, overlays, a report and what else was asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.datasets import Item
from offnominal.detector import Detector
from offnominal.errors import ImageError, raise_unless_of_one_image, reason_of
from offnominal.images import displayed
from offnominal.images.arrays import Pixels
from offnominal.monitoring.drift_monitor import DriftMonitor
from offnominal.observer import SILENT, Observer
from offnominal.outputs.extras import Extras, ExtraWriter, region_row
from offnominal.outputs.model_facts import readable_facts, warnings_of
from offnominal.outputs.report_files import ReportWriter, make_folder, picture_name, write_picture
from offnominal.outputs.result_rows import ResultRows, error_row
from offnominal.reports import overlay
from offnominal.stopping import unstopped
from offnominal.storage.owned_files import own, own_folder, remove_inspection, remove_own
from offnominal.types import Float, Inspection

#: Inspected images that may wait to be drawn, with their pixels. One above `1 / LARGE` of the memory does not wait.
MOST_WAITING, LARGE = 4, 16


@dataclass(frozen=True)
class InspectionRun:
    """How many images were done, off-nominal, and unreadable."""

    done: int
    anomalous: int
    unreadable: int


def write_inspections(
    detector: Detector,
    items: Sequence[Item],
    folder: Path,
    extras: Extras | None = None,
    monitor: DriftMonitor | None = None,
    *,
    report: str | None = None,
    observer: Observer = SILENT,
) -> tuple[InspectionRun, list[dict[str, Any]]]:
    """Inspect `items`; write an overlay each, the extras, and one `results.jsonl` in the order of the items.

    In that order `watch` takes them, too. `report` is the title of a `report.html` that is written as well. What an earlier
    inspection left in the folder is removed. An image that cannot be read, scored or drawn has a row that says why. Rows are
    on disk as soon as their images are done, and Ctrl-C ends with those.
    """
    extras = extras or Extras()
    make_folder(folder)
    remove_inspection(folder)
    writer = ExtraWriter(folder, detector.model, extras)
    appearances: dict[int, Float] = {}
    rows = ResultRows(folder, [str(item.path) for item in items])
    own_folder(folder, "overlays", "inspect")
    page = None if report is None else ReportWriter(folder, detector.model, command="inspect")

    def failed(index: int, error: Exception) -> None:
        rows.add(index, error_row(str(error)))

    def draw(index: int, found: Inspection, pixels: Pixels) -> None:
        stem = picture_name(f"{index:05d}", items[index].path.name)
        try:
            target = own(folder, f"overlays/{stem}.jpg", "inspect")
            shown = displayed(pixels, detector.model.values)
            write_picture(target, overlay(shown, found.anomaly_map, found.threshold))
            added = writer.add(index, stem, str(items[index].path), found, shown)
            row = {**_row(found), "map": target.relative_to(folder).as_posix(), **added, "error": None}
            if page is not None:
                receipts = {0: added["receipt"]} if added.get("receipt") else {}
                page.add(index, items[index].name, found, shown, heat=row["map"], receipts=receipts)
            rows.add(index, row)
        except Exception as error:  # noqa: BLE001 - whatever it is raised by, it costs this image alone
            raise_unless_of_one_image(error)
            remove_own(folder, lambda name, command: f"/{index:05d}-" in name and command == "inspect")
            writer.forget(index)
            failed(index, ImageError(f"{items[index].path}: cannot be drawn ({reason_of(error)})"))

    def take() -> None:
        drawing.popleft().result()
        observer.on_progress("inspect", len(rows.rows), len(items))

    drawing: deque[Future[None]] = deque()
    painter = ThreadPoolExecutor(1)  # pictures are drawn while the next images are scored
    with closing(
        detector.inspect_with_pixels(
            [item.path for item in items], failed=failed, evidence=extras.evidence, maps=extras.further_maps
        )
    ) as inspected:
        try:
            for index, found, pixels in inspected:
                appearances[index] = found.appearance
                drawing.append(painter.submit(draw, index, found, pixels))
                large = pixels.nbytes + found.anomaly_map.nbytes > detector.settings.memory // LARGE
                while len(drawing) > (0 if large else MOST_WAITING):
                    take()
            while drawing:
                take()
        finally:
            with unstopped():
                painter.shutdown()
                ordered = rows.finish()
                writer.finish()
    if monitor is not None:
        read = [index for index in sorted(appearances) if rows.rows[index]["error"] is None]
        if read:
            monitor.update([str(items[index].path) for index in read], np.stack([appearances[index] for index in read]))
    errors = {index: rows.rows[index]["error"] for index in sorted(rows.rows)}
    unreadable = [(items[index].name, reason) for index, reason in errors.items() if reason is not None]
    if page is not None and report is not None:
        page.write(report, readable_facts(detector.model), warnings_of(detector.model), unreadable)
    done = len(ordered) - len(unreadable)
    return InspectionRun(done, sum(bool(row["anomalous"]) for row in ordered), len(unreadable)), ordered


def image_level_notes(found: Sequence[tuple[str, bool | None, float | None]], rate: float) -> list[str]:
    """The line that says which images no place of which is off are unlike the good ones all the same; none: no line.

    `found` are names, whether anomalous, and `whole_p_value`.
    """
    names = [name for name, anomalous, whole in found if anomalous is False and whole is not None and whole <= rate]
    if not names:
        return []
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    are = "image is" if len(names) == 1 else "images are"
    return [
        f"note: {len(names)} {are} unlike the good ones as a whole, though no place is off "
        f"(whole_p_value at most {rate:.2%}, to which on average at most that share of good ones comes): {listed}"
    ]


def _row(found: Inspection) -> dict[str, Any]:
    return {
        "score": found.score,
        "p_value": found.p_value,
        "anomalous": found.anomalous,
        "threshold": found.threshold,
        "whole_p_value": found.whole_p_value,
        "regions": [region_row(region) for region in found.regions],
    }
