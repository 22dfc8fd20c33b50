"""Standardisation of channels: mean 0 on normal patches, deviations shrunk halfway toward their mean on a log scale.

References
----------
Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offnominal.types import require

#: Lower limit of a channel's deviation, as a share of the median deviation: near-constant channels are not amplified.
FLOOR = 0.1


@dataclass(frozen=True)
class ChannelStandard:
    """Standardises patches: subtracts `mean`, then divides by `scale`.

    Attributes
    ----------
    mean, scale
        (D,) float32 each, scale > 0.

    Examples
    --------
    >>> standard = ChannelStandard(mean=torch.tensor([1.0, 2.0]), scale=torch.tensor([2.0, 4.0]))
    >>> standard(torch.tensor([[3.0, 10.0]])).tolist()
    [[1.0, 2.0]]
    """

    mean: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        require(self.mean.ndim == 1 and self.mean.shape == self.scale.shape, "mean and scale must both be (D,)")
        require(bool((self.scale > 0).all()), "scales must be above 0")

    def __call__(self, patches: Tensor) -> Tensor:
        """Standardise patches, (..., D) -> (..., D)."""
        return (patches - self.mean.to(patches.device)) / self.scale.to(patches.device)


@dataclass(frozen=True)
class ChannelMoments:
    """Count, mean and sum of squared deviations of each channel of some patches.

    Moments of parts of the patches are merged exactly, whatever the parts (Chan, Golub and LeVeque 1979).

    Attributes
    ----------
    count
        Number of patches.
    mean, square
        (D,) float64: mean, and sum of squared deviations from it.

    Examples
    --------
    >>> parts = [ChannelMoments.of(torch.tensor([[0.0]])), ChannelMoments.of(torch.tensor([[2.0], [4.0]]))]
    >>> merged = ChannelMoments.merged(parts)
    >>> merged.count, merged.mean.tolist(), merged.square.tolist()
    (3, [2.0], [8.0])
    """

    count: int
    mean: Tensor
    square: Tensor

    @classmethod
    def of(cls, patches: Tensor, rows: int = 8192, done: Callable[[], None] = lambda: None) -> ChannelMoments:
        """Moments of (N, D) patches, in float64 and two passes over blocks of `rows`; `done` is called after each block."""
        count, dimensions = patches.shape
        total, centred = torch.zeros(dimensions, dtype=torch.float64), torch.empty((rows, dimensions), dtype=torch.float64)
        for block in patches.split(rows):
            total += block.sum(0, dtype=torch.float64)
            done()
        mean, square = total / count, torch.zeros_like(total)
        for block in patches.split(rows):
            square += torch.sub(block, mean, out=centred[: len(block)]).square_().sum(0)
            done()
        return cls(count, mean, square)

    @classmethod
    def merged(cls, parts: Sequence[ChannelMoments]) -> ChannelMoments:
        """Moments of the patches of all parts, at least one."""
        count, mean, square = parts[0].count, parts[0].mean, parts[0].square
        for part in parts[1:]:
            both, shift = count + part.count, part.mean - mean
            square = square + part.square + shift.square() * (count * part.count / both)
            mean, count = mean + shift * (part.count / both), both
        return cls(count, mean, square)

    def standard(self) -> ChannelStandard:
        """The standardisation of these patches.

        The scale is the square root of the deviation times the mean deviation, so that a standardised patch has a mean square
        of 1. Division by the full deviation would give channels of mere noise the weight of all others. Without division, a few
        high-variance channels would dominate. The square root is a compromise.
        """
        deviation = (self.square / self.count).sqrt()
        floor = FLOOR * deviation.median()
        deviation = deviation.clamp(min=float(floor)) if floor > 0 else torch.where(deviation > 0, deviation, 1.0)
        return ChannelStandard(self.mean.float(), (deviation * deviation.mean()).sqrt().float())


def channel_standard(patches: Tensor, rows: int = 8192) -> ChannelStandard:
    """Standardisation of (N, D) normal patches; see `ChannelMoments.standard`.

    Examples
    --------
    >>> standard = channel_standard(torch.tensor([[0.0, 0.0], [2.0, 8.0]]))
    >>> standard.mean.tolist(), standard.scale.square().tolist()  # deviations 1 and 4, mean deviation 2.5
    ([1.0, 4.0], [2.5, 10.0])
    """
    return ChannelMoments.of(patches, rows).standard()
