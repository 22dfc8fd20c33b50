"""Make the pictures of regions, alignment and gates from the solar cells of the demo: `make docs-pictures`.

The first shows cells that are shifted and rotated at random. A model aligns them, and inspects a region of interest that was
drawn on the reference. The second shows which regions pass a gate, with their lengths. Needs the extra `demo`. The cells are
from elpv-dataset (Buerhop-Lutz et al. 2018, Deitsch et al. 2019), CC BY-NC-SA 4.0; pictures of them have the same licence.
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

PICTURES = Path(__file__).parent / "pictures"
#: A cell is 156 mm wide, and its picture has 300 pixels.
MM_PER_PIXEL, SHORTEST = 0.52, "30mm"
GOOD, SHOWN, SIDE, DARK, STEP = 80, 4, 300, 40, 3


def moved(path: Path, seed: int) -> tuple[Picture, Pose]:
    """A cell, shifted by up to 8 % and rotated by up to 12 degrees, on a dark background."""
    dx, dy, degrees = np.random.default_rng(seed).uniform((-24, -24, -12), (24, 24, 12))
    pose = Pose(dx, dy, degrees, 0.9, 1.0)
    pixels = np.ascontiguousarray(pixels_of(path))
    grey = (DARK, DARK, DARK)
    matrix, size = pose.matrix((SIDE, SIDE)), (SIDE, SIDE)
    return np.asarray(cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_AREA, borderValue=grey)), pose


def aligned() -> None:
    """Draw `aligned.jpg`."""
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
    write_row(drawn, "aligned.jpg")


def gated() -> None:
    """Draw `gates.jpg`: cells with regions that pass a gate, then one that is flagged without the gate only."""
    with tempfile.TemporaryDirectory() as name:
        manifest = Path(name) / "cells.csv"
        write_manifest(manifest)
        good = [item.path for item in normal_images(manifest)][:200]
        bad = [item.path for item in labelled_images(manifest) if not item.good]
    plain, gate = (
        Detector(false_alarm_rate=0.05, mm_per_pixel=MM_PER_PIXEL, min_length=length).fit(good) for length in (None, SHORTEST)
    )
    rejected, passed = list[Picture](), list[Picture]()
    for path in bad:
        inspection, without = gate.inspect(path), plain.inspect(path)
        shown = displayed(pixels_of(path), gate.model.values)
        picture = np.ascontiguousarray(overlay(shown, without.anomaly_map, without.threshold))
        for region in inspection.regions:
            left, top, right, bottom = region.box
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), (255, 255, 255), 1)
            assert region.mm is not None
            text, at = f"{region.mm.length:.0f} mm", (min(left, SIDE - 60), max(14, top - 4))
            cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        if inspection.anomalous:
            rejected.append(picture)
        elif without.anomalous:
            passed.append(picture)
    write_row([*rejected[: SHOWN - 1], passed[0]], "gates.jpg")


def write_row(pictures: list[Picture], name: str) -> None:
    """Write pictures side by side."""
    row = np.hstack([cv2.copyMakeBorder(one, 0, 0, 0, 8, cv2.BORDER_CONSTANT, value=(255, 255, 255)) for one in pictures])
    cv2.imwrite(str(PICTURES / name), np.ascontiguousarray(row[:, :-8, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80])


def main() -> None:
    aligned()
    gated()


if __name__ == "__main__":
    main()
