"""Realised and stated error rates: false alarms, lots, the drift monitor, and leave-one-out against a new fit.

    python benchmarks/alarms.py --data FOLDER_OF_SETS --out benchmarks/results

FOLDER_OF_SETS holds MVTec roots; the monocrystalline solar cells of `elpv-dataset` and the textile of `conformal-clip-data`
are added if these packages are installed. Scores and features are computed once; calibrations, lots and streams are drawn from
them hundreds of times. Writes alarms.md and alarms.json. With `--sets` or `--parts`, other results in alarms.json are kept, so
that the sets and parts can be measured one by one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import betabinom

from offnominal import Detector
from offnominal.datasets import labelled_images, normal_images
from offnominal.decisions import calibrate, judge_lot
from offnominal.fitting import fit as fitting
from sets import packaged_sets
from streams import stream_results, stream_tables, synthetic_streams
from tables import arguments, machine, table, use_threads, write

ALPHAS = (0.01, 0.05, 0.10)
SPLITS, LOTS, LOT, FDR = 200, 500, 100, 0.1
PACKAGED = ("elpv monocrystalline", "textile")
PARTS = ("scores", "leave-one-out", "rebuilt", "streams", "made")


def log(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def shown(values: Sequence[float] | np.ndarray[Any, Any]) -> str:
    """Mean and its standard error, in percent."""
    return f"{100 * np.mean(values):.2f} ± {100 * np.std(values) / np.sqrt(len(values)):.2f}"


# --- scores -----------------------------------------------------------------------------------------------------------


def scores_of(good: list[Any], bad: list[Any], seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scores of defective images and of the good images outside the fit, which uses a random 40 % of the good images."""
    order = np.random.default_rng(seed).permutation(len(good))
    count = round(0.4 * len(good))
    detector = Detector(calibration="leave-one-out").fit([good[at] for at in order[:count]])
    return (
        detector.score_samples([good[at] for at in order[count:]]),
        detector.score_samples(bad),
    )


def false_alarms(good: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Realised rates over random splits of the scores of images outside the fit."""
    rows = []
    for alpha in ALPHAS:
        rates, n, test = [], len(good) * 2 // 3, len(good) - len(good) * 2 // 3
        for split in range(SPLITS):
            order = np.random.default_rng([1, split]).permutation(len(good))
            calibration = calibrate(good[order[:n]], alpha, "split")
            rates.append(np.mean([calibration.anomalous(float(score)) for score in good[order[n:]]]))
        law = betabinom(test, calibration.rank, n + 1 - calibration.rank)
        rows.append(
            {
                "asked": alpha,
                "n": n,
                "test": test,
                "alpha": calibration.rate,
                "marginal": calibration.marginal_rate,
                "mean": float(np.mean(rates)),
                "error": float(np.std(rates) / np.sqrt(SPLITS)),
                "spread": float(np.std(rates)),
                "law": float(law.std() / test),
                "bound_95": calibration.bound_95,
                "above_bound": float(np.mean(np.array(rates) > calibration.bound_95)),
                "above_bound_law": float(law.sf(np.floor(calibration.bound_95 * test + 1e-9))),
            }
        )
    return rows


def leave_one_out_rates(good: list[Any], train: int, fits: int) -> list[dict[str, Any]]:
    """Realised rates of leave-one-out calibration: fits on random images, inspections of all others."""
    rates: dict[float, list[tuple[float, float]]] = {alpha: [] for alpha in ALPHAS}
    for seed in range(fits):
        order = np.random.default_rng([2, seed]).permutation(len(good))
        detector = Detector(calibration="leave-one-out").fit([good[at] for at in order[:train]])
        scores = detector.score_samples([good[at] for at in order[train:]])
        for alpha in ALPHAS:
            calibration = calibrate(detector.model.calibration.scores, alpha)
            rates[alpha].append((float((scores > calibration.threshold).mean()), calibration.marginal_rate))
    return [
        {
            "asked": alpha,
            "fits": fits,
            "n": train,
            "test": len(good) - train,
            "promised": pairs[0][1],
            "mean": float(np.mean([p[0] for p in pairs])),
            "error": float(np.sqrt(pairs[0][1] * (1 - pairs[0][1]) * (1 / (len(good) - train) + 1 / train) / fits)),
        }
        for alpha, pairs in rates.items()
    ]


def lots(good: np.ndarray[Any, Any], bad: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """False discoveries in lots of real scores. The calibration and the good parts of a lot share no image."""
    rows = []
    size = min(LOT, len(good) // 2)
    for share in (0.05, 0.1, 0.2, 0.5):
        false, pulled_bad, estimated = [], [], []
        bad_parts = max(1, round(share * size))
        for draw in range(LOTS):
            rng = np.random.default_rng([3, draw])
            order = rng.permutation(len(good))
            good_parts, rest = good[order[: size - bad_parts]], good[order[size - bad_parts :]]
            calibration = calibrate(rest, 0.5, "split")
            parts = np.concatenate([good_parts, rng.choice(bad, bad_parts, replace=bad_parts > len(bad))])
            lot = judge_lot([calibration.p_value(float(score)) for score in parts], len(rest), FDR)
            false.append(lot.pulled[: len(good_parts)].sum() / max(1, lot.pulled.sum()))
            pulled_bad.append(lot.pulled[len(good_parts) :].mean())
            estimated.append(lot.estimated_bad)
        rows.append(
            {
                "bad": bad_parts,
                "parts": size,
                "n": len(good) - (size - bad_parts),
                "fewest": lot.smallest_pull,
                "fdp": float(np.mean(false)),
                "error": float(np.std(false) / np.sqrt(LOTS)),
                "found": float(np.mean(pulled_bad)),
                "estimated_bad": float(np.mean(estimated)),
            }
        )
    return rows


def rebuilt(data: str) -> dict[str, Any]:
    """Leave-one-image-out scores, and the scores of a model that is fitted without the image."""
    images = [item.path for item in normal_images(data)]
    recorded: list[Any] = []

    def recording(scores: Any, *args: Any) -> Any:
        recorded.append(np.array(scores))
        return calibrate(scores, *args)

    with mock.patch.object(fitting, "calibrate", recording):
        model = Detector(calibration="leave-one-out").fit(images).model
    (left_out,) = recorded
    refitted = np.array(
        [
            Detector(calibration="leave-one-out").fit(images[:at] + images[at + 1 :]).inspect(images[at]).score
            for at in range(len(images))
        ]
    )
    difference = left_out - refitted
    return {
        "n": len(images),
        "left_out": float(left_out.mean()),
        "anew": float(refitted.mean()),
        "difference": float(difference.mean()),
        "spread": float(difference.std()),
        "scores_spread": float(refitted.std()),
        "correlation": float(np.corrcoef(left_out, refitted)[0, 1]),
        "threshold": model.calibration.threshold,
        "threshold_anew": calibrate(refitted.astype(np.float32), model.calibration.requested_rate).threshold,
    }


# --- everything -------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", help="comma-separated names; the results of other sets are kept")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; comma-separated")
    args = parser.parse_args()
    use_threads(args.threads)
    this_machine = machine()
    parts = args.parts.split(",")
    results_file = args.out / "alarms.json"
    complete = args.sets is None and set(parts) == set(PARTS)
    results: dict[str, Any] = {"sets": {}} if complete or not results_file.exists() else json.loads(results_file.read_text())
    results["machine"] = this_machine.as_json()
    sets = {path.name: str(path) for path in sorted(args.data.iterdir()) if (path / "train" / "good").is_dir()}
    with tempfile.TemporaryDirectory() as folder:
        sets |= {name: str(manifest) for name, manifest in packaged_sets(Path(folder)).items() if name in PACKAGED}
        for name, data in sets.items():
            if args.sets is None or name in args.sets.split(","):
                results["sets"].setdefault(name, {}).update(measure(name, data, parts))
    if "made" in parts:
        log("synthetic streams")
        results["made"] = [synthetic_streams(15, 1000), synthetic_streams(200, 1000)]
    write(args.out, "alarms", with_rows(report(str(this_machine), results)), results)


def measure(name: str, data: str, parts: list[str]) -> dict[str, Any]:
    test = labelled_images(data)
    good = [item.path for item in normal_images(data)] + [item.path for item in test if item.good]
    bad = [item.path for item in test if not item.good]
    result: dict[str, Any] = {}
    if "rebuilt" in parts and len(good) < 100:
        log(name, "rebuilt")
        result["rebuilt"] = rebuilt(data)
    if len(good) < 20:
        return result
    if "scores" in parts:
        log(name, "scores")
        good_scores, bad_scores = scores_of(good, bad)
        result["false_alarms"], result["lots"] = false_alarms(good_scores), lots(good_scores, bad_scores)
    if "leave-one-out" in parts:
        log(name, "leave-one-out")
        result["leave_one_out"] = leave_one_out_rates(good, len(good) * 2 // 3, 10 if len(good) < 100 else 4)
    if "streams" in parts:
        log(name, "streams")
        result |= stream_results(good, bad)
    return result


def with_rows(parts: list[str]) -> list[str]:
    """Remove tables without rows, and the text before them."""
    empty = {at for at, part in enumerate(parts) if part.startswith("|") and part.count("\n") < 2}
    return [part for at, part in enumerate(parts) if at not in empty and at + 1 not in empty]


def report(this_machine: str, results: dict[str, Any]) -> list[str]:
    sets = results["sets"]

    def rows(key: str, cells: Callable[[dict[str, Any]], list[str]]) -> list[list[str]]:
        return [[name, *cells(row)] for name, result in sets.items() for row in result.get(key, [])]

    return [
        "# Alarms: stated and realised rates",
        this_machine,
        "**Split calibration.** A model is fitted once on 40 % of the good images; scores of the others are split at random "
        f"{SPLITS} times, two thirds to calibrate and one third to inspect. Percent. *Promised* is k / (n + 1), at most the "
        "rate in force; the spread by law is that of Beta(k, n + 1 - k) with as many inspected images (beta-binomial).",
        table(
            ("set", "n", "asked", "promised", "flagged, mean", "spread", "by law", "95 % bound", "splits above it", "by law"),
            rows(
                "false_alarms",
                lambda r: [
                    str(r["n"]),
                    f"{100 * r['asked']:.0f}",
                    f"{100 * r['marginal']:.2f}",
                    f"{100 * r['mean']:.2f} ± {100 * r['error']:.2f}",
                    f"{100 * r['spread']:.2f}",
                    f"{100 * r['law']:.2f}",
                    f"{100 * r['bound_95']:.2f}",
                    f"{100 * r['above_bound']:.1f}",
                    f"{100 * r['above_bound_law']:.1f}",
                ],
            ),
        ),
        "**Leave-one-image-out calibration.** Fits on a random two thirds of the good images, the others are inspected. "
        "Percent; the error is the standard error that chance alone gives.",
        table(
            ("set", "fits", "n", "inspected", "asked", "promised", "flagged"),
            rows(
                "leave_one_out",
                lambda r: [
                    str(r["fits"]),
                    str(r["n"]),
                    str(r["test"]),
                    f"{100 * r['asked']:.0f}",
                    f"{100 * r['promised']:.2f}",
                    f"{100 * r['mean']:.2f} ± {100 * r['error']:.2f}",
                ],
            ),
        ),
        "**Leave-one-image-out against a fit without the image** (new coreset, channel and normal statistics).",
        table(
            ("set", "n", "mean score left out", "mean score anew", "difference (spread)", "spread of scores", "r", "threshold"),
            [
                [
                    name,
                    str(r["n"]),
                    f"{r['left_out']:.3f}",
                    f"{r['anew']:.3f}",
                    f"{r['difference']:+.3f} ({r['spread']:.3f})",
                    f"{r['scores_spread']:.3f}",
                    f"{r['correlation']:.3f}",
                    f"{r['threshold']:.3f}, anew {r['threshold_anew']:.3f}",
                ]
                for name, result in sets.items()
                if (r := result.get("rebuilt"))
            ],
        ),
        f"**Lots** at a false discovery rate of {FDR:.0%}, {LOTS} lots a row, real scores. *Fewest*: so many parts must "
        "stand out before one can be pulled.",
        table(
            ("set", "n", "parts", "bad", "fewest", "false among pulled, %", "bad pulled, %", "estimated bad"),
            rows(
                "lots",
                lambda r: [
                    str(r["n"]),
                    str(r["parts"]),
                    str(r["bad"]),
                    str(r["fewest"]),
                    f"{100 * r['fdp']:.2f} ± {100 * r['error']:.2f}",
                    f"{100 * r['found']:.0f}",
                    f"{r['estimated_bad']:.1f}",
                ],
            ),
        ),
        *stream_tables(results),
    ]


if __name__ == "__main__":
    main()
