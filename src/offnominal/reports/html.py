"""Reports as pages: one HTML file each that needs no network, with full pictures in a folder beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from offnominal.reports.entries import Entry, SourceFile
from offnominal.reports.plots import Chart, score_histogram, svg
from offnominal.types import Float

#: Figure -> (its name, what it means).
MEANING = {
    "image_auroc": ("Image AUROC", "chance that a defective image scores above a good one"),
    "image_ap": ("Image AP", "precision averaged over all detection rates"),
    "image_f1_max": ("Image F1-max", "best balance of precision and detection that any threshold gives"),
    "pixel_auroc": ("Pixel AUROC", "chance that a defect pixel scores above a good one"),
    "pixel_ap": ("Pixel AP", "precision over defect pixels, averaged over all shares found"),
    "pixel_f1_max": ("Pixel F1-max", "best overlap of map and mask that any threshold gives"),
    "aupro_0.30": ("AUPRO 0.30", "overlap with each defect, averaged up to 30 % false pixels"),
    "aupro_0.05": ("AUPRO 0.05", "the same up to 5 % false pixels: the stricter test"),
    "false_alarm_rate": ("False alarms", "share of good images flagged at the calibrated threshold"),
    "detection_rate": ("Detected", "share of defective images flagged at that threshold"),
}
#: Verdicts, those that ask for attention first.
LABELLED = ("missed", "false alarm", "found", "passed")
UNLABELLED = ("flagged", "passed")
_ALARMING = ("missed", "false alarm", "flagged")


def verdict(entry: Entry) -> str:
    """One of `LABELLED` for an image with a label, else one of `UNLABELLED`."""
    if entry.good is None:
        return "flagged" if entry.anomalous else "passed"
    if entry.good:
        return "false alarm" if entry.anomalous else "passed"
    return "found" if entry.anomalous else "missed"


def attention(score: float, anomalous: bool, good: bool | None, threshold: float) -> tuple[bool, float]:
    """Sort key: the higher, the earlier it is shown: the worst misses and false alarms, then the highest scores."""
    wrong = good is not None and good == anomalous
    return wrong, abs(score - threshold) if wrong else score


def report(
    title: str,
    entries: Sequence[Entry],
    *,
    threshold: float,
    calibration: Float,
    facts: Mapping[str, str],
    warnings: Iterable[str],
    unreadable: Sequence[tuple[str, str]] = (),
    metrics: Mapping[str, Any] | None = None,
    charts: Sequence[Chart] = (),
    sources: Mapping[str, SourceFile] | None = None,
) -> str:
    """The page of an inspection, or of an evaluation (all entries have a label, `metrics` and `charts` are given).

    Args:
        entries: all images that were scored; those with a thumbnail get a card.
        threshold: the calibrated one.
        calibration: (n,) held-out scores of the good images that it comes from.
        facts: what to say about the model.
        warnings: what the reader must know first.
        unreadable: (name, reason) of images that could not be read.
        sources: by name, the pictures of good images that receipts are cut from.
    """
    ordered = sorted(entries, key=lambda e: attention(e.score, e.anomalous, e.good, threshold), reverse=True)
    labelled = metrics is not None
    groups = _groups(ordered, labelled)
    counts = [verdict(entry) for entry in ordered]
    cards = [
        {
            "at": at,
            "name": entry.name,
            "label": entry.label,
            "score": entry.score,
            "verdict": verdict(entry),
            "heat": entry.files["heat"],
            "thumb": entry.thumb,
            "thumb_size": entry.thumb_size,
        }
        for at, entry in enumerate(ordered)
        if entry.thumb is not None
    ]
    return render(
        "report.html.j2",
        ("theme.js", "report.js"),
        title=title,
        warnings=list(warnings),
        labelled=labelled,
        total=len(ordered),
        wrong=counts.count("missed") + counts.count("false alarm"),
        flagged=sum(entry.anomalous for entry in ordered),
        threshold=threshold,
        calibration=calibration,
        meaning=MEANING,
        metrics=metrics,
        histogram=score_histogram(groups, threshold) if ordered else None,
        charts=charts,
        counts=dict(
            zip(("tp", "fn", "fp", "tn"), map(counts.count, ("found", "missed", "false alarm", "passed")), strict=True)
        ),
        cards=cards,
        verdicts=LABELLED if labelled else UNLABELLED,
        alarming=_ALARMING,
        classes=sorted({entry.label for entry in ordered if entry.label}, key=lambda name: (name != "good", name)),
        unreadable=unreadable,
        facts=facts,
        data={
            "labelled": labelled,
            "threshold": threshold,
            "calibration": [float(score) for score in calibration],
            "images": [entry.as_json() for entry in ordered],
            "sources": {name: asdict(source) for name, source in (sources or {}).items()},
        },
    )


def render(template: str, scripts: Sequence[str], **values: Any) -> str:
    """A page from `assets`; its policy lets run the given scripts, by their hashes, and fetch nothing."""
    texts = [_asset(name) for name in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_asset),
    )
    return environment.get_template(template).render(
        css=_asset("page.css"), scripts=texts, script_hashes=Markup(hashes or "'none'"), drawn=_drawn, **values
    )


def _asset(name: str) -> str:
    return files("offnominal.reports").joinpath("assets", name).read_text("utf-8")


def _drawn(chart: Chart | None) -> str:
    return "" if chart is None else svg(chart)


def _groups(entries: Sequence[Entry], labelled: bool) -> dict[str, Float]:
    if not labelled:
        return {"all": np.array([entry.score for entry in entries], dtype=np.float32)}
    return {
        name: np.array([entry.score for entry in entries if entry.good == good], dtype=np.float32)
        for name, good in (("good", True), ("defect", False))
    }
