"""Images to patches: normalise, local maps of the backbone, align, reduce. Every runtime uses this module."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offnominal.errors import SettingsError
from offnominal.features.backbones import Backbone
from offnominal.roi import RegionOfInterest


class PatchExtractor(nn.Module):
    """Patch map of images: (B, 3, H, W), about 0 to 1 -> (B, D, h, w).

    All maps of the backbone are resized bilinearly to the finest and joined along the channels.

    Parameters
    ----------
    backbone
        The frozen network.
    dimensions
        Reduce the channels to this number by adaptive average pooling; None keeps all.

    Raises
    ------
    SettingsError
        `dimensions` exceeds the number of channels.

    Examples
    --------
    >>> backbone = Backbone("two maps", ("a", "b"), (8, 16), (40, 112), 16, (0.5,) * 3, (0.5,) * 3, "", make=nn.Identity)
    >>> extractor = PatchExtractor(backbone)
    >>> extractor.channels, extractor.grid((256, 320))
    (152, (32, 40))
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
            raise SettingsError(f"dimensions = {dimensions}: the layers have {total} channels; give at most that number")
        self.channels = dimensions if dimensions is not None else total
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    def with_network(self) -> Self:
        """Load the network. Without it, only shapes are available."""
        self.network = self._backbone.network
        return self

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the grid (h, w) of patch positions for a network size."""
        return size[0] // self.strides[0], size[1] // self.strides[0]

    def upsampled_from(self, size: tuple[int, int]) -> int | None:
        """Return the index of the first upsampled feature, if all maps coarser than the finest have half its side lengths."""
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

    def inside(self, size: tuple[int, int], region: RegionOfInterest | None = None) -> Tensor:
        """Return the share of each feature's 3x3 neighbourhood inside the image and the region of interest, (1, D, h, w)."""
        shares = []
        for stride, count in zip(self.strides, self.layer_channels, strict=True):
            cells = torch.ones(1, 1, size[0] // stride, size[1] // stride)
            if region is not None:
                cells *= torch.from_numpy(region.at((cells.shape[2], cells.shape[3])))
            shares.append(F.avg_pool2d(cells, 3, stride=1, padding=1).expand(-1, count, -1, -1))
        return self._joined(shares)

    def inside_layers(self, size: tuple[int, int], region: RegionOfInterest | None = None) -> Tensor:
        """Return `inside` for each layer instead of each feature, (L, h, w)."""
        shares = []
        for stride in self.strides:
            cells = torch.ones(1, 1, size[0] // stride, size[1] // stride)
            if region is not None:
                cells *= torch.from_numpy(region.at((cells.shape[2], cells.shape[3])))
            shares.append(F.avg_pool2d(cells, 3, stride=1, padding=1))
        return align(shares)[0]

    def layer_weights(self) -> Tensor:
        """Return the share of each layer in each feature, (L, D); the shares of a feature sum to 1.

        A feature pooled over channels of two layers is shared in proportion to their channels in the mean.
        """
        shares = []
        for layer in range(len(self.strides)):
            maps = [torch.full((1, count, 1, 1), float(index == layer)) for index, count in enumerate(self.layer_channels)]
            shares.append(self._joined(maps)[0, :, 0, 0])
        return torch.stack(shares)


def align(maps: list[Tensor]) -> Tensor:
    """Resize all maps bilinearly to the first (the finest) and join them along the channels.

    Parameters
    ----------
    maps
        (B, C_i, h_i, w_i) each.

    Returns
    -------
    Tensor
        (B, sum of C_i, h_0, w_0).

    Examples
    --------
    >>> align([torch.zeros(1, 40, 32, 32), torch.zeros(1, 112, 16, 16)]).shape
    torch.Size([1, 152, 32, 32])
    """
    finest, *others = maps
    size = finest.shape[2:]
    return torch.cat([finest, *(F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in others)], dim=1)


def reduce_channels(feature: Tensor, dimensions: int) -> Tensor:
    """Reduce the channels by adaptive average pooling.

    Parameters
    ----------
    feature
        (B, C, h, w).
    dimensions
        Number of channels of the result.

    Returns
    -------
    Tensor
        (B, dimensions, h, w).

    Examples
    --------
    >>> reduce_channels(torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 4, 1, 1), 2).flatten().tolist()
    [2.0, 6.0]
    """
    batch, channels, height, width = feature.shape
    columns = feature.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    pooled = F.adaptive_avg_pool1d(columns, dimensions)
    return pooled.reshape(batch, height, width, dimensions).permute(0, 3, 1, 2)
