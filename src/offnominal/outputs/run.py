"""What `inspect` and `evaluate` leave in a folder: results, overlays, metrics, scores, plots and reports."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.config import Settings
from offnominal.datasets import Item
from offnominal.detector import Detector
from offnominal.errors import ImageError, SettingsError, raise_unless_of_one_image, reason_of
from offnominal.features import choose_device
from offnominal.images import Exposure, displayed, pixels_of
from offnominal.images.decode import Pixels
from offnominal.inference import Evaluation
from offnominal.machine import Kernel, kernels
from offnominal.model.model import Member, Model
from offnominal.monitoring.drift_monitor import DriftWatch
from offnominal.outputs.alarms import calibration_facts, calibration_warnings, drift_facts, promise
from offnominal.outputs.charts import evaluation_charts, write_charts
from offnominal.outputs.extras import Extras, ExtraWriter, region_row
from offnominal.outputs.report_files import ReportWriter, as_text, make_folder, picture_name, write_picture
from offnominal.outputs.result_rows import ResultRows, error_row
from offnominal.reports import overlay
from offnominal.reports.plots import Chart
from offnominal.scoring import SIGNALS
from offnominal.stopping import unstopped
from offnominal.storage import write_whole
from offnominal.storage.owned_files import own, own_folder, remove_inspection, remove_own
from offnominal.types import Float, Inspection, Progress


def facts(model: Model) -> dict[str, Any]:
    """What a model was fitted on, with what, and what it promises; `offnominal info --json` prints it."""
    return {
        "images": len(model.sources),
        "thumbnails": 0 if model.thumbnails is None else model.thumbnails.kept,
        "skipped": [{"image": name, "reason": reason} for name, reason in model.skipped],
        "left_out": [asdict(entry) for entry in model.left_out],
        "updates": {"added": model.added, "removed": model.removed},
        "preset": model.settings.preset,
        "members": [member_facts(member) for member in model.members],
        "fused": {name: weight for name, weight in zip(SIGNALS, model.settings.fusion.weights, strict=True) if weight},
        "values": asdict(model.values),
        "calibration": calibration_facts(model),
        "promise": promise(model),
        "drift": drift_facts(model),
        "settings": model.settings.model_dump(mode="json"),
        "versions": model.versions,
    }


def kernels_of(settings: Settings) -> dict[str, Kernel]:
    """What a detector with these settings runs on, on this machine."""
    try:
        device = choose_device(settings.device, settings.runtime).type
    except SettingsError:  # fitted on a GPU, looked at where there is none
        device = "cpu"
    return kernels(settings.runtime, device)


def member_facts(member: Member) -> dict[str, Any]:
    """An entry of `members` in `info --json`."""
    backbone, bank = member.backbone, member.bank
    return {
        "name": member.name,
        "backbone": {"name": backbone.name, "layers": list(backbone.layers), "sha256": backbone.digest},
        "input": {"resize": member.geometry.resize, "size": list(member.geometry.size)},
        "bank": {"patches": int(bank.patches.shape[0]), "dimensions": int(bank.patches.shape[1]), "radius": bank.radius},
    }


def warnings_of(model: Model) -> list[str]:
    """What a user of the model must know, one sentence each."""
    found = calibration_warnings(model)
    if model.left_out:
        worst, of = model.left_out[0], len(model.left_out) + model.calibration.count
        found.append(
            f"{len(model.left_out)} of {of} images were left out as suspects, the worst {worst.name} (score {worst.score:.2f})."
        )
    if model.added or model.removed:
        found.append(
            f"{model.added} images were added and {model.removed} removed since the fit; held-out scores of the other images "
            "and channel statistics are those of the fit."
        )
    if model.skipped:
        found.append(f"{len(model.skipped)} training images could not be used; the first: {model.skipped[0][1]}")
    return found


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
    progress: Progress,
    extras: Extras | None = None,
    watch: DriftWatch | None = None,
    *,
    report: str | None = None,
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
        progress("inspect", len(rows.rows), len(items))

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
    if watch is not None:
        read = [index for index in sorted(appearances) if rows.rows[index]["error"] is None]
        if read:
            watch.take([str(items[index].path) for index in read], np.stack([appearances[index] for index in read]))
    errors = {index: rows.rows[index]["error"] for index in sorted(rows.rows)}
    unreadable = [(items[index].name, reason) for index, reason in errors.items() if reason is not None]
    if page is not None and report is not None:
        page.write(report, _readable_facts(detector.model), warnings_of(detector.model), unreadable)
    done = len(ordered) - len(unreadable)
    return InspectionRun(done, sum(bool(row["anomalous"]) for row in ordered), len(unreadable)), ordered


def unlike_as_a_whole(found: Sequence[tuple[str, bool | None, float | None]], rate: float) -> list[str]:
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


def begin_evaluation(folder: Path, plots: Path | None = None) -> None:
    """Make the folders, before the work that ends in them. Raises `OutputError` where that cannot be."""
    for one in (folder, *([] if plots is None else [plots])):
        make_folder(one)


def write_evaluation(
    detector: Detector,
    result: Evaluation,
    folder: Path,
    title: str,
    plots: Path | None = None,
    failed: Callable[[str], None] = lambda reason: None,
) -> dict[str, Any]:
    """Write `metrics.json`, `scores.csv` and `report.html`, and the plots as files where a folder is given for them.

    `failed(reason)` is called for each image that cannot be drawn; it stands in the report without pictures.

    Returns the metrics.
    """
    begin_evaluation(folder, plots)
    metrics = result.as_json()
    write_whole(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "score", "p_value", "anomalous", "error", "whole_p_value"])
    reasons = dict(result.unreadable)  # an image whose mask cannot be read was scored all the same
    for image in result.images:
        found, name = image.inspection, image.item.name
        whole = "" if found.whole_p_value is None else f"{found.whole_p_value:.6g}"
        judged = f"{found.score:.9g}", f"{found.p_value:.6g}", int(found.anomalous)
        writer.writerow([name, image.item.label, *judged, reasons.pop(name, ""), whole])
    for name, reason in reasons.items():
        writer.writerow([name, "", "", "", "", reason, ""])
    write_whole(folder / "scores.csv", as_text(table.getvalue()))
    charts = evaluation_charts(detector.model.calibration, result)
    if plots is not None:
        write_charts(charts, plots)
    _write_report(detector.model, result, folder, title, metrics, charts, failed)
    return metrics


def _write_report(
    model: Model,
    result: Evaluation,
    folder: Path,
    title: str,
    metrics: dict[str, Any],
    charts: Sequence[Chart],
    failed: Callable[[str], None],
) -> None:
    page = ReportWriter(folder, model)
    for index, image in enumerate(result.images):
        item, found = image.item, image.inspection
        add = partial(page.add, index, item.name, found, label=item.label, good=item.good, mask=image.mask)
        try:
            # Pictures are decoded anew: kept since their inspection, those of a large set would fill the memory.
            wanted = page.wants(index, found, item.good)
            add(displayed(pixels_of(item.path, model.settings.memory), model.values) if wanted else None)
        except Exception as error:  # noqa: BLE001 - whatever it is raised by, it costs this image alone
            raise_unless_of_one_image(error)
            failed(f"{item.path}: cannot be drawn ({reason_of(error)})")
            add(None)
    notes = warnings_of(model)
    if result.without_mask:
        notes.append(f"Defective images without a mask that can be read: {result.without_mask}; pixel figures leave them out.")
    if result.unlabelled:
        notes.append(f"Rows left out for want of a label: {result.unlabelled}.")
    page.write(title, _readable_facts(model), notes, result.unreadable, metrics, charts[1:])


def _readable_facts(model: Model) -> dict[str, str]:
    calibration = model.calibration
    several = len(model.members) > 1
    members = {}
    for number, member in enumerate(model.members, 1):
        name = f"Member {number}" if several else "Backbone"
        size, bank = member.geometry.size, member.bank.patches
        members[name] = (
            f"{member.name} ({', '.join(member.backbone.layers)}) at {size[0]} x {size[1]} ({member.geometry.resize}), "
            f"bank of {len(bank)} patches with {bank.shape[1]} features"
        )
    return {
        "Fitted on": f"{len(model.sources)} good images",
        **members,
        "Input": f"{model.values.depth}, values {model.values.low:g} to {model.values.high:g}, "
        f"{_exposure(model.values.exposure)}",
        "False-alarm rate": f"{calibration.rate:.2%} (stated: {calibration.asked:.2%}), "
        f"from {calibration.count} good images held out ({calibration.method})",
        "Promise": promise(model),
        "Threshold": f"{calibration.threshold:.3f}",
        "Libraries": ", ".join(f"{name} {number}" for name, number in model.versions.items()),
    }


def _exposure(exposure: Exposure | None) -> str:
    return "exposure as it is" if exposure is None else f"exposure corrected by up to {exposure.most - 1:.0%}"


def _row(found: Inspection) -> dict[str, Any]:
    return {
        "score": found.score,
        "p_value": found.p_value,
        "anomalous": found.anomalous,
        "threshold": found.threshold,
        "whole_p_value": found.whole_p_value,
        "regions": [region_row(region) for region in found.regions],
    }
