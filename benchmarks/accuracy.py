"""Accuracy, time and memory of the defaults or of other settings on every set; writes a Markdown and a JSON table.

    python benchmarks/accuracy.py --data FOLDER_OF_SETS [--draws 5] [--set resize=keep ...] [--sets textile,...] [--out FOLDER]

FOLDER_OF_SETS holds MVTec roots; the solar cells of `elpv-dataset` and the textile of `conformal-clip-data` are added if these
packages are installed. Each draw leaves out a random tenth of the training images. Metrics are mean ± standard deviation over
draws; time and memory come from the first draw. Each fit runs in its own process, for an independent peak memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from offnominal import Detector
from offnominal.datasets import labelled_images
from offnominal.images import pixels_of
from offnominal.metrics import Judged, figures
from sets import draw_training_images, packaged_sets
from tables import machine, peak_memory, plus_minus, run_in_process, table

COLUMNS = (
    "set",
    "image AUROC",
    "pixel AUROC",
    "pixel AP",
    "AUPRO 0.30",
    "AUPRO 0.05",
    "false alarms (stated)",
    "detected",
    "anomalous as a whole: good, defective",
    "fit s (coreset s)",
    "ms an image, one at a time",
    "peak GB of fit",
)


def measure(data: str, settings: dict[str, Any], joined: list[str], draw: int) -> dict[str, Any]:
    """Fit and evaluate one draw of a set in this process. If the set has all `joined` classes, also evaluate them as one."""
    images = draw_training_images(data, draw)
    started = perf_counter()
    detector = Detector(**settings).fit(images)
    fit_seconds = perf_counter() - started
    peak = peak_memory() / 1e9
    decoded = [pixels_of(item.path) for item in labelled_images(data)[: 0 if draw else 40]]
    times = []
    for pixels in decoded:
        started = perf_counter()
        detector.inspect(pixels)
        times.append(perf_counter() - started)
    result = detector.evaluate(data)
    metrics = result.as_json()
    if set(joined) <= set(result.classes):
        metrics["classes"][" + ".join(joined)] = figures(
            [
                Judged(
                    image.item.good,
                    image.item.label or "defect",
                    image.inspection.score,
                    image.inspection.anomalous,
                    image.inspection.anomaly_map,
                    image.mask,
                )
                for image in result.images
                if image.item.good or image.item.label in joined
            ]
        )
    return {
        **metrics,
        "fit_seconds": fit_seconds,
        "stages": detector.seconds,
        "ms_batch_of_one": None if draw else 1000 * float(np.median(times[3:] or times)),
        "peak_gb": peak,
        "promised": detector.model.calibration.rate,
    }


def as_a_whole(draws: list[dict[str, Any]]) -> str:
    """False alarms and detections by image-level p-values; – for sets with too few images."""
    if any(draw["whole_image"] is None for draw in draws):
        return "–"
    return ", ".join(over(draws, "whole_image", key) for key in ("false_alarm_rate", "detection_rate"))


def over(draws: list[dict[str, Any]], *keys: str) -> str:
    """Mean and standard deviation over draws of the metric at these keys; – if a draw lacks it."""
    values: list[Any] = list(draws)
    for key in keys:
        values = [None if value is None else value.get(key) for value in values]
    return plus_minus(values)


def row(name: str, draws: list[dict[str, Any]]) -> list[str]:
    first = draws[0]
    return [
        name,
        *(over(draws, key) for key in ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.30", "aupro_0.05")),
        f"{over(draws, 'false_alarm_rate')} ({first['promised']:.3f})",
        over(draws, "detection_rate"),
        as_a_whole(draws),
        f"{first['fit_seconds']:.1f} ({first['stages'].get('coreset', 0):.1f})",
        f"{first['ms_batch_of_one']:.1f}",
        f"{first['peak_gb']:.2f}",
    ]


def rows_of_classes(name: str, draws: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each defect class."""
    return [
        [
            name,
            kind,
            *(over(draws, "classes", kind, key) for key in ("image_auroc", "pixel_auroc", "pixel_ap")),
            over(draws, "whole_image", "classes", kind),
        ]
        for kind in draws[0]["classes"]
    ]


def setting(pair: str) -> tuple[str, Any]:
    """Parse `seed=1` into a name and a value, which is a number if possible."""
    name, _, value = pair.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the fit")
    parser.add_argument("--sets", default="", help="measure only these sets, comma-separated")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--joined", default="blowhole,crack", help="classes that are also evaluated together")
    args = parser.parse_args()
    settings = dict(map(setting, args.set))
    sets = {path.name: str(path) for path in sorted(args.data.iterdir()) if (path / "train" / "good").is_dir()}
    with tempfile.TemporaryDirectory() as folder:
        sets |= {name: str(manifest) for name, manifest in packaged_sets(Path(folder)).items()}
        chosen = [name for name in args.sets.split(",") if name] or list(sets)
        results: dict[str, list[dict[str, Any]]] = {}
        for name in chosen:
            for draw in range(args.draws):
                print(name, draw, file=sys.stderr, flush=True)
                result = run_in_process(None, measure, sets[name], settings, args.joined.split(","), draw)
                results.setdefault(name, []).append(result)
    about = (
        f"Settings: {settings or 'the defaults'}; {len(results)} sets, "
        f"{args.draws} draws of nine tenths of the training images."
    )
    text = [f"{machine()}\n\n{about}", ""]
    text.append(table(COLUMNS, [row(name, draws) for name, draws in results.items()]))
    classes = [row for name, draws in results.items() for row in rows_of_classes(name, draws)]
    text += ["", table(("set", "class", "image AUROC", "pixel AUROC", "pixel AP", "anomalous as a whole"), classes), ""]
    args.out.mkdir(parents=True, exist_ok=True)
    stem = "-".join(["accuracy", *filter(None, args.sets.split(",")), *(pair.replace("=", "-") for pair in args.set)])
    (args.out / f"{stem}.md").write_text("\n".join(text))
    (args.out / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
