"""Feature maps of a network, averaged locally, without zero-padding artefacts at the border."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

#: Reflect padding of the image in network pixels, rounded up to whole positions. It replaces the zero padding of the network,
#: which makes the edges of good parts look anomalous. More padding costs time (32: a quarter more) and hides defects at the
#: border behind their reflection.
REFLECT_PADDING = 16


class LocalMaps(nn.Module):
    """Locally averaged maps of a network: (B, 3, H, W) normalised -> list of (B, C_i, H / stride_i, W / stride_i).

    H and W are multiples of every stride, and larger than `margin`.

    Parameters
    ----------
    network
        (B, 3, H, W) -> list of (B, C_i, H / stride_i, W / stride_i).
    strides
        Network pixels per position of each map.
    padding
        Reflect padding in network pixels; 0 for a network that does not pad.
    """

    def __init__(self, network: nn.Module, strides: Sequence[int], padding: int = REFLECT_PADDING) -> None:
        super().__init__()
        self.network = network
        self.strides = tuple(int(stride) for stride in strides)
        common = math.lcm(*self.strides)  # its multiples are whole positions of every map
        self.margin = math.ceil(padding / common) * common

    def forward(self, images: Tensor) -> list[Tensor]:
        margin = self.margin
        padded = F.pad(images, (margin, margin, margin, margin), mode="reflect") if margin else images
        return [
            _inner(local_mean(feature), margin // stride)
            for feature, stride in zip(self.network(padded), self.strides, strict=True)
        ]


def local_mean(feature: Tensor) -> Tensor:
    """Average each position over its 3x3 neighbourhood; at the border over the existing neighbours.

    These are the locally aware patch features of PatchCore (Roth et al., section 3.1).

    Parameters
    ----------
    feature
        (B, C, h, w).

    Returns
    -------
    Tensor
        (B, C, h, w).

    References
    ----------
    Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022.

    Examples
    --------
    >>> import torch
    >>> local_mean(torch.tensor([[[[0.0, 4.0, 2.0]]]])).tolist()
    [[[[2.0, 2.0, 3.0]]]]
    """
    return F.avg_pool2d(feature, 3, stride=1, padding=1, count_include_pad=False)


def _inner(feature: Tensor, border: int) -> Tensor:
    return feature[:, :, border : feature.shape[2] - border, border : feature.shape[3] - border]
