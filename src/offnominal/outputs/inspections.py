"""Outputs of `inspect`: results, overlays, a report and optional outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.datasets import Item
from offnominal.detector import Detector
from offnominal.errors import ImageError, raise_if_fatal, reason_of
from offnominal.images import displayed, measured
from offnominal.images.arrays import Pixels
from offnominal.monitoring.drift_monitor import DriftMonitor
from offnominal.observer import SILENT, Observer
from offnominal.outputs.model_facts import readable_facts, warnings_of
from offnominal.outputs.optional_outputs import Extras, ExtraWriter, region_row
from offnominal.outputs.report_writer import ReportWriter, make_folder, picture_name, write_picture
from offnominal.outputs.result_rows import ResultRows, error_row
from offnominal.reports import overlay
from offnominal.stopping import delay_stop
from offnominal.storage.owned_files import own, own_folder, remove_inspection, remove_own
from offnominal.types import Float, Inspection

#: At most MAX_WAITING images wait to be drawn; an image larger than 1/16 of `memory` is drawn before the next is taken.
MAX_WAITING, LARGE = 4, 16


@dataclass(frozen=True)
class InspectionRun:
    """Number of images that were done, anomalous, and unreadable."""

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
    """Inspect images and write their outputs.

    The outputs of an earlier inspection in the folder are removed. A row of `results.jsonl` is on disk as soon as its image is
    done, so Ctrl-C keeps the results so far. An image that cannot be read, scored or drawn has a row with the reason.

    Parameters
    ----------
    detector
        The detector that inspects.
    items
        The images.
    folder
        Output folder.
    extras
        Optional outputs.
    monitor
        Drift monitor, which receives the images in their order.
    report
        Title of `report.html`; None writes none.
    observer
        Receives the progress.

    Returns
    -------
    InspectionRun
        The counts.
    list of dict
        The rows of `results.jsonl`, in the order of `items`.

    Raises
    ------
    OutputError
        A file cannot be written.
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

    def draw(index: int, inspection: Inspection, pixels: Pixels) -> None:
        stem = picture_name(f"{index:05d}", items[index].path.name)
        try:
            target = own(folder, f"overlays/{stem}.jpg", "inspect")
            shown = displayed(pixels, detector.model.values, detector.model.counted(inspection))
            write_picture(target, overlay(shown, inspection.anomaly_map, inspection.threshold))
            entries = writer.add(index, stem, str(items[index].path), inspection, shown)
            row = {**inspection_row(inspection), "map": target.relative_to(folder).as_posix(), **entries, "error": None}
            if page is not None:
                receipts = {0: entries["receipt"]} if entries.get("receipt") else {}
                page.add(index, items[index].name, inspection, shown, heat=row["map"], receipts=receipts)
            rows.add(index, row)
        except Exception as error:  # noqa: BLE001 - any failure costs this image alone
            raise_if_fatal(error)
            remove_own(folder, lambda name, command: f"/{index:05d}-" in name and command == "inspect")
            writer.forget(index)
            failed(index, ImageError(f"{items[index].path}: cannot be drawn ({reason_of(error)})"))

    def finish_oldest() -> None:
        drawing.popleft().result()
        observer.on_progress("inspect", len(rows.rows), len(items))

    drawing: deque[Future[None]] = deque()
    painter = ThreadPoolExecutor(1)  # draws while the next images are scored
    with closing(
        detector.inspect_with_pixels(
            [measured(item.path, item.mm_per_pixel) for item in items],
            failed=failed,
            evidence=extras.evidence,
            maps=extras.needs_noise_or_layer_maps,
        )
    ) as inspected:
        try:
            for index, inspection, pixels in inspected:
                appearances[index] = inspection.appearance
                drawing.append(painter.submit(draw, index, inspection, pixels))
                large = pixels.nbytes + inspection.anomaly_map.nbytes > detector.settings.memory // LARGE
                while len(drawing) > (0 if large else MAX_WAITING):
                    finish_oldest()
            while drawing:
                finish_oldest()
        finally:
            with delay_stop():
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


def image_level_notes(images: Sequence[tuple[str, bool | None, float | None]], rate: float) -> list[str]:
    """The note on images that differ from normal ones as a whole, without an anomalous region.

    Parameters
    ----------
    images
        For each image its name, whether it is anomalous, and its image-level p-value; None if unknown.
    rate
        Images with an image-level p-value of at most this are named.

    Returns
    -------
    list of str
        One line, or none.

    Examples
    --------
    >>> image_level_notes([("a.png", False, 0.5), ("b.png", False, 0.01)], rate=0.01)[0]
    'note: 1 image differs from normal images as a whole, without any anomalous region (image-level p-value <= 1.00%): b.png'
    """
    names = [name for name, anomalous, p_value in images if anomalous is False and p_value is not None and p_value <= rate]
    if not names:
        return []
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    subject = "1 image differs" if len(names) == 1 else f"{len(names)} images differ"
    return [
        f"note: {subject} from normal images as a whole, without any anomalous region "
        f"(image-level p-value <= {rate:.2%}): {listed}"
    ]


def inspection_row(inspection: Inspection) -> dict[str, Any]:
    """The entries of a row of `results.jsonl` that describe the inspection."""
    return {
        "score": inspection.score,
        "p_value": inspection.p_value,
        "anomalous": inspection.anomalous,
        "threshold": inspection.threshold,
        "whole_p_value": inspection.whole_p_value,
        "regions": [region_row(region) for region in inspection.regions],
        "pose": None if inspection.pose is None else asdict(inspection.pose),
        "zones": [asdict(zone) for zone in inspection.zones],
    }
