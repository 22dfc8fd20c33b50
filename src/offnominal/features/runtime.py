"""Where the extractor runs: torch on any device, or OpenVINO on a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol

import torch
from torch import nn

from offnominal.errors import SettingsError
from offnominal.types import Float

#: cuDNN's switch of precision is one for all threads.
_SWITCH = Lock()


class Runtime(Protocol):
    """(B, 3, H, W) float32 images -> (B, D, h, w) float32."""

    def __call__(self, images: Float) -> torch.Tensor: ...


def choose_device(device: str, runtime: str = "auto") -> torch.device:
    """`auto` takes a GPU where there is one, unless the runtime knows none.

    Raises:
        SettingsError: a GPU was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device = cuda: no CUDA GPU is visible to torch; use --device cpu")
    if device == "auto":
        device = "cuda" if runtime != "openvino" and torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_runtime(runtime: str, device: torch.device) -> str:
    """`auto` takes OpenVINO on a CPU where it is installed, torch elsewhere."""
    if runtime == "auto":
        return "openvino" if device.type == "cpu" and importlib.util.find_spec("openvino") else "torch"
    if runtime == "openvino" and device.type != "cpu":
        raise SettingsError("runtime = openvino runs on the CPU only; use --runtime torch with --device cuda")
    if runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        raise SettingsError("runtime = openvino: it is not installed; pip install openvino, or use --runtime torch")
    return runtime


def make_runtime(build: Callable[[], nn.Module], runtime: str, precision: str, device: torch.device, key: str) -> Runtime:
    """The module that `build` gives, on the chosen runtime. Precision `auto` is float32: the scores of all runtimes then agree.

    `key` tells the module from all others, its weights among it.
    """
    precision = "float32" if precision == "auto" else precision
    if choose_runtime(runtime, device) == "openvino":
        try:
            from offnominal.features.openvino_runtime import OpenVinoRuntime
        except ImportError as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(f"OpenVINO cannot be loaded ({reason}): install it again, or use --runtime torch") from error

        return OpenVinoRuntime(build, precision, key)
    return TorchRuntime(build(), precision, device)


class TorchRuntime:
    """The module as torch runs it; half precisions by autocast, the results in float32."""

    def __init__(self, module: nn.Module, precision: str, device: torch.device) -> None:
        self._module = module.to(device).eval()
        self._device = device
        self._dtype: torch.dtype | None = None if precision == "float32" else getattr(torch, precision)

    def __call__(self, images: Float) -> torch.Tensor:
        """(B, 3, H, W) float32 -> (B, D, h, w) on the runtime's device."""
        with torch.inference_mode(), self._precision():
            maps: torch.Tensor = self._module(torch.from_numpy(images).to(self._device))
        return maps.float()

    @contextmanager
    def _precision(self) -> Iterator[None]:
        if self._dtype is not None:
            with torch.autocast(self._device.type, self._dtype):
                yield
        elif self._device.type == "cuda":
            # Left to itself cuDNN rounds what it convolves to 10 bits (TF32).
            with _SWITCH, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield
        else:
            yield
