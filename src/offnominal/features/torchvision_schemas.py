"""Make `import timm` work beside a CPU build of torch.

timm imports torchvision. The torchvision on the package index is built against another build of torch, cannot load its
compiled operators beside the CPU one, and its import then fails because two operator schemas are missing. We use none of
these operators, so declaring their schemas is enough. Used only when the plain import fails.
"""

from __future__ import annotations

import sys
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None


def import_timm() -> Any:
    """timm, with torchvision's missing schemas declared where that is needed."""
    global _library
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
    import timm

    return timm
