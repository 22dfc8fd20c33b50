"""Does the stated false-alarm rate hold for verdicts on a part of the image?

    python benchmarks/regions.py --data FOLDER_OF_SETS [--cells] [--splits 100] [--out benchmarks/results]

For each random split of the good images of a set, a model is fitted on one half with a stated rate of 5 %, and the other half
is inspected. The share that is flagged, over all splits, must not exceed the stated rate by more than two standard errors over
splits. Cases: the whole image, and a region of interest, an ellipse that covers about 40 % of it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np

from offnominal import Detector
from offnominal.datasets import normal_images
from offnominal.images import read_header
from offnominal.roi import RegionOfInterest
from sets import ImageSet, requested_sets, set_arguments
from tables import machine, table, use_threads, write, yes

RATE = 0.05
SMALL: dict[str, Any] = {"preset": "fast", "image_size": 128, "bank": 2000}


def ellipse(size: tuple[int, int]) -> RegionOfInterest:
    """An ellipse in the middle of an image."""
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, (size[1] // 2, size[0] // 2), (int(0.36 * size[1]), int(0.36 * size[0])), 0, 0, 360, 1, cv2.FILLED)
    return RegionOfInterest.of(mask.astype(np.bool_))


def largest_group(paths: list[Path]) -> list[Path]:
    """The images of the most common aspect ratio, which a region needs."""
    sizes = [read_header(path).size for path in paths]
    ratios = [round(width / height, 2) for height, width in sizes]
    common = max(set(ratios), key=ratios.count)
    return [path for path, ratio in zip(paths, ratios, strict=True) if ratio == common]


def flagged(paths: list[Path], settings: dict[str, Any], split: int, most: int) -> float:
    """Share of the second half of a random split that a model of the first half flags."""
    order = np.random.default_rng(split).permutation(len(paths))[: 2 * most]
    half = len(order) // 2
    detector = Detector(false_alarm_rate=RATE, **SMALL, **settings).fit([paths[at] for at in order[:half]])
    scores = detector.score_samples([paths[at] for at in order[half:]])
    return float(np.mean(scores > detector.model.calibration.threshold))


def cases(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Settings by the name of the case."""
    return {"whole image": {}, "region of interest": {"roi": ellipse(read_header(paths[0]).size)}}


def measure(one: ImageSet, splits: int, most: int) -> dict[str, list[float]]:
    """Flagged shares of each case, for each split."""
    paths = largest_group([item.path for item in normal_images(one.data)])
    results: dict[str, list[float]] = {}
    for name, settings in cases(paths).items():
        for split in range(splits):
            results.setdefault(name, []).append(flagged(paths, settings, split, most))
        print(one.name, name, mean(results[name]), file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = set_arguments(__doc__, most=sys.maxsize, cells=True)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--images", type=int, default=100, help="images of each half, at most")
    parser.add_argument("--sets", default="", help="measure only these sets, comma-separated")
    args = parser.parse_args()
    use_threads(args.threads)
    here, results, lines = machine(), {}, []
    wanted = [name for name in args.sets.split(",") if name]
    with tempfile.TemporaryDirectory() as lists:
        sets = [one for one in requested_sets(args, Path(lists)) if not wanted or one.name in wanted]
        for one in sets:
            results[one.name] = measure(one, args.splits, args.images)
            for name, shares in results[one.name].items():
                error = stdev(shares) / len(shares) ** 0.5
                holds = mean(shares) <= RATE + 2 * error
                lines.append([one.name, name, f"{mean(shares):.2%} ± {error:.2%}", f"{RATE:.0%}", yes(holds)])
    text = f"{args.splits} random splits, at most {args.images} images in each half: mean ± standard error."
    columns = ("set", "case", "good images flagged", "stated", "holds")
    write(args.out, "regions", ["# False alarms in a region of interest", text, str(here), table(columns, lines)], {
        "machine": here, **results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
