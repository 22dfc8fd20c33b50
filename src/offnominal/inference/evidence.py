"""The evidence behind a region: numbers that a person can hold against the model file and the image.

All are taken at the patch x (D features, standardised) that holds the region's peak, from the search that scored the image.
With m_1, m_2, ... the bank patches nearest to x, d_k = ||x - m_k||, f(x) = 1/K sum_k d_k the mean distance to the K nearest,
g its gradient (the influence with its sign), c its curvature (`noising.neighbourhood`) and sigma the proposed noise:

    nearest         the patches that the score's distance is the mean of, each with (d_k - mean) / deviation, mean and deviation
                    being those of the distance of held-out normal patches (`scoring.NormalSignals`); the mean of these is the
                    distance that the score is fused from
    layer_shares    s_l = sum_j w_lj (x_j - m_1j)^2 / d_1^2, w_lj the part of feature j that layer l gave: 0 or 1, unless a
                    pooled feature is a mean over channels of two layers (`PatchExtractor.layer_weights`)
    channel_shares  (x_j - m_1j)^2 / d_1^2, the `LEADING` largest
    influence       g_j, the `LEADING` largest by absolute value
    noise_std       sqrt(1/D sum_j sigma_j^2)
    response        1/2 sum_j sigma_j^2 c_j (`noising.noise_response`)
    p_value         (1 + #{calibration scores >= peak}) / (n + 1)
    curve           f(x + t sigma * e) for t in `STEPS`, the K neighbours looked up anew for every t; e_j = g_j / rms(g), or 0

The curve shows what influence and noise mean: noise of t times the proposed size whose draw e has the pattern of the influence
(and the root mean square 1, as random draws have on average). At t = 0 its slope is sum_j sigma_j g_j e_j. Outside the cloud of
normal patches all neighbours pull the same way, and the curve falls far towards t < 0: undo that much of what is odd, and the
distance is that of a usual patch. In the midst of the cloud there is little to undo, and the curve soon rises to both sides.
Beside it stands the typical patch of the same image, the one of median distance.

A position at the border of the grid has no patch (`FeatureEngine`): the evidence is that of the one beside it. Of several
members the evidence is that of the one whose map is highest at the peak.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from offnominal.images import box_of, position_at
from offnominal.inference.patches import FeatureEngine
from offnominal.inference.signals import PatchSignals, SignalEngine
from offnominal.model import Member, Model
from offnominal.scoring import to_grid
from offnominal.types import Evidence, Float, Neighbour, Region, interior, interior_shape

#: Nearest good patches that are named and shown, at least.
SHOWN = 3
#: Channels named in shares and influence.
LEADING = 8
#: Multiples of the proposed noise at which the curve is worked out.
STEPS = (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class _Grid:
    """Where the patches of an image are: `shape` (h, w) of the grid, `original` (H, W) of the image."""

    shape: tuple[int, int]
    original: tuple[int, int]

    def row_at(self, pixel: tuple[int, int]) -> int:
        """The row of the patch nearest to a pixel `(x, y)`."""
        row, column = (
            min(max(at, part.start), part.stop - 1) - part.start
            for at, part in zip(position_at(pixel, self.shape, self.original), interior(self.shape), strict=True)
        )
        return int(row * interior_shape(self.shape)[1] + column)

    def box(self, row: int) -> tuple[int, int, int, int]:
        rows, columns = interior(self.shape)
        at, across = divmod(row, interior_shape(self.shape)[1])
        return box_of((rows.start + at, columns.start + across), self.shape, self.original)


class EvidenceMaker:
    """Computes evidence from a member of a model, its network's layout and the signals of an image."""

    def __init__(self, model: Model, member: Member, features: FeatureEngine, signals: SignalEngine) -> None:
        self._model, self._member, self._features, self._signals = model, member, features, signals
        self._bank = member.bank.patches.to(features.device)

    def regions(
        self,
        regions: tuple[Region, ...],
        patches: Tensor,
        found: PatchSignals,
        network: tuple[int, int],
        original: tuple[int, int],
    ) -> tuple[Region, ...]:
        """Regions of an image, each with its evidence.

        Args:
            patches: (N, D) standardised.
            found: their signals.
            network, original: (height, width) of the network's and of the original image.
        """
        if not regions:
            return regions
        grid = _Grid(self._features.grid(network), original)
        peaks, typical = [grid.row_at(region.peak_at) for region in regions], self._typical(found)
        rows = [*peaks, typical]
        around = self._signals.curved(patches[rows], found.around.indices[rows])
        noise, response = self._signals.noising(around)
        *curves, typical_curve = self._curves(patches[rows], around.gradient, noise)
        shown = self._shown(patches[peaks], around.distances, around.indices)
        made = []
        for at, region in enumerate(regions):
            squares = (patches[peaks[at]] - self._bank[found.around.indices[peaks[at], 0]]).square().double()
            evidence = Evidence(
                member=self._member.name,
                box=grid.box(peaks[at]),
                nearest=self._nearest(*shown[at]),
                layer_shares=self._layer_shares(squares),
                channel_shares=_leading((squares / squares.sum()).cpu().numpy()) if squares.sum() > 0 else (),
                influence=_leading(around.gradient[at].cpu().numpy()),
                noise_std=float(noise[at].square().mean().sqrt()),
                response=float(response[at]),
                p_value=region.p_value,
                curve=curves[at],
                usual_box=grid.box(typical),
                usual_curve=typical_curve,
            )
            made.append(replace(region, evidence=evidence))
        return tuple(made)

    def layer_maps(self, patches: Tensor, found: PatchSignals, network: tuple[int, int]) -> dict[str, Float]:
        """(h, w) a layer: its share of the squared distance to the nearest bank patch, 0 where that is 0."""
        squares = (patches - self._bank[found.around.indices[:, 0]]).square()
        total = to_grid((squares @ self._features.layer_weights.T).cpu().numpy(), self._features.grid(network))
        whole = total.sum(2, keepdims=True)
        shares = np.divide(total, whole, out=np.zeros_like(total), where=whole > 0)
        return {name: np.ascontiguousarray(shares[:, :, at]) for at, name in enumerate(self._member.backbone.layers)}

    def _typical(self, found: PatchSignals) -> int:
        """Row of the patch whose distance is the (lower) median."""
        order = np.argsort(found.values[:, 0], kind="stable")
        return int(order[(len(order) - 1) // 2])

    def _curves(self, patches: Tensor, gradient: Tensor, noise: Tensor) -> list[tuple[tuple[float, float], ...]]:
        steps = torch.tensor(STEPS, device=patches.device)
        size = gradient.square().mean(1, keepdim=True).sqrt()
        along = noise * torch.where(size > 0, gradient / size, 0)
        moved = patches[:, None] + steps[None, :, None] * along[:, None]
        distances = self._signals.around(moved.flatten(0, 1)).distances.mean(1).reshape(len(patches), len(STEPS))
        return [tuple(zip(STEPS, row, strict=True)) for row in distances.tolist()]

    def _shown(self, patches: Tensor, distances: Tensor, indices: Tensor) -> list[tuple[list[float], list[int]]]:
        """Distances and rows of the nearest bank patches: `SHOWN`, or as many as the score's distance is the mean of."""
        wanted = max(SHOWN, self._model.settings.distance_neighbors)
        if wanted > distances.shape[1] and distances.shape[1] < len(self._bank):
            around = self._signals.around(patches, wanted)
            distances, indices = around.distances, around.indices
        kept = slice(0, len(patches)), slice(0, wanted)
        return list(zip(distances[kept].tolist(), indices[kept].tolist(), strict=True))

    def _nearest(self, distances: list[float], rows: list[int]) -> tuple[Neighbour, ...]:
        bank, normal = self._member.bank, self._member.normal
        found = []
        for distance, at in zip(distances, rows, strict=True):
            source = self._model.sources[int(bank.image[at])]
            row, column = (int(number) for number in bank.position[at])
            grid = self._features.grid(self._member.geometry.network_size(source.size))
            in_sd = (distance - float(normal.mean[0])) / float(normal.deviation[0])
            found.append(Neighbour(source.name, box_of((row, column), grid, source.size), distance, in_sd))
        return tuple(found)

    def _layer_shares(self, squares: Tensor) -> dict[str, float]:
        """(D,) squared differences -> the share of each layer; empty if all are 0."""
        by_layer = self._features.layer_weights.double() @ squares
        whole = float(by_layer.sum())
        return dict(zip(self._member.backbone.layers, (by_layer / whole).tolist(), strict=True)) if whole > 0 else {}


def _leading(values: Float) -> tuple[tuple[int, float], ...]:
    """The `LEADING` largest by absolute value that are not 0, as `(channel, value)`, largest first."""
    order = np.argsort(-np.abs(values), kind="stable")[:LEADING]
    return tuple((int(channel), float(values[channel])) for channel in order if values[channel] != 0)
