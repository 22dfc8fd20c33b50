"""The demo: electroluminescence images of monocrystalline solar cells, from the package `elpv-dataset`.

Cells with a defect probability of 0 are good, cells with 1 are defective, the others are left out. The data is licensed under
CC BY-NC-SA 4.0.

References
----------
Buerhop-Lutz et al. (2018), *A benchmark for visual identification of defective solar cells in electroluminescence imagery*.
Deitsch et al. (2019), *Automatic classification of defective photovoltaic module cells in electroluminescence images*.
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
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.model_facts import warnings_of
from offnominal.outputs.optional_outputs import Extras

#: Good cells for the fit; the other good cells are for the test.
TRAINING_CELLS = 350


def write_manifest(path: Path, seed: int = 0, kind: str = "mono") -> None:
    """Write a manifest of the cells with the columns `path`, `split` and `label`.

    Parameters
    ----------
    path
        Target file (CSV).
    seed
        Seed of the split of the good cells.
    kind
        `mono` or `poly`, for monocrystalline or polycrystalline cells.

    Raises
    ------
    InputError
        The package `elpv-dataset` is not installed.
    OutputError
        The file cannot be written.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise InputError("the demo needs its images: pip install 'offnominal[demo]'")
    data = Path(package.origin).parent / "data"
    cells = [line.split() for line in (data / "labels.csv").read_text("utf-8").splitlines() if line.strip()]
    probabilities = [(str(data / name), float(probability)) for name, probability, cell_kind in cells if cell_kind == kind]
    good = [name for name, probability in probabilities if probability == 0]
    defective = [name for name, probability in probabilities if probability == 1]
    order = np.random.default_rng(seed).permutation(len(good))
    rows = [(good[index], "train" if rank < TRAINING_CELLS else "test", "good") for rank, index in enumerate(order)]
    rows += [(name, "test", "defective") for name in defective]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "split", "label"), *rows])
    except OSError as error:
        raise unwritable(path, error) from None


def run(out: Path, observer: Observer) -> None:
    """Fit a model, evaluate it on all test cells, inspect a few of them, and write the reports."""
    manifest, model = out / "cells.csv", out / "cells.safetensors"
    write_manifest(manifest)
    observer.on_note(f"fit: {TRAINING_CELLS} good cells")
    detector = Detector().fit(manifest, observer=observer)
    detector.save(model)
    for warning in warnings_of(detector.model):
        observer.on_note(f"note: {warning}")
    detector = load(model)
    observer.on_note("evaluate: all other good cells and all defective cells")
    result = detector.evaluate(manifest, evidence=True, observer=observer)
    metrics = write_evaluation(detector.model, result, out / "evaluation", "Solar cells")
    observer.on_note("inspect: a few of these cells")
    paths = [image.item.path for image in result.images][:: max(1, len(result.images) // 12)]
    extras = Extras(evidence=True)
    write_inspections(detector, any_images(paths), out / "inspection", extras, report="Solar cells", observer=observer)
    rates = f"false alarms {metrics['false_alarm_rate']:.1%}, detected {metrics['detection_rate']:.1%}"
    observer.on_note(f"image AUROC {metrics['image_auroc']:.3f}, {rates}")
    observer.on_note(f"open {out / 'evaluation' / 'report.html'}")
