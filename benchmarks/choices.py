"""What the defaults of `resize`, K of the distance and `fusion` rest on: every choice on every set, side by side.

    python benchmarks/choices.py --data FOLDER_OF_SETS --out benchmarks/results

FOLDER_OF_SETS holds MVTec roots; the solar cells of `elpv-dataset` (mono- and polycrystalline) are added. The last rows of the
table are means over the sets. The labels of these sets are looked at here, so these figures are no proof for other sets.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offnominal import Detector
from offnominal.demo import write_manifest
from offnominal.detector.engine import FeatureEngine, SignalEngine
from offnominal.images import Item, batches, labelled_images, read_mask, to_original
from offnominal.metrics import Judged, figures
from offnominal.scoring import grid_of, image_score, working_map
from offnominal.types import Float

#: Weights of distance, influence length and response; each is standardised on held-out normals before.
FUSIONS = {
    "distance": (1.0, 0.0, 0.0),
    "influence": (0.0, 1.0, 0.0),
    "response": (0.0, 0.0, 1.0),
    "2 distance + influence": (2.0, 1.0, 0.0),
    "distance + influence": (1.0, 1.0, 0.0),
    "distance + response": (1.0, 0.0, 1.0),
    "distance + influence + response": (1.0, 1.0, 1.0),
}
ONLY_DISTANCE = {"distance": FUSIONS["distance"]}
FITS: tuple[tuple[str, int, dict[str, tuple[float, float, float]]], ...] = (
    ("keep", 3, FUSIONS),
    ("squash", 3, FUSIONS),
    ("keep", 1, ONLY_DISTANCE),
    ("keep", 9, ONLY_DISTANCE),
)
FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.30", "aupro_0.05")


def signals(detector: Detector, items: list[Item]) -> Iterator[tuple[Item, Float, tuple[int, int], tuple[int, int]]]:
    """(item, (h, w, S) signals, network size, original size) of every image."""
    model = detector.model
    engine = FeatureEngine(model.settings)
    look = SignalEngine(model.bank.patches, model.settings, model.usual_distance, engine.device)

    def fail(index: int, error: Exception) -> None:
        raise error

    for batch in batches([i.path for i in items], model.geometry, model.values, batch_size=16, failed=fail):
        network = batch.pixels.shape[2], batch.pixels.shape[3]
        standardised = engine.standardise(engine.patches(batch), model.standard, network)
        for index, original, patches in zip(batch.index, batch.original, standardised, strict=True):
            yield items[index], grid_of(look(patches).values, engine.grids(network)), network, original


def measure(data: str, resize: str, neighbours: int, fusions: dict[str, tuple[float, float, float]]) -> dict[str, Any]:
    weights = {"distance": 1.0, "influence": 1.0, "response": 1.0 if len(fusions) > 1 else 0.0}
    detector = Detector(resize=resize, distance_neighbors=neighbours, fusion=weights).fit(data)
    found = list(signals(detector, labelled_images(data)))
    result = {}
    for name, fusion in fusions.items():
        judged = []
        for item, values, network, original in found:
            anomaly = working_map(values, detector.model.normal, fusion, network, detector.settings.smoothing)
            mask = None if item.mask is None else read_mask(item.mask, original)
            judged.append(
                Judged(item.good, item.label or "defect", image_score(anomaly), False, to_original(anomaly, original), mask)
            )
        known: dict[str, Any] = dict(figures(judged))
        result[name] = {figure: known[figure] for figure in FIGURES}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    sets = {path.name: str(path) for path in sorted(given.data.iterdir()) if (path / "train" / "good").is_dir()}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("mono", "poly"):
            write_manifest(Path(folder) / f"{kind}.csv", kind=kind)
            sets[f"elpv {kind}"] = str(Path(folder) / f"{kind}.csv")
        for resize, neighbours, fusions in FITS:
            for name, data in sets.items():
                print(resize, neighbours, name, file=sys.stderr, flush=True)
                for fusion, known in measure(data, resize, neighbours, fusions).items():
                    found.setdefault(f"{resize}, K = {neighbours}, {fusion}", {})[name] = known
    lines = ["Image AUROC / pixel AUROC / pixel AP. Means leave out what a set has no masks for.", ""]
    lines += ["| choice | " + " | ".join(sets) + " | mean |", "|---" * (len(sets) + 2) + "|"]
    for choice, by_set in found.items():
        cells = [" / ".join(_shown(by_set[name][figure]) for figure in FIGURES[:3]) for name in sets]
        cells.append(" / ".join(_shown(_mean([known[figure] for known in by_set.values()])) for figure in FIGURES[:3]))
        lines.append(f"| {choice} | " + " | ".join(cells) + " |")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "choices.md").write_text("\n".join(lines) + "\n")
    (given.out / "choices.json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines))


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


if __name__ == "__main__":
    main()
