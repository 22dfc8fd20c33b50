"""One member of a model: image -> patches, signals and anomaly map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.errors import ImageError
from offnominal.images import ImageBatch, Tile
from offnominal.inference.evidence import EvidenceMaker
from offnominal.inference.feature_engine import FeatureEngine
from offnominal.inference.signals import PatchSignals, SignalEngine
from offnominal.inference.tiled_features import TileRows
from offnominal.model import Member, Model
from offnominal.scoring import RESPONSE, SIGNALS, member_map
from offnominal.types import Float, Index


@dataclass(frozen=True)
class Explanation:
    """Quantities of the method for each patch position of one image, computed by one member of the model.

    Attributes
    ----------
    member
        Name of the member.
    grid
        (h, w) of the patch positions; N = h * w. Positions at the border have no patch and repeat the nearest interior one.
    distances
        (N, K) float32 distances to the nearest bank patches, ascending.
    neighbours
        (N, K) int64 rows of these patches in the bank.
    influence
        (N, D) float32 signed gradient of the mean distance; its absolute value is the influence.
    noise
        (N, D) float32 proposed standard deviations, in units of the standardised features.
    response
        (N,) float32 expected change of the mean distance under this noise.

    Examples
    --------
    >>> from offnominal import load
    >>> explanation = load("part.safetensors").explain("part.png")  # doctest: +SKIP
    >>> explanation.response.reshape(explanation.grid).shape  # doctest: +SKIP
    (32, 32)
    """

    member: str
    grid: tuple[int, int]
    distances: Float
    neighbours: Index
    influence: Float
    noise: Float
    response: Float


@dataclass(frozen=True, kw_only=True)
class MemberResult:
    """Result of one member for one image.

    Attributes
    ----------
    network
        (height, width) of the network input.
    patches_at
        Returns the (n, D) standardised patches of some numbers.
    values
        (N, S) signals of the patches.
    indices
        (N, K) rows of their nearest bank patches.
    on_grid
        (h, w, S) signals on the grid of patch positions.
    anomaly
        (height / 4, width / 4) float32 anomaly map of the member; higher is more anomalous.
    noise
        (h, w) root mean square over features of the proposed noise; None unless maps were requested.
    layers
        (h, w) share of each layer in the squared distance; None unless maps were requested.
    """

    network: tuple[int, int]
    patches_at: Callable[[Sequence[int]], Tensor]
    values: Float
    indices: Tensor
    on_grid: Float
    anomaly: Float
    noise: Float | None
    layers: dict[str, Float] | None


class MemberScorer:
    """A member of a model with its network and its search."""

    def __init__(self, model: Model, member: Member, engine: FeatureEngine, view: int) -> None:
        self.member, self.engine, self.view = member, engine, view
        self._settings = model.settings
        self.signals = SignalEngine(member.bank.patches, model.settings, member.distance_scale, engine.device)
        self.evidence = EvidenceMaker(model, member, engine, self.signals)

    def patches(self, batch: ImageBatch) -> Tensor:
        """(B, N, D) standardised patches."""
        network = self._network(batch)
        if self.engine.tiled is not None:
            patches = self.engine.large_patches(batch, self.view)
            positions = torch.from_numpy(self.engine.layout(network).positions)
            patches = self.engine.tiled.standardise(patches, self.member.standard, network, positions)[None]
        else:
            patches = self.engine.patches(batch.network_input(self.view))
            patches = self.engine.standardise(patches, self.member.standard, network)
        shown = self.engine.shown(batch, network)
        return torch.stack([image if rows is None else image[rows] for image, rows in zip(patches, shown, strict=True)])

    def score(self, batch: ImageBatch, with_maps: bool) -> tuple[Tensor, list[MemberResult]]:
        """(B, D, h, w) raw maps of the whole images of a batch, and the result for each image."""
        network = self._network(batch)
        shown = self.engine.shown(batch, network)
        if self.engine.tiled is not None:
            return self.engine.maps(batch.network_input(0)), [self._in_tiles(batch, network, with_maps, shown[0])]
        raw = self.engine.maps(batch.network_input(self.view))
        patches = self.engine.standardise(self.engine.patches_of(raw, network), self.member.standard, network)
        signals = self._signals(patches, network, with_maps)
        return raw, [
            self._result(network, *of_image, with_maps=with_maps) for of_image in zip(patches, signals, shown, strict=True)
        ]

    def explain(self, batch: ImageBatch) -> Explanation:
        """The quantities of a batch of one image. Raises `ImageError` for a large image in tiles."""
        if self.engine.tiled is not None:
            raise ImageError("the quantities of every patch of a large image would take too much memory; crop it first")
        network = self._network(batch)
        patches = self.patches(batch)
        (signals,) = self._signals(patches, network, True)
        layout = self.engine.layout(network)
        grid = layout.grid
        neighbourhood, noise = signals.neighbourhood, signals.noise
        assert noise is not None

        def at_all_positions(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return layout.fill(values).reshape(grid[0] * grid[1], -1)

        return Explanation(
            member=self.member.name,
            grid=grid,
            distances=at_all_positions(neighbourhood.distances.cpu().numpy()),
            neighbours=at_all_positions(neighbourhood.indices.cpu().numpy()),
            influence=at_all_positions(neighbourhood.gradient.cpu().numpy()),
            noise=at_all_positions(noise.cpu().numpy()),
            response=at_all_positions(signals.values)[:, RESPONSE],
        )

    def _network(self, batch: ImageBatch) -> tuple[int, int]:
        """(height, width) of the network input."""
        _, _, height, width = batch.views[self.view].shape
        return height, width

    def _signals(self, patches: Tensor, network: tuple[int, int], with_noise: bool) -> Iterator[PatchSignals]:
        """Signals of each image of (B, N, D) standardised patches: one search per image on a CPU, one for all on a GPU."""
        upsampling, noise = self.engine.upsampling(network), True if with_noise else None
        for images in patches.split(1 if patches.device.type == "cpu" else len(patches)):
            yield from self.signals(images.flatten(0, 1), upsampling, with_noise=noise).split(len(images))

    def _result(
        self, network: tuple[int, int], patches: Tensor, signals: PatchSignals, shown: Tensor | None, *, with_maps: bool
    ) -> MemberResult:
        if shown is not None:
            patches, signals = patches[shown], signals.take(shown)
        extra = self._extra(patches, signals) if with_maps else None
        return self._on_grid(network, lambda rows: patches[list(rows)], signals.values, signals.neighbourhood.indices, extra)

    def _extra(self, patches: Tensor, signals: PatchSignals) -> Float:
        """(N, 1 + layers) root mean square of the noise, and shares of the layers, of some patches."""
        assert signals.noise is not None
        rms = signals.noise.square().mean(1, keepdim=True).sqrt()
        shares = self.evidence.layer_shares(patches, signals.neighbourhood.indices)
        return torch.cat([rms, shares], dim=1).cpu().numpy()

    def _in_tiles(self, batch: ImageBatch, network: tuple[int, int], with_maps: bool, shown: Tensor | None) -> MemberResult:
        """The result for a large image, one tile after another."""
        engine, tiled = self.engine, self.engine.tiled
        assert tiled is not None
        count = len(engine.layout(network))
        values = np.zeros((count, len(SIGNALS)), np.float32)
        indices = torch.zeros((count, self._settings.neighbors), dtype=torch.int32)
        extra = np.zeros((count, 1 + len(self.member.backbone.layers)), np.float32) if with_maps else None

        def work(entry: tuple[Tile, TileRows]) -> tuple[TileRows, Float, Tensor, Float | None]:
            tile, rows = entry
            patches = tiled.of_tile(engine.tile_patches(batch, self.view, tile), self.member.standard, network, tile)
            taken, upsampling = rows.own.to(patches.device), tiled.upsampling(network, tile)
            with_noise = True if with_maps else None
            if upsampling is not None and self.signals.uses_upsampling:  # needs all patches of the tile
                own = self.signals(patches, upsampling, with_noise=with_noise).take(taken)
            else:
                own = self.signals(patches[taken], with_noise=with_noise)
            of_tile = self._extra(patches[taken], own) if with_maps else None
            return rows, own.values, own.neighbourhood.indices.int().cpu(), of_tile

        for rows, own, near, of_tile in engine.over_tiles(network, work):
            values[rows.numbers] = own
            indices[torch.from_numpy(rows.numbers), : near.shape[1]] = near
            if extra is not None and of_tile is not None:
                extra[rows.numbers] = of_tile

        def patches_at(numbers: Sequence[int]) -> Tensor:
            wanted = np.asarray(numbers) if shown is None else shown.cpu().numpy()[list(numbers)]
            found = torch.empty((len(wanted), engine.dimensions))
            for tile, rows in tiled.tiles(network, engine.layout(network)):
                at, own = np.nonzero(wanted[:, None] == rows.numbers[None])
                if len(at):
                    raw = engine.tile_patches(batch, self.view, tile)
                    patches = tiled.of_tile(raw, self.member.standard, network, tile).cpu()
                    found[torch.from_numpy(at)] = patches[rows.own[torch.from_numpy(own)]]
            return found.to(engine.device)

        if shown is not None:
            rows_shown = shown.cpu().numpy()
            values, indices = values[rows_shown], indices[shown.cpu()]
            extra = None if extra is None else extra[rows_shown]
        return self._on_grid(network, patches_at, values, indices.long().to(engine.device), extra)

    def _on_grid(
        self,
        network: tuple[int, int],
        patches_at: Callable[[Sequence[int]], Tensor],
        values: Float,
        indices: Tensor,
        extra: Float | None,
    ) -> MemberResult:
        settings, layout = self._settings, self.engine.layout(network)
        on_grid = layout.fill(values)
        anomaly = member_map(
            on_grid,
            self.member.normal,
            weights=settings.fusion.weights,
            network=network,
            sigma=settings.smoothing,
            halo=settings.halo,
        )
        noise, layers = None, None
        if extra is not None:
            maps = layout.fill(extra)
            noise = np.ascontiguousarray(maps[:, :, 0])
            layers = {name: np.ascontiguousarray(maps[:, :, 1 + at]) for at, name in enumerate(self.member.backbone.layers)}
        return MemberResult(
            network=network,
            patches_at=patches_at,
            values=values,
            indices=indices,
            on_grid=on_grid,
            anomaly=anomaly,
            noise=noise,
            layers=layers,
        )
