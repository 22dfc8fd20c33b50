"""Standardise channels: mean 0 on the normal patches, deviations shrunk half way toward their mean on a log scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from offnominal.types import require

#: A channel that hardly moves on normal images counts as if it moved by this share of the median deviation.
FLOOR = 0.1


@dataclass(frozen=True)
class ChannelStandard:
    """What a patch has subtracted, `mean`, and is divided by, `scale`: both (D,) float32, scale > 0."""

    mean: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        require(self.mean.ndim == 1 and self.mean.shape == self.scale.shape, "mean and scale must both be (D,)")
        require(bool((self.scale > 0).all()), "scales must be above 0")

    def __call__(self, patches: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return (patches - self.mean.to(patches.device)) / self.scale.to(patches.device)


def channel_standard(patches: Tensor, rows: int = 8192, done: Callable[[], None] = lambda: None) -> ChannelStandard:
    """Mean and scale of every channel of (N, D), accumulated in float64 in two passes; `done` is called after every `rows`.

    The scale is the square root of deviation times mean deviation, so that a standardised patch has a mean square of 1.
    Divided by the full deviation, channels that hold little but noise weigh as much as any other; undivided, a few
    high-variance channels dominate. The square root lies between.
    """
    count, dimensions = patches.shape
    total, centred = torch.zeros(dimensions, dtype=torch.float64), torch.empty((rows, dimensions), dtype=torch.float64)
    for block in patches.split(rows):
        total += block.sum(0, dtype=torch.float64)
        done()
    mean, square = total / count, torch.zeros_like(total)
    for block in patches.split(rows):
        square += torch.sub(block, mean, out=centred[: len(block)]).square_().sum(0)
        done()
    square /= count
    deviation = square.sqrt()
    floor = FLOOR * deviation.median()
    deviation = deviation.clamp(min=float(floor)) if floor > 0 else torch.where(deviation > 0, deviation, 1.0)
    return ChannelStandard(mean.float(), (deviation * deviation.mean()).sqrt().float())
