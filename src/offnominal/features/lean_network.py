"""A feature network of timm, without two things that it does for nothing.

* An EfficientNet or a MobileNet runs all of its stages, also those behind the last map that is asked for.
* A convolution with TensorFlow's "same" padding pads by what its stride leaves over of the input, worked out for every image:
  a step of its own, which copies the largest maps once more. Here every input is a whole number of strides, as `LocalMaps`
  sees to, so the padding is known beforehand, and a compiler makes it part of the convolution.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def lean(timm: Any, network: nn.Module) -> None:
    """Make `network` lean, in place: the maps of images that are whole strides stay the same."""
    models = timm.models
    if isinstance(network, (models.efficientnet.EfficientNetFeatures, models.mobilenetv3.MobileNetV3Features)):
        network.blocks = network.blocks[: max(network._stage_out_idx)]
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, timm.layers.Conv2dSame):
                setattr(module, name, PaddedConvolution(child).train(child.training))


class PaddedConvolution(nn.Module):
    """`convolution` with "same" padding, (B, C, H, W) -> (B, C', H / stride, W / stride), for H and W that are whole strides."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        own = convolution
        self.convolution = nn.Conv2d(
            own.in_channels, own.out_channels, own.kernel_size, own.stride, 0, own.dilation, own.groups, own.bias is not None
        )
        self.convolution.weight, self.convolution.bias = own.weight, own.bias
        sides = zip(own.kernel_size, own.stride, own.dilation, strict=True)
        down, across = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, stride, dilation in sides)
        #: left, right, top, bottom; what is odd goes to the right and to the bottom.
        self.padding = (across // 2, across - across // 2, down // 2, down - down // 2)

    def forward(self, images: Tensor) -> Tensor:
        padded: Tensor = self.convolution(F.pad(images, self.padding))
        return padded
