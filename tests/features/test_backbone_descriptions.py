"""Cached backbone descriptions: they equal those of the built network, and damaged or missing ones are created again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import with_spy
from offnominal.features import PatchExtractor, backbones, load_backbone
from offnominal.features.cache import cache_folder

NAME = "efficientnet-lite0"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the backbones that the test builds."""
    names: list[str] = []
    build = backbones._build
    monkeypatch.setattr(backbones, "_build", with_spy(lambda name, *args, **kwargs: names.append(name), build))
    return names


def cached_files() -> list[Path]:
    folder = cache_folder()
    assert folder is not None
    return sorted((folder / "backbones").iterdir())


def test_a_cached_backbone_is_built_on_first_use_of_its_network(built: list[str]) -> None:
    first, second = load_backbone(NAME), load_backbone(NAME)
    assert len(built) == 1
    assert {**vars(first), "make": None} == {**vars(second), "make": None}
    assert PatchExtractor(second).grid((96, 128)) == (12, 16)
    assert len(built) == 1
    images = torch.rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(first.network(images), second.network(images), strict=True))
    assert len(built) == 2


def test_other_layers_have_their_own_description(built: list[str]) -> None:
    load_backbone(NAME)
    assert load_backbone(NAME, ("blocks.1",)).strides == (4,)
    assert len(built) == 2


def test_the_digest_depends_on_the_weights(tmp_path: Path, built: list[str]) -> None:
    file = tmp_path / "w.pth"
    digests = []
    for factor in (1.0, 2.0, 2.0):
        state = {
            name: tensor * factor
            for name, tensor in backbones._build(NAME, None, None, pretrained=True)[1].state_dict().items()
        }
        torch.save(state, file)
        digests.append(load_backbone(NAME, weights=file).digest)
    assert digests[0] != digests[1] == digests[2]


@pytest.mark.parametrize("content", [b"", b"damaged", b"\xff\xfe\n{}"])
def test_a_damaged_description_is_replaced(content: bytes, built: list[str]) -> None:
    intact = load_backbone(NAME)
    (file,) = cached_files()
    file.write_bytes(content)
    assert load_backbone(NAME).digest == intact.digest
    assert len(built) == 2
    load_backbone(NAME)
    assert len(built) == 2  # replaced


def test_backbones_load_without_a_cache_folder(tmp_path: Path, built: list[str]) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "cache").write_text("in the way")
    assert load_backbone(NAME).digest == load_backbone(NAME).digest
    assert len(built) == 2


def test_random_weights_are_not_cached() -> None:
    load_backbone(NAME, pretrained=False)
    folder = cache_folder()
    assert folder is not None
    assert not folder.exists()


def test_a_cached_network_runs_without_timm() -> None:
    program = (
        "import sys, numpy as np; from offnominal import Detector\n"
        "images = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8) for i in range(3)]\n"
        "Detector(image_size=64, runtime='openvino').fit(images)\n"
        "print('timm' in sys.modules)"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout for _ in range(2)
    ]
    assert outputs == ["True\n", "False\n"]
