"""What `inspect` and `evaluate` leave in a folder: results, overlays, metrics, scores, plots and reports."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.decisions import SPLIT
from offnominal.detector import Detector, Evaluation
from offnominal.detector.model import Model
from offnominal.detector.model_file import write_whole
from offnominal.detector.outputs.alarms import calibration_facts, calibration_warnings, drift_facts, promise
from offnominal.detector.outputs.drift_watch import DriftWatch
from offnominal.detector.outputs.earlier_run import RESULTS, remove_inspection
from offnominal.detector.outputs.extras import Extras, ExtraWriter, region_row
from offnominal.detector.outputs.plots import evaluation_charts, write_charts
from offnominal.detector.outputs.report_files import ReportWriter, as_text, make_folder, picture_name, write_picture
from offnominal.images import Exposure, Item, displayed, pixels_of
from offnominal.images.decode import Pixels
from offnominal.reports import overlay
from offnominal.reports.plots import Chart
from offnominal.types import Float, Inspection, Progress


def facts(model: Model) -> dict[str, Any]:
    """What a model was fitted on, with what, and what it promises; `offnominal info --json` prints it."""
    return {
        "images": len(model.bank.sources),
        "thumbnails": 0 if model.thumbnails is None else model.thumbnails.kept,
        "skipped": [{"image": name, "reason": reason} for name, reason in model.skipped],
        "left_out": [asdict(entry) for entry in model.left_out],
        "learnt": {"added": model.learnt.added, "removed": model.learnt.removed},
        "backbone": {"name": model.backbone.name, "layers": list(model.backbone.layers), "sha256": model.backbone.digest},
        "bank": {
            "patches": int(model.bank.patches.shape[0]),
            "dimensions": int(model.bank.patches.shape[1]),
            "radius": model.bank.radius,
        },
        "head": {
            "kept": model.head.kept,
            "reason": model.head.reason,
            "gain_on_pseudo_anomalies": model.head.gain,
        },
        "preset": preset_facts(model),
        "search": {
            "index": model.settings.index,
            "exact": model.search_error is None,
            "distance_error": None if model.search_error is None else asdict(model.search_error),
        },
        "input": {"resize": model.geometry.resize, "size": list(model.geometry.size), "values": asdict(model.values)},
        "calibration": calibration_facts(model),
        "promise": promise(model.calibration),
        "drift": drift_facts(model),
        "settings": model.settings.model_dump(mode="json"),
        "versions": model.versions,
    }


def preset_facts(model: Model) -> dict[str, Any]:
    """The preset in use; where it was chosen, why and what was tried: time an image, gain on made defects, its error."""
    if model.choice is None:
        return {"asked": model.settings.preset, "used": model.settings.preset, "reason": "given", "tried": []}
    return {
        "asked": "auto",
        "used": model.choice.chosen,
        "reason": model.choice.reason,
        "tried": [asdict(one) for one in model.choice.tried],
    }


def warnings_of(model: Model) -> list[str]:
    """What a user of the model must know, one sentence each."""
    found = calibration_warnings(model)
    if model.search_error is not None:
        error = model.search_error
        exact = "the threshold is that of an exact search" if model.calibration.method != SPLIT else "the threshold knows it"
        found.append(
            f"The index {model.settings.index} may miss neighbours: the mean distance of held-out patches of {error.images} "
            f"images came out {error.mean:.2%} too large on average and {error.most:.1%} at most, the largest of an image by "
            f"up to {error.peak:.1%}; with noise, to be odd, by {error.odd_mean:.2%}, {error.odd_most:.1%} and "
            f"{error.odd_peak:.1%}; {exact}."
        )
    if model.left_out:
        worst, of = model.left_out[0], len(model.left_out) + model.calibration.count
        found.append(
            f"{len(model.left_out)} of {of} images were left out as suspects, the worst "
            f"{worst.name} (score {worst.score:.2f}); the false-alarm rate is promised for parts like those that were kept."
        )
    if model.learnt.added or model.learnt.removed:
        found.append(
            f"Since the fit {model.learnt.added} images were added and {model.learnt.removed} removed: held-out scores of the "
            "others and channel means are those from before."
        )
    if model.skipped:
        found.append(f"{len(model.skipped)} training images could not be used; the first: {model.skipped[0][1]}")
    return found


#: Inspected images that may wait to be drawn, with their pixels.
MOST_WAITING = 4


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
    inspection left in the folder is removed. Ctrl-C ends with the results of the images that were done.
    """
    extras = extras or Extras()
    remove_inspection(folder)
    writer = ExtraWriter(folder, detector.model, extras)
    rows: dict[int, dict[str, Any]] = {}
    appearances: dict[int, Float] = {}
    pictures = folder / "overlays"
    make_folder(pictures)
    write_whole(folder / RESULTS, b"")  # whose pictures these are can be told however this run ends
    page = None if report is None else ReportWriter(folder, detector.model)

    def failed(index: int, error: Exception) -> None:
        rows[index] = {
            **dict.fromkeys(("score", "p_value", "anomalous", "threshold", "whole_p_value")),
            "regions": [],
            "map": None,
            "error": str(error),
        }

    inspected = detector.inspect_with_pixels(
        [item.path for item in items], failed=failed, evidence=extras.evidence, maps=extras.further_maps
    )

    def draw(index: int, found: Inspection, pixels: Pixels) -> dict[str, Any]:
        stem = picture_name(f"{index:05d}", items[index].path.name)
        target = pictures / f"{stem}.jpg"
        shown = displayed(pixels, detector.model.values)
        write_picture(target, overlay(shown, found.anomaly_map, found.threshold))
        added = writer.add(index, stem, str(items[index].path), found, shown)
        row = {**_row(found), "map": target.relative_to(folder).as_posix(), **added, "error": None}
        if page is not None:
            receipts = {0: added["receipt"]} if added.get("receipt") else {}
            page.add(index, items[index].name, found, shown, heat=row["map"], receipts=receipts)
        return row

    def take() -> None:
        index, drawn = drawing.popleft()
        rows[index] = drawn.result()
        progress("inspect", len(rows), len(items))

    drawing: deque[tuple[int, Future[dict[str, Any]]]] = deque()
    try:
        with ThreadPoolExecutor(1) as painter:  # pictures are drawn while the next images are scored
            for index, found, pixels in inspected:
                appearances[index] = found.appearance
                drawing.append((index, painter.submit(draw, index, found, pixels)))
                if len(drawing) > MOST_WAITING:
                    take()
            while drawing:
                take()
    finally:
        while drawing and drawing[0][1].done() and drawing[0][1].exception() is None:
            take()
        writer.finish()
        ordered = [{"path": str(items[index].path), **rows[index]} for index in sorted(rows)]
        write_whole(folder / RESULTS, "".join(json.dumps(row) + "\n" for row in ordered).encode())
    if watch is not None:
        read = sorted(appearances)
        if read:
            watch.take([str(items[index].path) for index in read], np.stack([appearances[index] for index in read]))
    unreadable = [(items[index].name, rows[index]["error"]) for index in sorted(rows) if rows[index]["error"] is not None]
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
    detector: Detector, result: Evaluation, folder: Path, title: str, plots: Path | None = None
) -> dict[str, Any]:
    """Write `metrics.json`, `scores.csv` and `report.html`, and the plots as files where a folder is given for them.

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
    _write_report(detector.model, result, folder, title, metrics, charts)
    return metrics


def _write_report(
    model: Model, result: Evaluation, folder: Path, title: str, metrics: dict[str, Any], charts: Sequence[Chart]
) -> None:
    page = ReportWriter(folder, model)
    for index, image in enumerate(result.images):
        item, found = image.item, image.inspection
        # Pictures are decoded anew: kept since their inspection, those of a large set would fill the memory.
        shown = (
            displayed(pixels_of(item.path, model.settings.memory), model.values)
            if page.wants(index, found, item.good)
            else None
        )
        page.add(index, item.name, found, shown, label=item.label, good=item.good, mask=image.mask)
    notes = warnings_of(model)
    if result.without_mask:
        notes.append(f"Defective images without a mask that can be read: {result.without_mask}; pixel figures leave them out.")
    if result.unlabelled:
        notes.append(f"Rows left out for want of a label: {result.unlabelled}.")
    page.write(title, _readable_facts(model), notes, result.unreadable, metrics, charts[1:])


def _readable_facts(model: Model) -> dict[str, str]:
    calibration, bank = model.calibration, model.bank
    return {
        "Fitted on": f"{len(bank.sources)} good images",
        "Backbone": f"{model.backbone.name} ({', '.join(model.backbone.layers)})",
        "Memory bank": f"{len(bank.patches)} patches of {bank.patches.shape[1]} features",
        "Input": f"{model.geometry.resize} {model.geometry.size[0]} x {model.geometry.size[1]}, {model.values.depth}, "
        f"values {model.values.low:g} to {model.values.high:g}, {_brightness(model.values.exposure)}",
        "False-alarm rate": f"{calibration.rate:.2%} (asked: {calibration.asked:.2%}), "
        f"from {calibration.count} good images held out ({calibration.method})",
        "Promise": promise(calibration),
        "Threshold": f"{calibration.threshold:.3f}",
        "Libraries": ", ".join(f"{name} {number}" for name, number in model.versions.items()),
    }


def _brightness(exposure: Exposure | None) -> str:
    return "as bright as it is" if exposure is None else f"brightness evened out by up to {exposure.most - 1:.0%}"


def _row(found: Inspection) -> dict[str, Any]:
    return {
        "score": found.score,
        "p_value": found.p_value,
        "anomalous": found.anomalous,
        "threshold": found.threshold,
        "whole_p_value": found.whole_p_value,
        "regions": [region_row(region) for region in found.regions],
    }
