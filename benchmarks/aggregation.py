"""Two ways to join the layers of a network: as one list of patches, or aligned to the finest grid. Accuracy, time, size.

    python benchmarks/aggregation.py --data FOLDER_OF_SETS [--draws 5] [--most 50] [--threads 1] [--out benchmarks/results]

Listed (the method's first version): each layer is pooled to D features, and the patches of all layers, which lie on different
grids, form one bank; an image's map is the mean of the layers' maps. Aligned (offnominal): layers are resized to the finest
grid and joined along the features, here pooled to as many. Both have one member, a greedy bank of the same size rule, the mean
distance to the same number of neighbours and the same smoothing. FOLDER_OF_SETS holds MVTec roots; large ones are thinned to
`--most` training images. Each draw leaves out a random tenth of the training images; figures are mean ± standard deviation over
draws.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal import Detector
from offnominal.config import settings_from
from offnominal.datasets import labelled_images
from offnominal.features import channel_standard, load_backbone, reduce_channels
from offnominal.images import EIGHT_BIT, Geometry, batches, raise_unreadable, read_mask, to_original
from offnominal.memory import NearestPatches, PatchRows, farthest_from_mean, kcenter
from offnominal.metrics import Judged, figures
from offnominal.scoring import image_score
from offnominal.scoring.maps import WORKING_STRIDE
from offnominal.types import Float
from sets import drawn, image_sets, set_arguments
from tables import Timing, apart, machine, now, plus_minus, points, table, use_threads, write

LISTED, ALIGNED = "listed, D = 112", "aligned, D = 112"
#: The two layers of EfficientNet-Lite0 have 40 and 112 channels: D is the number of either, or of both.
WAYS: dict[str, tuple[bool, int | None]] = {
    "listed, D = 40": (True, 40),
    "aligned, D = 40": (False, 40),
    LISTED: (True, 112),
    ALIGNED: (False, 112),
    "aligned, D = 152, the default": (False, None),
}
KEYS = ("image_auroc", "pixel_auroc", "pixel_ap")


class ListedLayers:
    """The patches of all layers as one list, with `fit` and a map for an image."""

    def __init__(self, dimensions: int) -> None:
        self.settings = settings_from(preset="fast")
        self._backbone, self._dimensions = load_backbone(self.settings.backbone), dimensions
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self._backbone.mean, self._backbone.std))
        self._geometry = Geometry(self.settings.image_size, self.settings.resize, self._backbone.multiple)

    def fit(self, images: list[Path]) -> ListedLayers:
        listed = torch.cat([torch.cat(_rows(self._layers(path)[0])) for path in images])
        self._standard = channel_standard(listed)
        patches = PatchRows(self._standard(listed))
        chosen = kcenter(patches, self.settings.bank_size(len(listed)), farthest_from_mean(patches))
        self.search = NearestPatches(patches[torch.from_numpy(chosen.indices)])
        return self

    def map(self, path: Path) -> tuple[Float, tuple[int, int]]:
        """The mean of the layers' distance maps, smoothed, and (H, W) of the image."""
        layers, (height, width), original = self._layers(path)
        size = height // WORKING_STRIDE, width // WORKING_STRIDE
        maps = []
        for layer, rows in zip(layers, _rows(layers), strict=True):
            squared, _ = self.search(self._standard(rows), self.settings.distance_neighbors)
            distances = squared.sqrt().mean(1).view(1, 1, *layer.shape[1:])
            maps.append(F.interpolate(distances, size=size, mode="bilinear", align_corners=False)[0, 0].numpy())
        smooth = cv2.GaussianBlur(np.mean(maps, axis=0), (0, 0), self.settings.smoothing / WORKING_STRIDE)
        return np.asarray(smooth, np.float32), original

    def _layers(self, path: Path) -> tuple[list[Tensor], tuple[int, int], tuple[int, int]]:
        """Each layer's (D, h, w) map, the network size and the original size of an image."""
        (batch,) = batches([path], (self._geometry,), EIGHT_BIT, batch_size=1, failed=raise_unreadable)
        images = torch.from_numpy(batch.views[0]).expand(1, 3, -1, -1)
        with torch.inference_mode():
            maps = self._backbone.network((images - self._mean) / self._std)
            return (
                [reduce_channels(one, self._dimensions)[0].clone() for one in maps],
                (images.shape[2], images.shape[3]),
                batch.original[0],
            )


def _rows(layers: list[Tensor]) -> list[Tensor]:
    """(D, h, w) maps -> (h w, D) patches."""
    return [layer.flatten(1).T for layer in layers]


def run(data: Path, listed: bool, dimensions: int | None, draw: int) -> dict[str, Any]:
    """Fit on nine tenths of the training images, and evaluate."""
    images, test = drawn(data, draw), labelled_images(data)
    started = now()
    if not listed:
        detector = Detector(preset="fast", dimensions=dimensions).fit(images)
        fit, started = now() - started, now()
        known: dict[str, Any] = detector.evaluate(data).figures
        bank = len(detector.model.members[0].bank.patches)
    else:
        assert dimensions is not None
        layers = ListedLayers(dimensions).fit(images)
        fit, started = now() - started, now()
        judged = []
        for item in test:
            small, original = layers.map(item.path)
            mask = None if item.mask is None else read_mask(item.mask, original)
            judged.append(Judged(item.good, item.label or "", image_score(small), False, to_original(small, original), mask))
        known, bank = dict(figures(judged)), len(layers.search.bank)
    return {"fit": fit, "image": (now() - started) / len(test), "bank": bank, **{key: known[key] for key in KEYS}}


def measure(data: Path, draws: int) -> dict[str, list[dict[str, Any]]]:
    return {name: [run(data, *way, draw) for draw in range(draws)] for name, way in WAYS.items()}


def rows_of(name: str, found: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    return [
        [
            name,
            way,
            f"{runs[0]['bank']:,}",
            *(plus_minus([one[key] for one in runs]) for key in KEYS),
            *(str(Timing.of([one[key] for one in runs])) for key in ("fit", "image")),
        ]
        for way, runs in found.items()
    ]


def gains(name: str, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Aligned less listed at D = 112, in the means."""
    aligned, listed = (mean(one["image"] for one in found[way]) for way in (ALIGNED, LISTED))
    return [name, *(points(found[ALIGNED], found[LISTED], key) for key in KEYS), f"{100 * (aligned / listed - 1):+.0f} %"]


def main() -> None:
    parser = set_arguments(__doc__, most=50)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    use_threads(given.threads)
    here = machine()
    found = {}
    with tempfile.TemporaryDirectory() as lists:
        sets = image_sets(given.data, given.most, Path(lists))
        for one in sets:
            print(one, file=sys.stderr, flush=True)
            found[one.name] = apart(given.threads, measure, one.data, given.draws)
    columns = ("set", "layers", "bank", "image AUROC", "pixel AUROC", "pixel AP", "fit", "evaluate, an image")
    write(
        given.out,
        "aggregation",
        [
            "# Aggregation of layers: listed and aligned",
            f"One member, EfficientNet-Lite0; {given.draws} draws of nine tenths of the training images: mean ± standard "
            f"deviation. {'; '.join(map(str, sets))}.",
            str(here),
            table(columns, [row for name, result in found.items() for row in rows_of(name, result)]),
            "Aligned less listed at D = 112: points, and the time of an image.",
            table(
                ("set", "image AUROC", "pixel AUROC", "pixel AP", "time"),
                [gains(name, result) for name, result in found.items()],
            ),
            "Pooling to more features than a layer has repeats them; the default pools nothing.",
        ],
        {"machine": here.as_json(), "sets": [str(one) for one in sets], **found},
    )


if __name__ == "__main__":
    main()
