"""Translated networks: used again, never trusted when damaged, and done without where they cannot be kept."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import with_spy
from offnominal.errors import BackboneError, SettingsError
from offnominal.features import make_runtime, openvino_runtime
from offnominal.features.cache import cache_folder
from offnominal.features.openvino_runtime import IN_PROCESS, KEPT, OpenVinoRuntime

IMAGES = np.random.default_rng(0).random((2, 3, 64, 96), dtype=np.float32)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.factor


class Frozen(nn.Module):
    """A trace keeps the height of its example."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * float(images.shape[2])


class Unknown(nn.Module):
    """An operator that OpenVINO does not have."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = images + torch.linalg.eigvalsh(images[0, 0, :4, :4] + 1).sum()
        return added


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    openvino_runtime._in_process.clear()
    yield
    openvino_runtime._in_process.clear()


@pytest.fixture
def translated(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What was translated anew."""
    found: list[nn.Module] = []
    translate = openvino_runtime._convert
    monkeypatch.setattr(openvino_runtime, "_convert", with_spy(found.append, translate))
    return found


def run(factor: float, key: str, *, anew: bool = False) -> None:
    if anew:
        openvino_runtime._in_process.clear()
    result = OpenVinoRuntime(lambda: Scaled(factor), "float32", key)(IMAGES)
    assert torch.allclose(result, torch.from_numpy(IMAGES * np.float32(factor)), rtol=1e-5)


def test_a_translation_is_used_again_in_this_process_and_the_next(translated: list[nn.Module]) -> None:
    run(2.0, "two")
    run(2.0, "two")
    run(2.0, "two", anew=True)
    assert len(translated) == 1
    run(3.0, "three")
    assert len(translated) == 2


@pytest.mark.parametrize(("module", "message"), [(Frozen, "other features than torch"), (Unknown, "cannot run this backbone")])
def test_a_network_that_openvino_computes_otherwise_is_refused(module: type[nn.Module], message: str) -> None:
    with pytest.raises(BackboneError, match=rf"{message}.* \(.*\); use --runtime torch$") as refused:
        OpenVinoRuntime(module, "float32", message)(IMAGES)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "sha256"])
def test_a_damaged_one_is_made_anew(translated: list[nn.Module], name: str) -> None:
    run(2.0, "two")
    folder = cache_folder()
    assert folder is not None
    (kept,) = folder.iterdir()
    (kept / name).write_bytes(b"damaged")
    run(2.0, "two", anew=True)
    (kept / name).unlink()
    run(2.0, "two", anew=True)
    assert len(translated) == 3
    run(2.0, "two", anew=True)
    assert len(translated) == 3  # mended


def test_without_a_cache_folder_it_works_as_well(tmp_path: Path, translated: list[nn.Module]) -> None:
    (tmp_path / "offnominal").write_text("in the way")
    run(2.0, "two")
    run(2.0, "two", anew=True)
    assert len(translated) == 2


def test_without_a_home_it_works_as_well(monkeypatch: pytest.MonkeyPatch, translated: list[nn.Module]) -> None:
    def nobody() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    run(2.0, "two")
    run(2.0, "two")
    assert len(translated) == 1


def test_other_code_is_another_translation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "__file__", str(tmp_path / "here.py"))
    (tmp_path / "extractor.py").write_text("one")
    before = openvino_runtime._name("key")
    assert before == openvino_runtime._name("key") != openvino_runtime._name("other")
    (tmp_path / "extractor.py").write_text("two")
    assert openvino_runtime._name("key") != before


def test_few_are_kept(translated: list[nn.Module]) -> None:
    for number in range(KEPT + 2):
        run(float(number + 1), str(number))
    folder = cache_folder()
    assert folder is not None
    assert len(list(folder.iterdir())) == KEPT
    assert len(openvino_runtime._in_process) == IN_PROCESS
    shutil.rmtree(folder)
    run(1.0, "0", anew=True)
    assert len(translated) == KEPT + 3


class OfAbilities:
    """A processor that can what it is told to."""

    def __init__(self, *able: str) -> None:
        self.able = able

    def get_property(self, device: str, name: str) -> tuple[str, ...]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.able


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_precision_that_the_processor_lacks_is_refused(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offnominal.features.openvino_runtime.openvino.Core", lambda: OfAbilities("FP32", "INT8"))
    with pytest.raises(SettingsError, match=f"precision = {precision}: this processor does not"):
        OpenVinoRuntime(lambda: Scaled(2.0), precision, "two")
    monkeypatch.setattr("offnominal.features.openvino_runtime.openvino.Core", lambda: OfAbilities("FP32", "BF16", "FP16"))
    openvino_runtime._require_able(precision)
    openvino_runtime._require_able("float32")


@pytest.mark.parametrize("threads_an_image", [1, 2, 1000])
def test_a_batch_run_a_few_images_at_a_time_comes_back_whole(threads_an_image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "THREADS_AN_IMAGE", threads_an_image)
    runtime = OpenVinoRuntime(lambda: Scaled(2.0), "float32", "two")
    images = np.random.default_rng(1).random((5, 3, 64, 96), dtype=np.float32)
    first = runtime(images)
    runtime(images[:1] + 1)
    assert torch.allclose(first, torch.from_numpy(2 * images), rtol=1e-5)  # and what came back is no view of the next


def test_first_inferences_go_alone_and_later_ones_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its first inference in a process OpenVINO fills tables, and two threads there at once can wait for ever."""
    inferred = openvino_runtime._output
    compiled, meeting = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)
    within = 0
    firsts: list[int] = []

    def watched(request: object, part: np.ndarray) -> np.ndarray:
        nonlocal within
        if len(firsts) == 2:
            meeting.wait()  # breaks where one waits for the other
            return inferred(request, part)
        within += 1
        time.sleep(0.2)
        firsts.append(within)
        within -= 1
        return inferred(request, part)

    def wait_for_the_other(*args: Any) -> object:
        made = make(*args)
        compiled.wait()
        return made

    make = openvino_runtime._compiled
    monkeypatch.setattr(openvino_runtime, "_compiled", wait_for_the_other)
    monkeypatch.setattr(openvino_runtime, "_output", watched)
    runtime, images = OpenVinoRuntime(lambda: Scaled(2.0), "float32", "two"), IMAGES[:1]
    done = threading.Barrier(2, timeout=60)

    def work() -> list[torch.Tensor]:
        first = runtime(images)
        done.wait()
        return [first, runtime(images)]

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work) for _ in range(2)]:
            assert all(torch.allclose(found, torch.from_numpy(2 * images), rtol=1e-5) for found in future.result())
    assert firsts == [1, 1]


def test_a_broken_installation_of_openvino_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "offnominal.features.openvino_runtime", None)
    with pytest.raises(SettingsError, match=r"OpenVINO cannot be loaded .* --runtime torch"):
        make_runtime(lambda: Scaled(1), "openvino", "float32", torch.device("cpu"), "key")
