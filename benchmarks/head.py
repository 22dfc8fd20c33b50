"""The head trained on noise: what it gains and loses by the kind of its noise, and what a trial without defects says of it.

    python benchmarks/head.py --data FOLDER_OF_SETS [--seeds 3] [--most 50] [--threads 1] [--out benchmarks/results]

FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training images only every so many-th image is used. Here every
head is used, whatever the trial says; `fit --head noise` keeps it only where the last column says so. The energy of the noise
follows the influence by the share stated: 0 is isotropic noise. "Head alone" scores by nearly nothing else.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

from offnominal import Detector
from offnominal import detector as room
from offnominal.config import Fusion
from offnominal.detector import hold_out
from offnominal.detector.engine import FeatureEngine
from offnominal.detector.inspector import Inspector
from offnominal.detector.model import HeadVerdict
from offnominal.detector.trial import judged_head
from offnominal.images import normal_images
from offnominal.noising import train_head
from sets import image_sets, set_arguments
from tables import machine, spread, table, use_threads, write

SHARES = (0.0, 0.7, 1.0)
FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "false_alarm_rate")
FORCED = HeadVerdict(True, "forced by the benchmark", None)


def figures(detector: Detector, data: Path) -> dict[str, Any]:
    found = detector.evaluate(data).figures
    return {name: found[name] for name in FIGURES} | {"promised": detector.model.calibration.rate}


def scored_by(detector: Detector, fusion: Fusion) -> Detector:
    """The same model with other weights; what it promises at its threshold then no longer holds."""
    model = replace(detector.model, settings=detector.model.settings.model_copy(update={"fusion": fusion}))
    other = Detector(**model.settings.model_dump())
    other._inspector = Inspector(model, FeatureEngine(model.settings))
    return other


def measure(data: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Figures without a head and with one of each share."""
    found = {"none": figures(Detector(seed=seed, false_alarm_rate=0.05).fit(data), data)}
    for share in SHARES:
        with (
            mock.patch.object(hold_out, "train_head", partial(train_head, share=share)),
            mock.patch.object(room, "judged_head", return_value=FORCED),
        ):
            detector = Detector(seed=seed, false_alarm_rate=0.05, head="noise").fit(data)
        found[f"{share:g}"] = figures(detector, data) | {"seconds": detector.seconds["head"]}
        if share == SHARES[1]:
            alone = scored_by(detector, Fusion(distance=1e-6, influence=0, response=0, head=1))
            found[f"{share:g}, head alone"] = figures(alone, data)
    return found


def main() -> None:
    given = set_arguments(__doc__, seeds=3, most=50).parse_args()
    use_threads(given.threads)
    here = machine()
    rows, kept = [], {}
    with tempfile.TemporaryDirectory() as lists:
        for one in image_sets(given.data, given.most, Path(lists)):
            runs = []
            for seed in range(given.seeds):
                runs.append(measure(one.data, seed))
                print(f"{one.name}, seed {seed}", file=sys.stderr)
            settings = Detector(head="noise").settings
            verdict = judged_head([item.path for item in normal_images(one.data)], settings, FeatureEngine(settings))
            kept[str(one)] = {"runs": runs, "verdict": [verdict.kept, verdict.reason, verdict.gain]}
            rows += [row(one.name, noise, runs, verdict) for noise in runs[0]]
    columns = (
        "set",
        "noise",
        "image AUROC",
        "pixel AUROC",
        "pixel AP",
        "false alarms (promised)",
        "training, s",
        "the trial says",
    )
    write(
        given.out,
        "head",
        [
            "# The head trained on noise",
            "; ".join(kept) + f". {given.seeds} seeds: mean (least–most); the first row of a set is without a head.",
            str(here),
            table(columns, rows),
        ],
        {"machine": here, **kept},
    )


def row(name: str, noise: str, runs: list[dict[str, dict[str, float]]], verdict: HeadVerdict) -> list[Any]:
    mine = [run[noise] for run in runs]
    seconds = [run["seconds"] for run in mine if "seconds" in run]
    promised = f"{mean(run['false_alarm_rate'] for run in mine):.3f} ({mean(run['promised'] for run in mine):.3f})"
    return [
        name,
        noise,
        *(spread(mine, figure) for figure in FIGURES[:3]),
        "–" if "alone" in noise else promised,
        f"{mean(seconds):.0f}" if seconds else "–",
        verdict.reason if noise == "none" else "",
    ]


if __name__ == "__main__":
    main()
