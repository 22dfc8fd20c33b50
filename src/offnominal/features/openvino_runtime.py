"""The patch extractor compiled by OpenVINO, for CPUs: the only file that imports it.

Translating a network takes seconds, compiling a translated one a few tenths. So a translation is kept, in this process and in
the user's cache folder; where that cannot be written, it is made anew each time.
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
from offnominal.storage import scratch_folder
from offnominal.types import Float

with without("openvino_telemetry"):
    import openvino

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
#: What a processor must be able to, by OpenVINO's names; one that is not would run float32 without a word.
_ABILITIES = {"bfloat16": "BF16", "float16": "FP16"}
#: Translations that stay in the cache folder, and compiled ones in the process; the oldest go.
KEPT, IN_PROCESS = 8, 8
#: A batch is run a few images at a time, so that what is between two layers stays in the processor's cache: one for so many
#: threads, which as yet work well on one image together.
THREADS_AN_IMAGE = 2
#: Side of the image that a network is traced with, rounded up to a multiple that suits it.
TRACED = 128
#: How far the features of OpenVINO may lie from those of torch, relative to the largest.
TOLERANCE = 1e-3
_in_process: dict[tuple[int, str, str, int], Any] = {}
_compiling, _alone = threading.Lock(), threading.Lock()


class OpenVinoRuntime:
    """Runs the module on batches of any size and shape, from any number of threads.

    Where torch uses several threads, so does an image here. In a thread in which it uses one, so does an image, and as many
    such threads as torch had where this was made may run the module at once. Compiled for each when it is first needed.

    Args:
        build: gives the module, (B, 3, H, W) -> (B, D, h, w); called where no translation is kept.
        precision: float32, bfloat16 or float16.
        key: what tells this module from all others, its weights among it; with the same key a translation is used again.

    Raises:
        SettingsError: this processor does not multiply in the precision.
    """

    def __init__(self, build: Callable[[], nn.Module], precision: str, key: str) -> None:
        _require_able(precision)
        self._build, self._precision, self._key = build, precision, key
        self._threads = torch.get_num_threads()
        self._own = threading.local()

    def __call__(self, images: Float) -> torch.Tensor:
        """(B, 3, H, W) float32 -> (B, D, h, w)."""
        threads = 1 if forks.forked() else self._threads
        streams = threads if torch.get_num_threads() == 1 else 1
        at_once = max(1, threads // streams // THREADS_AN_IMAGE)
        maps = torch.empty(0)
        for start in range(0, len(images), at_once):
            part = np.ascontiguousarray(images[start : start + at_once])
            found = self._inferred(streams, part)
            if start == 0:
                maps = torch.empty((len(images), *found.shape[1:]))
            maps[start : start + len(part)] = torch.from_numpy(found)
        return maps

    def _inferred(self, streams: int, part: Float) -> Float:
        """The request is this thread's own, so that threads and detectors may work side by side.

        Its first inference goes alone: two threads that are both there for the first time in a process can wait for ever,
        one for a table that the other fills, the other for Python's lock, which the first one holds.
        """
        requests: dict[tuple[int, int], Any] = self._own.__dict__.setdefault("requests", {})
        own = forks.generation(), streams  # the requests of a parent stay, since freeing them would wait for its threads
        if own not in requests:
            compiled = _compiled(self._build, self._precision, self._key, streams)
            with _alone:
                requests[own] = compiled.create_infer_request()
                return _output(requests[own], part)
        return _output(requests[own], part)


def _output(request: Any, part: Float) -> Float:
    """Valid until the request's next inference."""
    (output,) = request.infer([part], share_inputs=True, share_outputs=True).to_tuple()
    maps: Float = output
    return maps


def _compiled(build: Callable[[], nn.Module], precision: str, key: str, streams: int) -> Any:
    """The module, compiled for so many images at the same time; the last few stay in this process."""
    generation = forks.generation()
    at = generation, _name(key), precision, streams
    with _compiling:
        if at not in _in_process:
            hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
            if streams > 1:
                hints |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
            if forks.forked():
                hints |= {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
            compiled = openvino.Core().compile_model(_translated(build, at[1]), "CPU", hints)
            for oldest in [one for one in _in_process if one[0] == generation][: 1 - IN_PROCESS]:
                del _in_process[oldest]
            _in_process[at] = compiled
        return _in_process[at]


def _after_fork() -> None:
    """Another thread of the parent may have held these."""
    global _compiling, _alone
    _compiling, _alone = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def able(precision: str) -> bool:
    """Whether this processor multiplies in the precision."""
    wanted = _ABILITIES.get(precision)
    return wanted is None or wanted in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _require_able(precision: str) -> None:
    """Raises `SettingsError` where this processor does not multiply in the precision."""
    if not able(precision):
        raise SettingsError(
            f"precision = {precision}: this processor does not multiply in it, so OpenVINO would run float32; "
            "use --precision float32, or --runtime torch"
        )


def _name(key: str) -> str:
    """What a translation is kept under: the module's key, who translates, and what the module does, which stands beside us."""
    told = hashlib.sha256("\n".join([key, *(version(name) for name in ("openvino", "torch", "timm"))]).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        told.update(file.read_bytes())
    return told.hexdigest()[:32]


def _translated(build: Callable[[], nn.Module], name: str) -> Any:
    folder = cache_folder()
    if folder is None:
        return _translate(build())
    model = _read(folder / name)
    if model is None:
        made = _translate(build())
        with contextlib.suppress(OSError, RuntimeError):  # a full disk, a folder that is not ours: then without
            _keep(made, folder / name)
        model = _read(folder / name) or made
    return model


def _read(place: Path) -> Any | None:
    """The translation kept there; None where there is none, or a damaged one."""
    try:
        digest = (place / "sha256").read_text()
        if digest != _digest(place):
            return None
        os.utime(place)
        return openvino.Core().read_model(place / "model.xml")
    except (OSError, RuntimeError):
        return None


def _keep(model: Any, place: Path) -> None:
    with scratch_folder(place.parent, place.name) as scratch:
        folder = scratch / "kept"
        folder.mkdir()
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        (folder / "sha256").write_text(_digest(folder))
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
    kept = sorted((entry for entry in place.parent.iterdir() if (entry / "sha256").is_file()), key=lambda e: e.stat().st_mtime)
    for entry in kept[:-KEPT]:
        shutil.rmtree(entry, ignore_errors=True)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("model.xml", "model.bin"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _translate(module: nn.Module) -> Any:
    """The module, traced at one size and converted for images of any size.

    Raises:
        BackboneError: it cannot be converted, or the result differs from torch at another size.
    """
    logging.getLogger("openvino").setLevel(logging.ERROR)
    multiple = getattr(module, "multiple", TRACED)
    side = multiple * math.ceil(TRACED / multiple)
    with without_warnings(), torch.no_grad():
        random = torch.Generator().manual_seed(0)
        example = torch.rand((1, 3, side, side), generator=random)
        other = torch.rand((1, 3, side + multiple, side), generator=random)
        expected = module(other)
        try:
            traced = torch.jit.trace(module, example, check_trace=False, strict=False)
            model: Any = openvino.convert_model(traced, example_input=example)
            model.reshape({model.inputs[0].any_name: openvino.PartialShape([-1, 3, -1, -1])})
            off = _relative(_single_inference(model, other), expected)
        except Exception as error:  # noqa: BLE001 - networks fail in many ways, in tracing, conversion and inference
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
            raise BackboneError(f"OpenVINO cannot run this backbone at any size ({reason}); use --runtime torch") from None
    if not off <= TOLERANCE:
        raise BackboneError(f"OpenVINO gives other features than torch (off by {off:.1%}); use --runtime torch")
    return model


def _single_inference(model: Any, images: torch.Tensor) -> torch.Tensor:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with _alone:
        (maps,) = compiled.create_infer_request().infer([images]).to_tuple()
        return torch.from_numpy(maps.copy())


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest expected value; infinite if the shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
