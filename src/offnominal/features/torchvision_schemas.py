"""Make `import timm` work beside a CPU build of torch.

timm imports torchvision. The torchvision of the package index is built against another build of torch and cannot load its
compiled operators with the CPU build. Its import then fails because two operator schemas are missing. The operators are not
used here, so declaring their schemas is enough. This happens only if the plain import fails.
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
    """Import timm, after declaring torchvision's missing schemas if necessary."""
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
