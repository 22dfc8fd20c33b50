"""What `inspect` and `evaluate` leave in a folder: results.jsonl and overlays; metrics.json, scores.csv and the report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from offnominal.decisions import images_needed
from offnominal.detector import Detector, Evaluation
from offnominal.detector.model import Model
from offnominal.detector.model_file import write_whole
from offnominal.errors import unwritable
from offnominal.images import Item, displayed, pixels_of
from offnominal.reports import Shown, evaluation_report, gallery_order, overlay
from offnominal.types import Inspection, Progress


def facts(model: Model) -> dict[str, Any]:
    """What a model was fitted on, with what, and what it promises; `offnominal info --json` prints it."""
    calibration = model.calibration
    return {
        "images": len(model.bank.sources),
        "skipped": [{"image": name, "reason": reason} for name, reason in model.skipped],
        "left_out": [asdict(entry) for entry in model.left_out],
        "learnt": {"added": model.learnt.added, "removed": model.learnt.removed},
        "backbone": {"name": model.backbone.name, "layers": list(model.backbone.layers), "sha256": model.backbone.digest},
        "bank": {
            "patches": int(model.bank.patches.shape[0]),
            "dimensions": int(model.bank.patches.shape[1]),
            "radius": model.bank.radius,
        },
        "input": {"resize": model.geometry.resize, "size": list(model.geometry.size), "values": asdict(model.values)},
        "calibration": {
            "method": "leave-one-image-out",
            "n": calibration.count,
            "asked_alpha": calibration.asked,
            "alpha": calibration.rate,
            "threshold": calibration.threshold,
            "smallest_alpha": calibration.smallest_rate,
        },
        "settings": model.settings.model_dump(mode="json"),
        "versions": model.versions,
    }


def warnings_of(model: Model) -> list[str]:
    """What a user of the model must know, one sentence each."""
    found = []
    calibration = model.calibration
    if not calibration.enough:
        found.append(
            f"{calibration.count} good images cannot carry a false-alarm rate of {calibration.asked:.2%}: the smallest "
            f"they can is {calibration.rate:.2%}, which is used; "
            f"{images_needed(calibration.asked)} images are needed for the asked one."
        )
    if float(calibration.scores[-1]) == float(calibration.scores[0]):
        found.append("All training images score the same, as if they were copies: give images that vary as the parts do.")
    if model.left_out:
        worst = model.left_out[0]
        found.append(
            f"{len(model.left_out)} of {len(model.left_out) + calibration.count} images were left out as suspects, the worst "
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


@dataclass(frozen=True)
class InspectionRun:
    """How many images were done, off-nominal, and unreadable."""

    done: int
    anomalous: int
    unreadable: int


def write_inspections(
    detector: Detector, items: Sequence[Item], folder: Path, progress: Progress
) -> tuple[InspectionRun, list[dict[str, Any]]]:
    """Inspect `items`; write an overlay each and one `results.jsonl` in the order of the items."""
    rows: dict[int, dict[str, Any]] = {}
    pictures = folder / "overlays"
    _make(pictures)

    def failed(index: int, error: Exception) -> None:
        rows[index] = {
            **dict.fromkeys(("score", "p_value", "anomalous", "threshold")),
            "regions": [],
            "map": None,
            "error": str(error),
        }

    for index, found, pixels in detector.inspect_with_pixels([item.path for item in items], failed=failed):
        target = pictures / f"{index:05d}-{items[index].path.stem}.jpg"
        shown = displayed(pixels, detector.model.values)
        _write_picture(target, overlay(shown, found.anomaly_map, found.threshold))
        rows[index] = {**_row(found), "map": target.relative_to(folder).as_posix(), "error": None}
        progress("inspect", len(rows), len(items))
    ordered = [{"path": str(items[index].path), **rows[index]} for index in sorted(rows)]
    write_whole(folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in ordered).encode())
    unreadable = sum(row["error"] is not None for row in ordered)
    return InspectionRun(len(ordered) - unreadable, sum(bool(row["anomalous"]) for row in ordered), unreadable), ordered


def write_evaluation(detector: Detector, result: Evaluation, folder: Path, title: str) -> dict[str, Any]:
    """Write `metrics.json`, `scores.csv` and `report.html`; returns the metrics."""
    _make(folder)
    metrics = result.as_json()
    write_whole(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "score", "p_value", "anomalous", "error"])
    for image in result.images:
        found = image.inspection
        writer.writerow(
            [image.item.name, image.item.label, f"{found.score:.6g}", f"{found.p_value:.6g}", int(found.anomalous), ""]
        )
    for name, reason in result.unreadable:
        writer.writerow([name, "", "", "", "", reason])
    write_whole(folder / "scores.csv", table.getvalue().encode())
    write_whole(folder / "report.html", _report(detector, result, metrics, title).encode())
    return metrics


def _report(detector: Detector, result: Evaluation, metrics: dict[str, Any], title: str) -> str:
    model = detector.model
    images = [
        Shown(image.item.name, image.item.label or "", image.item.good, image.inspection, image.mask) for image in result.images
    ]
    paths = {id(entry): image.item.path for entry, image in zip(images, result.images, strict=True)}
    notes = warnings_of(model) + [f"{name}: {reason}" for name, reason in result.unreadable[:5]]
    without = sum(not image.item.good and image.mask is None for image in result.images)
    if without:
        notes.append(f"{without} defective images have no mask; pixel figures leave them out.")

    def pictures() -> Iterator[tuple[Shown, Any]]:
        for entry in gallery_order(images):
            yield entry, displayed(pixels_of(paths[id(entry)]), model.values)

    return evaluation_report(title, _readable_facts(model), notes, metrics, images, pictures(), model.calibration.threshold)


def _readable_facts(model: Model) -> dict[str, str]:
    calibration, bank = model.calibration, model.bank
    return {
        "Fitted on": f"{len(bank.sources)} good images",
        "Backbone": f"{model.backbone.name} ({', '.join(model.backbone.layers)})",
        "Memory bank": f"{len(bank.patches)} patches of {bank.patches.shape[1]} features",
        "Input": f"{model.geometry.resize} {model.geometry.size[0]} x {model.geometry.size[1]}, {model.values.depth}, "
        f"values {model.values.low:g} to {model.values.high:g}",
        "False-alarm rate": f"{calibration.rate:.2%} (asked: {calibration.asked:.2%}), "
        f"from {calibration.count} good images held out in turn",
        "Threshold": f"{calibration.threshold:.3f}",
        "Libraries": ", ".join(f"{name} {number}" for name, number in model.versions.items()),
    }


def _row(found: Inspection) -> dict[str, Any]:
    return {
        "score": found.score,
        "p_value": found.p_value,
        "anomalous": found.anomalous,
        "threshold": found.threshold,
        "regions": [
            {"box": list(region.box), "area": region.area, "peak": region.peak, "peak_at": list(region.peak_at)}
            for region in found.regions
        ],
    }


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def _write_picture(path: Path, picture: Any) -> None:
    done, content = cv2.imencode(path.suffix, picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done
    try:
        path.write_bytes(content.tobytes())
    except OSError as error:
        raise unwritable(path, error) from None
