"""The ladder of members: accuracy of one and of two members, at the image size and at 1.5 times it, against time an image.

    python benchmarks/presets.py --data FOLDER_OF_SETS [--draws 5] [--most 100] [--cells] [--textile] [--threads 1]

FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training images only every so many-th image is used, and of
its test images. `--cells` adds the solar cells of `elpv-dataset`, `--textile` the simulated textile. A fit does not depend on
the order of its images, so each draw leaves out a random tenth of the training images, the same for all settings; differences
are paired by draw. An image takes the time from decoded pixels to verdict and map, of one image of the first set, the settings
taking turns.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from offnominal import Detector
from offnominal.images import labelled_images, normal_images, pixels_of
from sets import set_arguments, sets_asked_for
from tables import Timing, apart, machine, spread, table, timed, use_threads, write

BASE = "fast"
WAYS: dict[str, dict[str, Any]] = {
    "fast": {"preset": "fast"},
    "Lite0 at 1.5": {"backbone": "efficientnet-lite0@1.5"},
    "balanced": {"preset": "balanced"},
    "Lite2": {"backbone": "efficientnet-lite2"},
    "Lite0 and Lite2": {"backbone": "efficientnet-lite0+efficientnet-lite2"},
    "accurate": {"preset": "accurate"},
}
KEYS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.05")
PRESETS, RUNS = ("fast", "balanced", "accurate"), 9


def run(data: Path, settings: dict[str, Any], draw: int) -> dict[str, Any]:
    """Figures of a fit on a random nine tenths of the training images."""
    images = [item.path for item in normal_images(data)]
    left_out = set(np.random.default_rng(draw).permutation(len(images))[: len(images) // 10].tolist())
    detector = Detector(**settings).fit([path for at, path in enumerate(images) if at not in left_out])
    figures = detector.evaluate(data).figures
    return {"bank": len(detector.model.members[0].bank.patches), **{key: figures[key] for key in KEYS}}


def of_draws(data: Path, way: str, draws: int, threads: int | None) -> list[dict[str, Any]]:
    """`run` of every draw, each in a process of its own; on one thread each on a core of its own, at the same time."""
    cores = sorted(os.sched_getaffinity(0)) if threads == 1 and hasattr(os, "sched_getaffinity") else []

    def one(draw: int) -> dict[str, Any]:
        if cores:
            os.sched_setaffinity(0, {cores[draw % len(cores)]})  # of this thread, and of the process that it starts
        return apart(threads, run, data, WAYS[way], draw)

    with ThreadPoolExecutor(max(1, len(cores))) as pool:
        return list(pool.map(one, range(draws)))


def times(data: Path, ways: tuple[str, ...]) -> dict[str, Timing]:
    """Seconds for one image, the settings taking turns."""
    pixels = pixels_of(labelled_images(data)[0].path)
    detectors = [Detector(**WAYS[way]).fit(data) for way in ways]
    return dict(zip(ways, timed(*(lambda one=one: one.inspect(pixels) for one in detectors), runs=RUNS), strict=True))


def overall(found: dict[str, dict[str, list[dict[str, Any]]]], way: str, key: str) -> float:
    """Mean over the sets that have the figure, of the mean over seeds."""
    means: list[float] = [mean(one[key] for one in ways[way]) for ways in found.values() if ways[way][0][key] is not None]
    return float(mean(means))


def gains(ways: dict[str, list[dict[str, Any]]], way: str, key: str) -> list[float]:
    """Points that `way` gains over `BASE` on a set, draw by draw; empty if the set lacks the figure."""
    pairs = zip(ways[way], ways[BASE], strict=True)
    return [100 * (one[key] - base[key]) for one, base in pairs if one[key] is not None]


def interval(points: list[float]) -> str:
    """`+0.52 ± 0.11`: mean and its standard error over draws; the error alone does not cover other sets."""
    if not points:
        return "–"
    error = stdev(points) / len(points) ** 0.5 if len(points) > 1 else float("nan")
    return f"{mean(points):+.2f} ± {error:.2f}"


def rows_of(name: str, ways: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    return [[name, way, f"{runs[0]['bank']:,}", *(spread(runs, key) for key in KEYS)] for way, runs in ways.items()]


def summary(found: dict[str, dict[str, list[dict[str, Any]]]], took: dict[str, Timing]) -> str:
    rows = []
    for way in took:
        gained = [f"{100 * (overall(found, way, key) - overall(found, BASE, key)):+.2f}" for key in KEYS]
        worst, least = min((mean(gains(ways, way, KEYS[0])), name) for name, ways in found.items())
        rows.append([way, *gained, f"{worst:+.1f} on {least}", took[way], f"{took[way].middle / took[BASE].middle:.2f}"])
    columns = ("settings", *(key.replace("_", " ") for key in KEYS), "least gain of image AUROC", "one image", f"times {BASE}")
    return table(columns, rows)


def paired(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Points gained over `BASE` on every set, with the standard error over draws."""
    rows = [
        [name, way, *(interval(gains(ways, way, key)) for key in KEYS)]
        for name, ways in found.items()
        for way in ways
        if way != BASE
    ]
    return table(("set", "settings", *(key.replace("_", " ") for key in KEYS)), rows)


def draw(found: dict[str, dict[str, list[dict[str, Any]]]], took: dict[str, Timing], place: Path) -> None:
    """Mean image AUROC and mean pixel AP against the time of one image; the front is what nothing beats in both."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    for axes, key, name in zip(figure.subplots(1, 2), ("image_auroc", "pixel_ap"), ("image AUROC", "pixel AP"), strict=True):
        at = {way: (1000 * took[way].middle, overall(found, way, key)) for way in took}
        front = [way for way, (x, y) in at.items() if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in at.values())]
        line = sorted(at[way] for way in front)
        axes.plot(*zip(*line, strict=True), color="0.7", drawstyle="steps-post", zorder=1)
        for number, (way, point) in enumerate(at.items()):
            chosen = way in PRESETS
            axes.scatter(*point, color=f"C{number}", marker="o" if chosen else "x", label=way, zorder=2)
        axes.set_xlabel("ms an image, one at a time")
        axes.set_ylabel(f"{name}, mean over sets")
        axes.margins(x=0.1, y=0.15)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "offnominal"}):
        figure.savefig(place, metadata={"Date": None})


def main() -> None:
    parser = set_arguments(__doc__, seeds=0, most=100, cells=True)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    use_threads(given.threads)
    here = machine()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as lists:
        sets = sets_asked_for(given, Path(lists))
        for one in sets:
            for way in WAYS:
                found.setdefault(one.name, {})[way] = of_draws(one.data, way, given.draws, given.threads)
                print(one.name, way, *(spread(found[one.name][way], key) for key in KEYS), flush=True)
        took = apart(given.threads, times, sets[0].data, tuple(WAYS))
    columns = ("set", "settings", "bank", *(key.replace("_", " ") for key in KEYS))
    write(
        given.out,
        "presets",
        [
            "# Members and presets",
            "; ".join(map(str, sets)) + ".",
            f"Means over {given.draws} draws of nine tenths of the training images, with the least and the most.",
            str(here),
            table(columns, [row for set_name, ways in found.items() for row in rows_of(set_name, ways)]),
            f"Points gained over `{BASE}`, paired by draw, with the standard error over draws:",
            paired(found),
            f"The same, mean over the sets with the figure, and the time of an image of {sets[0].name}:",
            summary(found, took),
            "![Accuracy against time an image](presets.svg)",
        ],
        {"machine": here, "sets": found, "seconds": took},
    )
    draw(found, took, given.out / "presets.svg")


if __name__ == "__main__":
    main()
