"""All normal patches while a model is fitted: in memory, or beyond a limit in a temporary file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from offnominal.errors import unwritable


class PatchStore:
    """(N, D) float32 patches. Use as a context manager: the temporary file goes when it closes."""

    def __init__(self, count: int, dimensions: int, limit: int) -> None:
        self.on_disk = count * dimensions * 4 > limit
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if self.on_disk:
            self._folder = tempfile.TemporaryDirectory(prefix="offnominal-")
            path = Path(self._folder.name) / "patches"
            try:
                array = np.memmap(path, np.float32, "w+", shape=(count, dimensions))
            except OSError as error:
                self._folder.cleanup()
                raise unwritable(path, error) from None
            self.patches: Tensor = torch.from_numpy(array)
        else:
            self.patches = torch.empty((count, dimensions), dtype=torch.float32)

    def __enter__(self) -> PatchStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.patches = torch.empty(0)
        if self._folder is not None:
            self._folder.cleanup()
