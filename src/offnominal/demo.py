"""The demo: monocrystalline solar cells in electroluminescence light, from the package `elpv-dataset`.

Buerhop-Lutz et al. 2018, Deitsch et al. 2019; data under CC BY-NC-SA 4.0. Cells with defect probability 0 are good, those
with probability 1 defective; what lies between is left out. 350 good cells are for the fit, the rest for the test.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np

from offnominal.datasets import any_images
from offnominal.detector import Detector, load
from offnominal.errors import InputError, unwritable
from offnominal.observer import Observer
from offnominal.outputs.evaluations import write_evaluation
from offnominal.outputs.extras import Extras
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.model_facts import warnings_of

TRAINING_CELLS = 350


def write_manifest(path: Path, seed: int = 0, kind: str = "mono") -> None:
    """A manifest of the cells of one kind (`mono` or `poly`crystalline) with the columns path, split, label.

    Raises:
        InputError: the package is not installed.
    """
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise InputError("the demo needs its images: pip install 'offnominal[demo]'")
    data = Path(found.origin).parent / "data"
    cells = [line.split() for line in (data / "labels.csv").read_text("utf-8").splitlines() if line.strip()]
    judged = [(str(data / name), float(probability)) for name, probability, made in cells if made == kind]
    good = [name for name, probability in judged if probability == 0]
    defective = [name for name, probability in judged if probability == 1]
    order = np.random.default_rng(seed).permutation(len(good))
    rows = [(good[at], "train" if place < TRAINING_CELLS else "test", "good") for place, at in enumerate(order)]
    rows += [(name, "test", "defective") for name in defective]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "split", "label"), *rows])
    except OSError as error:
        raise unwritable(path, error) from None


def run(out: Path, observer: Observer) -> None:
    """Fit, inspect a few, evaluate all, write the report."""
    manifest, model = out / "cells.csv", out / "cells.safetensors"
    write_manifest(manifest)
    observer.on_note("fit: 350 good cells")
    detector = Detector().fit(manifest, observer=observer)
    detector.save(model)
    for warning in warnings_of(detector.model):
        observer.on_note(warning)
    detector = load(model)
    observer.on_note("evaluate: all other good cells, and the defective ones")
    result = detector.evaluate(manifest, evidence=True, observer=observer)
    metrics = write_evaluation(detector.model, result, out / "evaluation", "Solar cells")
    observer.on_note("inspect: a few of them")
    paths = [image.item.path for image in result.images][:: max(1, len(result.images) // 12)]
    write_inspections(
        detector, any_images(paths), out / "inspection", Extras(evidence=True), report="Solar cells", observer=observer
    )
    rates = f"false alarms {metrics['false_alarm_rate']:.1%}, found {metrics['detection_rate']:.1%}"
    observer.on_note(f"image AUROC {metrics['image_auroc']:.3f}, {rates}")
    observer.on_note(f"open {out / 'evaluation' / 'report.html'}")
