"""float32, bfloat16 and float16 in both runtimes: speed of the network, memory, differences of scores and maps, accuracy.

    python benchmarks/precision.py --data FOLDER_OF_SETS [--most 50] [--threads 1] [--out benchmarks/results]

FOLDER_OF_SETS holds MVTec roots; large ones are thinned to `--most` training images. Each set is fitted once with the defaults
in float32. The model then inspects in every runtime and precision, each in its own process. The networks are timed on random
images, because the time does not depend on the content; wide_resnet50_2 has random weights.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import networks
from networks import MODES, PRECISIONS, REFERENCE, SIDE, WIDE, Mode
from offnominal import load
from offnominal.datasets import Item, labelled_images
from offnominal.images import read_mask
from offnominal.metrics import Judged, figures
from sets import ImageSet, fit_and_save, image_sets
from tables import arguments, machine, peak_memory, run_in_process, table, use_threads, write


def inspected(model: Path, items: list[Item], mode: Mode, folder: Path) -> dict[str, Any]:
    """Scores and peak memory of this process. Its maps are written to files, so that they do not count as memory."""
    scores: dict[int, float] = {}

    def fail(index: int, error: Exception) -> None:
        raise error

    try:
        detector = load(model, runtime=mode[0], precision=mode[1])
        for index, inspection in detector.inspect_many([item.path for item in items], failed=fail):
            scores[index] = inspection.score
            np.save(folder / f"{index}.npy", inspection.anomaly_map)
    except Exception as error:  # noqa: BLE001 - runtimes raise different errors for unsupported precisions
        return {"refused": networks.refusal(error)}
    return {"scores": [scores[index] for index in range(len(items))], "peak_mb": peak_memory() / 1e6}


def judged(items: list[Item], scores: list[float], folder: Path) -> dict[str, Any]:
    maps = [np.load(folder / f"{index}.npy") for index in range(len(items))]
    masks = [
        None if item.mask is None else read_mask(item.mask, anomaly_map.shape)
        for item, anomaly_map in zip(items, maps, strict=True)
    ]
    metrics = figures(
        [
            Judged(item.good, item.label or "defect", score, False, anomaly_map, mask)
            for item, score, anomaly_map, mask in zip(items, scores, maps, masks, strict=True)
        ]
    )
    return {name: metrics[name] for name in ("image_auroc", "pixel_auroc")}


def differences(
    items: list[Item], scores: list[float], expected: list[float], folder: Path, expected_folder: Path
) -> dict[str, Any]:
    """Largest and mean relative difference: of scores, and of maps relative to their largest and their mean value."""
    score = np.abs(np.array(scores) - expected) / np.abs(expected)
    largest, mean = [], []
    for index in range(len(items)):
        anomaly_map, expected_map = np.load(folder / f"{index}.npy"), np.load(expected_folder / f"{index}.npy")
        largest.append(np.abs(anomaly_map - expected_map).max() / np.abs(expected_map).max())
        mean.append(np.abs(anomaly_map - expected_map).mean() / np.abs(expected_map).mean())
    return {"score": (float(score.max()), float(score.mean())), "map": (float(np.max(largest)), float(np.mean(mean)))}


def measure(image_set: ImageSet, folder: Path, threads: int | None, hardware: set[str]) -> dict[Mode, dict[str, Any]]:
    items, model = labelled_images(image_set.data), folder / "model.safetensors"
    run_in_process(threads, fit_and_save, image_set.data, model)
    results: dict[Mode, dict[str, Any]] = {}
    for mode in MODES:
        print(image_set.name, *mode, file=sys.stderr, flush=True)
        maps = folder / "-".join(mode)
        maps.mkdir()
        result = run_in_process(threads, inspected, model, items, mode, maps)
        if "refused" not in result:
            expected = results[REFERENCE]["scores"] if mode != REFERENCE else result["scores"]
            result |= judged(items, result["scores"], maps)
            result |= differences(items, result["scores"], expected, maps, folder / "-".join(REFERENCE))
        results[mode] = result
    return results


def row(name: str, mode: Mode, result: dict[str, Any], hardware: set[str]) -> list[str]:
    in_hardware = "yes" if mode[1] in hardware else "no" if mode[0] == "openvino" else "no: emulated"
    if "refused" in result:
        return [name, *mode, in_hardware, result["refused"], "–", "–", "–", "–"]
    pairs = (" / ".join(f"{value:.0e}" for value in result[key]) for key in ("score", "map"))
    figures = (f"{result[key]:.4f}" for key in ("image_auroc", "pixel_auroc"))
    return [name, *mode, in_hardware, f"{result['peak_mb']:,.0f}", *pairs, *figures]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--most", type=int, default=50, help="largest number of training images of a set")
    args = parser.parse_args()
    use_threads(args.threads)
    this_machine, hardware = machine(), networks.hardware_precisions()
    missing = [precision for precision in PRECISIONS if precision not in hardware]
    speeds = networks.speeds(args.threads, hardware)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        sets = image_sets(args.data, args.most, Path(name))
        for image_set in sets:
            (Path(name) / image_set.name).mkdir()
            results[image_set.name] = measure(image_set, Path(name) / image_set.name, args.threads, hardware)
    write(
        args.out,
        "precision",
        [
            "# Precision: float32, bfloat16, float16",
            str(this_machine),
            f"This processor has no {' and no '.join(missing)} in hardware: with OpenVINO that is refused, since it would run "
            f"float32, and torch emulates, slowly; {WIDE} is not timed so."
            if missing
            else "This processor has all three in hardware.",
            f"The network, from images to patches, {SIDE} x {SIDE} pixels and a mirrored margin of 16 around them:",
            networks.as_table(speeds, this_machine.product),
            "*Physical limit*: operations of the network over the machine's float32 matrix rate.",
            networks.goal(speeds),
            "Sets: " + "; ".join(map(str, sets)) + ". Fitted once with the defaults (float32), inspected in batches of 16.",
            table(
                ("set", "runtime", "precision", "in hardware", "peak MB", "score", "map", "image AUROC", "pixel AUROC"),
                [row(name, mode, result, hardware) for name, by_mode in results.items() for mode, result in by_mode.items()],
            ),
            "*Score*, *map*: largest / mean relative difference from OpenVINO in float32; of a map the largest over the map's "
            "largest value, the mean over its mean.",
        ],
        {
            "machine": this_machine.as_json(),
            "hardware": sorted(hardware),
            "speed": networks.as_json(speeds),
            "sets": [str(image_set) for image_set in sets],
            **{name: {" ".join(mode): result for mode, result in by_mode.items()} for name, by_mode in results.items()},
        },
    )


if __name__ == "__main__":
    main()
