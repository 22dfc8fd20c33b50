"""What defects among the good training images cost, and what `contamination` saves.

    python benchmarks/contamination.py --data FOLDER_OF_SETS --out benchmarks/results [--only magnetic_tile] [--rates 0,0.1]

Of the defect images of each set (magnetic_tile, aws_cookies, monocrystalline cells of `elpv-dataset`) some are drawn, with
seed 0, as many as make up the highest rate of the training images. They leave the test set, which is so the same for all
rates; lower rates take the first of them. The detector is fitted with `contamination` 0 and auto, and as a bound for any audit
by this score on what is left when those planted go that a model of the good images alone flags at 5 %, and no good one.
Figures: image AUROC, and detected defects and false alarms at the false-alarm rates of `--alpha`, or at the smallest that the
images carry.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from offnominal import Detector
from offnominal.decisions import calibrate
from offnominal.demo import write_manifest
from offnominal.images import Item, labelled_images, normal_images
from offnominal.metrics import auroc
from tables import arguments, machine, table, use_threads, write

SETS = ("magnetic_tile", "aws_cookies")
CHOICES: tuple[float | str, ...] = (0.0, "auto")
#: The bound: planted images above the threshold of a model of the good ones alone at this false-alarm rate are left out.
BOUND, BOUND_AT = "bound", 0.05


def measure(data: str, rates: list[float], alphas: list[float]) -> list[dict[str, Any]]:
    good, test = normal_images(data), labelled_images(data)
    defects = [item for item in test if not item.good]
    defects = [defects[at] for at in np.random.default_rng(0).permutation(len(defects))]
    drawn = [round(rate / (1 - rate) * len(good)) for rate in rates]
    kept_good, kept_bad = [item for item in test if item.good], defects[max(drawn) :]
    clean = Detector().fit([item.path for item in good])
    level = calibrate(clean.model.calibration.scores, BOUND_AT).threshold
    scores = clean.score_samples([item.path for item in defects[: max(drawn)]])
    found = []
    for rate, count in zip(rates, drawn, strict=True):
        planted = defects[:count]
        missed = [item for item, score in zip(planted, scores[:count], strict=True) if score <= level]
        for choice in (*CHOICES, *([BOUND] if planted else [])):
            print(data, rate, choice, file=sys.stderr, flush=True)
            mixed = sorted([*good, *(missed if choice == BOUND else planted)], key=lambda item: item.name)
            detector = Detector(contamination=0.0 if choice == BOUND else choice).fit([item.path for item in mixed])
            gone = {entry.name for entry in detector.model.left_out} | {str(item.path) for item in planted if item not in mixed}
            of_planted = gone & {str(item.path) for item in planted}
            found.append(
                {
                    "rate": rate,
                    "planted": count,
                    "training": len(good) + count,
                    "contamination": choice,
                    "found": len(of_planted),
                    "wrongly": len(gone - of_planted),
                    **judged(detector, kept_good, kept_bad, alphas),
                }
            )
    return found


def judged(detector: Detector, good: list[Item], bad: list[Item], alphas: list[float]) -> dict[str, Any]:
    scores = detector.score_samples([item.path for item in [*good, *bad]])
    labels = np.arange(len(scores)) >= len(good)
    rates = {}
    for alpha in alphas:
        calibration = calibrate(detector.model.calibration.scores, alpha)
        above = scores > np.float32(calibration.threshold)
        rates[f"{alpha:g}"] = {
            "promised": calibration.rate,
            "false_alarms": float(above[~labels].mean()),
            "detected": float(above[labels].mean()),
        }
    return {"image_auroc": auroc(scores, labels), "at": rates, "test_good": len(good), "test_bad": len(bad)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", help="one set")
    parser.add_argument(
        "--rates", default="0,0.05,0.1,0.2", help="shares of the training images; the highest fixes the test set"
    )
    parser.add_argument("--alpha", default="0.01,0.05,0.1")
    given = parser.parse_args()
    use_threads(given.threads)
    rates, alphas = ([float(number) for number in text.split(",")] for text in (given.rates, given.alpha))
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder) / "cells.csv")
        sets = {**{name: str(given.data / name) for name in SETS}, "elpv monocrystalline": str(Path(folder) / "cells.csv")}
        sets = {name: data for name, data in sets.items() if given.only in (None, name)}
        found = {name: measure(data, rates, alphas) for name, data in sets.items()}
    columns = ["set", "planted", "contamination", "left out: planted, others", "image AUROC"]
    columns += [f"detected / false alarms at {alpha:g}" for alpha in alphas]
    rows = [
        [
            name,
            f"{one['planted']} of {one['training']}",
            one["contamination"],
            f"{one['found']}, {one['wrongly']}",
            f"{one['image_auroc']:.3f}",
            *(f"{at['detected']:.3f} / {at['false_alarms']:.3f} ({at['promised']:.3f})" for at in one["at"].values()),
        ]
        for name, runs in found.items()
        for one in runs
    ]
    note = "In brackets the promised rate, where the images cannot carry the asked one."
    stem = "contamination" + ("" if given.only is None else f"-{given.only.replace(' ', '-')}")
    write(given.out, stem, [str(machine()), table(columns, rows), note], found)


if __name__ == "__main__":
    main()
