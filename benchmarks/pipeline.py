"""From the method's first version to ours on one set, step by step: sampler, influence, score.

    python benchmarks/pipeline.py --data MVTEC_ROOT [--test 100] [--draws 5] [--out FOLDER]

First version, here with aligned layers (`aggregation.py` measures the joining of layers): a random bank, influence by a loop
over the features, and the score 0.4 x mean influence + 0.4 x mean distance + 0.2 x mean proposed noise. The loop is timed on a
few features and extrapolated; the accuracy comes from the closed form, which equals the loop. All steps have one member. Each
draw leaves out a random tenth of the training images; accuracy is mean ± standard deviation over draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch

from offnominal import Detector
from offnominal.datasets import labelled_images, normal_images
from offnominal.images import read_header, read_mask
from offnominal.metrics import Judged, figures
from sets import drawn
from tables import arguments, machine, plus_minus, table, use_threads, write

LOOPED = 4
OLD_WEIGHTS = (0.4, 0.4, 0.2)


@dataclass(frozen=True)
class Step:
    """A state on the way from the first version to ours."""

    name: str
    settings: dict[str, Any]
    loop: bool
    ours: bool


STEPS = (
    Step("first version, layers aligned", {"sampler": "random"}, loop=True, ours=False),
    Step("+ greedy k-center", {}, loop=True, ours=False),
    Step("+ influence in closed form", {}, loop=False, ours=False),
    Step("+ signals standardised on normals: ours", {}, loop=False, ours=True),
)


def old_score(detector: Detector, path: Path) -> tuple[float, Any]:
    """Score and map in original pixels, as the first version fuses."""
    found = detector.explain(path)
    parts = np.abs(found.influence).mean(1), found.distances.mean(1), found.noise.mean(1)
    patches = sum(weight * part for weight, part in zip(OLD_WEIGHTS, parts, strict=True))
    grid = np.asarray(patches[: found.grid[0] * found.grid[1]], np.float32).reshape(found.grid)
    large = cv2.resize(grid, read_header(path).size[::-1], interpolation=cv2.INTER_LINEAR)
    return float(patches.max()), cv2.GaussianBlur(large, (0, 0), 4)


def loop_seconds(detector: Detector, patches: int) -> float:
    """Seconds of the loop for an image of so many patches: timed on a few features, times all of them."""
    bank = detector.model.members[0].bank.patches
    points = bank[torch.arange(patches) % len(bank)] + 0.1
    started = perf_counter()
    for feature in range(LOOPED):
        for sign in (1, -1):
            moved = points.clone()
            moved[:, feature] += sign * 1e-3
            torch.cdist(moved, bank).topk(detector.settings.neighbors, largest=False).values.mean(1)
    return (perf_counter() - started) * bank.shape[1] / LOOPED


def run(step: Step, data: str, test: list[Any], draw: int) -> dict[str, Any]:
    started = perf_counter()
    detector = Detector(preset="fast", seed=draw, **step.settings).fit(drawn(data, draw))
    fit = perf_counter() - started
    judged, times = [], []
    looped = loop_seconds(detector, len(detector.explain(test[0].path).distances)) if step.loop else 0.0
    for item in test:
        started = perf_counter()
        if step.ours:
            found = detector.inspect(item.path)
            score, anomaly_map = found.score, found.anomaly_map
        else:
            score, anomaly_map = old_score(detector, item.path)
        times.append(perf_counter() - started)
        mask = None if item.mask is None else read_mask(item.mask, anomaly_map.shape)
        judged.append(Judged(item.good, item.label, score, False, anomaly_map, mask))
    return {"fit": fit, "image": float(np.median(times)) + looped, **figures(judged)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    use_threads(given.threads)
    where = machine()
    every = labelled_images(given.data)
    test = list(every)[:: max(1, -(-len(every) // given.test))]
    found: dict[str, Any] = {}
    for step in STEPS:
        found[step.name] = [run(step, given.data, test, draw) for draw in range(given.draws)]
        print(step.name, flush=True)
    first = found[STEPS[0].name]
    rows = [
        [
            name,
            *(plus_minus([one[key] for one in runs]) for key in ("image_auroc", "pixel_auroc", "pixel_ap")),
            f"{mean(one['fit'] for one in runs):.1f}",
            time_of(mean(one["image"] for one in runs)),
            f"{mean(one['image'] for one in first) / mean(one['image'] for one in runs):,.0f}",
            f"{seconds_in_all(first, len(test)) / seconds_in_all(runs, len(test)):,.0f}",
        ]
        for name, runs in found.items()
    ]
    columns = ("step", "image AUROC", "pixel AUROC", "pixel AP", "fit, s", "an image", "times faster: test", "fit and test")
    write(
        given.out,
        f"pipeline-{Path(given.data).stem}",
        [
            "# From the method's first version to ours",
            f"{Path(given.data).stem}: {len(list(normal_images(given.data)))} good images, {len(test)} test images, "
            f"{given.draws} draws, EfficientNet-Lite0.",
            str(where),
            table(columns, rows),
            "The loop's time is extrapolated: the distances of all patches to the bank, twice for every feature.",
        ],
        {"machine": where.as_json(), "steps": found},
    )


def seconds_in_all(runs: list[dict[str, Any]], images: int) -> float:
    return float(mean(one["fit"] + images * one["image"] for one in runs))


def time_of(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


if __name__ == "__main__":
    main()
