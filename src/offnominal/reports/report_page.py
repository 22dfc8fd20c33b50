"""Reports as HTML pages that need no network, with full pictures in a folder beside them."""

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

#: Key in `metrics.json` -> name, and what it means.
MEANING = {
    "image_auroc": ("Image AUROC", "probability that a defective image scores above a good one"),
    "image_ap": ("Image AP", "precision, averaged over recall"),
    "image_f1_max": ("Image F1-max", "highest F1 score of any threshold"),
    "pixel_auroc": ("Pixel AUROC", "probability that a defect pixel scores above a good one"),
    "pixel_ap": ("Pixel AP", "precision of the pixels, averaged over recall"),
    "pixel_f1_max": ("Pixel F1-max", "highest F1 score of the pixels at any threshold"),
    "aupro_0.30": ("AUPRO 0.30", "mean overlap with each defect, up to 30 % false-positive pixels"),
    "aupro_0.05": ("AUPRO 0.05", "the same, up to 5 % false-positive pixels"),
    "false_alarm_rate": ("False alarms", "share of good images flagged at the calibrated threshold"),
    "detection_rate": ("Detected", "share of defective images flagged at the calibrated threshold"),
}
#: Verdicts of labelled and of unlabelled images, the ones that need attention first.
LABELLED = ("missed", "false alarm", "found", "passed")
UNLABELLED = ("flagged", "passed")
_ALARMING = ("missed", "false alarm", "flagged")


def verdict(entry: Entry) -> str:
    """Verdict on an image: one of `LABELLED` if it has a label, else one of `UNLABELLED`.

    Examples
    --------
    >>> verdict(Entry("a.png", "crack", False, 2.0, 0.3, False, (), (96, 120), None, (0, 0), files={}, receipts={}))
    'missed'
    """
    if entry.good is None:
        return "flagged" if entry.anomalous else "passed"
    if entry.good:
        return "false alarm" if entry.anomalous else "passed"
    return "found" if entry.anomalous else "missed"


def attention(score: float, anomalous: bool, good: bool | None, threshold: float) -> tuple[bool, float]:
    """Sort key of the report, higher is shown earlier: the worst misses and false alarms, then the highest scores.

    Examples
    --------
    >>> missed = attention(score=1.0, anomalous=False, good=False, threshold=3.0)
    >>> missed > attention(score=9.0, anomalous=True, good=False, threshold=3.0)
    True
    """
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
    """HTML page of an inspection, or of an evaluation if `metrics` are given.

    Parameters
    ----------
    title
        Title of the page.
    entries
        All scored images, labelled if `metrics` are given; those with a thumbnail get a card.
    threshold
        Calibrated threshold.
    calibration
        (n,) held-out scores of the calibration images.
    facts
        Facts about the model: label -> text.
    warnings
        Sentences at the top of the page.
    unreadable
        (name, reason) of images that could not be read.
    metrics
        Content of `metrics.json`.
    charts
        Charts of the evaluation.
    sources
        Name of a training image -> its picture, for receipts.

    Examples
    --------
    >>> entry = Entry("a.png", None, None, 7.5, 0.01, True, (), (96, 120), None, (0, 0), files={}, receipts={})
    >>> page = report("Lot 17", [entry], threshold=3.0, calibration=np.ones(9, np.float32), facts={}, warnings=[])
    >>> "<h1>Lot 17</h1>" in page
    True
    """
    ordered = sorted(entries, key=lambda entry: attention(entry.score, entry.anomalous, entry.good, threshold), reverse=True)
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
        ("theme.js", *(("openseadragon.min.js",) if any(entry.zoom for entry in ordered) else ()), "report.js"),
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
    """Render a template of `assets`. The page may run the given scripts only, by their hashes, and fetch nothing."""
    sources = [_asset(name) for name in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" for code in sources)
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_asset),
    )
    return environment.get_template(template).render(
        css=_asset("page.css"), scripts=sources, script_hashes=Markup(hashes or "'none'"), drawn=_inline_svg, **values
    )


def _asset(name: str) -> str:
    return files("offnominal.reports").joinpath("assets", name).read_text("utf-8")


def _inline_svg(chart: Chart | None) -> str:
    return "" if chart is None else svg(chart)


def _groups(entries: Sequence[Entry], labelled: bool) -> dict[str, Float]:
    if not labelled:
        return {"all": np.array([entry.score for entry in entries], dtype=np.float32)}
    return {
        name: np.array([entry.score for entry in entries if entry.good == good], dtype=np.float32)
        for name, good in (("good", True), ("defect", False))
    }
