"""Converted models: they are reused, replaced if damaged, and not required to be cached."""

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


class FixedHeight(nn.Module):
    """A trace of this module has the height of the example as a constant."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * float(images.shape[2])


class Unsupported(nn.Module):
    """A module with an operator that OpenVINO does not support."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = images + torch.linalg.eigvalsh(images[0, 0, :4, :4] + 1).sum()
        return outputs


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    openvino_runtime._in_process.clear()
    yield
    openvino_runtime._in_process.clear()


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that the test converts."""
    networks: list[nn.Module] = []
    convert = openvino_runtime._convert
    monkeypatch.setattr(openvino_runtime, "_convert", with_spy(networks.append, convert))
    return networks


def run(factor: float, key: str, *, new_process: bool = False) -> None:
    if new_process:
        openvino_runtime._in_process.clear()
    result = OpenVinoRuntime(lambda: Scaled(factor), "float32", key)(IMAGES)
    assert torch.allclose(result, torch.from_numpy(IMAGES * np.float32(factor)), rtol=1e-5)


def test_a_converted_model_is_reused_in_this_and_the_next_process(converted: list[nn.Module]) -> None:
    run(2.0, "two")
    run(2.0, "two")
    run(2.0, "two", new_process=True)
    assert len(converted) == 1
    run(3.0, "three")
    assert len(converted) == 2


@pytest.mark.parametrize(
    ("module", "message"), [(FixedHeight, "other features than torch"), (Unsupported, "cannot run this backbone")]
)
def test_networks_that_openvino_does_not_reproduce_are_refused(module: type[nn.Module], message: str) -> None:
    with pytest.raises(BackboneError, match=rf"{message}.* \(.*\); use --runtime torch$") as caught:
        OpenVinoRuntime(module, "float32", message)(IMAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "sha256"])
def test_a_damaged_conversion_is_replaced(converted: list[nn.Module], name: str) -> None:
    run(2.0, "two")
    folder = cache_folder()
    assert folder is not None
    (cached,) = folder.iterdir()
    (cached / name).write_bytes(b"damaged")
    run(2.0, "two", new_process=True)
    (cached / name).unlink()
    run(2.0, "two", new_process=True)
    assert len(converted) == 3
    run(2.0, "two", new_process=True)
    assert len(converted) == 3  # replaced


def test_networks_run_without_a_cache_folder(tmp_path: Path, converted: list[nn.Module]) -> None:
    (tmp_path / "offnominal").write_text("in the way")
    run(2.0, "two")
    run(2.0, "two", new_process=True)
    assert len(converted) == 2


def test_networks_run_without_a_home_folder(monkeypatch: pytest.MonkeyPatch, converted: list[nn.Module]) -> None:
    def without_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", without_home)
    run(2.0, "two")
    run(2.0, "two")
    assert len(converted) == 1


def test_the_cache_key_depends_on_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "__file__", str(tmp_path / "here.py"))
    (tmp_path / "extractor.py").write_text("one")
    before = openvino_runtime._name("key")
    assert before == openvino_runtime._name("key") != openvino_runtime._name("other")
    (tmp_path / "extractor.py").write_text("two")
    assert openvino_runtime._name("key") != before


def test_the_number_of_cached_conversions_is_limited(converted: list[nn.Module]) -> None:
    for number in range(KEPT + 2):
        run(float(number + 1), str(number))
    folder = cache_folder()
    assert folder is not None
    assert len(list(folder.iterdir())) == KEPT
    assert len(openvino_runtime._in_process) == IN_PROCESS
    shutil.rmtree(folder)
    run(1.0, "0", new_process=True)
    assert len(converted) == KEPT + 3


class Processor:
    """A processor with the given capabilities."""

    def __init__(self, *capabilities: str) -> None:
        self.capabilities = capabilities

    def get_property(self, device: str, name: str) -> tuple[str, ...]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.capabilities


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_unsupported_precisions_are_refused(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offnominal.features.openvino_runtime.openvino.Core", lambda: Processor("FP32", "INT8"))
    with pytest.raises(SettingsError, match=f"precision = {precision}: this processor does not"):
        OpenVinoRuntime(lambda: Scaled(2.0), precision, "two")
    monkeypatch.setattr("offnominal.features.openvino_runtime.openvino.Core", lambda: Processor("FP32", "BF16", "FP16"))
    openvino_runtime._require_able(precision)
    openvino_runtime._require_able("float32")


@pytest.mark.parametrize("threads_an_image", [1, 2, 1000])
def test_batches_run_in_parts_return_all_images(threads_an_image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "THREADS_AN_IMAGE", threads_an_image)
    runtime = OpenVinoRuntime(lambda: Scaled(2.0), "float32", "two")
    images = np.random.default_rng(1).random((5, 3, 64, 96), dtype=np.float32)
    first = runtime(images)
    runtime(images[:1] + 1)
    assert torch.allclose(first, torch.from_numpy(2 * images), rtol=1e-5)  # the result is not a view of a reused buffer


def test_first_inferences_run_one_at_a_time_and_later_ones_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first inference in a process fills tables of OpenVINO. Two threads that do so at once can deadlock."""
    infer = openvino_runtime._output
    compiled, meeting = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)
    active = 0
    active_at_first: list[int] = []

    def recording(request: object, part: np.ndarray) -> np.ndarray:
        nonlocal active
        if len(active_at_first) == 2:
            meeting.wait()  # times out unless both threads arrive
            return infer(request, part)
        active += 1
        time.sleep(0.2)
        active_at_first.append(active)
        active -= 1
        return infer(request, part)

    def wait_for_the_other(*args: Any) -> object:
        result = make(*args)
        compiled.wait()
        return result

    make = openvino_runtime._compiled
    monkeypatch.setattr(openvino_runtime, "_compiled", wait_for_the_other)
    monkeypatch.setattr(openvino_runtime, "_output", recording)
    runtime, images = OpenVinoRuntime(lambda: Scaled(2.0), "float32", "two"), IMAGES[:1]
    done = threading.Barrier(2, timeout=60)

    def work() -> list[torch.Tensor]:
        first = runtime(images)
        done.wait()
        return [first, runtime(images)]

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work) for _ in range(2)]:
            assert all(torch.allclose(output, torch.from_numpy(2 * images), rtol=1e-5) for output in future.result())
    assert active_at_first == [1, 1]


def test_a_broken_openvino_installation_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "offnominal.features.openvino_runtime", None)
    with pytest.raises(SettingsError, match=r"OpenVINO cannot be loaded .* --runtime torch"):
        make_runtime(lambda: Scaled(1), "openvino", "float32", torch.device("cpu"), "key")
