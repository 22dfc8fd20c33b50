"""Each channel to mean 0 and standard deviation 1 on the normal patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offnominal.types import require

#: A channel that hardly moves on normal images is divided by no less than this share of the median deviation.
FLOOR = 0.1


@dataclass(frozen=True)
class ChannelStandard:
    """`mean` and `deviation`, both (D,) float32, deviation > 0."""

    mean: Tensor
    deviation: Tensor

    def __post_init__(self) -> None:
        require(self.mean.ndim == 1 and self.mean.shape == self.deviation.shape, "mean and deviation must both be (D,)")
        require(bool((self.deviation > 0).all()), "deviations must be above 0")

    def __call__(self, patches: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return (patches - self.mean.to(patches.device)) / self.deviation.to(patches.device)


def channel_standard(patches: Tensor, rows: int = 65536) -> ChannelStandard:
    """Mean and deviation of every channel of (N, D), accumulated in float64 in two passes."""
    count = len(patches)
    mean = torch.stack([block.sum(0, dtype=torch.float64) for block in patches.split(rows)]).sum(0) / count
    square = torch.stack([(block - mean).square_().sum(0) for block in patches.split(rows)]).sum(0) / count
    deviation = square.sqrt()
    floor = FLOOR * deviation.median()
    deviation = deviation.clamp(min=float(floor)) if floor > 0 else torch.where(deviation > 0, deviation, 1.0)
    return ChannelStandard(mean.float(), deviation.float())
