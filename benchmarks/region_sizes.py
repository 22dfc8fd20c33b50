"""How well does the size of a region agree with that of the defect?

    python benchmarks/region_sizes.py --data FOLDER_OF_SETS [--out benchmarks/results]

Dark squares of known side are painted into the middle of good images that were not fitted on. Length, width and the root of the
area of their regions are compared with the diagonal and the side of the square, all in pixels of a network input of 256 x 256.
"At the threshold" is the root of the area above the threshold, without the limit of half of the peak (`gates.extents`).
A second table compares the masks of regions with those of real defects.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from scipy import ndimage

from offnominal import Detector
from offnominal.datasets import labelled_images, normal_images
from offnominal.decisions import region_masks
from offnominal.images import pixels_of, read_mask
from sets import ImageSet, image_sets, set_arguments
from tables import machine, table, use_threads, write

SIDES = (4, 8, 16, 32, 64, 96)
IMAGES = 20


def painted(path: Path, side: float) -> tuple[Any, float]:
    """An image with a square in its middle, and the size of a network pixel in pixels of the image."""
    pixels = np.array(pixels_of(path))
    height, width = pixels.shape[:2]
    network = (height * width) ** 0.5 / 256
    half = max(1, round(side * network)) / 2
    rows, columns = (slice(round(middle - half), round(middle + half)) for middle in (height / 2, width / 2))
    dark = pixels[rows, columns].mean() > 64
    pixels[rows, columns] = 0 if dark else 255
    return pixels, network


def above_threshold(anomaly_map: Any, threshold: float) -> float:
    """Area of the connected pixels above the threshold in the middle of a map."""
    labels, _ = ndimage.label(anomaly_map > threshold, structure=np.ones((3, 3)))
    middle = labels[labels.shape[0] // 2, labels.shape[1] // 2]
    return float((labels == middle).sum()) if middle else 0.0


def overlaps(one: ImageSet, most: int) -> list[Any]:
    """Median area relative to the mask of the defect, and mean IoU with it: of the regions, and of all above the threshold."""
    detector = Detector(preset="fast", false_alarm_rate=0.05).fit([item.path for item in normal_images(one.data)][:most])
    ratios, shares = [], []
    for item in labelled_images(one.data):
        if item.mask is None or item.good:
            continue
        result = detector.inspect(item.path)
        if not result.regions:
            continue
        truth = read_mask(item.mask, result.anomaly_map.shape)
        regions = np.any(region_masks(result.anomaly_map, result.threshold, result.regions), axis=0)
        both = regions, result.anomaly_map > result.threshold
        ratios.append([mask.sum() / truth.sum() for mask in both])
        shares.append([(mask & truth).sum() / (mask | truth).sum() for mask in both])
    areas = [f"{median(column):.1f}" for column in zip(*ratios, strict=True)]
    return [one.name, len(shares), *areas, *(f"{mean(column):.2f}" for column in zip(*shares, strict=True))]


def main() -> None:
    parser = set_arguments(__doc__, most=100)
    args = parser.parse_args()
    use_threads(args.threads)
    here, lines, measured = machine(), [], dict[str, Any]()
    for preset in ("fast", "balanced"):
        for one in image_sets(args.data, sys.maxsize, args.out):
            paths = [item.path for item in normal_images(one.data)]
            if len(paths) < 3 * IMAGES:
                continue
            fitted = min(args.most, len(paths) - IMAGES)
            detector = Detector(preset=preset, false_alarm_rate=0.05).fit(paths[:fitted])
            for side in SIDES:
                sizes = []
                for path in paths[fitted : fitted + IMAGES]:
                    pixels, network = painted(path, side)
                    result = detector.inspect(pixels)
                    if not result.regions:
                        continue
                    leading = result.regions[0]
                    at_threshold = above_threshold(result.anomaly_map, result.threshold) ** 0.5
                    values = (leading.length, leading.width, leading.area**0.5, at_threshold)
                    sizes.append([value / network for value in values])
                row = [preset, one.name, side, f"{len(sizes)} of {IMAGES}", f"{side * 2**0.5:.0f}"]
                row += [f"{median(column):.0f}" for column in zip(*sizes, strict=True)] if sizes else ["–"] * 4
                lines.append(row)
                measured[f"{preset} {one.name} {side}"] = sizes
                print(row, flush=True)
    defects = [overlaps(one, args.most) for one in image_sets(args.data, sys.maxsize, args.out)]
    names = (
        "set",
        "flagged",
        "area of regions / mask",
        "area above the threshold / mask",
        "IoU of regions",
        "IoU above the threshold",
    )
    columns = ("preset", "set", "side", "flagged", "diagonal", "length", "width", "root of the area", "at the threshold")
    text = "Squares of known size; all in network pixels, medians of the flagged images."
    write(args.out, "region_sizes", ["# Sizes of regions", text, str(here), table(columns, lines), table(names, defects)], {
        "machine": here, **measured,
    })  # fmt: skip


if __name__ == "__main__":
    main()
