"""What is known of a backbone without building it: right, made anew when damaged, and done without where it cannot be kept."""

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
    """Names of the backbones that were built."""
    found: list[str] = []
    build = backbones._build
    monkeypatch.setattr(backbones, "_build", with_spy(lambda name, *given, **more: found.append(name), build))
    return found


def kept_files() -> list[Path]:
    folder = cache_folder()
    assert folder is not None
    return sorted((folder / "backbones").iterdir())


def test_the_second_time_nothing_is_built_until_the_network_is_asked_for(built: list[str]) -> None:
    first, second = load_backbone(NAME), load_backbone(NAME)
    assert len(built) == 1
    assert {**vars(first), "make": None} == {**vars(second), "make": None}
    assert PatchExtractor(second).grid((96, 128)) == (12, 16)
    assert len(built) == 1
    images = torch.rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(first.network(images), second.network(images), strict=True))
    assert len(built) == 2


def test_other_layers_are_another_backbone(built: list[str]) -> None:
    load_backbone(NAME)
    assert load_backbone(NAME, ("blocks.1",)).strides == (4,)
    assert len(built) == 2


def test_other_weights_are_another_backbone(tmp_path: Path, built: list[str]) -> None:
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
def test_a_damaged_one_is_made_anew(content: bytes, built: list[str]) -> None:
    whole = load_backbone(NAME)
    (file,) = kept_files()
    file.write_bytes(content)
    assert load_backbone(NAME).digest == whole.digest
    assert len(built) == 2
    load_backbone(NAME)
    assert len(built) == 2  # mended


def test_without_a_cache_folder_it_works_as_well(tmp_path: Path, built: list[str]) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "cache").write_text("in the way")
    assert load_backbone(NAME).digest == load_backbone(NAME).digest
    assert len(built) == 2


def test_random_weights_are_never_kept() -> None:
    load_backbone(NAME, pretrained=False)
    folder = cache_folder()
    assert folder is not None
    assert not folder.exists()


def test_a_known_network_runs_without_timm() -> None:
    program = (
        "import sys, numpy as np; from offnominal import Detector\n"
        "images = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8) for i in range(3)]\n"
        "Detector(image_size=64, runtime='openvino').fit(images)\n"
        "print('timm' in sys.modules)"
    )
    said = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout for _ in range(2)
    ]
    assert said == ["True\n", "False\n"]
