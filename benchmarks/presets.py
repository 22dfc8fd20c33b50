"""The ladder of members: accuracy of one and of two members, at the image size and at 1.5 times it, against time an image.

    python benchmarks/presets.py --data FOLDER_OF_SETS [--draws 5] [--most 50] [--cells] [--textile] [--threads 1]

FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training images only every so many-th image is used, and of
its test images. `--cells` adds the solar cells of `elpv-dataset`, `--textile` the simulated textile. A fit does not depend on
the order of its images, so each draw leaves out a random tenth of the training images, the same for all settings; differences
are paired by draw. The features of a member are computed once for all draws and settings; everything after them is done again
as a fit and an inspection do it. An image takes the time from decoded pixels to verdict and map, of one image of the first set,
the settings taking turns.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch import Tensor

from offnominal import Detector
from offnominal.config import Settings, settings_from
from offnominal.datasets import Item, labelled_images, normal_images
from offnominal.fitting.held_out_signals import distance_scale, held_out_signals
from offnominal.fitting.member_patches import MemberPatches, choose_coreset
from offnominal.fitting.survey import common_exposure, survey
from offnominal.images import Geometry, ValueRange, batches, pixels_of, raise_unreadable, read_mask, to_original
from offnominal.inference import FeatureEngine, SignalEngine, member_engines, normal_signals
from offnominal.metrics import Judged, figures
from offnominal.scoring import average_maps, image_score, member_map, to_grid
from offnominal.types import Float
from sets import ImageSet, set_arguments, sets_asked_for
from tables import Timing, apart, machine, spread, table, timed, use_threads, write

ONE, LARGE = "efficientnet-lite0", "efficientnet-lite0@1.5"
TWO, TWO_LARGE = "efficientnet-lite2", "efficientnet-lite2@1.5"
BASE = "Lite0"
WAYS: dict[str, tuple[str, ...]] = {
    BASE: (ONE,),
    "Lite0@1.5": (LARGE,),
    "Lite0 + Lite0@1.5": (ONE, LARGE),
    "Lite2": (TWO,),
    "Lite2@1.5": (TWO_LARGE,),
    "Lite2 + Lite2@1.5": (TWO, TWO_LARGE),
    "Lite0 + Lite2": (ONE, TWO),
    "Lite0 + Lite0@1.5 + Lite2": (ONE, LARGE, TWO),
    "all four": (ONE, LARGE, TWO, TWO_LARGE),
}
KEYS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.05")
RUNS = 9


@dataclass(frozen=True)
class Features:
    """Raw (N, D) patches of training and test images for one member."""

    engine: FeatureEngine
    geometry: Geometry
    train: list[Tensor]
    test: list[Tensor]


@dataclass(frozen=True)
class Data:
    """A set, read once: items, original sizes and values."""

    train: list[Item]
    test: list[Item]
    train_sizes: list[tuple[int, int]]
    test_sizes: list[tuple[int, int]]
    values: ValueRange


def read(data: Path) -> Data:
    train, test = normal_images(data), labelled_images(data)

    def failed(index: int, reason: str) -> None:
        raise SystemExit(reason)

    sources = [item.path for item in train]
    values, sizes = survey(sources, [item.name for item in train], failed, lambda done: None)
    (engine,) = member_engines(settings_from(backbone=ONE))
    exposure = common_exposure(sources, engine.geometry(sizes.values()), values)
    test_sizes = [pixels_of(item.path).shape[:2] for item in test]
    return Data(
        train,
        test,
        [sizes[at] for at in range(len(train))],
        [(height, width) for height, width in test_sizes],
        replace(values, exposure=exposure),
    )


def features(data: Data, member: str) -> Features:
    (engine,) = member_engines(settings_from(backbone=member))
    geometry = engine.geometry(data.train_sizes)

    def of(items: Sequence[Item]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        paths = [item.path for item in items]
        for batch in batches(paths, (geometry,), data.values, batch_size=1, failed=raise_unreadable):
            found[batch.index[0]] = engine.patches(batch.network_input(0))[0]
        return [found[at] for at in range(len(items))]

    return Features(engine, geometry, of(data.train), of(data.test))


def maps(data: Data, of: Features, kept: Sequence[int], settings: Settings) -> list[Float]:
    """The member's map of every test image, fitted on some of the training images."""
    engine, sizes = of.engine, [data.train_sizes[at] for at in kept]
    units = [slice(at, at + 1) for at in range(len(kept))]
    with MemberPatches(engine, of.geometry, 0, sizes, settings.memory) as patches:
        for place, at in enumerate(kept):
            patches.put(place, of.train[at])
        patches.standardise()
        assert patches.standard is not None
        coreset = choose_coreset(patches.readable(), settings.bank_size(patches.count), settings)
        banks = patches.held_out_banks(units, coreset)
        scale = distance_scale(banks, len(units), settings)
        values = patches.by_image(held_out_signals(banks, len(units), settings, scale), units)
        normal = normal_signals([to_grid(one, grid) for one, grid in zip(values, patches.grids, strict=True)])
        search, standard = SignalEngine(banks.bank, settings, scale, engine.device), patches.standard
    found = []
    for raw, size in zip(of.test, data.test_sizes, strict=True):
        network = of.geometry.network_size(size)
        signals = search(engine.standardise(raw, standard, network), engine.upsampling(network)).values
        on_grid = to_grid(signals, engine.grid(network))
        found.append(
            member_map(
                on_grid,
                normal,
                weights=settings.fusion.weights,
                network=network,
                sigma=settings.smoothing,
                halo=settings.halo,
            )
        )
    return found


def figures_of(data: Data, members: Sequence[list[Float]]) -> dict[str, Any]:
    judged = []
    for item, size, *of_image in zip(data.test, data.test_sizes, *members, strict=True):
        anomaly = average_maps(of_image)
        mask = None if item.mask is None else read_mask(item.mask, size)
        judged.append(Judged(item.good, item.label or "", image_score(anomaly), False, to_original(anomaly, size), mask))
    known = figures(judged)
    return {key: known[key] for key in KEYS}


def measure(one: ImageSet, draws: int) -> dict[str, list[dict[str, Any]]]:
    """Figures of every way, draw by draw."""
    data, settings = read(one.data), settings_from()
    by_member = {name: features(data, name) for name in {member for way in WAYS.values() for member in way}}
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for draw in range(draws):
        count = len(data.train)
        kept = np.sort(np.random.default_rng(draw).permutation(count)[max(1, count // 10) :]).tolist()
        drawn = {name: maps(data, of, kept, settings) for name, of in by_member.items()}
        for way, members in WAYS.items():
            found[way].append(figures_of(data, [drawn[name] for name in members]))
    return found


def measured(sets: Sequence[ImageSet], draws: int, threads: int | None) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """`measure` of every set in a process of its own; on one thread, a set on each core at the same time."""
    cores = sorted(os.sched_getaffinity(0)) if threads == 1 and hasattr(os, "sched_getaffinity") else []
    free = SimpleQueue[int]()
    for core in cores:
        free.put(core)

    def on_a_core(one: ImageSet) -> dict[str, list[dict[str, Any]]]:
        core = free.get() if cores else None
        try:
            if core is not None:
                os.sched_setaffinity(0, {core})  # of this thread, and of the process that it starts
            return apart(threads, measure, one, draws)
        finally:
            if core is not None:
                free.put(core)

    with ThreadPoolExecutor(max(1, len(cores))) as pool:
        yield from pool.map(on_a_core, sets)


def times(data: Path) -> dict[str, Timing]:
    """Seconds for one image, the settings taking turns."""
    pixels = pixels_of(labelled_images(data)[0].path)
    detectors = [Detector(backbone="+".join(members)).fit(data) for members in WAYS.values()]
    return dict(zip(WAYS, timed(*(lambda one=one: one.inspect(pixels) for one in detectors), runs=RUNS), strict=True))


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
    return [[name, way, *(spread(runs, key) for key in KEYS)] for way, runs in ways.items()]


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
            axes.scatter(*point, color=f"C{number}", marker="o", label=way, zorder=2)
        axes.set_xlabel("ms an image, one at a time")
        axes.set_ylabel(f"{name}, mean over sets")
        axes.margins(x=0.1, y=0.15)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "offnominal"}):
        figure.savefig(place, metadata={"Date": None})


def main() -> None:
    parser = set_arguments(__doc__, most=50, cells=True)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    use_threads(given.threads)
    here = machine()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as lists:
        sets = sets_asked_for(given, Path(lists))
        for one, by_way in zip(sets, measured(sets, given.draws, given.threads), strict=True):
            found[one.name] = by_way
            for way, runs in by_way.items():
                print(one.name, way, *(spread(runs, key) for key in KEYS), flush=True)
        took = apart(given.threads, times, sets[0].data)
    columns = ("set", "settings", *(key.replace("_", " ") for key in KEYS))
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
