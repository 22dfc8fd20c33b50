"""The memory bank: normal patches and their provenance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offnominal.gates import MmPerPixel
from offnominal.types import Index, require


@dataclass(frozen=True)
class SourceImage:
    """A training image.

    Attributes
    ----------
    name
        Path relative to the root of the data.
    size
        (H, W) of the original image.
    group
        Key shared by images that are held out together, such as duplicates or images of one part; None for an image on its own.
    mm_per_pixel
        Width and height of a pixel in mm; None for that of the model.

    Examples
    --------
    >>> SourceImage("train/good/000.png", (480, 640)).size
    (480, 640)
    """

    name: str
    size: tuple[int, int]
    group: str | None = None
    mm_per_pixel: MmPerPixel | None = None


@dataclass(frozen=True)
class MemoryBank:
    """Standardised normal patches. Patch i comes from `position[i]` of image `image[i]`.

    Attributes
    ----------
    patches
        (M, D) float32.
    image
        (M,) indices of the training images.
    position
        (M, 2) row and column on the patch grid of that image.
    radius
        Covering radius of the coreset: largest distance of a normal patch to the bank. None for a random coreset.

    Examples
    --------
    >>> import numpy as np, torch
    >>> bank = MemoryBank(torch.zeros(3, 8), image=np.array([0, 0, 1]), position=np.array([[0, 1], [2, 2], [1, 0]]), radius=0.7)
    >>> bank.patches.shape
    torch.Size([3, 8])
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
