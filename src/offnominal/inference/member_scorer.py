"""One member of a model: image -> patches, signals and anomaly map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.images import ImageBatch
from offnominal.inference.evidence import EvidenceMaker
from offnominal.inference.feature_engine import FeatureEngine
from offnominal.inference.signals import PatchSignals, SignalEngine
from offnominal.model import Member, Model
from offnominal.scoring import RESPONSE, member_map
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


@dataclass(frozen=True)
class MemberResult:
    """Result of one member for one image.

    Attributes
    ----------
    network
        (height, width) of the network input.
    patches
        (N, D) standardised patches.
    signals
        Signals of the patches.
    on_grid
        (h, w, S) signals on the grid of patch positions.
    anomaly
        (height / 4, width / 4) float32 anomaly map of the member; higher is more anomalous.
    """

    network: tuple[int, int]
    patches: Tensor
    signals: PatchSignals
    on_grid: Float
    anomaly: Float


class MemberScorer:
    """A member of a model with its network and its search."""

    def __init__(self, model: Model, member: Member, engine: FeatureEngine, view: int) -> None:
        self.member, self.engine, self.view = member, engine, view
        self._settings = model.settings
        self.signals = SignalEngine(member.bank.patches, model.settings, member.distance_scale, engine.device)
        self.evidence = EvidenceMaker(model, member, engine, self.signals)

    def patches(self, batch: ImageBatch) -> Tensor:
        """(B, N, D) standardised patches."""
        images = batch.network_input(self.view)
        network = (images.shape[2], images.shape[3])
        patches = self.engine.standardise(self.engine.patches(images), self.member.standard, network)
        shown = self.engine.shown(batch, network)
        return torch.stack([image if rows is None else image[rows] for image, rows in zip(patches, shown, strict=True)])

    def score(self, batch: ImageBatch, with_noise: bool) -> tuple[Tensor, list[MemberResult]]:
        """(B, D, h, w) raw maps of a batch, and the result for each image."""
        images = batch.network_input(self.view)
        network = (images.shape[2], images.shape[3])
        raw = self.engine.maps(images)
        patches = self.engine.standardise(self.engine.patches_of(raw, network), self.member.standard, network)
        signals = self._signals(patches, network, with_noise)
        shown = self.engine.shown(batch, network)
        return raw, [self._result(network, *of_image) for of_image in zip(patches, signals, shown, strict=True)]

    def explain(self, batch: ImageBatch) -> Explanation:
        """The quantities of a batch of one image."""
        _, (result,) = self.score(batch, True)
        layout = self.engine.layout(result.network)
        grid = layout.grid
        neighbourhood, noise = result.signals.neighbourhood, result.signals.noise
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
            response=at_all_positions(result.signals.values)[:, RESPONSE],
        )

    def _signals(self, patches: Tensor, network: tuple[int, int], with_noise: bool) -> Iterator[PatchSignals]:
        """Signals of each image of (B, N, D) standardised patches: one search per image on a CPU, one for all on a GPU."""
        upsampling, noise = self.engine.upsampling(network), True if with_noise else None
        for images in patches.split(1 if patches.device.type == "cpu" else len(patches)):
            yield from self.signals(images.flatten(0, 1), upsampling, with_noise=noise).split(len(images))

    def _result(self, network: tuple[int, int], patches: Tensor, signals: PatchSignals, shown: Tensor | None) -> MemberResult:
        settings = self._settings
        if shown is not None:
            patches, signals = patches[shown], signals.take(shown)
        on_grid = self.engine.layout(network).fill(signals.values)
        anomaly = member_map(
            on_grid,
            self.member.normal,
            weights=settings.fusion.weights,
            network=network,
            sigma=settings.smoothing,
            halo=settings.halo,
        )
        return MemberResult(network, patches, signals, on_grid, anomaly)
