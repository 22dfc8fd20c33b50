"""Backbones side by side: the maps of each, aligned into one patch, on every runtime."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import texture
from offnominal import Detector, load
from offnominal.errors import BackboneError
from offnominal.features import PatchExtractor, align, channel_standard, load_backbone, load_backbones, local_mean, make_runtime
from offnominal.features.joined import joined

ONE, OTHER = "efficientnet-lite0", "efficientnet-lite2"
CPU = torch.device("cpu")


def plain(name: str, images: torch.Tensor, scale: float) -> list[torch.Tensor]:
    """The naive twin: enlarge, mirror 16 pixels, run, mean of 3 x 3, cut the mirror off."""
    larger = torch.nn.functional.interpolate((images - 0.498) / 0.502, scale_factor=scale, mode="bilinear", align_corners=False)
    mirrored = torch.nn.functional.pad(larger, (16, 16, 16, 16), mode="reflect")
    return [
        local_mean(m)[:, :, at:-at, at:-at] for m, at in zip(load_backbone(name).network.network(mirrored), (2, 1), strict=True)
    ]


@pytest.mark.parametrize(("scale", "runtime"), [("1", "torch"), ("1.5", "torch"), ("2", "torch"), ("1.5", "openvino")])
def test_a_joined_patch_is_both_patches(scale: str, runtime: str) -> None:
    name = f"{ONE}+{OTHER}" + ("" if scale == "1" else f"@{scale}")
    extractor = PatchExtractor(load_backbones(name)).eval()
    images = np.random.default_rng(0).random((2, 3, 96, 128), dtype=np.float32)
    (found,) = make_runtime(extractor.with_network, runtime, "float32", CPU, name)(images)
    one = plain(ONE, torch.from_numpy(images), 1)
    other = plain(OTHER, torch.from_numpy(images), float(scale))
    maps = [one[0], other[0], one[1], other[1]] if scale == "1" else [*one, *other]
    assert tuple(found.shape[2:]) == extractor.grids((96, 128))[0] == (12, 16)
    assert torch.allclose(found, align(maps), atol=1e-3 * float(found.abs().max()))
    (inside,) = extractor.inside((96, 128))
    assert inside.shape == (1, *found.shape[1:])
    assert torch.allclose(extractor.layer_weights().sum(1), torch.ones(1, found.shape[1]))


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_reduced_image_tells_of_what_lies_around(runtime: str) -> None:
    extractor = PatchExtractor(load_backbones(f"{ONE}+{ONE}@0.5")).eval()
    images = np.random.default_rng(0).random((2, 3, 96, 128), dtype=np.float32)
    (found,) = make_runtime(extractor.with_network, runtime, "float32", CPU, "reduced")(images)
    (fine, coarse), (around, far) = (plain(ONE, torch.from_numpy(images), scale) for scale in (1, 0.5))
    assert around.shape[2:] == coarse.shape[2:]
    far = torch.nn.functional.interpolate(far, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(found, align([fine, coarse, around, far]), atol=1e-3 * float(found.abs().max()))
    assert extractor.multiple == 32
    assert extractor.strides == (8, 16, 16, 16)
    assert extractor.upsampled_from((96, 128)) == 40  # so the search is as quick for its features


def test_what_is_coarser_than_the_rest_counts_less() -> None:
    backbone = load_backbones(f"{ONE}+{ONE}@0.5")
    assert backbone.layers == ("blocks.2", "blocks.4", "blocks.2@0.5", "blocks.4@0.5")
    assert backbone.emphasis == (1, 1, 1, 0.25)
    emphasis = PatchExtractor(backbone).emphasis()
    assert emphasis.tolist() == [1.0] * 192 + [0.25] * 112
    assert PatchExtractor(backbone, dimensions=152).emphasis().tolist() == [1.0] * 96 + [0.25] * 56
    assert PatchExtractor(backbone, "concat-patches", 8).emphasis().unique().numel() == 1
    values = torch.randn(20, 304)
    standard = channel_standard(values)
    assert torch.allclose(standard.emphasised(emphasis)(values), standard(values) * emphasis)
    assert load_backbones(f"{ONE}@0.5").emphasis == (1, 1)  # nothing finer beside it
    assert load_backbones(f"{OTHER}+{OTHER}@1.5").emphasis == (1, 1, 1, 1)
    assert load_backbones(f"{ONE}+{OTHER}@0.5").layers[2:] == (f"{OTHER}@0.5:blocks.2", f"{OTHER}@0.5:blocks.4")


def test_layers_are_those_of_both_sizes() -> None:
    backbone = load_backbones(f"{ONE}+{ONE}@0.5", ("blocks.1", "blocks.4"))
    assert backbone.layers == ("blocks.1", "blocks.1@0.5", "blocks.4", "blocks.4@0.5")
    assert backbone.strides == (4, 8, 16, 16)
    model = Detector(layers=("blocks.2",), image_size=96, bank=50).fit([texture(seed) for seed in range(4)]).model
    assert model.bank.patches.shape == (50, 80)


def test_a_model_counts_them_less() -> None:
    """Standardised features have a mean square near 1, those of the coarsest map a sixteenth of that."""
    model = Detector(image_size=96, bank=50).fit([texture(seed) for seed in range(6)]).model
    square = model.bank.patches.square().mean(0)
    assert 16 * float(square[192:].mean()) == pytest.approx(float(square[40:152].mean()), rel=0.5)


def test_each_input_is_normalised_as_its_network_wants_it() -> None:
    one, other = load_backbone(ONE), load_backbone("resnet18", pretrained=False)
    assert one.mean != other.mean
    images = torch.rand(1, 3, 64, 64)
    given = (images - torch.tensor(one.mean).view(1, 3, 1, 1)) / torch.tensor(one.std).view(1, 3, 1, 1)
    wanted = (images - torch.tensor(other.mean).view(1, 3, 1, 1)) / torch.tensor(other.std).view(1, 3, 1, 1)
    both = joined([(one, Fraction(1)), (other, Fraction(1))])
    found = dict(zip(both.layers, both.network(given), strict=True))
    for layer, right in zip(other.layers, other.network(wanted), strict=True):
        assert torch.allclose(found[f"resnet18:{layer}"], right, atol=1e-4)


def test_other_parts_are_another_backbone() -> None:
    names = [ONE, f"{ONE}+{OTHER}", f"{OTHER}+{ONE}", f"{ONE}@1.5", f"{ONE}@2", f"{ONE}+{ONE}@1.5"]
    assert len({load_backbones(name).digest for name in names}) == len(names)
    assert [load_backbones(name).name for name in names] == names


def test_strides_of_an_enlarged_image() -> None:
    extractor = PatchExtractor(load_backbones(f"{ONE}@1.25"))
    assert extractor.strides == (Fraction(32, 5), Fraction(64, 5))
    assert extractor.multiple == 64
    assert extractor.grids((128, 192)) == ((20, 30),)


@pytest.mark.parametrize("name", [f"{ONE}@", f"{ONE}@0.25", f"{ONE}@0.75", f"{ONE}@5", f"{ONE}@1.3", f"{ONE}@x", f"{ONE}@1/0"])
def test_a_wrong_enlargement_is_refused(name: str) -> None:
    if name.endswith("@"):
        assert load_backbones(name).name == ONE
        return
    with pytest.raises(BackboneError, match="1 to 4 in steps of"):
        load_backbones(name)


def test_what_cannot_be_joined_is_refused() -> None:
    with pytest.raises(BackboneError, match="twice"):
        load_backbones(f"{ONE}+{ONE}")
    with pytest.raises(BackboneError, match="not with several"):
        load_backbones(f"{ONE}+{OTHER}", ("blocks.2",))
    with pytest.raises(BackboneError, match="a name is missing"):
        load_backbones(f"{ONE}+")


def test_a_model_with_both_is_saved_and_read(tmp_path: Path, parts: Path) -> None:
    detector = Detector(preset="accurate", image_size=96).fit(parts)
    assert detector.settings.backbone == f"{OTHER}+{OTHER}@1.5"
    detector.save(tmp_path / "both.safetensors")
    bad = next((parts / "test/blotch").glob("*.png"))
    found, again = detector.inspect(bad, evidence=True), load(tmp_path / "both.safetensors").inspect(bad, evidence=True)
    assert found.anomalous
    assert found.score == pytest.approx(again.score, rel=1e-4)
    assert np.allclose(found.anomaly_map, again.anomaly_map, atol=1e-3)
