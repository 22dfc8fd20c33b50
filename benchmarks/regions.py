"""Does the stated false-alarm rate hold for verdicts on a part of the image?

    python benchmarks/regions.py --data FOLDER_OF_SETS [--cells] [--splits 100] [--out benchmarks/results]

For each random split of the good images of a set, a model is fitted on one half with a stated rate of 5 %, and the other half
is inspected. The share that is flagged, over all splits, must not exceed the stated rate by more than two standard errors over
splits. A region needs images of one shape: those of the most common aspect ratio, in tenths, get the shape of the first.
Cases: the whole image, and a region of interest, an ellipse that covers about 40 % of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np

from offnominal import Detector
from offnominal.datasets import normal_images
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


def flagged(pictures: list[Any], settings: dict[str, Any], split: int, most: int) -> float:
    """Share of the second half of a random split that a model of the first half flags."""
    order = np.random.default_rng(split).permutation(len(pictures))[: 2 * most]
    half = len(order) // 2
    detector = Detector(false_alarm_rate=RATE, **SMALL, **settings).fit([pictures[at] for at in order[:half]])
    assert detector.model.calibration.enough, f"{half} images are too few for {RATE:.0%}"
    return float(np.mean(detector.predict([pictures[at] for at in order[half:]]) < 0))


def cases(size: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Settings by the name of the case."""
    return {"whole image": {}, "region of interest": {"roi": ellipse(size)}}


def measure(one: ImageSet, splits: int, most: int) -> dict[str, list[float]]:
    """Flagged shares of each case, for each split."""
    pictures = of_one_shape([item.path for item in normal_images(one.data)])
    results: dict[str, list[float]] = {}
    for name, settings in cases(pictures[0].shape[:2]).items():
        for split in range(splits):
            results.setdefault(name, []).append(flagged(pictures, settings, split, most))
        print(one.name, len(pictures), name, mean(results[name]), file=sys.stderr, flush=True)
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
