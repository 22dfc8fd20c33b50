"""Networks without redundant operations, compared with those of timm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from offnominal.features import PatchExtractor, load_backbone
from offnominal.features.lean_network import PaddedConvolution, lean
from offnominal.features.torchvision_schemas import import_timm

#: Backbones, and the number of convolutions whose padding is replaced.
BACKBONES = {
    "tf_efficientnet_lite0": 4,
    "tf_efficientnet_lite2": 4,
    "tf_mobilenetv3_small_minimal_100": 4,
    "tf_efficientnetv2_b0": 4,
    "mobilenetv3_small_050": 0,
    "resnet18": 0,
}


def original_and_lean(name: str, indices: tuple[int, ...]) -> tuple[Any, Any]:
    """The same network twice; the second one is lean."""
    timm = import_timm()
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(timm.create_model(name, features_only=True, out_indices=indices).eval())
    lean(networks[1])
    return networks[0], networks[1]


def count_convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("indices", [(0,), (2, 3), (1, 4)])
def test_feature_maps_equal_those_of_the_original_network(name: str, indices: tuple[int, ...]) -> None:
    original, network = original_and_lean(name, indices)
    with torch.no_grad():
        for size in [(64, 96), (128, 32), (224, 160)]:
            images = torch.rand(2, 3, *size)
            for expected, feature_map in zip(original(images), network(images), strict=True):
                assert torch.allclose(feature_map, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BACKBONES)
def test_redundant_layers_are_removed(name: str) -> None:
    original, network = original_and_lean(name, (2, 3))
    padded = sum(isinstance(module, PaddedConvolution) for module in network.modules())
    assert padded == BACKBONES[name]
    assert not any(isinstance(module, import_timm().layers.Conv2dSame) for module in network.modules())
    assert set(network.state_dict()) <= set(original.state_dict())
    # timm itself truncates resnet18.
    assert (count_convolutions(network) < count_convolutions(original)) == (name != "resnet18")


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_fixed_padding_equals_same_padding_for_multiples_of_the_stride(kernel: int, stride: int, dilation: int) -> None:
    timm = import_timm()
    same = timm.layers.Conv2dSame(3, 5, (kernel, 3), stride=stride, dilation=dilation)
    network = nn.Sequential(same)
    images = torch.rand(1, 3, 24, 16)
    with torch.no_grad():
        expected = same(images)
        lean(network)
        assert isinstance(network[0], PaddedConvolution)
        assert torch.allclose(network(images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("efficientnet-lite0", None),
        ("efficientnet-lite0", ("blocks.6",)),
        ("efficientnet-lite2", ("blocks.0", "blocks.4")),
        ("tf_mobilenetv3_small_minimal_100", None),
        ("tf_efficientnetv2_b0", ("blocks.1", "blocks.5")),
    ],
)
def test_inputs_of_padded_convolutions_are_multiples_of_the_stride(name: str, layers: tuple[str, ...] | None) -> None:
    extractor = PatchExtractor(load_backbone(name, layers, pretrained=name.startswith("efficientnet-lite"))).with_network()
    remainders = []

    def record(module: PaddedConvolution, images: tuple[torch.Tensor]) -> None:
        sides, strides = images[0].shape[2:], module.stride
        remainders.append([side % stride for side, stride in zip(sides, strides, strict=True)])

    for module in extractor.modules():
        if isinstance(module, PaddedConvolution):
            module.register_forward_pre_hook(record)
    with torch.no_grad():
        for positions in range(2, 6):
            extractor(torch.rand(1, 3, positions * extractor.multiple, (positions + 1) * extractor.multiple))
    assert remainders
    assert all(remainder == [0, 0] for remainder in remainders)


def test_the_digest_equals_that_of_the_original_network() -> None:
    """Model files identify their network by this digest, so it must not change."""
    assert load_backbone("efficientnet-lite0").digest.startswith("e32c1850a677132e")
