"""Make the picture of regions and alignment from the solar cells of the demo: `make docs-pictures`.

The cells are shifted and rotated at random. A model aligns them, and inspects a region of interest that was drawn on the
reference. Needs the extra `demo`. The cells are from elpv-dataset (Buerhop-Lutz et al. 2018, Deitsch et al. 2019),
CC BY-NC-SA 4.0; pictures of them have the same licence.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np

from offnominal import Detector
from offnominal.datasets import labelled_images, normal_images
from offnominal.demo import write_manifest
from offnominal.images import displayed, pixels_of
from offnominal.reports import Picture, overlay
from offnominal.types import Pose

PICTURE = Path(__file__).parent / "pictures" / "aligned.jpg"
GOOD, SHOWN, SIDE, DARK, STEP = 80, 4, 300, 40, 3


def moved(path: Path, seed: int) -> tuple[Picture, Pose]:
    """A cell, shifted by up to 8 % and rotated by up to 12 degrees, on a dark background."""
    dx, dy, degrees = np.random.default_rng(seed).uniform((-24, -24, -12), (24, 24, 12))
    pose = Pose(dx, dy, degrees, 0.9, 1.0)
    pixels = np.ascontiguousarray(pixels_of(path))
    grey = (DARK, DARK, DARK)
    matrix, size = pose.matrix((SIDE, SIDE)), (SIDE, SIDE)
    return np.asarray(cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_AREA, borderValue=grey)), pose


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        manifest, reference = Path(name) / "cells.csv", Path(name) / "reference.png"
        write_manifest(manifest)
        good = [item.path for item in normal_images(manifest)]
        bad = [item.path for item in labelled_images(manifest) if not item.good]
        still = Pose(0.0, 0.0, 0.0, 0.9, 1.0).matrix((SIDE, SIDE))
        pixels = np.ascontiguousarray(pixels_of(good[0]))
        cv2.imwrite(str(reference), cv2.warpAffine(pixels, still, (SIDE, SIDE), borderValue=(DARK, DARK, DARK)))
        region = np.zeros((SIDE, SIDE), np.bool_)
        region[30:-30, 30:-30] = True
        detector = Detector(align="rigid", reference=reference, roi=region, false_alarm_rate=0.05)
        detector.fit([moved(path, seed)[0] for seed, path in enumerate(good[:GOOD])])
    values, drawn = detector.model.values, list[Picture]()
    for seed, path in enumerate(bad):
        image, pose = moved(path, 1000 + seed)
        inspection = detector.inspect(image)
        # A cell of which half is dark may be off by one busbar.
        found = inspection.pose
        well = found is not None and abs(found.dy - pose.dy) < SIDE / 10 and abs(found.degrees - pose.degrees) < STEP
        if well and inspection.found and inspection.anomalous and len(drawn) < SHOWN:
            shown = displayed(image, values, detector.model.counted(inspection))
            drawn.append(overlay(shown, inspection.anomaly_map, inspection.threshold))
    row = np.hstack([cv2.copyMakeBorder(one, 0, 0, 0, 8, cv2.BORDER_CONSTANT, value=(255, 255, 255)) for one in drawn])
    cv2.imwrite(str(PICTURE), np.ascontiguousarray(row[:, :-8, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()
