"""The one way from an image to its patches and from patches to their signals, for fit, inspect and evaluate alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offnominal.config import SearchIndex, Settings
from offnominal.detector.model import BackboneIdentity, UsualDistance
from offnominal.features import ChannelStandard, PatchExtractor, choose_device, load_backbones, make_runtime
from offnominal.forks import native_threads
from offnominal.images import Geometry, ImageBatch
from offnominal.memory import NearestPatches, Upsampling
from offnominal.noising import Head, Neighbourhood, from_differences, neighbourhood, noise_response, propose_noise
from offnominal.types import Float, whole, whole_grid


class FeatureEngine:
    """Backbone on its runtime: batches of images -> raw patches.

    A place at the border of the finest map sees less of the part: of its neighbourhood a third and more is a mirror's guess. It
    has no patch; the maps made of patches go on there as they end (`scoring.grid_of`).
    """

    def __init__(self, settings: Settings, weights: Path | None = None, *, pretrained: bool = True) -> None:
        native_threads()
        self.device = choose_device(settings.device, settings.runtime)
        backbone = load_backbones(settings.backbone, settings.layers, weights, pretrained=pretrained)
        self.identity = BackboneIdentity(backbone.name, backbone.layers, backbone.digest)
        self._extractor = PatchExtractor(backbone, settings.aggregation, settings.dimensions)
        key = repr((backbone.name, backbone.layers, backbone.digest, settings.aggregation, settings.dimensions))
        self._runtime = make_runtime(self._extractor.with_network, settings.runtime, settings.precision, self.device, key)
        self.dimensions = self._extractor.channels
        self.emphasis = self._extractor.emphasis()
        self.layer_weights = self._extractor.layer_weights().to(self.device)
        self._inside: dict[tuple[int, int], Tensor] = {}
        self._upsamplings: dict[tuple[int, int], Upsampling | None] = {}
        self._in_float32 = settings.precision in ("auto", "float32")
        self._geometry = Geometry(settings.image_size, settings.resize, self._extractor.multiple)

    def geometry(self, originals: Collection[tuple[int, int]]) -> Geometry:
        """How images are brought to the network's size by a model of images of these (H, W)."""
        return self._geometry.suited_to(originals)

    def grids(self, network: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Grids of places of an image of this network size, one a segment; those that are `whole` have a patch."""
        return self._extractor.grids(network)

    def count(self, network: tuple[int, int]) -> int:
        """Patches of an image of this network size."""
        return sum(height * width for height, width in map(whole_grid, self.grids(network)))

    def upsampling(self, network: tuple[int, int]) -> Upsampling | None:
        """How the standardised patches of an image of this network size came about, where that saves the search some work.

        None on a GPU, whose search multiplies them as they are, and where they are rounded to fewer bits than float32.
        """
        if network not in self._upsamplings:
            told = self.device.type == "cpu" and self._in_float32
            first = self._extractor.upsampled_from(network) if told else None
            self._upsamplings[network] = None if first is None else self._upsampled(first, network)
        return self._upsamplings[network]

    def _upsampled(self, first: int, network: tuple[int, int]) -> Upsampling:
        grid = self.grids(network)[0]
        return Upsampling(first, grid, self._share(network)[:, -1].view(whole_grid(grid)))

    def maps(self, batch: ImageBatch) -> list[Tensor]:
        """(B, 3, H, W) -> (B, D, h, w) float32 a segment, of all places."""
        return self._runtime(batch.seen)

    def patches(self, batch: ImageBatch) -> Tensor:
        """(B, 3, H, W) -> (B, N, D) float32: `whole_patches` of its maps."""
        return whole_patches(self.maps(batch))

    def size_of_patches(self, batch: ImageBatch) -> int:
        """Bytes of the patches of a batch."""
        return 4 * self.dimensions * len(batch.pixels) * self.count((batch.pixels.shape[2], batch.pixels.shape[3]))

    def standardise(self, patches: Tensor, standard: ChannelStandard, network: tuple[int, int]) -> Tensor:
        """(..., N, D) raw patches of images of one network size -> standardised, those at the border drawn to the mean.

        Deeper features still see a mirror's guess there. It is counted as the mean of normal patches, that is 0, so a feature
        is multiplied by the share of its neighbourhood that lies inside. Otherwise the varied edges of good parts would take
        up most of the bank, and its alarms.
        """
        return standard(patches) * self._share(network).to(patches.device)

    def _share(self, network: tuple[int, int]) -> Tensor:
        """(N, D): of every feature's neighbourhood, how much lies inside the image."""
        if network not in self._inside:
            self._inside[network] = whole_patches(self._extractor.inside(network))[0].to(self.device)
        return self._inside[network]


def whole_patches(maps: list[Tensor]) -> Tensor:
    """(B, D, h, w) maps -> (B, N, D): those of the places that are `whole`, row by row, all segments one after another."""
    parts = [segment[:, :, *whole((segment.shape[2], segment.shape[3]))] for segment in maps]
    return torch.cat([part.flatten(2).transpose(1, 2) for part in parts], dim=1)


@dataclass(frozen=True)
class PatchSignals:
    """Signals of the patches of an image, or of several one after another.

    Attributes:
        values: (N, S) float32 in the order of `scoring.SIGNALS`.
        around: distances, indices, gradient and (where asked for) curvature of every patch.
        noise: (N, D) proposed noise, or None when it was not needed.
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
    """A bank and how to look at it: standardised patches -> distance, influence length, response, and what the heads say.

    The search is exact unless another `index` is given, whatever the settings say: what is held out is searched exactly.
    """

    def __init__(
        self,
        bank: Tensor,
        settings: Settings,
        usual: UsualDistance | None,
        device: torch.device,
        heads: Sequence[Head] = (),
        index: SearchIndex = "auto",
    ) -> None:
        self._bank = bank.to(device)
        self._index: SearchIndex = index
        self._settings = settings
        self._usual = usual
        self._heads = [head.to(device) for head in heads]

    @cached_property
    def _search(self) -> NearestPatches:
        """Not built where all neighbours are known already."""
        return NearestPatches(self._bank, self._index)

    def prepare(self) -> None:
        """Build the search, once, before several threads ask for it."""
        _ = self._search

    def __call__(
        self,
        patches: Tensor,
        upsampling: Upsampling | None = None,
        *,
        with_noise: bool | None = None,
        fold: int | None = None,
    ) -> PatchSignals:
        """(N, D) standardised patches -> `PatchSignals`. Noise and response are worked out where the fusion uses them.

        The search takes less time where `upsampling` says how the patches, all those of one image, came about.
        """
        found = self._search(patches, self.neighbours, upsampling)
        return self.of_neighbours(patches, *found, with_noise=with_noise, fold=fold)

    @property
    def neighbours(self) -> int:
        """How many neighbours the signals look at."""
        return max(self._settings.neighbors, self._settings.distance_neighbors)

    def of_neighbours(
        self,
        patches: Tensor,
        squared: Tensor,
        indices: Tensor,
        *,
        bank: Tensor | None = None,
        with_noise: bool | None = None,
        fold: int | None = None,
    ) -> PatchSignals:
        """The same for patches whose nearest bank patches are known: (N, K) squared distances, ascending, and rows.

        The rows are those of `bank`, where one is given in place of that which was searched. With `fold` only the head counts
        that has not seen the training images of this fold.
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
        if with_noise and self._usual is not None:
            noise, response = self.noising(around)
        told = torch.zeros_like(distance)
        if self._heads:
            told = self._told(patches, patches - bank[around.indices[:, 0]], fold)
        return PatchSignals(torch.stack([distance, length, response, told], dim=1).cpu().numpy(), around, noise)

    def _told(self, patches: Tensor, residuals: Tensor, fold: int | None) -> Tensor:
        """(N,) mean of the heads, or what that of the fold says."""
        heads = self._heads if fold is None else [self._heads[fold]]
        return torch.stack([head(patches, residuals) for head in heads]).mean(0)

    def around(self, patches: Tensor, k: int | None = None) -> Neighbourhood:
        """(N, D) -> distances, indices and gradient over the nearest `k` of the bank, those of the influence unless given."""
        return neighbourhood(patches, self._bank, *self._search(patches, k or self._settings.neighbors))

    def curved(self, patches: Tensor, indices: Tensor) -> Neighbourhood:
        """(N, D) patches whose (N, K) neighbours are known -> their neighbourhood with the curvature."""
        return from_differences(patches, self._bank, indices, curvature=True)

    def noising(self, around: Neighbourhood) -> tuple[Tensor, Tensor]:
        """(N, D) proposed noise and (N,) response of patches whose neighbourhood holds the curvature."""
        assert self._usual is not None
        assert around.curvature is not None
        low, high = self._settings.noise_range
        in_sd = (around.distances.mean(1) - self._usual.mean) / self._usual.deviation
        noise = propose_noise(around.gradient, in_sd, low=low, high=high)
        return noise, noise_response(around.curvature, noise)
