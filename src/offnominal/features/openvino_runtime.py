"""The patch extractor compiled by OpenVINO, for CPUs. No other file imports OpenVINO.

Converting a network takes seconds, compiling a converted one a few tenths. Conversions are therefore cached, in the process and
in the user's cache folder. If that cannot be written, every process converts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import shutil
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from offnominal import forks
from offnominal.errors import BackboneError, SettingsError
from offnominal.features.cache import cache_folder
from offnominal.features.telemetry import without
from offnominal.quiet import without_warnings
from offnominal.stopping import delay_stop
from offnominal.storage import scratch_folder
from offnominal.types import Float

with without("openvino_telemetry"):
    import openvino

#: OpenVINO's names of the precisions.
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
#: Capabilities of the processor that a precision requires. Without them, OpenVINO silently runs float32.
_CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
#: Number of conversions in the cache folder, and of compiled models in the process; the oldest are removed.
KEPT, IN_PROCESS = 8, 8
#: Kernels that OpenVINO keeps for input sizes that it has seen. With its own limit of 5,000, images of a hundred shapes take
#: gigabytes of memory; images of one shape are as fast with any limit.
MOST_KERNELS = 200
#: A batch runs in parts of one image per this many threads, so that activations stay in the processor's cache. This number of
#: threads still runs efficiently on one image.
THREADS_AN_IMAGE = 2
#: Side of the image that a network is traced with, rounded up to a multiple of its stride.
TRACED = 128
#: Largest deviation of OpenVINO's features from those of torch, relative to the largest feature.
TOLERANCE = 1e-3
_in_process: dict[tuple[int, str, str, int], Any] = {}
_compiling, _first_inference = threading.Lock(), threading.Lock()


class OpenVinoRuntime:
    """Runs a module on batches of any size and shape, from any number of threads.

    In a thread where torch uses several threads, one image uses all of them. In a thread where torch uses one, an image uses
    one, and as many such threads as torch had at construction can run the module in parallel. The module is compiled for either
    case on first use.

    Parameters
    ----------
    build
        Returns the module, (B, 3, H, W) -> (B, D, h, w). Called only if no conversion is cached.
    precision
        `float32`, `bfloat16` or `float16`.
    key
        Identifies the module and its weights. A cached conversion with the same key is reused.

    Raises
    ------
    SettingsError
        The processor does not support the precision.
    """

    def __init__(self, build: Callable[[], nn.Module], precision: str, key: str) -> None:
        _require_able(precision)
        self._build, self._precision, self._key = build, precision, key
        self._threads = torch.get_num_threads()
        self._own = threading.local()

    def __call__(self, images: Float) -> torch.Tensor:
        """Map images (B, 3, H, W) float32 to patches (B, D, h, w)."""
        threads = 1 if forks.forked() else self._threads
        streams = threads if torch.get_num_threads() == 1 else 1
        at_once = max(1, threads // streams // THREADS_AN_IMAGE)
        maps = torch.empty(0)
        for start in range(0, len(images), at_once):
            part = np.ascontiguousarray(images[start : start + at_once])
            output = self._infer(streams, part)
            if start == 0:
                maps = torch.empty((len(images), *output.shape[1:]))
            maps[start : start + len(part)] = torch.from_numpy(output)
        return maps

    def _infer(self, streams: int, part: Float) -> Float:
        """Run one part of a batch. Each thread has its own request, so that threads and detectors can run in parallel.

        The first inference of a request runs alone. Two concurrent first inferences can deadlock: one waits for a table that
        the other fills, and the other for Python's global lock, which the first holds.
        """
        requests: dict[tuple[int, int], Any] = self._own.__dict__.setdefault("requests", {})
        key = forks.generation(), streams  # requests of a parent process are kept: freeing them would wait for its threads
        if key not in requests:
            compiled = _compiled(self._build, self._precision, self._key, streams)
            with _first_inference:
                requests[key] = compiled.create_infer_request()
                return _output(requests[key], part)
        return _output(requests[key], part)


def _output(request: Any, part: Float) -> Float:
    """Run a request. The output is valid until its next inference."""
    (output,) = request.infer([part], share_inputs=True, share_outputs=True).to_tuple()
    maps: Float = output
    return maps


def _compiled(build: Callable[[], nn.Module], precision: str, key: str, streams: int) -> Any:
    """Compile the module for this number of parallel images; the last few compiled models are cached in the process."""
    generation = forks.generation()
    cached = generation, _name(key), precision, streams
    with _compiling:
        if cached not in _in_process:
            hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
            hints["CPU_RUNTIME_CACHE_CAPACITY"] = MOST_KERNELS
            if streams > 1:
                hints |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
            if forks.forked():
                hints |= {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
            compiled = openvino.Core().compile_model(_converted(build, cached[1]), "CPU", hints)
            for oldest in [other for other in _in_process if other[0] == generation][: 1 - IN_PROCESS]:
                del _in_process[oldest]
            _in_process[cached] = compiled
        return _in_process[cached]


def _after_fork() -> None:
    """Replace the locks, which another thread of the parent may have held."""
    global _compiling, _first_inference
    _compiling, _first_inference = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def able(precision: str) -> bool:
    """Whether the processor supports the precision."""
    required = _CAPABILITIES.get(precision)
    return required is None or required in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _require_able(precision: str) -> None:
    """Raise `SettingsError` if the processor does not support the precision."""
    if not able(precision):
        raise SettingsError(
            f"precision = {precision}: this processor does not support it, so OpenVINO would run float32; "
            "use --precision float32, or --runtime torch"
        )


def _name(key: str) -> str:
    """Cache name of a conversion, from the key of the module, the versions of the libraries and the code of this package."""
    digest = hashlib.sha256("\n".join([key, *(version(name) for name in ("openvino", "torch", "timm"))]).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _converted(build: Callable[[], nn.Module], name: str) -> Any:
    folder = cache_folder()
    if folder is None:
        return _convert(build())
    model = _read(folder / name)
    if model is None:
        converted = _convert(build())
        with contextlib.suppress(OSError, RuntimeError):  # no cache on a full disk or without access
            _write(converted, folder / name)
        model = _read(folder / name) or converted
    return model


def _read(path: Path) -> Any | None:
    """Read a cached conversion; None if it is missing or damaged."""
    try:
        digest = (path / "sha256").read_text()
        if digest != _digest(path):
            return None
        os.utime(path)
        return openvino.Core().read_model(path / "model.xml")
    except (OSError, RuntimeError):
        return None


def _write(model: Any, path: Path) -> None:
    """Write a conversion with its digest, atomically, and remove the oldest ones from the cache."""
    with scratch_folder(path.parent, path.name) as scratch:
        folder = scratch / "new"
        folder.mkdir()
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        (folder / "sha256").write_text(_digest(folder))
        shutil.rmtree(path, ignore_errors=True)
        folder.rename(path)
    entries = [entry for entry in path.parent.iterdir() if (entry / "sha256").is_file()]
    for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(entry, ignore_errors=True)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("model.xml", "model.bin"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _convert(module: nn.Module) -> Any:
    """Convert a module for images of any size. It is traced at one size and verified at another.

    Raises
    ------
    BackboneError
        The module cannot be converted, or the result differs from torch at another size.
    """
    logging.getLogger("openvino").setLevel(logging.ERROR)
    multiple = getattr(module, "multiple", TRACED)
    side = multiple * math.ceil(TRACED / multiple)
    # A stop signal waits for these seconds: raised inside the converter, it would come out as a failed conversion.
    with delay_stop(), without_warnings(), torch.no_grad():
        random = torch.Generator().manual_seed(0)
        example = torch.rand((1, 3, side, side), generator=random)
        other = torch.rand((1, 3, side + multiple, side), generator=random)
        expected = module(other)
        try:
            traced = torch.jit.trace(module, example, check_trace=False, strict=False)
            model: Any = openvino.convert_model(traced, example_input=example)
            model.reshape({model.inputs[0].any_name: openvino.PartialShape([-1, 3, -1, -1])})
            deviation = _relative_deviation(_single_inference(model, other), expected)
        except Exception as error:  # noqa: BLE001 - tracing, conversion and inference fail in many ways
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
            raise BackboneError(f"OpenVINO cannot run this backbone at any size ({reason}); use --runtime torch") from None
    if not deviation <= TOLERANCE:
        raise BackboneError(f"OpenVINO gives other features than torch (off by {deviation:.1%}); use --runtime torch")
    return model


def _single_inference(model: Any, images: torch.Tensor) -> torch.Tensor:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with _first_inference:
        (maps,) = compiled.create_infer_request().infer([images]).to_tuple()
        return torch.from_numpy(maps.copy())


def _relative_deviation(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value; infinite if the shapes differ."""
    if output.shape != expected.shape:
        return math.inf
    return float((output - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
