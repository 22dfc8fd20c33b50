"""Removal of unnecessary work from a feature network of timm.

* EfficientNet and MobileNet run all their stages, including those after the last required map.
* A convolution with TensorFlow's "same" padding computes the padding from the size of every input, in a separate step that
  copies the largest maps. Here every input is a multiple of the strides (`LocalMaps`), so the padding is a constant, which a
  compiler merges into the convolution.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from offnominal.features.torchvision_schemas import import_timm


def lean(network: nn.Module) -> nn.Module:
    """Reduce a network in place; maps of images whose sides are multiples of the strides do not change."""
    timm = import_timm()
    models = timm.models
    if isinstance(network, (models.efficientnet.EfficientNetFeatures, models.mobilenetv3.MobileNetV3Features)):
        network.blocks = network.blocks[: max(network._stage_out_idx)]
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, timm.layers.Conv2dSame):
                setattr(module, name, PaddedConvolution(child))
    return network


class PaddedConvolution(nn.Conv2d):
    """A convolution with "same" padding, (B, C, H, W) -> (B, C', H / stride, W / stride), for H and W multiples of the stride.

    It shares the weights of `convolution` under the same names.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(convolution.__dict__)
        sides = zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
        down, across = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, stride, dilation in sides)
        #: Left, right, top, bottom; the odd pixel is at the right and at the bottom.
        self.sides = (across // 2, across - across // 2, down // 2, down - down // 2)

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(F.pad(images, self.sides), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
