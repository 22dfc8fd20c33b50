"""Suppressed spatial leakage: pixel figures at several radii, on real defects with masks and on synthetic anomalies.

    python benchmarks/halo.py --data FOLDER_OF_SETS [--most 100] [--cells] [--textile] [--threads 1]

FOLDER_OF_SETS holds MVTec roots; large ones are thinned to `--most` training images. Synthetic anomalies of all kinds are made
on good test images, so sets without masks are measured as well. All radii share one model per set: the setting `halo` changes
neither the fit nor the score of an image, and that is asserted.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from offnominal import Detector
from offnominal.datasets import Item, labelled_images, normal_images
from offnominal.images import Source, batches, pixels_of, raise_unreadable, read_mask, to_original
from offnominal.inference.inspector import MemberResult
from offnominal.metrics import Judged, figures
from offnominal.scoring import average_maps, image_score, member_map
from offnominal.types import Mask
from sets import set_arguments, sets_asked_for
from synthetic_anomalies import SYNTHETIC_ANOMALIES, synthetic_anomaly
from tables import machine, table, use_threads, write

#: Radius of the leakage in patch positions; 0 leaves the map as it is.
HALOS = (0.0, 1.0, 1.5, 2.0, 3.0)
FIGURES = ("pixel_auroc", "pixel_ap", "aupro_0.30", "aupro_0.05")
#: At most so many good test images get synthetic anomalies.
MADE_ON = 25
Figures = dict[str, float | None]


def with_synthetic_anomalies(data: Path) -> tuple[list[Source], list[Mask | None]]:
    """Good test images, each also with a synthetic anomaly of every kind; and their masks."""
    good = [item for item in labelled_images(data) if item.good]
    others, rng = normal_images(data), np.random.default_rng(0)
    sources: list[Source] = []
    masks: list[Mask | None] = []
    for item in good[:: -(-len(good) // MADE_ON)]:
        pixels = pixels_of(item.path)
        sources.append(pixels)
        masks.append(None)
        for kind in SYNTHETIC_ANOMALIES:
            made, mask = synthetic_anomaly(pixels, pixels_of(others[int(rng.integers(len(others)))].path), kind, rng)
            sources.append(made)
            masks.append(mask)
    return sources, masks


def mask_known(masks: Sequence[Mask | None], index: int, original: tuple[int, int]) -> Mask | None:
    return masks[index]


def mask_in_file(items: Sequence[Item], index: int, original: tuple[int, int]) -> Mask | None:
    path = items[index].mask
    return None if path is None else read_mask(path, original)


def results(detector: Detector, sources: Sequence[Source]) -> Iterator[tuple[int, list[MemberResult], tuple[int, int]]]:
    """`(index, results of the members, (H, W) of the original)` of every image, one at a time."""
    inspector = detector._ready()
    for batch in batches(sources, inspector.views, inspector.model.values, batch_size=1, failed=raise_unreadable):
        found = [scorer.score(batch, False)[1][0] for scorer in inspector.scorers]
        yield batch.index[0], found, batch.original[0]


def measure(
    detector: Detector, sources: Sequence[Source], mask_of: Callable[[int, tuple[int, int]], Mask | None]
) -> dict[float, Figures]:
    """`FIGURES` for each of `HALOS`; `mask_of(index, (H, W))` is the mask of an image, None for a good one."""
    settings, members = detector.settings, detector.model.members
    judged: dict[float, list[Judged]] = {halo: [] for halo in HALOS}
    for index, found, original in results(detector, sources):
        mask = mask_of(index, original)
        for halo, those in judged.items():
            anomaly = average_maps(
                [
                    member_map(one.on_grid, member.normal, settings.fusion.weights, one.network, settings.smoothing, halo)
                    for member, one in zip(members, found, strict=True)
                ]
            )
            those.append(Judged(mask is None, "defect", image_score(anomaly), False, to_original(anomaly, original), mask))
    for one, other in pairwise(judged.values()):
        assert [image.score for image in one] == [image.score for image in other]
    known: dict[float, dict[str, Any]] = {halo: dict(figures(those)) for halo, those in judged.items()}
    return {halo: {name: of_it[name] for name in FIGURES} for halo, of_it in known.items()}


def main() -> None:
    given = set_arguments(__doc__, most=100, cells=True).parse_args()
    use_threads(given.threads)
    here = machine()
    found: dict[str, dict[str, dict[float, Figures]]] = {"synthetic": {}, "real": {}}
    with tempfile.TemporaryDirectory() as folder:
        sets = sets_asked_for(given, Path(folder))
        for one in sets:
            print(one, file=sys.stderr, flush=True)
            detector = Detector().fit(one.data)
            sources, masks = with_synthetic_anomalies(one.data)
            found["synthetic"][one.name] = measure(detector, sources, partial(mask_known, masks))
            items = [item for item in labelled_images(one.data) if item.good or item.mask is not None]
            if not all(item.good for item in items):
                found["real"][one.name] = measure(detector, [item.path for item in items], partial(mask_in_file, items))
    parts = ["# Spatial leakage, suppressed", "; ".join(map(str, sets)) + ".", str(here)]
    for kind, told in (
        ("real", "Real defects with masks"),
        ("synthetic", "Synthetic anomalies of all kinds on good test images"),
    ):
        parts += [f"{told}: pixel AUROC / pixel AP / AUPRO 0.30 / AUPRO 0.05.", as_table(found[kind])]
    write(given.out, "halo", parts, {"machine": here, **found})


def as_table(by_set: dict[str, dict[float, Figures]]) -> str:
    rows = []
    for halo in HALOS:
        each = [[by_halo[halo][name] for name in FIGURES] for by_halo in by_set.values()]
        rows.append([f"{halo:g}", *(" / ".join("–" if value is None else f"{value:.3f}" for value in one) for one in each)])
    return table(("radius, patch positions", *by_set), rows)


if __name__ == "__main__":
    main()
