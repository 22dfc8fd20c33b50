"""The evidence behind a region: numbers that a person can hold against the model file and the image.

All are taken at the patch x (D features, standardised) that holds the region's peak, from the search that scored the image.
With m_1, m_2, ... the bank patches nearest to x, d_k = ||x - m_k||, f(x) = 1/K sum_k d_k the mean distance to the K nearest,
g its gradient (the influence with its sign), c its curvature (`noising.neighbourhood`) and sigma the proposed noise:

    nearest         the patches that the score's distance is the mean of, each with (d_k - mean) / deviation, mean and deviation
                    being those of the distance of held-out normal patches at x's place (`scoring.NormalSignals`); the mean of
                    these is the distance that the score is fused from
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
Beside it stands the usual patch of the same image, the one of median distance.

A place at the edge of the grid has no patch (`FeatureEngine`): the one beside it is told of.

With `concat-patches` every layer has patches of its own (segments). x is then the patch of the segment with the largest d_1
at the peak, and the layer shares are those of the squared distances of all segments there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from offnominal.detector.engine import FeatureEngine, PatchSignals, SignalEngine
from offnominal.detector.model import Model
from offnominal.images import box_of, place_at
from offnominal.scoring import on_grids, over_grid
from offnominal.types import Evidence, Float, Neighbour, Region, whole, whole_grid

#: Nearest good patches that are named and shown, at least.
SHOWN = 3
#: Channels named in shares and influence.
LEADING = 8
#: Multiples of the proposed noise at which the curve is worked out.
STEPS = (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True)
class _Grids:
    """Where the patches of an image lie: grids of the segments, and the first row of each among all patches."""

    grids: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    original: tuple[int, int]

    def rows_at(self, pixel: tuple[int, int]) -> list[int]:
        """The patch of every segment nearest to a pixel `(x, y)`."""
        found = []
        for grid, start in zip(self.grids, self.starts, strict=True):
            row, column = (
                min(max(at, part.start), part.stop - 1) - part.start
                for at, part in zip(place_at(pixel, grid, self.original), whole(grid), strict=True)
            )
            found.append(start + row * whole_grid(grid)[1] + column)
        return found

    def box(self, row: int, segment: int) -> tuple[int, int, int, int]:
        grid = self.grids[segment]
        rows, columns = whole(grid)
        at, across = divmod(row - self.starts[segment], whole_grid(grid)[1])
        return box_of((rows.start + at, columns.start + across), grid, self.original)


class EvidenceMaker:
    """Works out evidence from a model, its network's layout and the signals already there of an image."""

    def __init__(self, model: Model, features: FeatureEngine, signals: SignalEngine) -> None:
        self._model, self._features, self._signals = model, features, signals
        self._bank = model.bank.patches.to(features.device)

    def regions(
        self,
        regions: tuple[Region, ...],
        patches: Tensor,
        found: PatchSignals,
        network: tuple[int, int],
        original: tuple[int, int],
    ) -> tuple[Region, ...]:
        """The regions of an image, each with its evidence.

        Args:
            patches: (N, D) standardised, of all segments.
            found: their signals.
            network, original: (height, width) of the network's and of the original image.
        """
        if not regions:
            return regions
        grids = self._grids(network, original)
        nearest = found.around.distances[:, 0]
        peaks = [grids.rows_at(region.peak_at) for region in regions]
        leads = [int(nearest[rows].argmax()) for rows in peaks]
        usual = {segment: self._usual(found, grids, segment) for segment in sorted(set(leads))}
        rows = [at[lead] for at, lead in zip(peaks, leads, strict=True)] + list(usual.values())
        around = self._signals.curved(patches[rows], found.around.indices[rows])
        noise, response = self._signals.noising(around)
        curves = self._curves(patches[rows], around.gradient, noise)
        usual_curves = dict(zip(usual, curves[len(regions) :], strict=True))
        shown = self._shown(patches[rows[: len(regions)]], around.distances, around.indices)
        usual_distance = self._usual_distance(grids.grids[0])
        made = []
        for at, region in enumerate(regions):
            lead = leads[at]
            row, column = place_at(region.peak_at, grids.grids[0], original)
            squares, layers = self._shares(patches[peaks[at]], found.around.indices[peaks[at], 0], lead)
            evidence = Evidence(
                box=grids.box(rows[at], lead),
                nearest=self._nearest(*shown[at], *usual_distance[row, column]),
                layer_shares=layers,
                channel_shares=_leading(squares / squares.sum()) if squares.sum() > 0 else (),
                influence=_leading(around.gradient[at].cpu().numpy()),
                noise_std=float(noise[at].square().mean().sqrt()),
                response=float(response[at]),
                p_value=region.p_value,
                curve=curves[at],
                usual_box=grids.box(usual[lead], lead),
                usual_curve=usual_curves[lead],
            )
            made.append(replace(region, evidence=evidence))
        return tuple(made)

    def layer_maps(self, patches: Tensor, found: PatchSignals, network: tuple[int, int]) -> dict[str, Float]:
        """(h, w) a layer, on the finest grid: its share of the squared distance to the nearest, 0 where that is 0."""
        grids = self._grids(network, network)
        squares = (patches - self._bank[found.around.indices[:, 0]]).square()
        total: Float = np.zeros((*grids.grids[0], len(self._model.backbone.layers)), np.float32)
        for weights, grid, start in zip(self._features.layer_weights, grids.grids, grids.starts, strict=True):
            height, width = whole_grid(grid)
            parts = squares[start : start + height * width] @ weights.T
            (placed,) = on_grids(parts.cpu().numpy(), [grid])
            total = total + over_grid(placed, grids.grids[0])
        whole = total.sum(2, keepdims=True)
        shares = np.divide(total, whole, out=np.zeros_like(total), where=whole > 0)
        return {name: np.ascontiguousarray(shares[:, :, at]) for at, name in enumerate(self._model.backbone.layers)}

    def _grids(self, network: tuple[int, int], original: tuple[int, int]) -> _Grids:
        grids = self._features.grids(network)
        starts = np.cumsum([0, *(height * width for height, width in map(whole_grid, grids))])
        return _Grids(grids, tuple(int(start) for start in starts[:-1]), original)

    def _usual(self, found: PatchSignals, grids: _Grids, segment: int) -> int:
        """Row of the patch whose distance is the (lower) median of its segment."""
        height, width = whole_grid(grids.grids[segment])
        start = grids.starts[segment]
        order = np.argsort(found.values[start : start + height * width, 0], kind="stable")
        return start + int(order[(height * width - 1) // 2])

    def _usual_distance(self, grid: tuple[int, int]) -> Float:
        """(h, w, 2): mean and deviation of the distance of held-out normal patches."""
        normal = self._model.normal
        return np.stack([over_grid(normal.mean, grid)[:, :, 0], over_grid(normal.deviation, grid)[:, :, 0]], axis=2)

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

    def _nearest(self, distances: list[float], rows: list[int], mean: float, deviation: float) -> tuple[Neighbour, ...]:
        bank = self._model.bank
        found = []
        for distance, at in zip(distances, rows, strict=True):
            source = bank.sources[int(bank.image[at])]
            segment, row, column = (int(number) for number in bank.place[at])
            grid = self._features.grids(self._model.geometry.network_size(source.size))[segment]
            in_sd = (distance - float(mean)) / float(deviation)
            found.append(Neighbour(source.name, box_of((row, column), grid, source.size), distance, in_sd))
        return tuple(found)

    def _shares(self, patches: Tensor, nearest: Tensor, lead: int) -> tuple[Float, dict[str, float]]:
        """(S, D) patches at one place, their (S,) nearest -> (D,) squared differences of the leading segment, layer shares."""
        squares = (patches - self._bank[nearest]).square().double()
        by_layer = torch.einsum("sld,sd->l", self._features.layer_weights.double(), squares)
        whole = float(by_layer.sum())
        names = self._model.backbone.layers
        layers = dict(zip(names, (by_layer / whole).tolist(), strict=True)) if whole > 0 else {}
        return squares[lead].cpu().numpy(), layers


def _leading(values: Float) -> tuple[tuple[int, float], ...]:
    """The `LEADING` largest by absolute value that are not 0, as `(channel, value)`, largest first."""
    order = np.argsort(-np.abs(values), kind="stable")[:LEADING]
    return tuple((int(channel), float(values[channel])) for channel in order if values[channel] != 0)
