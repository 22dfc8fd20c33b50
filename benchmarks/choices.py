"""What the defaults of `resize`, K of the distance and `fusion` rest on: every choice on every set, side by side.

    python benchmarks/choices.py --data FOLDER_OF_SETS [--most 100] [--seeds 2] [--cells] [--threads 1]

FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training images only every so many-th image is used. `--cells`
adds the solar cells of `elpv-dataset`, all of them. The seed of the greedy choice is where it starts; small sets change much
with it. The labels of these sets are looked at here, so these figures are no proof for other sets.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from offnominal import Detector
from offnominal.detector.engine import FeatureEngine, SignalEngine
from offnominal.images import Source, batches, labelled_images, raise_unreadable, read_mask, to_original
from offnominal.metrics import Judged, figures
from offnominal.scoring import grid_of, image_score, working_map
from offnominal.types import Float
from sets import cell_sets, image_sets, set_arguments
from tables import machine, table, use_threads, write

Weights = tuple[float, float, float, float]
#: Weights of distance, influence length and response; each is standardised on held-out normals before.
FUSIONS = {
    "distance": (1.0, 0.0, 0.0, 0.0),
    "4 distance + influence": (4.0, 1.0, 0.0, 0.0),
    "2 distance + influence": (2.0, 1.0, 0.0, 0.0),
    "distance + influence": (1.0, 1.0, 0.0, 0.0),
    "influence": (0.0, 1.0, 0.0, 0.0),
}
WITH_RESPONSE = FUSIONS | {"distance + response": (1.0, 0.0, 1.0, 0.0), "response": (0.0, 0.0, 1.0, 0.0)}
FITS = (("area", 2, WITH_RESPONSE), ("area", 1, FUSIONS), ("area", 3, FUSIONS), ("area", 9, FUSIONS), ("squash", 2, FUSIONS))
FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.30", "aupro_0.05")


def signals(detector: Detector, sources: Sequence[Source]) -> Iterator[tuple[int, Float, tuple[int, int], tuple[int, int]]]:
    """(index, (h, w, S) signals, network size, original size) of every image."""
    model = detector.model
    engine = FeatureEngine(model.settings)
    look = SignalEngine(model.bank.patches, model.settings, model.usual_distance, engine.device)
    for batch in batches(sources, model.geometry, model.values, batch_size=16, failed=raise_unreadable):
        network = batch.pixels.shape[2], batch.pixels.shape[3]
        standardised = engine.standardise(engine.patches(batch), model.standard, network)
        for index, original, patches in zip(batch.index, batch.original, standardised, strict=True):
            yield index, grid_of(look(patches).values, engine.grids(network)), network, original


def measure(data: Path, resize: str, neighbours: int, fusions: dict[str, Weights], seed: int) -> dict[str, Any]:
    weights = {"distance": 1.0, "influence": 1.0, "response": float(fusions is WITH_RESPONSE)}
    detector = Detector(resize=resize, distance_neighbors=neighbours, fusion=weights, seed=seed).fit(data)
    items = labelled_images(data)
    found = list(signals(detector, [item.path for item in items]))
    result = {}
    for name, fusion in fusions.items():
        judged = []
        for index, values, network, original in found:
            item = items[index]
            settings = detector.settings
            anomaly = working_map(
                values, detector.model.normal, fusion, network, settings.smoothing, settings.context, settings.halo
            )
            mask = None if item.mask is None else read_mask(item.mask, original)
            judged.append(
                Judged(item.good, item.label or "defect", image_score(anomaly), False, to_original(anomaly, original), mask)
            )
        known: dict[str, Any] = dict(figures(judged))
        result[name] = {figure: known[figure] for figure in FIGURES}
    return result


def main() -> None:
    given = set_arguments(__doc__, seeds=2, most=100, cells=True).parse_args()
    use_threads(given.threads)
    here = machine()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sets = image_sets(given.data, given.most, Path(folder))
        sets += cell_sets(sys.maxsize, Path(folder)) if given.cells else []
        for resize, neighbours, fusions in FITS:
            for one in sets:
                for seed in range(given.seeds):
                    print(resize, neighbours, one.name, seed, file=sys.stderr, flush=True)
                    for fusion, known in measure(one.data, resize, neighbours, fusions, seed).items():
                        found.setdefault(f"{resize}, K = {neighbours}, {fusion}", {}).setdefault(one.name, []).append(known)
    rows = []
    for choice, by_set in found.items():
        means = {name: [_mean([run[figure] for run in runs]) for figure in FIGURES[:3]] for name, runs in by_set.items()}
        overall = [_mean([values[at] for values in means.values()]) for at in range(3)]
        rows.append([choice, *(" / ".join(map(_shown, values)) for values in (*means.values(), overall))])
    head = f"Image AUROC / pixel AUROC / pixel AP, means over {given.seeds} seeds. Means leave out what a set has no masks for."
    parts = [
        "# Choices",
        "; ".join(map(str, sets)) + ".",
        head,
        str(here),
        table(("choice", *(one.name for one in sets), "mean"), rows),
    ]
    write(given.out, "choices", parts, {"machine": here, **found})


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


if __name__ == "__main__":
    main()
