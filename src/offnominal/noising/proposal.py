"""Proposed noise, and its effect on the distance."""

from __future__ import annotations

import torch
from torch import Tensor

from offnominal.types import require


def propose_noise(
    influence: Tensor, distance_in_sd: Tensor, *, low: float = 0.01, high: float = 0.5, distance_weight: float = 1.0
) -> Tensor:
    """Standard deviation of the noise proposed for each feature of each patch.

    sigma = low + (high - low) * sigmoid(z + distance_weight * distance_in_sd), where z is the absolute influence, standardised
    over the features of the patch. The noise is large for influential features of patches that are far from normal. The
    distance is standardised on held-out normal patches, so a good image gets little noise.

    Parameters
    ----------
    influence
        (..., N, D), signed or absolute.
    distance_in_sd
        (..., N) mean distance in standard deviations of normal patches.
    low, high
        Range of the result, in units of the standardised features.
    distance_weight
        Weight of the distance against the influence.

    Returns
    -------
    Tensor
        (..., N, D) in [low, high].

    Raises
    ------
    ValueError
        If the range is invalid or the shapes do not match.

    Examples
    --------
    >>> influence = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    >>> propose_noise(influence, torch.tensor([-2.0, 2.0])).round(decimals=2)
    tensor([[0.1400, 0.0300],
            [0.4800, 0.3700]])
    """
    require(0 < low <= high, f"the range must satisfy 0 < low <= high, got {low} and {high}")
    require(influence.shape[:-1] == distance_in_sd.shape, "distance_in_sd must have one value for each patch of influence")
    size = influence.abs()
    mean = size.mean(-1, keepdim=True)
    deviation = (size - mean).square_().mean(-1, keepdim=True).sqrt_()
    standardised = (size - mean) / torch.where(deviation > 0, deviation, 1.0)
    return low + (high - low) * torch.sigmoid(standardised + distance_weight * distance_in_sd[..., None])


def noise_response(curvature: Tensor, noise: Tensor) -> Tensor:
    """Expected change of the mean distance under noise: E[f(x + sigma * eps)] - f(x), eps ~ N(0, 1).

    The second-order Taylor expansion is 1/2 sum_j sigma_j^2 d2f/dx_j^2; the first order vanishes because eps has mean 0. The
    error grows with the noise: at a tenth of the distance it is at most 5 % (tests with 80,000 draws).

    Parameters
    ----------
    curvature
        (..., N, D) diagonal of the second derivative, see `neighbourhood`.
    noise
        (..., N, D) standard deviations.

    Returns
    -------
    Tensor
        (..., N), at least 0.

    Examples
    --------
    >>> noise_response(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.2, 0.4]])).round(decimals=3)
    tensor([0.0100])
    """
    response: Tensor = 0.5 * torch.linalg.vecdot(noise.square(), curvature)
    return response
