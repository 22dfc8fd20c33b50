"""The memory bank: normal patches, and where each of them came from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offnominal.types import Index, require


@dataclass(frozen=True)
class SourceImage:
    """An image of the training set.

    Attributes:
        name: relative to the data's root.
        size: (H, W) of the original.
        group: what it is held out with, the same for a group of images or for copies of one; None: on its own.
    """

    name: str
    size: tuple[int, int]
    group: str | None = None


@dataclass(frozen=True)
class MemoryBank:
    """Standardised normal patches and their provenance: patch i is at `position[i]` of image `image[i]`.

    Attributes:
        patches: (M, D) float32.
        image: (M,) index into the images that the model was fitted on.
        position: (M, 2): row and column on the grid of that image.
        radius: the coreset's covering radius: no normal patch is farther from the bank (None for a random coreset).
    """

    patches: Tensor
    image: Index
    position: Index
    radius: float | None

    def __post_init__(self) -> None:
        count = len(self.patches)
        require(self.patches.ndim == 2 and count > 0, f"patches must be (M, D), got {tuple(self.patches.shape)}")
        require(self.image.shape == (count,), f"image must be ({count},), got {self.image.shape}")
        require(self.position.shape == (count, 2), f"position must be ({count}, 2), got {self.position.shape}")
