"""The memory bank: normal patches, and where each of them came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from offnominal.types import Index, require


@dataclass(frozen=True)
class SourceImage:
    """An image of the training set: its name relative to the data's root, and (H, W) of the original."""

    name: str
    size: tuple[int, int]


@dataclass(frozen=True)
class MemoryBank:
    """`patches` (M, D) float32, standardised; patch i is place `place[i]` (row, column) of segment grid of image `image[i]`.

    Attributes:
        patches: (M, D) float32.
        image: (M,) index into `sources`.
        place: (M, 3): segment, row, column.
        sources: the images fitted on.
        radius: the coreset's covering radius: no normal patch is farther from the bank (None for a random coreset).
    """

    patches: Tensor
    image: Index
    place: Index
    sources: tuple[SourceImage, ...]
    radius: float | None

    def __post_init__(self) -> None:
        count = len(self.patches)
        require(self.patches.ndim == 2 and count > 0, f"patches must be (M, D), got {tuple(self.patches.shape)}")
        require(self.image.shape == (count,), f"image must be ({count},), got {self.image.shape}")
        require(self.place.shape == (count, 3), f"place must be ({count}, 3), got {self.place.shape}")
        require(bool(np.all((self.image >= 0) & (self.image < len(self.sources)))), "image points outside sources")
