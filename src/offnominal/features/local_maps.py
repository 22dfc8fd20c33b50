"""A network's feature maps with nothing made up at their border: what patches are cut from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

#: The border of the image is mirrored over this many pixels of the network (rounded up to whole places), so that a patch at
#: the edge sees texture and not the zeros that a network pads with; otherwise the edges of good parts look anomalous. More
#: would cost time (32: a quarter more) and hide what is off at the border behind its mirror image.
MIRRORED = 16


class LocalMaps(nn.Module):
    """(B, 3, H, W) normalised -> list of (B, C_i, H / stride_i, W / stride_i): the maps of `network`, averaged locally.

    H and W are whole places of every map, and larger than `margin`.

    Args:
        mirrored: network pixels that are added around the image; 0 for a network that pads nothing.
    """

    def __init__(self, network: nn.Module, strides: Sequence[int], mirrored: int = MIRRORED) -> None:
        super().__init__()
        self.network = network
        self.strides = tuple(int(stride) for stride in strides)
        whole = math.lcm(*self.strides)  # so many pixels are whole places of every map
        self.margin = math.ceil(mirrored / whole) * whole

    def forward(self, images: Tensor) -> list[Tensor]:
        margin = self.margin
        mirrored = F.pad(images, (margin, margin, margin, margin), mode="reflect") if margin else images
        return [
            _inner(local_mean(feature), margin // stride)
            for feature, stride in zip(self.network(mirrored), self.strides, strict=True)
        ]


def local_mean(feature: Tensor) -> Tensor:
    """Mean over the 3x3 neighbourhood; at the border over the neighbours that exist, so that it is not darkened.

    PatchCore's locally aware patch features (Roth et al. 2022, section 3.1). (B, C, h, w) -> (B, C, h, w).
    """
    return F.avg_pool2d(feature, 3, stride=1, padding=1, count_include_pad=False)


def _inner(feature: Tensor, border: int) -> Tensor:
    return feature[:, :, border : feature.shape[2] - border, border : feature.shape[3] - border]
