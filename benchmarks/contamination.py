"""The cost of defective images among the training images, and the gain of `contamination`.

    python benchmarks/contamination.py --data FOLDER_OF_SETS [--only magnetic_tile] [--rates 0,0.1] [--draws 5] [--out FOLDER]

In each set (magnetic_tile, aws_cookies, monocrystalline cells of `elpv-dataset`), a draw plants random defective images among
the training images, as many as the highest rate needs. They leave the test set, which is therefore the same for all rates.
Lower rates plant the first of them. The detector is fitted with `contamination` 0 and auto. The bound for any audit with this
score is a fit that leaves out the planted images that a model of the good images flags at 5 %. The metrics are image AUROC,
detections and false alarms at the rates of `--alpha` or at the smallest attainable rate: mean ± standard deviation over draws.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from offnominal import Detector
from offnominal.datasets import Item, labelled_images, normal_images
from offnominal.decisions import calibrate
from offnominal.demo import write_manifest
from offnominal.metrics import auroc
from tables import arguments, machine, plus_minus, table, use_threads, write

SETS = ("magnetic_tile", "aws_cookies")
CHOICES: tuple[float | str, ...] = (0.0, "auto")
#: For the bound, planted images that a model of the good images flags at this false-alarm rate are left out.
BOUND, BOUND_AT = "bound", 0.05


def measure(data: str, rates: list[float], alphas: list[float], draw: int) -> list[dict[str, Any]]:
    good, test = normal_images(data), labelled_images(data)
    defects = [item for item in test if not item.good]
    defects = [defects[at] for at in np.random.default_rng(draw).permutation(len(defects))]
    counts = [round(rate / (1 - rate) * len(good)) for rate in rates]
    test_good, test_bad = [item for item in test if item.good], defects[max(counts) :]
    clean = Detector().fit([item.path for item in good])
    threshold = calibrate(clean.model.calibration.scores, BOUND_AT).threshold
    scores = clean.score_samples([item.path for item in defects[: max(counts)]])
    results = []
    for rate, count in zip(rates, counts, strict=True):
        planted = defects[:count]
        missed = [item for item, score in zip(planted, scores[:count], strict=True) if score <= threshold]
        for choice in (*CHOICES, *([BOUND] if planted else [])):
            print(data, draw, rate, choice, file=sys.stderr, flush=True)
            mixed = sorted([*good, *(missed if choice == BOUND else planted)], key=lambda item: item.name)
            detector = Detector(contamination=0.0 if choice == BOUND else choice).fit([item.path for item in mixed])
            left_out = {entry.name for entry in detector.model.left_out} | {
                str(item.path) for item in planted if item not in mixed
            }
            left_out_planted = left_out & {str(item.path) for item in planted}
            results.append(
                {
                    "rate": rate,
                    "planted": count,
                    "training": len(good) + count,
                    "contamination": choice,
                    "found": len(left_out_planted),
                    "wrongly": len(left_out - left_out_planted),
                    **judged(detector, test_good, test_bad, alphas),
                }
            )
    return results


def judged(detector: Detector, good: list[Item], bad: list[Item], alphas: list[float]) -> dict[str, Any]:
    scores = detector.score_samples([item.path for item in [*good, *bad]])
    labels = np.arange(len(scores)) >= len(good)
    rates = {}
    for alpha in alphas:
        calibration = calibrate(detector.model.calibration.scores, alpha)
        flagged = scores > np.float32(calibration.threshold)
        rates[f"{alpha:g}"] = {
            "promised": calibration.rate,
            "false_alarms": float(flagged[~labels].mean()),
            "detected": float(flagged[labels].mean()),
        }
    return {"image_auroc": auroc(scores, labels), "at": rates, "test_good": len(good), "test_bad": len(bad)}


def at_rate(runs: list[dict[str, Any]]) -> str:
    """Detected / false alarms (stated rate) over draws."""
    detected, flagged = (plus_minus([run[key] for run in runs]) for key in ("detected", "false_alarms"))
    return f"{detected} / {flagged} ({runs[0]['promised']:.3f})"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", help="measure one set")
    parser.add_argument(
        "--rates", default="0,0.05,0.1,0.2", help="shares of the training images; the highest fixes the test set"
    )
    parser.add_argument("--alpha", default="0.01,0.05,0.1")
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    use_threads(args.threads)
    rates, alphas = ([float(number) for number in text.split(",")] for text in (args.rates, args.alpha))
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder) / "cells.csv")
        sets = {**{name: str(args.data / name) for name in SETS}, "elpv monocrystalline": str(Path(folder) / "cells.csv")}
        sets = {name: data for name, data in sets.items() if args.only in (None, name)}
        results = {name: [measure(data, rates, alphas, draw) for draw in range(args.draws)] for name, data in sets.items()}
    columns = ["set", "planted", "contamination", "left out: planted, others", "image AUROC"]
    columns += [f"detected / false alarms at {alpha:g}" for alpha in alphas]
    rows = [
        [
            name,
            f"{runs[0]['planted']} of {runs[0]['training']}",
            runs[0]["contamination"],
            ", ".join(plus_minus([run[key] for run in runs], 1) for key in ("found", "wrongly")),
            plus_minus([run["image_auroc"] for run in runs]),
            *(at_rate([run["at"][at] for run in runs]) for at in runs[0]["at"]),
        ]
        for name, draws in results.items()
        for runs in zip(*draws, strict=True)
    ]
    note = f"{args.draws} draws. In brackets the stated rate: the rate asked for, or the smallest attainable one."
    stem = "contamination" + ("" if args.only is None else f"-{args.only.replace(' ', '-')}")
    write(args.out, stem, [str(machine()), table(columns, rows), note], results)


if __name__ == "__main__":
    main()
