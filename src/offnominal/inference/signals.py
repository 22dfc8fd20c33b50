"""Patches -> signals: search in the memory bank, distance, influence and response."""

from __future__ import annotations

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


@dataclass(frozen=True)
class PatchSignals:
    """Signals of the patches of an image, or of several one after another.

    Attributes
    ----------
    values
        (N, S) float32 in the order of `scoring.SIGNALS`.
    around
        Distances, indices, gradient and (if asked for) curvature of every patch.
    noise
        (N, D) proposed noise, or None if it was not needed.
    """

    values: Float
    around: Neighbourhood
    noise: Tensor | None

    def split(self, images: int) -> list[PatchSignals]:
        """Signals of several images of one size, one after another -> those of each."""
        if images == 1:
            return [self]
        noise = (None,) * images if self.noise is None else self.noise.chunk(images)
        return [
            PatchSignals(*parts) for parts in zip(np.split(self.values, images), self.around.split(images), noise, strict=True)
        ]


class SignalEngine:
    """Search in a bank, and the signals that follow: standardised patches -> distance, influence length, response."""

    def __init__(self, bank: Tensor, settings: Settings, scale: DistanceScale | None, device: torch.device) -> None:
        self._bank = bank.to(device)
        self._settings = settings
        self._scale = scale

    @cached_property
    def _search(self) -> NearestPatches:
        """Not built if all neighbours are known already."""
        return NearestPatches(self._bank)

    def prepare(self) -> None:
        """Build the search once, before several threads ask for it."""
        _ = self._search

    def __call__(
        self, patches: Tensor, upsampling: Upsampling | None = None, *, with_noise: bool | None = None
    ) -> PatchSignals:
        """(N, D) standardised patches -> `PatchSignals`. Noise and response are computed if the fusion uses them.

        The search takes less time with the `upsampling` of the patches, which are then all those of one image.
        """
        return self.of_neighbours(patches, *self._search(patches, self.neighbours, upsampling), with_noise=with_noise)

    @property
    def neighbours(self) -> int:
        """How many neighbours the signals use."""
        return max(self._settings.neighbors, self._settings.distance_neighbors)

    def of_neighbours(
        self,
        patches: Tensor,
        squared: Tensor,
        indices: Tensor,
        *,
        bank: Tensor | None = None,
        with_noise: bool | None = None,
    ) -> PatchSignals:
        """The same for patches whose nearest bank patches are known: (N, K) squared distances, ascending, and rows.

        The rows are those of `bank`, if one is given in place of the bank that is searched.
        """
        settings = self._settings
        bank = self._bank if bank is None else bank
        if with_noise is None:
            with_noise = settings.fusion.response > 0
        k, wanted = settings.neighbors, settings.distance_neighbors
        around = neighbourhood(patches, bank, squared[:, :k], indices[:, :k], curvature=with_noise)
        distances = around.distances if wanted <= k else neighbourhood(patches, bank, squared, indices).distances
        distance = distances[:, :wanted].mean(1)
        length = torch.linalg.vector_norm(around.gradient, dim=1)
        noise, response = None, torch.zeros_like(distance)
        if with_noise and self._scale is not None:
            noise, response = self.noising(around)
        return PatchSignals(torch.stack([distance, length, response], dim=1).cpu().numpy(), around, noise)

    def around(self, patches: Tensor, k: int | None = None) -> Neighbourhood:
        """(N, D) -> distances, indices and gradient over the nearest `k` of the bank, by default those of the influence."""
        return neighbourhood(patches, self._bank, *self._search(patches, k or self._settings.neighbors))

    def curved(self, patches: Tensor, indices: Tensor) -> Neighbourhood:
        """(N, D) patches whose (N, K) neighbours are known -> their neighbourhood with the curvature."""
        return from_differences(patches, self._bank, indices, curvature=True)

    def noising(self, around: Neighbourhood) -> tuple[Tensor, Tensor]:
        """(N, D) proposed noise and (N,) response of patches whose neighbourhood holds the curvature."""
        assert self._scale is not None
        assert around.curvature is not None
        low, high = self._settings.noise_range
        in_sd = (around.distances.mean(1) - self._scale.mean) / self._scale.deviation
        noise = propose_noise(around.gradient, in_sd, low=low, high=high)
        return noise, noise_response(around.curvature, noise)
