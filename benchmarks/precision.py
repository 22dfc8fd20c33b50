"""float32, bfloat16 and float16 on both runtimes: speed of the network, memory, difference of scores and maps, accuracy.

    python benchmarks/precision.py --data FOLDER_OF_SETS [--most 50] [--threads 1] [--out benchmarks/results]

FOLDER_OF_SETS holds MVTec roots; large ones are thinned to `--most` training images. A set is
fitted once, by default in float32; the same model then inspects with every runtime and precision, each in a process of its own.
The networks are timed on random images, because time does not depend on content; wide_resnet50_2 has random weights.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import networks
from networks import PRECISIONS, REFERENCE, SIDE, WAYS, WIDE, Way
from offnominal import load
from offnominal.datasets import Item, labelled_images
from offnominal.images import read_mask
from offnominal.metrics import Judged, figures
from sets import ImageSet, fitted, image_sets
from tables import apart, arguments, machine, peak_memory, table, use_threads, write


def inspected(model: Path, items: list[Item], way: Way, folder: Path) -> dict[str, Any]:
    """Scores and the peak memory of a process that inspects; its maps as files, so that they do not count."""
    scores: dict[int, float] = {}

    def fail(index: int, error: Exception) -> None:
        raise error

    try:
        detector = load(model, runtime=way[0], precision=way[1])
        for index, found in detector.inspect_many([item.path for item in items], failed=fail):
            scores[index] = found.score
            np.save(folder / f"{index}.npy", found.anomaly_map)
    except Exception as error:  # noqa: BLE001 - whatever a runtime says to a precision that it does not know
        return {"refused": networks.refusal(error)}
    return {"scores": [scores[index] for index in range(len(items))], "peak_mb": peak_memory() / 1e6}


def judged(items: list[Item], scores: list[float], folder: Path) -> dict[str, Any]:
    maps = [np.load(folder / f"{index}.npy") for index in range(len(items))]
    masks = [None if item.mask is None else read_mask(item.mask, one.shape) for item, one in zip(items, maps, strict=True)]
    known = figures(
        [
            Judged(item.good, item.label or "defect", score, False, one, mask)
            for item, score, one, mask in zip(items, scores, maps, masks, strict=True)
        ]
    )
    return {name: known[name] for name in ("image_auroc", "pixel_auroc")}


def differences(items: list[Item], scores: list[float], right: list[float], folder: Path, right_folder: Path) -> dict[str, Any]:
    """Largest and mean relative difference: of scores over the right score, of a map over its largest and its mean value."""
    score = np.abs(np.array(scores) - right) / np.abs(right)
    largest, mean = [], []
    for index in range(len(items)):
        one, other = np.load(folder / f"{index}.npy"), np.load(right_folder / f"{index}.npy")
        largest.append(np.abs(one - other).max() / np.abs(other).max())
        mean.append(np.abs(one - other).mean() / np.abs(other).mean())
    return {"score": (float(score.max()), float(score.mean())), "map": (float(np.max(largest)), float(np.mean(mean)))}


def measure(one: ImageSet, folder: Path, threads: int | None, hardware: set[str]) -> dict[Way, dict[str, Any]]:
    items, model = labelled_images(one.data), folder / "model.safetensors"
    apart(threads, fitted, one.data, model)
    found: dict[Way, dict[str, Any]] = {}
    for way in WAYS:
        print(one.name, *way, file=sys.stderr, flush=True)
        here = folder / "-".join(way)
        here.mkdir()
        result = apart(threads, inspected, model, items, way, here)
        if "refused" not in result:
            right = found[REFERENCE]["scores"] if way != REFERENCE else result["scores"]
            result |= judged(items, result["scores"], here)
            result |= differences(items, result["scores"], right, here, folder / "-".join(REFERENCE))
        found[way] = result
    return found


def row(name: str, way: Way, result: dict[str, Any], hardware: set[str]) -> list[str]:
    able = "yes" if way[1] in hardware else "no" if way[0] == "openvino" else "no: emulated"
    if "refused" in result:
        return [name, *way, able, result["refused"], "–", "–", "–", "–"]
    pairs = (" / ".join(f"{value:.0e}" for value in result[key]) for key in ("score", "map"))
    figures = (f"{result[key]:.4f}" for key in ("image_auroc", "pixel_auroc"))
    return [name, *way, able, f"{result['peak_mb']:,.0f}", *pairs, *figures]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--most", type=int, default=50, help="training images of a set, at most")
    given = parser.parse_args()
    use_threads(given.threads)
    here, hardware = machine(), networks.in_hardware()
    lacks = [precision for precision in PRECISIONS if precision not in hardware]
    speeds = networks.speeds(given.threads, hardware)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        sets = image_sets(given.data, given.most, Path(name))
        for one in sets:
            (Path(name) / one.name).mkdir()
            found[one.name] = measure(one, Path(name) / one.name, given.threads, hardware)
    write(
        given.out,
        "precision",
        [
            "# Precision: float32, bfloat16, float16",
            str(here),
            f"This processor has no {' and no '.join(lacks)} in hardware: with OpenVINO that is refused, since it would run "
            f"float32, and torch emulates, slowly; {WIDE} is not timed so."
            if lacks
            else "This processor has all three in hardware.",
            f"The network, from images to patches, {SIDE} x {SIDE} pixels and a mirrored margin of 16 around them:",
            networks.as_table(speeds, here.product),
            "*Physical limit*: operations of the network over the machine's float32 matrix rate.",
            networks.goal(speeds),
            "Sets: " + "; ".join(map(str, sets)) + ". Fitted once with the defaults (float32), inspected in batches of 16.",
            table(
                ("set", "runtime", "precision", "in hardware", "peak MB", "score", "map", "image AUROC", "pixel AUROC"),
                [row(name, way, result, hardware) for name, ways in found.items() for way, result in ways.items()],
            ),
            "*Score*, *map*: largest / mean relative difference from OpenVINO in float32; of a map the largest over the map's "
            "largest value, the mean over its mean.",
        ],
        {
            "machine": here.as_json(),
            "hardware": sorted(hardware),
            "speed": networks.as_json(speeds),
            "sets": [str(one) for one in sets],
            **{name: {" ".join(way): result for way, result in ways.items()} for name, ways in found.items()},
        },
    )


if __name__ == "__main__":
    main()
