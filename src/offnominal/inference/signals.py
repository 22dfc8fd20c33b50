"""Patches -> signals: search in the memory bank, distance, influence and response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.memory import NearestPatches, Upsampling
from offnominal.model import DistanceScale
from offnominal.noising import Neighbourhood, from_differences, neighbourhood, noise_response, propose_noise
from offnominal.types import Float

#: Patches of a large image whose signals are computed at a time.
BLOCK = 65_536


@dataclass(frozen=True)
class PatchSignals:
    """Signals of the patches of one image, or of several images in sequence.

    Attributes
    ----------
    values
        (N, S) float32 in the order of `scoring.SIGNALS`; higher is more anomalous.
    neighbourhood
        Distances, indices, gradient and (on demand) curvature of each patch.
    noise
        (N, D) proposed noise; None if it was not computed.

    Examples
    --------
    >>> from offnominal.config import settings_from
    >>> engine = SignalEngine(torch.eye(4), settings_from(), None, torch.device("cpu"))
    >>> signals = engine(torch.zeros(6, 4))
    >>> signals.values.shape, [image.values.shape for image in signals.split(2)]
    ((6, 3), [(3, 3), (3, 3)])
    """

    values: Float
    neighbourhood: Neighbourhood
    noise: Tensor | None

    def split(self, images: int) -> list[PatchSignals]:
        """Split signals of several images of one size into those of each image."""
        if images == 1:
            return [self]
        noise = (None,) * images if self.noise is None else self.noise.chunk(images)
        return [
            PatchSignals(*parts)
            for parts in zip(np.split(self.values, images), self.neighbourhood.split(images), noise, strict=True)
        ]

    def take(self, rows: Tensor) -> PatchSignals:
        """The signals of some patches."""
        noise = None if self.noise is None else self.noise[rows]
        return PatchSignals(self.values[rows.cpu().numpy()], self.neighbourhood.take(rows), noise)


class SignalEngine:
    """Search in a bank and the signals derived from it: distance, influence length, response.

    Parameters
    ----------
    bank
        (M, D) standardised patches.
    settings
        Numbers of neighbours, noise range and fusion.
    scale
        Scale of the distance for the proposed noise; without it, noise and response are not computed.
    device
        Device of the search.

    Examples
    --------
    >>> from offnominal.config import settings_from
    >>> bank = torch.tensor([[0.0, 0.0], [8.0, 0.0]])
    >>> settings = settings_from(neighbors=1, distance_neighbors=1, fusion={"response": 1})
    >>> engine = SignalEngine(bank, settings, DistanceScale(mean=1.0, deviation=0.5), torch.device("cpu"))
    >>> signals = engine(torch.tensor([[5.0, 0.0]]))
    >>> distance, influence_length, response = signals.values[0]
    >>> float(distance), float(influence_length)
    (3.0, 1.0)
    >>> signals.neighbourhood.gradient
    tensor([[-1.,  0.]])
    """

    def __init__(self, bank: Tensor, settings: Settings, scale: DistanceScale | None, device: torch.device) -> None:
        self._bank = bank.to(device)
        self._settings = settings
        self._scale = scale

    @cached_property
    def _search(self) -> NearestPatches:
        """Built on first use; not needed if all neighbours are known."""
        return NearestPatches(self._bank)

    def prepare(self) -> None:
        """Build the search, before several threads use it."""
        _ = self._search

    @property
    def uses_upsampling(self) -> bool:
        """Whether the search is faster for patches with known upsampling."""
        return self._search.uses_upsampling

    @property
    def neighbours(self) -> int:
        """Number of neighbours that the signals use."""
        return max(self._settings.neighbors, self._settings.distance_neighbors)

    def __call__(
        self, patches: Tensor, upsampling: Upsampling | None = None, *, with_noise: bool | None = None
    ) -> PatchSignals:
        """Compute the signals of (N, D) standardised patches.

        Parameters
        ----------
        patches
            (N, D) standardised patches.
        upsampling
            Upsampling of the patches, which are then all patches of one image; speeds up the search.
        with_noise
            Whether noise and response are computed; by default, if the fusion uses the response.
        """
        return self.of_neighbours(patches, *self._search(patches, self.neighbours, upsampling), with_noise=with_noise)

    def of_neighbours(
        self,
        patches: Tensor,
        squared: Tensor,
        indices: Tensor,
        *,
        bank: Tensor | None = None,
        with_noise: bool | None = None,
    ) -> PatchSignals:
        """Compute the signals of patches whose nearest bank patches are known.

        Parameters
        ----------
        patches
            (N, D) standardised patches.
        squared, indices
            (N, K) squared distances, ascending, and rows of the neighbours.
        bank
            The bank that `indices` refers to, instead of the engine's own.
        with_noise
            Whether noise and response are computed; by default, if the fusion uses the response.
        """
        settings = self._settings
        bank = self._bank if bank is None else bank
        if with_noise is None:
            with_noise = settings.fusion.response > 0
        k, distance_k = settings.neighbors, settings.distance_neighbors
        near = neighbourhood(patches, bank, squared[:, :k], indices[:, :k], curvature=with_noise)
        distances = near.distances if distance_k <= k else neighbourhood(patches, bank, squared, indices).distances
        distance = distances[:, :distance_k].mean(1)
        length = torch.linalg.vector_norm(near.gradient, dim=1)
        noise, response = None, torch.zeros_like(distance)
        if with_noise and self._scale is not None:
            noise, response = self.noise_and_response(near)
        return PatchSignals(torch.stack([distance, length, response], dim=1).cpu().numpy(), near, noise)

    def values(self, patches: Tensor, squared: Tensor, indices: Tensor, *, bank: Tensor | None = None) -> Float:
        """(N, S) signals of patches whose neighbours are known, as in `of_neighbours`; computed in blocks, to save memory."""
        blocks = zip(patches.split(BLOCK), squared.split(BLOCK), indices.split(BLOCK), strict=True)
        return np.concatenate([self.of_neighbours(*block, bank=bank).values for block in blocks])

    def searched_values(
        self, patches: Tensor, upsampling: Upsampling | None = None, done: Callable[[], None] = lambda: None
    ) -> Float:
        """(N, S) signals of patches; without an upsampling, computed in blocks, to save memory. `done` is called after each."""
        if upsampling is not None:
            return self(patches, upsampling).values
        values = []
        for block in patches.split(BLOCK):
            values.append(self(block).values)
            done()
        return np.concatenate(values)

    def neighbourhood(self, patches: Tensor, k: int | None = None) -> Neighbourhood:
        """Distances, indices and gradient of (N, D) patches for the `k` nearest bank patches; by default `neighbors`."""
        return neighbourhood(patches, self._bank, *self._search(patches, k or self._settings.neighbors))

    def with_curvature(self, patches: Tensor, indices: Tensor) -> Neighbourhood:
        """Neighbourhood with curvature of (N, D) patches whose (N, K) neighbours are known."""
        return from_differences(patches, self._bank, indices, curvature=True)

    def noise_and_response(self, neighbourhood: Neighbourhood) -> tuple[Tensor, Tensor]:
        """(N, D) proposed noise and (N,) response of patches whose neighbourhood includes the curvature."""
        assert self._scale is not None
        assert neighbourhood.curvature is not None
        low, high = self._settings.noise_range
        in_sd = (neighbourhood.distances.mean(1) - self._scale.mean) / self._scale.deviation
        noise = propose_noise(neighbourhood.gradient, in_sd, low=low, high=high)
        return noise, noise_response(neighbourhood.curvature, noise)
