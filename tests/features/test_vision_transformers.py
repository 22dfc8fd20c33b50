"""Vision transformers equal those of timm at every size and in both runtimes. Weights files of all layouts are read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from conftest import with_spy
from offnominal import Detector, load
from offnominal.config import Settings, settings_from
from offnominal.errors import BackboneError
from offnominal.features import PatchExtractor, load_backbone, make_runtime, openvino_runtime
from offnominal.features.openvino_runtime import OpenVinoRuntime
from offnominal.features.torchvision_schemas import import_timm
from offnominal.features.vision_transformers import TransformerMaps, default_side, middle_blocks, resampled
from offnominal.inference import member_engines

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
#: One model for each type of token and position embedding; patches of 8, 14, 16 and 32 pixels.
KINDS = [
    "vit_tiny_patch16_224",
    "vit_small_patch8_224",
    "vit_small_patch32_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
]
TINY = "vit_tiny_patch16_224"


def with_random_embeddings(network: nn.Module) -> nn.Module:
    """Randomise attention and position embeddings. In a new network, they have almost no effect on the output."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if re.search(r"pos_embed|cls_token|reg_token|dist_token|(qkv|q_proj|k_proj)\.weight", name):
            scale = 0.5 if name.endswith(("embed", "token")) else 1.5 / tensor.shape[-1] ** 0.5
            tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
        elif "gamma" in name:
            tensor.fill_(0.7)
    return network.eval()


def timm_network(kind: str) -> Any:
    torch.manual_seed(0)
    return with_random_embeddings(import_timm().create_model(kind, pretrained=False, dynamic_img_size=True, **SMALL))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


class Stacked(nn.Module):
    """The maps of a network, joined along the channels."""

    def __init__(self, maps: TransformerMaps) -> None:
        super().__init__()
        self.maps, self.multiple = maps, maps.patch

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.maps(images), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_equal_those_of_timm_and_one_conversion_serves_every_size(kind: str) -> None:
    network = timm_network(kind)
    maps = TransformerMaps(timm_network(kind), (1, 2)).eval()
    runtime = OpenVinoRuntime(lambda: Stacked(maps), "float32", kind)
    for height, width in ((4, 4), (5, 9), (18, 17)):
        images = np.random.default_rng(0).standard_normal((2, 3, height * maps.patch, width * maps.patch), np.float32)
        with torch.inference_mode():
            expected = network.forward_intermediates(torch.from_numpy(images), indices=[1, 2], intermediates_only=True)
            feature_maps = maps(torch.from_numpy(images))
        assert [tuple(feature.shape) for feature in feature_maps] == [(2, 48, height, width)] * 2
        for from_torch, from_openvino, from_timm in zip(feature_maps, runtime(images).split(48, 1), expected, strict=True):
            assert relative_error(from_torch, from_timm) < 1e-5
            assert relative_error(from_openvino, from_torch) < 1e-4


@pytest.mark.parametrize("size", [(5, 5), (3, 8), (16, 9), (7, 7)])
def test_position_embeddings_are_resampled_like_torch(size: tuple[int, int]) -> None:
    positions = torch.randn(7, 7, 3, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(positions.permute(2, 0, 1)[None], size=size, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    assert torch.allclose(resampled(positions, *size), expected, atol=1e-5)
    assert torch.equal(resampled(positions, 7, 7), positions)


def test_transformers_are_backbones_in_both_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[nn.Module] = []
    convert = openvino_runtime._convert
    monkeypatch.setattr(openvino_runtime, "_convert", with_spy(converted.append, convert))
    backbone = load_backbone(TINY, pretrained=False)
    assert (backbone.layers, backbone.strides, backbone.channels) == (("blocks.4", "blocks.7"), (16, 16), (192, 192))
    assert (backbone.multiple, backbone.default_size) == (16, (448, 448))
    extractor = PatchExtractor(backbone).eval()
    in_torch = make_runtime(extractor.with_network, "torch", "float32", CPU, TINY)
    in_openvino = make_runtime(extractor.with_network, "openvino", "float32", CPU, TINY)
    for size in ((64, 112), (176, 80), (448, 448)):
        images = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
        a, b = in_torch(images), in_openvino(images)
        assert tuple(a.shape[2:]) == (size[0] // 16, size[1] // 16) == extractor.grid(size)
        assert relative_error(b, a) < 1e-4
    assert len(converted) == 1


def test_middle_blocks_and_default_sizes() -> None:
    assert [middle_blocks(depth) for depth in (12, 24, 2, 1)] == [(4, 7), (9, 15), (0,), (0,)]
    assert [default_side(patch) for patch in (8, 14, 16, 32)] == [256, 448, 448, 448]
    assert load_backbone(TINY, ("blocks.2",), pretrained=False).layers == ("blocks.2",)
    with pytest.raises(BackboneError, match=r"has no layer 'blocks\.12'; its layers are blocks\.0, "):
        load_backbone(TINY, ("blocks.12",), pretrained=False)


def test_a_given_image_size_overrides_the_default_of_the_backbone() -> None:
    (engine,) = member_engines(Settings(backbone=TINY, runtime="torch"), pretrained=False)
    assert engine.geometry([]).size == (448, 448)
    assert engine.geometry([(900, 900)]).network_size((900, 1200)) == (384, 512)
    (resized,) = member_engines(settings_from(backbone=TINY, image_size=96, runtime="torch"), pretrained=False)
    assert resized.geometry([]).size == (96, 96)
    assert resized.geometry([(600, 700)]).network_size((600, 700)) == (96, 112)
    (convolutional,) = member_engines(Settings(backbone="efficientnet-lite0", runtime="torch"))
    assert convolutional.geometry([]).size == Settings().image_size
    scaled = member_engines(Settings(backbone=f"{TINY}@0.5+efficientnet-lite0@1.5", runtime="torch"), pretrained=False)
    assert [engine.geometry([]).size for engine in scaled] == [(224, 224), (384, 384)]


def test_weights_files_in_the_layouts_of_timm_and_the_authors(tmp_path: Path) -> None:
    timm = import_timm()
    name = "vit_small_patch14_dinov2"
    state = with_random_embeddings(timm.create_model(name, pretrained=False, num_classes=0, img_size=70)).state_dict()
    save_file(state, tmp_path / "timm.safetensors")
    torch.save({"model": {**state, "mask_token": torch.zeros(1, 384), "head.weight": torch.ones(3, 384)}}, tmp_path / "own.pth")
    first, second = (load_backbone(name, ("blocks.1",), tmp_path / file) for file in ("timm.safetensors", "own.pth"))
    assert first.digest == second.digest != load_backbone(name, ("blocks.1",), pretrained=False).digest
    images = torch.rand(1, 3, 70, 84)
    assert torch.equal(first.network(images)[0], second.network(images)[0])
    network = first.network.network
    assert isinstance(network, nn.Module)
    positions = network.positions
    assert isinstance(positions, torch.Tensor)
    expected = F.interpolate(
        state["pos_embed"][:, 1:].reshape(1, 5, 5, 384).permute(0, 3, 1, 2), (37, 37), mode="bicubic", antialias=True
    )
    assert torch.allclose(positions, expected[0].permute(1, 2, 0), atol=1e-5)


def test_missing_tensors_are_a_one_line_error(tmp_path: Path) -> None:
    state = import_timm().create_model(TINY, pretrained=False, num_classes=0).state_dict()
    del state["blocks.3.attn.qkv.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"1 of \d+ tensors are missing, the first is 'blocks\.3\.attn\.qkv\.weight'$"):
        load_backbone(TINY, None, tmp_path / "w.safetensors")
    del state["blocks.11.attn.qkv.weight"]  # from a block that is not used
    state["blocks.3.attn.qkv.weight"] = torch.zeros(576, 192)
    save_file(state, tmp_path / "w.safetensors")
    assert load_backbone(TINY, None, tmp_path / "w.safetensors").layers == ("blocks.4", "blocks.7")
    save_file({"other": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match="tensors are missing"):
        load_backbone(TINY, None, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; check --weights"),
        (b"", "is not a safetensors or PyTorch weights file"),
        (b"not weights", "is not a safetensors or PyTorch weights file"),
        ((10_000).to_bytes(8, "little") + b'{"a"', "is not a safetensors or PyTorch weights file"),
    ],
)
def test_a_wrong_weights_file_is_reported_before_torch_is_imported(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    if content is not None:
        file.write_bytes(content)
    arguments = ["fit", "nowhere", "--out", str(tmp_path / "m"), "--backbone", TINY, "--weights", str(file)]
    program = (
        "import sys; from offnominal.cli import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "False\n")
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_folder_as_weights_file_is_refused(tmp_path: Path) -> None:
    for make in (lambda file: Detector(weights=file), lambda file: load_backbone(TINY, None, file)):
        with pytest.raises(BackboneError, match=r"cannot be read \(Is a directory\)"):
            make(tmp_path)


def test_networks_with_a_fixed_size_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"'swin_tiny_patch4_window7_224' takes images of one size only; choose another$"):
        load_backbone("swin_tiny_patch4_window7_224", pretrained=False)


def test_fit_save_load_and_inspect(parts: Path, tmp_path: Path) -> None:
    network = import_timm().create_model(TINY, pretrained=False, num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    detector = Detector(backbone=TINY, weights=tmp_path / "w.safetensors", image_size=96, bank=200, false_alarm_rate=0.1)
    detector.fit(parts / "train/good")
    detector.save(tmp_path / "m.safetensors")
    bad, good = parts / "test/blotch/200.png", parts / "test/good/100.png"
    loaded = load(tmp_path / "m.safetensors", weights=tmp_path / "w.safetensors", runtime="torch")
    assert loaded.model.members[0].geometry.multiple == 16
    for image in (bad, good):
        assert loaded.inspect(image).score == pytest.approx(detector.inspect(image).score, rel=1e-3, abs=1e-3)
    assert detector.inspect(bad).anomaly_map.shape == (96, 120)
    assert detector.inspect(bad).score > detector.inspect(good).score
    assert detector.evaluate(parts).as_json()["n_defect"] == 5
