"""The first version's way of joining layers against ours, with the same number of features: accuracy, time, size.

    python benchmarks/aggregation.py --data FOLDER_OF_SETS [--seeds 3] [--most 50] [--threads 1] [--out benchmarks/results]

Old (`concat-patches`): every layer is pooled to so many features, and the patches of all layers, which lie on different grids,
make one list. New (`align`): layers are brought to the finest grid and joined along the features, here pooled to as many.
FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training images only every so many-th image is used.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from offnominal import Detector
from offnominal.detector.engine import FeatureEngine, SignalEngine
from offnominal.images import batches, labelled_images
from sets import image_sets, set_arguments
from tables import Timing, apart, machine, now, points, spread, table, timed, use_threads, write

OLD, NEW = "old, D = 112", "new, D = 112"
#: The two layers of EfficientNet-Lite0 have 40 and 112 channels: D is the one's number, the other's, or all.
WAYS: dict[str, dict[str, Any]] = {
    "old, D = 40": {"aggregation": "concat-patches", "dimensions": 40},
    "new, D = 40": {"aggregation": "align", "dimensions": 40},
    OLD: {"aggregation": "concat-patches", "dimensions": 112},
    NEW: {"aggregation": "align", "dimensions": 112},
    "new, D = 152, the default": {},
}
KEYS = ("image_auroc", "pixel_auroc", "pixel_ap")
RUNS = 9


def run(data: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], Detector]:
    started = now()
    detector = Detector(**settings).fit(data)
    fit = now() - started
    figures = detector.evaluate(data).figures
    return {"fit": fit, "bank": len(detector.model.bank.patches), **{key: figures[key] for key in KEYS}}, detector


class Image:
    """One test image, ready for the network of a detector: to patches, and on to their signals."""

    def __init__(self, detector: Detector, data: Path) -> None:
        def fail(index: int, error: Exception) -> None:
            raise error

        model = detector.model
        path = labelled_images(data)[0].path
        (self.batch,) = batches([path], model.geometry, model.values, batch_size=1, failed=fail)
        self.network_size = self.batch.pixels.shape[2], self.batch.pixels.shape[3]
        self.standard, self.engine = model.standard, FeatureEngine(model.settings)
        self.look = SignalEngine(model.bank.patches, model.settings, model.usual_distance, self.engine.device)
        self.patches = self.network()

    def network(self) -> Any:
        return self.engine.standardise(self.engine.patches(self.batch), self.standard, self.network_size)[0]

    def signals(self) -> Any:
        return self.look(self.patches)


def measure(data: Path, seeds: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    images: dict[str, Image] = {}
    for name, settings in WAYS.items():
        runs = []
        for seed in range(seeds):
            figures, detector = run(data, {**settings, "seed": seed})
            runs.append(figures)
        images[name] = Image(detector, data)
        found[name] = {"runs": runs, "patches": len(images[name].patches)}
    networks = timed(*(image.network for image in images.values()), runs=RUNS)
    signals = timed(*(image.signals for image in images.values()), runs=RUNS)
    for name, network, signal in zip(images, networks, signals, strict=True):
        found[name] |= {"network": network, "signals": signal}
    return found


def rows_of(name: str, found: dict[str, dict[str, Any]]) -> list[list[str]]:
    return [
        [
            name,
            way,
            f"{result['patches']:,}",
            f"{result['runs'][0]['bank']:,}",
            *(spread(result["runs"], key) for key in KEYS),
            str(Timing.of([one["fit"] for one in result["runs"]])),
            str(result["network"]),
            str(result["signals"]),
        ]
        for way, result in found.items()
    ]


def gains(name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """New less old at D = 112, in the means and medians."""
    gained = (points(found[NEW]["runs"], found[OLD]["runs"], key) for key in KEYS)
    new, old = (found[way]["network"].middle + found[way]["signals"].middle for way in (NEW, OLD))
    return [name, *gained, f"{100 * (new / old - 1):+.0f} %"]


def main() -> None:
    given = set_arguments(__doc__, seeds=3, most=50).parse_args()
    use_threads(given.threads)
    here = machine()
    found = {}
    with tempfile.TemporaryDirectory() as lists:
        sets = image_sets(given.data, given.most, Path(lists))
        for one in sets:
            print(one, file=sys.stderr, flush=True)
            found[one.name] = apart(given.threads, measure, one.data, given.seeds)
    columns = ("set", "layers", "patches", "bank", "image AUROC", "pixel AUROC", "pixel AP", "fit", "network", "signals")
    write(
        given.out,
        "aggregation",
        [
            "# Aggregation: the first version's and ours",
            f"Defaults but for aggregation and dimensions D; a bank of 1 %, at least 1,000 patches. "
            f"Mean (least–most) over {given.seeds} seeds. "
            f"Network: one image to standardised patches; signals: from these on. {'; '.join(map(str, sets))}.",
            str(here),
            table(columns, [row for name, result in found.items() for row in rows_of(name, result)]),
            "New less old at D = 112: points, and the time of network and signals.",
            table(
                ("set", "image AUROC", "pixel AUROC", "pixel AP", "time"),
                [gains(name, result) for name, result in found.items()],
            ),
            "Pooling to more features than a layer has repeats them; the default pools nothing.",
        ],
        {"machine": here.as_json(), "sets": [str(one) for one in sets], **found},
    )


if __name__ == "__main__":
    main()
