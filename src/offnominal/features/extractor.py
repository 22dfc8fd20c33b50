"""Images -> patches: normalise, local maps of the backbone, align, reduce. One module for every runtime."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offnominal.errors import SettingsError
from offnominal.features.backbones import Backbone


class PatchExtractor(nn.Module):
    """(B, 3, H, W) images, about 0 to 1 -> (B, D, h, w) patch map.

    Every layer is resized bilinearly (`align_corners=False`) to the finest map; the layers are joined along the channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, dimensions: int | None = None) -> None:
        super().__init__()
        self._backbone = backbone
        self.strides = backbone.strides
        self.layer_channels = backbone.channels
        self.dimensions = dimensions
        self.multiple = backbone.multiple
        total = sum(backbone.channels)
        if dimensions is not None and dimensions > total:
            raise SettingsError(f"dimensions = {dimensions}: the layers have {total} channels; give at most so many")
        self.channels = dimensions if dimensions is not None else total
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    def with_network(self) -> Self:
        """This extractor with its network, ready to run. Without it only shapes are known."""
        self.network = self._backbone.network
        return self

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The grid (h, w) of patch positions for a network size."""
        return size[0] // self.strides[0], size[1] // self.strides[0]

    def upsampled_from(self, size: tuple[int, int]) -> int | None:
        """The first feature of the maps that have half as many positions a side as the finest, if all later ones do."""
        if self.dimensions is not None:
            return None
        finest, *others = [(size[0] // stride, size[1] // stride) for stride in self.strides]
        fine = 1 + sum(grid == finest for grid in others)
        halves = all((2 * height, 2 * width) == finest for height, width in others[fine - 1 :])
        return sum(self.layer_channels[:fine]) if halves and fine < len(self.strides) else None

    def forward(self, images: Tensor) -> Tensor:
        return self._joined(self.network((images - self.mean) / self.std))

    def _joined(self, maps: list[Tensor]) -> Tensor:
        joined = align(maps)
        return joined if self.dimensions is None else reduce_channels(joined, self.dimensions)

    def inside(self, size: tuple[int, int]) -> Tensor:
        """(1, D, h, w): the share of each feature's 3x3 neighbourhood that lies inside the image, 4/9 to 1."""
        shares = [
            F.avg_pool2d(torch.ones(1, 1, size[0] // stride, size[1] // stride), 3, stride=1, padding=1).expand(
                -1, count, -1, -1
            )
            for stride, count in zip(self.strides, self.layer_channels, strict=True)
        ]
        return self._joined(shares)

    def layer_weights(self) -> Tensor:
        """(L, D): how much of each feature comes from each layer; over the layers they sum to 1.

        A feature that is pooled over channels of two layers belongs to each by its number of channels in the mean.
        """
        shares = []
        for layer in range(len(self.strides)):
            maps = [torch.full((1, count, 1, 1), float(at == layer)) for at, count in enumerate(self.layer_channels)]
            shares.append(self._joined(maps)[0, :, 0, 0])
        return torch.stack(shares)


def align(maps: list[Tensor]) -> Tensor:
    """Bring all maps to the size of the first (the finest) and join them along channels: (B, sum C_i, h, w)."""
    finest, *others = maps
    size = finest.shape[2:]
    return torch.cat([finest, *(F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in others)], dim=1)


def reduce_channels(feature: Tensor, dimensions: int) -> Tensor:
    """Adaptive average pooling over channels: (B, C, h, w) -> (B, dimensions, h, w)."""
    batch, channels, height, width = feature.shape
    columns = feature.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    pooled = F.adaptive_avg_pool1d(columns, dimensions)
    return pooled.reshape(batch, height, width, dimensions).permute(0, 3, 1, 2)
