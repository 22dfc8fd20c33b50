"""The patch extractor compiled by OpenVINO, for CPUs: the only file that imports it."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import openvino
import torch
from torch import nn

from offnominal.types import Float

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoRuntime:
    """Compiles the module once and runs it on batches of any size and shape."""

    def __init__(self, module: nn.Module, precision: str) -> None:
        logging.getLogger("openvino").setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model: Any = openvino.convert_model(module, example_input=torch.rand(1, 3, 128, 128))
        model.reshape({model.inputs[0].any_name: openvino.PartialShape([-1, 3, -1, -1])})
        self._compiled: Any = openvino.Core().compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        )

    def __call__(self, images: Float) -> list[torch.Tensor]:
        """(B, 3, H, W) float32 -> segments (B, D, h, w)."""
        results = self._compiled([np.ascontiguousarray(images)])
        return [torch.from_numpy(np.array(results[output], dtype=np.float32)) for output in self._compiled.outputs]
