"""Evidence for a region: numbers that can be checked against the model file and the image.

All numbers are measured at the patch x (D standardised features) at the region's peak, with the neighbours that scored the
image. Let m_1, m_2, ... be the nearest bank patches, d_k = ||x - m_k||, f(x) = 1/K sum_k d_k the mean distance to the K
nearest, g its gradient (the signed influence), c its curvature (`noising.neighbourhood`) and sigma the proposed noise:

    nearest         the patches whose mean distance is the distance signal, each with (d_k - mean) / deviation, where mean and
                    deviation are those of the distance of held-out normal patches (`scoring.NormalSignals`); the mean of these
                    values is the standardised distance of the patch
    layer_shares    s_l = sum_j w_lj (x_j - m_1j)^2 / d_1^2, where w_lj is the share of layer l in feature j: 0 or 1, unless a
                    pooled feature averages channels of two layers (`PatchExtractor.layer_weights`)
    channel_shares  the `LEADING` largest (x_j - m_1j)^2 / d_1^2
    influence       the `LEADING` g_j of largest absolute value
    noise_std       sqrt(1/D sum_j sigma_j^2)
    response        1/2 sum_j sigma_j^2 c_j (`noising.noise_response`)
    p_value         (1 + #{calibration scores >= peak}) / (n + 1)
    curve           f(x + t sigma * e) for t in `STEPS`, with a new search for each t; e_j = g_j / rms(g), or 0

The curve shows the effect of influence and noise: the patch moves by t times the proposed noise along the influence, where e
has a root mean square of 1, like a random draw. The slope at t = 0 is sum_j sigma_j g_j e_j. Outside the cloud of normal
patches all neighbours lie in the same direction, so the curve falls far towards t < 0. Inside the cloud it soon rises on both
sides. For comparison, the evidence holds the curve of the patch with the median distance in the same image.

A peak at the border of the grid has no patch of its own (`Layout`); the nearest patch is used. With several
members, the evidence is that of the member whose map is highest at the peak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from offnominal.images import box_of, position_at
from offnominal.inference.feature_engine import FeatureEngine
from offnominal.inference.signals import SignalEngine
from offnominal.model import Member, Model
from offnominal.roi import Layout
from offnominal.scoring import DISTANCE
from offnominal.types import Evidence, Float, Neighbour, Region

#: Smallest number of nearest normal patches in the evidence: enough for a person to compare.
SHOWN = 3
#: Number of channels listed in shares and influence, as many as a receipt has room for.
LEADING = 8
#: Multiples t of the proposed noise in the curve: mostly towards normal, where the distance falls.
STEPS = (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class _Grid:
    """Patch positions of an image with `original` (H, W)."""

    layout: Layout
    original: tuple[int, int]

    def patch_at(self, pixel: tuple[int, int]) -> int:
        """Index of the patch nearest to a pixel `(x, y)`."""
        return self.layout.number(*position_at(pixel, self.layout.grid, self.original))

    def box(self, patch: int) -> tuple[int, int, int, int]:
        """Box of a patch in original pixels."""
        row, column = self.layout.at(np.array([patch]))[0].tolist()
        return box_of((row, column), self.layout.grid, self.original)


class EvidenceMaker:
    """Computes the evidence of regions for one member."""

    def __init__(self, model: Model, member: Member, features: FeatureEngine, signals: SignalEngine) -> None:
        self._model, self._member, self._feature_engine, self._signal_engine = model, member, features, signals
        self._bank = member.bank.patches.to(features.device)

    def regions(
        self,
        regions: tuple[Region, ...],
        patches_at: Callable[[Sequence[int]], Tensor],
        values: Float,
        indices: Tensor,
        network: tuple[int, int],
        original: tuple[int, int],
    ) -> tuple[Region, ...]:
        """Add evidence to the regions of an image.

        Parameters
        ----------
        patches_at
            Returns the (n, D) standardised patches of some numbers.
        values
            (N, S) signals of all patches.
        indices
            (N, K) rows of their nearest bank patches.
        network, original
            (height, width) of the network input and of the original image.
        """
        if not regions:
            return regions
        grid = _Grid(self._feature_engine.layout(network), original)
        peaks, typical = [grid.patch_at(region.peak_at) for region in regions], _median_patch(values)
        selected = [*peaks, typical]
        patches = patches_at(selected)
        neighbourhood = self._signal_engine.with_curvature(patches, indices[selected])
        noise, response = self._signal_engine.noise_and_response(neighbourhood)
        *curves, typical_curve = self._curves(patches, neighbourhood.gradient, noise)
        neighbours = self._neighbours(patches[:-1], neighbourhood.distances, neighbourhood.indices)
        explained = []
        for at, region in enumerate(regions):
            squares = (patches[at] - self._bank[indices[peaks[at], 0]]).square().double()
            evidence = Evidence(
                member=self._member.name,
                box=grid.box(peaks[at]),
                nearest=self._nearest(*neighbours[at]),
                layer_shares=self._layer_shares(squares),
                channel_shares=_leading((squares / squares.sum()).cpu().numpy()) if squares.sum() > 0 else (),
                influence=_leading(neighbourhood.gradient[at].cpu().numpy()),
                noise_std=float(noise[at].square().mean().sqrt()),
                response=float(response[at]),
                p_value=region.p_value,
                curve=curves[at],
                typical_box=grid.box(typical),
                typical_curve=typical_curve,
            )
            explained.append(replace(region, evidence=evidence))
        return tuple(explained)

    def layer_shares(self, patches: Tensor, indices: Tensor) -> Tensor:
        """(N, layers) share of each layer in the squared distance to the nearest bank patch; 0 where this distance is 0."""
        squares = (patches - self._bank[indices[:, 0]]).square()
        by_layer = squares @ self._feature_engine.layer_weights.T
        total = by_layer.sum(1, keepdim=True)
        return torch.where(total > 0, by_layer / total, 0)

    def _curves(self, patches: Tensor, gradient: Tensor, noise: Tensor) -> list[tuple[tuple[float, float], ...]]:
        steps = torch.tensor(STEPS, device=patches.device)
        rms = gradient.square().mean(1, keepdim=True).sqrt()
        along = noise * torch.where(rms > 0, gradient / rms, 0)
        moved = patches[:, None] + steps[None, :, None] * along[:, None]
        distances = self._signal_engine.neighbourhood(moved.flatten(0, 1)).distances.mean(1).reshape(len(patches), len(STEPS))
        return [tuple(zip(STEPS, row, strict=True)) for row in distances.tolist()]

    def _neighbours(self, patches: Tensor, distances: Tensor, indices: Tensor) -> list[tuple[list[float], list[int]]]:
        """Distances and bank rows of the nearest patches: `SHOWN`, or all that the distance signal uses."""
        count = max(SHOWN, self._model.settings.distance_neighbors)
        if count > distances.shape[1] and distances.shape[1] < len(self._bank):
            neighbourhood = self._signal_engine.neighbourhood(patches, count)
            distances, indices = neighbourhood.distances, neighbourhood.indices
        part = slice(0, len(patches)), slice(0, count)
        return list(zip(distances[part].tolist(), indices[part].tolist(), strict=True))

    def _nearest(self, distances: list[float], rows: list[int]) -> tuple[Neighbour, ...]:
        bank, normal = self._member.bank, self._member.normal
        nearest = []
        for distance, at in zip(distances, rows, strict=True):
            source = self._model.sources[int(bank.image[at])]
            row, column = (int(number) for number in bank.position[at])
            grid = self._feature_engine.grid(self._member.geometry.network_size(source.size))
            in_sd = (distance - float(normal.mean[DISTANCE])) / float(normal.deviation[DISTANCE])
            nearest.append(Neighbour(source.name, box_of((row, column), grid, source.size), distance, in_sd))
        return tuple(nearest)

    def _layer_shares(self, squares: Tensor) -> dict[str, float]:
        """Share of each layer in (D,) squared differences; empty if all are 0."""
        by_layer = self._feature_engine.layer_weights.double() @ squares
        total = float(by_layer.sum())
        return dict(zip(self._member.backbone.layers, (by_layer / total).tolist(), strict=True)) if total > 0 else {}


def _median_patch(values: Float) -> int:
    """Index of the patch with the (lower) median distance."""
    order = np.argsort(values[:, DISTANCE], kind="stable")
    return int(order[(len(order) - 1) // 2])


def _leading(values: Float) -> tuple[tuple[int, float], ...]:
    """`(channel, value)` of the `LEADING` largest absolute values other than 0, largest first."""
    order = np.argsort(-np.abs(values), kind="stable")[:LEADING]
    return tuple((int(channel), float(values[channel])) for channel in order if values[channel] != 0)
