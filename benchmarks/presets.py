"""Accuracy and time of one or more members, at the image size and at 1.5 times the image size.

    python benchmarks/presets.py --data FOLDER_OF_SETS [--draws 5] [--most 50] [--cells] [--textile] [--threads 1]

FOLDER_OF_SETS holds MVTec roots. A set with more than `--most` training images is thinned by a fixed step, and its test images
by the same step. `--cells` adds the solar cells of `elpv-dataset`, `--textile` the simulated textile. A fit does not depend on
the order of its images, so each draw leaves out a random tenth of the training images, the same for all settings; differences
are paired by draw. The features of a member are computed once for all draws and settings; everything after them is computed as
in a fit and an inspection. The time per image is from decoded pixels to verdict and map, for one image of the first set; the
settings take turns.
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
import torch
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch import Tensor

from offnominal import Detector
from offnominal.config import Settings, settings_from
from offnominal.datasets import Item, labelled_images, normal_images
from offnominal.fitting.held_out_signals import distance_scale, distances_to_bank, held_out_signals
from offnominal.fitting.member_patches import MemberPatches, choose_coreset
from offnominal.fitting.survey import common_exposure, survey
from offnominal.images import Geometry, Preprocessing, ValueRange, batches, pixels_of, raise_unreadable, read_mask, to_original
from offnominal.inference import FeatureEngine, SignalEngine, member_engines, normal_signals
from offnominal.metrics import Judged, figures
from offnominal.scoring import average_maps, member_map
from offnominal.types import Float
from sets import ImageSet, requested_sets, set_arguments
from tables import Timing, machine, run_in_process, spread, table, timed, use_threads, write

ONE, LARGE = "efficientnet-lite0", "efficientnet-lite0@1.5"
TWO, TWO_LARGE = "efficientnet-lite2", "efficientnet-lite2@1.5"
BASE = "Lite0"
SETTINGS: dict[str, tuple[str, ...]] = {
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
    """A set that is read once: items, original sizes and value range."""

    train: list[Item]
    test: list[Item]
    train_sizes: list[tuple[int, int]]
    test_sizes: list[tuple[int, int]]
    values: ValueRange


def read(data: Path) -> Data:
    train, test = normal_images(data), labelled_images(data)

    def fail(index: int, reason: str) -> None:
        raise SystemExit(reason)

    sources = [item.path for item in train]
    values, surveyed = survey(sources, [item.name for item in train], fail)
    sizes = [surveyed[at].size for at in range(len(train))]
    (engine,) = member_engines(settings_from(backbone=ONE))
    exposure = common_exposure(sources, Preprocessing((engine.geometry(sizes),), values))
    test_sizes = [pixels_of(item.path).shape[:2] for item in test]
    return Data(
        train,
        test,
        sizes,
        [(height, width) for height, width in test_sizes],
        replace(values, exposure=exposure),
    )


def features(data: Data, member: str) -> Features:
    (engine,) = member_engines(settings_from(backbone=member))
    geometry = engine.geometry(data.train_sizes)

    def features_of(items: Sequence[Item]) -> list[Tensor]:
        by_index: dict[int, Tensor] = {}
        paths = [item.path for item in items]
        for batch in batches(paths, Preprocessing((geometry,), data.values), batch_size=1, failed=raise_unreadable):
            by_index[batch.index[0]] = engine.patches(batch.network_input(0))[0]
        return [by_index[at] for at in range(len(items))]

    return Features(engine, geometry, features_of(data.train), features_of(data.test))


def maps(data: Data, raw_features: Features, kept: Sequence[int], settings: Settings) -> list[Float]:
    """The map of a member for each test image, after a fit on a part of the training images."""
    engine, sizes = raw_features.engine, [data.train_sizes[at] for at in kept]
    units = [slice(at, at + 1) for at in range(len(kept))]
    with MemberPatches(engine, raw_features.geometry, 0, sizes, settings.memory) as patches:
        for index, at in enumerate(kept):
            patches.put(index, raw_features.train[at])
        standard = patches.moments().standard()
        patches.standardise(standard)
        coreset = choose_coreset(patches.readable(), settings.bank_size(patches.count), settings.sampler, settings.seed)
        bank = patches.readable()[torch.from_numpy(coreset.indices)]
        banks = patches.held_out_banks(units, coreset.indices, coreset.radius, bank)
        scale = distance_scale(distances_to_bank(banks, len(units), settings))
        values = patches.by_image(held_out_signals(banks, len(units), settings, scale), units)
        normal = normal_signals(
            [layout.fill(values_of_image) for values_of_image, layout in zip(values, patches.layouts, strict=True)]
        )
        search = SignalEngine(banks.bank, settings, scale, engine.device)
    anomaly_maps = []
    for raw, size in zip(raw_features.test, data.test_sizes, strict=True):
        network = raw_features.geometry.network_size(size)
        signals = search(engine.standardise(raw, standard, network), engine.upsampling(network)).values
        on_grid = engine.layout(network).fill(signals)
        anomaly_maps.append(
            member_map(
                on_grid,
                normal,
                weights=settings.fusion.weights,
                network=network,
                sigma=settings.smoothing,
                halo=settings.halo,
            )
        )
    return anomaly_maps


def figures_of(data: Data, members: Sequence[list[Float]]) -> dict[str, Any]:
    judged = []
    for item, size, *maps_of_image in zip(data.test, data.test_sizes, *members, strict=True):
        anomaly = average_maps(maps_of_image)
        mask = None if item.mask is None else read_mask(item.mask, size)
        judged.append(Judged(item.good, item.label or "", float(anomaly.max()), False, to_original(anomaly, size), mask))
    metrics = figures(judged)
    return {key: metrics[key] for key in KEYS}


def measure(image_set: ImageSet, draws: int) -> dict[str, list[dict[str, Any]]]:
    """Metrics of each setting for each draw."""
    data, settings = read(image_set.data), settings_from()
    by_member = {name: features(data, name) for name in {member for setting in SETTINGS.values() for member in setting}}
    results: dict[str, list[dict[str, Any]]] = {setting: [] for setting in SETTINGS}
    for draw in range(draws):
        count = len(data.train)
        kept = np.sort(np.random.default_rng(draw).permutation(count)[max(1, count // 10) :]).tolist()
        member_maps = {name: maps(data, raw_features, kept, settings) for name, raw_features in by_member.items()}
        for setting, members in SETTINGS.items():
            results[setting].append(figures_of(data, [member_maps[name] for name in members]))
    return results


def measured(sets: Sequence[ImageSet], draws: int, threads: int | None) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """`measure` for each set in its own process. With one thread, each core measures one set at a time."""
    cores = sorted(os.sched_getaffinity(0)) if threads == 1 and hasattr(os, "sched_getaffinity") else []
    free = SimpleQueue[int]()
    for core in cores:
        free.put(core)

    def on_a_core(image_set: ImageSet) -> dict[str, list[dict[str, Any]]]:
        core = free.get() if cores else None
        try:
            if core is not None:
                os.sched_setaffinity(0, {core})  # for this thread and the process that it starts
            return run_in_process(threads, measure, image_set, draws)
        finally:
            if core is not None:
                free.put(core)

    with ThreadPoolExecutor(max(1, len(cores))) as pool:
        yield from pool.map(on_a_core, sets)


def times(data: Path) -> dict[str, Timing]:
    """Seconds for one image. The settings take turns."""
    pixels = pixels_of(labelled_images(data)[0].path)
    detectors = [Detector(backbone="+".join(members)).fit(data) for members in SETTINGS.values()]
    return dict(
        zip(
            SETTINGS,
            timed(*(lambda detector=detector: detector.inspect(pixels) for detector in detectors), runs=RUNS),
            strict=True,
        )
    )


def overall(results: dict[str, dict[str, list[dict[str, Any]]]], setting: str, key: str) -> float:
    """Mean over the sets with this metric of the mean over draws."""
    means: list[float] = [
        mean(run[key] for run in by_setting[setting])
        for by_setting in results.values()
        if by_setting[setting][0][key] is not None
    ]
    return float(mean(means))


def gains(by_setting: dict[str, list[dict[str, Any]]], setting: str, key: str) -> list[float]:
    """Points that a setting gains over `BASE` on a set, for each draw. Empty if the set lacks the metric."""
    pairs = zip(by_setting[setting], by_setting[BASE], strict=True)
    return [100 * (run[key] - base[key]) for run, base in pairs if run[key] is not None]


def interval(points: list[float]) -> str:
    """`+0.52 ± 0.11`: mean and its standard error over draws. The error does not cover other sets."""
    if not points:
        return "–"
    error = stdev(points) / len(points) ** 0.5 if len(points) > 1 else float("nan")
    return f"{mean(points):+.2f} ± {error:.2f}"


def rows_of(name: str, by_setting: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    return [[name, setting, *(spread(runs, key) for key in KEYS)] for setting, runs in by_setting.items()]


def summary(results: dict[str, dict[str, list[dict[str, Any]]]], image_times: dict[str, Timing]) -> str:
    rows = []
    for setting in image_times:
        gained = [f"{100 * (overall(results, setting, key) - overall(results, BASE, key)):+.2f}" for key in KEYS]
        worst, worst_set = min((mean(gains(by_setting, setting, KEYS[0])), name) for name, by_setting in results.items())
        rows.append(
            [
                setting,
                *gained,
                f"{worst:+.1f} on {worst_set}",
                image_times[setting],
                f"{image_times[setting].middle / image_times[BASE].middle:.2f}",
            ]
        )
    columns = ("settings", *(key.replace("_", " ") for key in KEYS), "least gain of image AUROC", "one image", f"times {BASE}")
    return table(columns, rows)


def paired(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Points gained over `BASE` on each set, with the standard error over draws."""
    rows = [
        [name, setting, *(interval(gains(by_setting, setting, key)) for key in KEYS)]
        for name, by_setting in results.items()
        for setting in by_setting
        if setting != BASE
    ]
    return table(("set", "settings", *(key.replace("_", " ") for key in KEYS)), rows)


def draw(results: dict[str, dict[str, list[dict[str, Any]]]], image_times: dict[str, Timing], path: Path) -> None:
    """Draw mean image AUROC and mean pixel AP against the time per image, with the Pareto front."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    for axes, key, name in zip(figure.subplots(1, 2), ("image_auroc", "pixel_ap"), ("image AUROC", "pixel AP"), strict=True):
        positions = {setting: (1000 * image_times[setting].middle, overall(results, setting, key)) for setting in image_times}
        front = [
            setting
            for setting, (x, y) in positions.items()
            if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in positions.values())
        ]
        line = sorted(positions[setting] for setting in front)
        axes.plot(*zip(*line, strict=True), color="0.7", drawstyle="steps-post", zorder=1)
        for number, (setting, point) in enumerate(positions.items()):
            axes.scatter(*point, color=f"C{number}", marker="o", label=setting, zorder=2)
        axes.set_xlabel("ms an image, one at a time")
        axes.set_ylabel(f"{name}, mean over sets")
        axes.margins(x=0.1, y=0.15)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "offnominal"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = set_arguments(__doc__, most=50, cells=True)
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    use_threads(args.threads)
    this_machine = machine()
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as lists:
        sets = requested_sets(args, Path(lists))
        for image_set, by_setting in zip(sets, measured(sets, args.draws, args.threads), strict=True):
            results[image_set.name] = by_setting
            for setting, runs in by_setting.items():
                print(image_set.name, setting, *(spread(runs, key) for key in KEYS), flush=True)
        image_times = run_in_process(args.threads, times, sets[0].data)
    columns = ("set", "settings", *(key.replace("_", " ") for key in KEYS))
    write(
        args.out,
        "presets",
        [
            "# Members and presets",
            "; ".join(map(str, sets)) + ".",
            f"Means over {args.draws} draws of nine tenths of the training images, with the least and the most.",
            str(this_machine),
            table(columns, [row for set_name, of_set in results.items() for row in rows_of(set_name, of_set)]),
            f"Points gained over `{BASE}`, paired by draw, with the standard error over draws:",
            paired(results),
            f"The same, mean over the sets with the figure, and the time of an image of {sets[0].name}:",
            summary(results, image_times),
            "![Accuracy against time an image](presets.svg)",
        ],
        {"machine": this_machine, "sets": results, "seconds": image_times},
    )
    draw(results, image_times, args.out / "presets.svg")


if __name__ == "__main__":
    main()
