"""Does the stated false-alarm rate hold for verdicts on a part of the image, and with gates?

    python benchmarks/regions.py --data FOLDER_OF_SETS [--cells] [--splits 100] [--out benchmarks/results]

For each random split of the good images of a set, a model is fitted on one half with a stated rate of 5 %, and the other half
is inspected. The share that is flagged, over all splits, must not exceed the stated rate by more than two standard errors over
splits. A region needs images of one shape: those of the most common aspect ratio, in tenths, get the shape of the first.
Cases: the whole image; a region of interest, an ellipse that covers about 40 % of it; a smallest area of 2 % of the image; a
smallest length of a fifth of its width; two zones, the upper half without a gate and the lower half with the smallest area.
The time is that of the second half, as a multiple of the whole image in the same split: the median over splits.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from offnominal import Detector
from offnominal.datasets import normal_images
from offnominal.gates import Gate, Zone
from offnominal.images import pixels_of, read_header
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


def of_one_shape(paths: list[Path]) -> list[Any]:
    """The pictures of the most common aspect ratio, in the shape of the first."""
    sizes = [read_header(path).size for path in paths]
    ratios = [round(width / height, 1) for height, width in sizes]
    common, _ = Counter(ratios).most_common(1)[0]
    chosen = [at for at, ratio in enumerate(ratios) if ratio == common]
    height, width = sizes[chosen[0]]
    pictures = [np.ascontiguousarray(pixels_of(paths[at])) for at in chosen]
    return [cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in pictures]


def flagged(pictures: list[Any], settings: dict[str, Any], split: int, most: int) -> tuple[float, float]:
    """Share of the second half of a random split that a model of the first half flags, and the seconds."""
    order = np.random.default_rng(split).permutation(len(pictures))[: 2 * most]
    half = len(order) // 2
    detector = Detector(false_alarm_rate=RATE, **SMALL, **settings).fit([pictures[at] for at in order[:half]])
    assert detector.model.calibration.enough, f"{half} images are too few for {RATE:.0%}"
    second = [pictures[at] for at in order[half:]]
    started = perf_counter()
    share = float(np.mean(detector.predict(second) < 0))
    return share, perf_counter() - started


def cases(size: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Settings by the name of the case."""
    upper = np.zeros(size, np.bool_)
    upper[: size[0] // 2] = True
    area = f"{round(0.02 * size[0] * size[1])}px2"
    halves = (Zone("upper", RegionOfInterest.of(upper), Gate()), Zone("lower", RegionOfInterest.of(~upper), Gate(area)))
    return {
        "whole image": {},
        "region of interest": {"roi": ellipse(size)},
        "smallest area": {"min_area": area},
        "smallest length": {"min_length": f"{size[1] // 5}px"},
        "two zones": {"zones": halves},
    }


def measure(one: ImageSet, splits: int, most: int) -> dict[str, list[tuple[float, float]]]:
    """Flagged share and seconds of each case, for each split."""
    pictures = of_one_shape([item.path for item in normal_images(one.data)])
    results: dict[str, list[tuple[float, float]]] = {}
    for split in range(splits):
        for name, settings in cases(pictures[0].shape[:2]).items():
            results.setdefault(name, []).append(flagged(pictures, settings, split, most))
        if split % 10 == 9:
            shares = {name: f"{mean(share for share, _ in of):.3f}" for name, of in results.items()}
            print(one.name, len(pictures), split + 1, shares, file=sys.stderr, flush=True)
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
            whole = [seconds for _, seconds in results[one.name]["whole image"]]
            for name, measured in results[one.name].items():
                shares = [share for share, _ in measured]
                error = stdev(shares) / len(shares) ** 0.5
                holds = mean(shares) <= RATE + 2 * error
                times = median(seconds / plain for (_, seconds), plain in zip(measured, whole, strict=True))
                row = [one.name, name, f"{mean(shares):.2%} ± {error:.2%}", f"{RATE:.0%}", yes(holds), f"{times:.2f}"]
                lines.append(row)
    text = f"{args.splits} random splits, at most {args.images} images in each half: mean ± standard error."
    columns = ("set", "case", "good images flagged", "stated", "holds", "time")
    write(args.out, "regions", ["# False alarms with regions of interest and gates", text, str(here), table(columns, lines)], {
        "machine": here, **results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
