"""A small network that tells a normal patch from one with noise added, the noise proposed from its influence.

    spread     sigma_j^2 ~ (1 - LAMBDA) + LAMBDA D g_j^2 / |g|^2, g the influence: more where a nudge leads away from normal
    radius     the noise's length, RADII times the usual distance of held-out normal patches to the bank
    rejection  what lands nearer to the bank than a usual normal patch is not shown as anomalous

It sees a patch and the absolute residual to the nearest bank patch, feature by feature. A training patch meets the bank
without the patches of its own image, so that it is not its own neighbour. SimpleNet (Liu et al. 2023) trains such a head on
noise of one fixed spread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from offnominal.noising.neighbourhood import neighbourhood
from offnominal.types import require

#: Share of the noise's energy that follows the influence; the rest is the same for all features.
LAMBDA = 0.7
#: Shortest and longest noise, in usual distances of held-out normal patches.
RADII = (1.0, 4.0)
#: Width of the hidden layer, steps, patches a step (as many again with noise), rate and decay of AdamW.
WIDTH, STEPS, BATCH, RATE, DECAY = 256, 400, 1024, 3e-3, 1e-2
#: The weights of the last steps are averaged, this share of all.
AVERAGED = 0.5


@dataclass(frozen=True)
class Head:
    """Two layers: `inner` (H, 2D) and `inner_bias` (H,), GELU, `outer` (H,) and `outer_bias` (1,)."""

    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor

    def __post_init__(self) -> None:
        width = len(self.inner_bias)
        require(self.inner.ndim == 2 and len(self.inner) == width, f"inner is {tuple(self.inner.shape)}, its bias ({width},)")
        require(self.outer.shape == (width,) and self.outer_bias.shape == (1,), f"outer is {tuple(self.outer.shape)}")

    def __call__(self, patches: Tensor, residuals: Tensor) -> Tensor:
        """(N, D) standardised patches and their (N, D) residuals to the nearest bank patch -> (N,), higher = more anomalous."""
        d = patches.shape[1]
        hidden = torch.addmm(self.inner_bias, patches, self.inner[:, :d].T).addmm_(residuals.abs(), self.inner[:, d:].T)
        logits: Tensor = F.gelu(hidden) @ self.outer + self.outer_bias
        return logits

    def to(self, device: torch.device) -> Head:
        """The same on another device."""
        return Head(*(part.to(device) for part in (self.inner, self.inner_bias, self.outer, self.outer_bias)))


def spread(gradient: Tensor, share: float = LAMBDA) -> Tensor:
    """(N, D) influence -> (N, D) standard deviations, their mean square over features 1 wherever the influence is not 0."""
    squared = gradient.square()
    mean = squared.mean(1, keepdim=True)
    return ((1 - share) + share * torch.where(mean > 0, squared / mean, 1.0)).sqrt()


def noised(patches: Tensor, gradient: Tensor, usual: float, random: torch.Generator, share: float = LAMBDA) -> Tensor:
    """(N, D) patches with noise along `spread`, its length drawn evenly from `RADII` times the usual distance."""
    noise = torch.randn(patches.shape, generator=random) * spread(gradient, share)
    length = torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    radius = usual * (RADII[0] + (RADII[1] - RADII[0]) * torch.rand((len(patches), 1), generator=random))
    return patches + radius * torch.where(length > 0, noise / length, 0)


def train_head(
    patches: Tensor,
    bank: Tensor,
    squared: Tensor,
    indices: Tensor,
    *,
    seed: int,
    share: float = LAMBDA,
    steps: int = STEPS,
    tick: Callable[[int], None] = lambda done: None,
) -> Head:
    """A head for (N, D) normal patches whose held-out neighbours are known: (N, K) squared distances and rows of the bank.

    The nearest bank patch of a noised patch is looked for among the neighbours of the patch. The same arguments give the
    same head on the same machine and number of threads. Works on the CPU, on whatever device the tensors came from.
    """
    patches, bank, squared, indices = patches.cpu(), bank.cpu(), squared.cpu(), indices.cpu()
    random = torch.Generator().manual_seed(seed)
    usual = float(squared[:, 0].sqrt().median())
    network = _network(patches.shape[1], random)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    average = torch.optim.swa_utils.AveragedModel(network)
    for step in range(steps):
        rows = torch.randint(len(patches), (BATCH,), generator=random)
        clean, near = patches[rows], indices[rows]
        gradient = neighbourhood(clean, bank, squared[rows], near).gradient
        moved = noised(clean, gradient, usual, random, share)
        residual, away = _residual(moved, bank, near)
        outside = away > usual
        own, _ = _residual(clean, bank, near)
        seen = torch.cat([torch.cat([clean, own.abs()], 1), torch.cat([moved, residual.abs()], 1)[outside]])
        wanted = torch.cat([torch.zeros(BATCH), torch.ones(int(outside.sum()))])
        # Both sides weigh the same, however many were rejected.
        weight = torch.cat([torch.full((BATCH,), float(outside.sum())), torch.full((int(outside.sum()),), float(BATCH))])
        loss = F.binary_cross_entropy_with_logits(network(seen)[:, 0], wanted, weight / weight.mean().clamp(min=1e-9))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step >= (1 - AVERAGED) * steps:
            average.update_parameters(network)
        tick(step + 1)
    state = average.module.state_dict()
    return Head(state["0.weight"], state["0.bias"], state["2.weight"][0], state["2.bias"])


def _network(dimensions: int, random: torch.Generator) -> nn.Sequential:
    layers = nn.Linear(2 * dimensions, WIDTH), nn.Linear(WIDTH, 1)
    for layer in layers:
        bound = layer.in_features**-0.5
        for values in (layer.weight.data, layer.bias.data):
            values.uniform_(-bound, bound, generator=random)
    return nn.Sequential(layers[0], nn.GELU(), layers[1])


def _residual(patches: Tensor, bank: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) patches, (N, K) bank rows -> (N, D) difference to the nearest of these, and (N,) its length."""
    difference = patches[:, None] - bank[indices]
    squared, nearest = difference.square().sum(2).min(1)
    return difference[torch.arange(len(patches)), nearest], squared.sqrt()
