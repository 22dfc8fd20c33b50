"""Runtimes of the patch extractor: torch on any device, or OpenVINO on a CPU."""

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

#: The precision flags of cuDNN are global to all threads.
_CUDNN_FLAGS = Lock()


class Runtime(Protocol):
    """A callable that maps images to patches: (B, 3, H, W) float32 -> (B, D, h, w) float32.

    Examples
    --------
    >>> runtime: Runtime = make_runtime(nn.Identity, "torch", "float32", torch.device("cpu"), key="identity")
    """

    def __call__(self, images: Float) -> torch.Tensor: ...


def choose_device(device: str, runtime: str = "auto") -> torch.device:
    """Resolve the setting `device`. `auto` is a GPU if one is available and the runtime is not OpenVINO.

    Raises
    ------
    SettingsError
        `cuda` was given and there is no GPU.

    Examples
    --------
    >>> choose_device("auto", runtime="openvino")
    device(type='cpu')
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device = cuda: no CUDA GPU is visible to torch; use --device cpu")
    if device == "auto":
        device = "cuda" if runtime != "openvino" and torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_runtime(runtime: str, device: torch.device) -> str:
    """Resolve the setting `runtime`. `auto` is OpenVINO on a CPU if it is installed, else torch.

    Raises
    ------
    SettingsError
        `openvino` was given with a GPU, or it is not installed.

    Examples
    --------
    >>> choose_runtime("auto", torch.device("cuda"))
    'torch'
    """
    if runtime == "auto":
        return "openvino" if device.type == "cpu" and importlib.util.find_spec("openvino") else "torch"
    if runtime == "openvino" and device.type != "cpu":
        raise SettingsError("runtime = openvino runs on the CPU only; use --runtime torch with --device cuda")
    if runtime == "openvino" and importlib.util.find_spec("openvino") is None:
        raise SettingsError("runtime = openvino: it is not installed; pip install openvino, or use --runtime torch")
    return runtime


def make_runtime(build: Callable[[], nn.Module], runtime: str, precision: str, device: torch.device, key: str) -> Runtime:
    """Set up a module on a runtime.

    Parameters
    ----------
    build
        Returns the module, (B, 3, H, W) -> (B, D, h, w). OpenVINO calls it only if no conversion is cached.
    runtime
        `auto`, `torch` or `openvino`.
    precision
        `float32`, `bfloat16` or `float16`; `auto` is float32, with which the scores of all runtimes agree.
    device
        Device of torch.
    key
        Identifies the module and its weights. A cached conversion with the same key is reused.

    Raises
    ------
    SettingsError
        The runtime is not available, or the processor does not support the precision.

    Examples
    --------
    >>> runtime = make_runtime(nn.Identity, "torch", "auto", torch.device("cpu"), key="identity")
    >>> import numpy as np
    >>> runtime(np.ones((1, 3, 2, 2), np.float32)).shape
    torch.Size([1, 3, 2, 2])
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
    """A module on torch; half precision by autocast, results in float32."""

    def __init__(self, module: nn.Module, precision: str, device: torch.device) -> None:
        self._module = module.to(device).eval()
        self._device = device
        self._dtype: torch.dtype | None = None if precision == "float32" else getattr(torch, precision)

    def __call__(self, images: Float) -> torch.Tensor:
        """Map images (B, 3, H, W) float32 to patches (B, D, h, w) on the device."""
        with torch.inference_mode(), self._precision():
            maps: torch.Tensor = self._module(torch.from_numpy(images).to(self._device))
        return maps.float()

    @contextmanager
    def _precision(self) -> Iterator[None]:
        if self._dtype is not None:
            with torch.autocast(self._device.type, self._dtype):
                yield
        elif self._device.type == "cuda":
            # By default, cuDNN rounds the inputs of convolutions to 10 bits (TF32).
            with _CUDNN_FLAGS, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield
        else:
            yield
