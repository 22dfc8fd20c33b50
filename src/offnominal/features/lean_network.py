"""A feature network of timm, without two things that it does for nothing.

* An EfficientNet or a MobileNet runs all of its stages, also those behind the last map that is asked for.
* A convolution with TensorFlow's "same" padding pads by what its stride leaves over of the input, worked out for every image:
  a step of its own, which copies the largest maps once more. Here every input is a whole number of strides, as `LocalMaps`
  sees to, so the padding is known beforehand, and a compiler makes it part of the convolution.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from offnominal.features.torchvision_schemas import import_timm


def lean(network: nn.Module) -> nn.Module:
    """`network`, changed in place: the maps of images that are whole strides stay the same."""
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
    """A convolution with "same" padding, (B, C, H, W) -> (B, C', H / stride, W / stride), for H and W that are whole strides.

    It has the weights of `given`, and names them alike.
    """

    def __init__(self, given: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(given.__dict__)
        sides = zip(given.kernel_size, given.stride, given.dilation, strict=True)
        down, across = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, stride, dilation in sides)
        #: left, right, top, bottom; what is odd goes to the right and to the bottom.
        self.around = (across // 2, across - across // 2, down // 2, down - down // 2)

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(F.pad(images, self.around), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
