"""Patches for the benchmarks: synthetic patches with the statistics of real ones, and the patches of a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from offnominal.config import settings_from
from offnominal.datasets import normal_images
from offnominal.features import channel_standard, parse_members
from offnominal.fitting.survey import common_exposure
from offnominal.images import EIGHT_BIT, Preprocessing, batches, raise_unreadable, read_header
from offnominal.inference import FeatureEngine

CLUSTERS = 256
SIDE, CELL = 32, 4

LIKENESS = (
    "Synthetic patches: a mixture of 256 Gaussian clusters, the variance along the i-th axis ~ 1/(i + 1), smooth over images "
    "of 32 x 32 positions, lengths log-normal. Beside 200,000 patches of magnetic_tile (EfficientNet-Lite0, D = 152): 99 % / "
    "largest length over the median 1.7 / 2.9 (real 1.8 / 3.2), radius of 20 / 200 / 2,000 centres over the median length "
    "2.5 / 2.0 / 1.5 (real 2.4 / 1.8 / 1.4), effective dimension (participation ratio) 31 (real 30)."
)


def synthetic_patches(count: int, dimensions: int, seed: int = 0) -> Tensor:
    """(count, dimensions) float32 patches, see `LIKENESS`. Unsmoothed patches of equal length would be harder to cover."""
    random = torch.Generator().manual_seed(seed)
    axis = torch.arange(2, dimensions + 2).float().rsqrt()
    axis *= (dimensions / axis.square().sum()).sqrt()
    rotation = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=random)).Q
    centres = torch.randn(CLUSTERS, dimensions, generator=random) * axis
    cells = SIDE // CELL
    patches = torch.empty(count, dimensions)
    for image in patches.split(SIDE * SIDE):
        clusters = torch.randint(CLUSTERS, (cells * cells,), generator=random)
        coarse = (torch.randn(cells * cells, dimensions, generator=random) * axis + centres[clusters]) * 0.5**0.5
        coarse *= torch.exp(0.2 * torch.randn(cells * cells, 1, generator=random))
        smooth = F.interpolate(coarse.T.reshape(1, dimensions, cells, cells), size=(SIDE, SIDE), mode="bilinear")
        rough = 0.4 * torch.randn(SIDE * SIDE, dimensions, generator=random) * axis
        image.copy_(((smooth[0].flatten(1).T + rough) @ rotation)[: len(image)])
    return patches


def real_patches(folder: Path, settings: Sequence[str] = (), most: int = 200_000) -> Tensor:
    """Standardised patches of the good training images of an MVTec root for the first member: at most `most`, at random."""
    options = settings_from(**dict(pair.split("=", 1) for pair in settings))
    engine = FeatureEngine(options, parse_members(options.backbone)[0])
    paths = [item.path for item in normal_images(folder)]
    geometry = engine.geometry([read_header(path).size for path in paths])
    values = replace(EIGHT_BIT, exposure=common_exposure(paths, Preprocessing((geometry,), EIGHT_BIT), seed=options.seed))
    loaded = batches(paths, Preprocessing((geometry,), values), batch_size=options.batch_size, failed=raise_unreadable)
    patches = torch.cat([image for batch in loaded for image in engine.patches(batch.network_input(0)).cpu()])
    patches = channel_standard(patches)(patches)
    random = torch.Generator().manual_seed(0)
    return patches[torch.randperm(len(patches), generator=random)[:most].sort().values].contiguous()
