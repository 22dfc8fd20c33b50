"""What the presets gain and cost, beside other settings of image size, network and bank: accuracy against time an image.

    python benchmarks/presets.py --data FOLDER_OF_SETS [--seeds 2] [--most 100] [--cells] [--textile] [--whole] [--threads 1]

FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training images only every so many-th image is used. `--cells`
adds the solar cells of `elpv-dataset`. `--whole` uses every image, of fewer settings, and writes `presets-whole`: what a
setting gains on a thinned set is not what it gains on all of it. The seed of the greedy choice is where it starts. With
`--threads 1` the seeds go side by side, a core each, as far as there are cores. An image takes the time from decoded pixels to
verdict and map, of one image of the first set, the settings taking turns. Labels of these sets were looked at when the presets
were made, so these figures are no proof for other sets.
"""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from offnominal import Detector
from offnominal.images import labelled_images, pixels_of
from sets import set_arguments, sets_asked_for
from tables import Timing, apart, machine, spread, table, timed, use_threads, write

BASE, ONCE, BEGINNING = "balanced", "at one size", "as in the beginning"
WAYS: dict[str, dict[str, Any]] = {
    "fast": {"preset": "fast"},
    BASE: {},
    "accurate": {"preset": "accurate"},
    ONCE: {"backbone": "efficientnet-lite0"},
    "384 pixels": {"image_size": 384},
    "Lite2 alone": {"backbone": "efficientnet-lite2"},
    "with itself enlarged": {"backbone": "efficientnet-lite0+efficientnet-lite0@1.5"},
    "Lite0 and Lite2": {"backbone": "efficientnet-lite0+efficientnet-lite2"},
    "a bank of 1 %": {"bank": 0.01},
    "no context": {"context": 0.0},
    "with halo": {"halo": 0.0},
    "one short side": {"resize": "keep"},
    "brightness kept": {"exposure": "keep"},
    BEGINNING: {
        "backbone": "efficientnet-lite0",
        "resize": "keep",
        "exposure": "keep",
        "bank": 0.01,
        "context": 0.0,
        "halo": 0.0,
        "distance_neighbors": 3,
        "fusion": {"distance": 2.0, "influence": 1.0},
    },
}
#: What is measured on whole sets.
WHOLE = ("fast", BASE, "accurate", ONCE, "one short side", "brightness kept", BEGINNING)
#: What `accurate` is to gain over the beginning: points of image AUROC in the mean and at least, and percent of pixel AP.
GOALS = (1.5, -0.5, 10.0)
KEYS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.05")
PRESETS, RUNS = ("fast", BASE, "accurate"), 9


def run(data: Path, settings: dict[str, Any]) -> dict[str, Any]:
    detector = Detector(**settings).fit(data)
    figures = detector.evaluate(data).figures
    return {"bank": len(detector.model.bank.patches), **{key: figures[key] for key in KEYS}}


def of_seeds(data: Path, way: str, seeds: int, threads: int | None) -> list[dict[str, Any]]:
    """`run` of every seed, each in a process of its own; on one thread each on a core of its own, at the same time."""
    cores = sorted(os.sched_getaffinity(0)) if threads == 1 and hasattr(os, "sched_getaffinity") else []

    def one(seed: int) -> dict[str, Any]:
        if cores:
            os.sched_setaffinity(0, {cores[seed % len(cores)]})  # of this thread, and of the process that it starts
        return apart(threads, run, data, {**WAYS[way], "seed": seed})

    with ThreadPoolExecutor(max(1, len(cores))) as pool:
        return list(pool.map(one, range(seeds)))


def times(data: Path, ways: tuple[str, ...]) -> dict[str, Timing]:
    """Seconds for one image, the settings taking turns."""
    pixels = pixels_of(labelled_images(data)[0].path)
    detectors = [Detector(**WAYS[way]).fit(data) for way in ways]
    return dict(zip(ways, timed(*(lambda one=one: one.inspect(pixels) for one in detectors), runs=RUNS), strict=True))


def overall(found: dict[str, dict[str, list[dict[str, Any]]]], way: str, key: str) -> float:
    """Mean over the sets that have the figure, of the mean over seeds."""
    means: list[float] = [mean(one[key] for one in ways[way]) for ways in found.values() if ways[way][0][key] is not None]
    return float(mean(means))


def gain(ways: dict[str, list[dict[str, Any]]], way: str, base: str) -> float:
    """Points of image AUROC that `way` gains over `base` on a set, in the mean over seeds."""
    return float(100 * (mean(one[KEYS[0]] for one in ways[way]) - mean(one[KEYS[0]] for one in ways[base])))


def rows_of(name: str, ways: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    return [[name, way, f"{runs[0]['bank']:,}", *(spread(runs, key) for key in KEYS)] for way, runs in ways.items()]


def summary(found: dict[str, dict[str, list[dict[str, Any]]]], took: dict[str, Timing]) -> str:
    rows = []
    for way in took:
        gained = [f"{100 * (overall(found, way, key) - overall(found, BASE, key)):+.2f}" for key in KEYS]
        worst, least = min((gain(ways, way, BASE), name) for name, ways in found.items())
        rows.append([way, *gained, f"{worst:+.1f} on {least}", took[way], f"{took[way].middle / took[BASE].middle:.2f}"])
    columns = ("settings", *(key.replace("_", " ") for key in KEYS), "least gain of image AUROC", "one image", "times balanced")
    return table(columns, rows)


def goals(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """What `accurate` gained over the defaults of the beginning, held against what it was to gain."""
    gained = {name: gain(ways, "accurate", BEGINNING) for name, ways in found.items()}
    least = min(gained, key=lambda name: gained[name])
    precision = 100 * (overall(found, "accurate", "pixel_ap") / overall(found, BEGINNING, "pixel_ap") - 1)
    reached = (mean(gained.values()), gained[least], precision)
    told = (f"{reached[0]:+.2f} points", f"{reached[1]:+.1f} points on {least}", f"{reached[2]:+.1f} %")
    names = ("image AUROC, mean over the sets", "image AUROC, least", "pixel AP, relative, mean over the sets")
    rows = [
        [name, one, f"{goal:+g}", "yes" if got >= goal else "no"]
        for name, one, goal, got in zip(names, told, GOALS, reached, strict=True)
    ]
    return table(("accurate over the beginning", "gained", "goal, at least", "reached"), rows)


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
    parser = set_arguments(__doc__, seeds=2, most=100, cells=True)
    parser.add_argument("--whole", action="store_true", help="every image, of fewer settings")
    given = parser.parse_args()
    name, chosen = "presets", tuple(WAYS)
    if given.whole:
        name, chosen, given.most = "presets-whole", WHOLE, sys.maxsize
    use_threads(given.threads)
    here = machine()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as lists:
        sets = sets_asked_for(given, Path(lists))
        for one in sets:
            for way in chosen:
                print(one, way, file=sys.stderr, flush=True)
                found.setdefault(one.name, {})[way] = of_seeds(one.data, way, given.seeds, given.threads)
        took = apart(given.threads, times, sets[0].data, chosen)
    columns = ("set", "settings", "bank", *(key.replace("_", " ") for key in KEYS))
    write(
        given.out,
        name,
        [
            "# Presets" + (", whole sets" if given.whole else ""),
            "; ".join(map(str, sets)) + ".",
            f"Means over {given.seeds} seeds, with the least and the most.",
            str(here),
            table(columns, [row for set_name, ways in found.items() for row in rows_of(set_name, ways)]),
            f"Points gained over `{BASE}`, mean over the sets with the figure, and the time of an image of {sets[0].name}:",
            summary(found, took),
            goals(found),
            f"![Accuracy against time an image]({name}.svg)",
        ],
        {"machine": here, "sets": found, "seconds": took},
    )
    draw(found, took, given.out / f"{name}.svg")


if __name__ == "__main__":
    main()
