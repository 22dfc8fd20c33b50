"""The one way from an image to its patches and from patches to their signals, for fit, inspect and evaluate alike."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.errors import BackboneError
from offnominal.features import (
    ChannelStandard,
    MemberName,
    PatchExtractor,
    choose_device,
    load_backbone,
    make_runtime,
    parse_members,
)
from offnominal.forks import native_threads
from offnominal.images import Geometry
from offnominal.memory import NearestPatches, Upsampling
from offnominal.model.model import BackboneIdentity, DistanceScale
from offnominal.noising import Neighbourhood, from_differences, neighbourhood, noise_response, propose_noise
from offnominal.types import Float, interior, interior_shape


def member_engines(settings: Settings, weights: Path | None = None, *, pretrained: bool = True) -> tuple[FeatureEngine, ...]:
    """The feature engines of all members that the setting `backbone` names.

    Raises
    ------
    BackboneError
        A backbone, a layer or the weights cannot be had, or `layers` or `weights` are given for several backbones.
    """
    members = parse_members(settings.backbone)
    if (settings.layers is not None or weights is not None) and len({member.backbone for member in members}) > 1:
        raise BackboneError(
            f"{settings.backbone}: layers and a weights file belong to one backbone; leave them out, or name one backbone"
        )
    return tuple(FeatureEngine(settings, member, weights, pretrained=pretrained) for member in members)


class FeatureEngine:
    """The backbone of a member on its runtime: batches of images -> raw patches.

    A position at the border of the finest map sees less of the part: a third or more of its neighbourhood is reflect padding.
    It has no patch; maps made of patches are extended to the border (`scoring.to_grid`).
    """

    def __init__(self, settings: Settings, member: MemberName, weights: Path | None = None, *, pretrained: bool = True) -> None:
        native_threads()
        self.device = choose_device(settings.device, settings.runtime)
        backbone = load_backbone(member.backbone, settings.layers, weights, pretrained=pretrained)
        self.name = str(member)
        self.identity = BackboneIdentity(backbone.name, backbone.layers, backbone.digest)
        self._extractor = PatchExtractor(backbone, settings.dimensions)
        key = repr((backbone.name, backbone.layers, backbone.digest, settings.dimensions))
        self._runtime = make_runtime(self._extractor.with_network, settings.runtime, settings.precision, self.device, key)
        self.dimensions = self._extractor.channels
        self.layer_weights = self._extractor.layer_weights().to(self.device)
        self._inside: dict[tuple[int, int], Tensor] = {}
        self._upsamplings: dict[tuple[int, int], Upsampling | None] = {}
        self._in_float32 = settings.precision in ("auto", "float32")
        height, width = settings.image_size
        if backbone.default_size is not None and "image_size" not in settings.model_fields_set:
            height, width = backbone.default_size
        size = max(64, round(height * member.scale)), max(64, round(width * member.scale))
        self._geometry = Geometry(size, settings.resize, self._extractor.multiple)

    def geometry(self, originals: Collection[tuple[int, int]]) -> Geometry:
        """How a model of images of these (H, W) resizes images for this member."""
        return self._geometry.suited_to(originals)

    def grid(self, network: tuple[int, int]) -> tuple[int, int]:
        """The grid (h, w) of patch positions at this network size; the `interior` ones have a patch."""
        return self._extractor.grid(network)

    def count(self, network: tuple[int, int]) -> int:
        """Patches of an image of this network size."""
        height, width = interior_shape(self.grid(network))
        return height * width

    def upsampling(self, network: tuple[int, int]) -> Upsampling | None:
        """How the deeper features of an image of this network size were upsampled, where that speeds up the search.

        None on a GPU, whose search uses the patches as they are, and where patches have fewer bits than float32.
        """
        if network not in self._upsamplings:
            usable = self.device.type == "cpu" and self._in_float32
            first = self._extractor.upsampled_from(network) if usable else None
            self._upsamplings[network] = None if first is None else self._upsampled(first, network)
        return self._upsamplings[network]

    def _upsampled(self, first: int, network: tuple[int, int]) -> Upsampling:
        grid = self.grid(network)
        return Upsampling(first, grid, self._share(network)[:, -1].view(interior_shape(grid)))

    def maps(self, images: Float) -> Tensor:
        """(B, 3, H, W) float32, as the network sees them -> (B, D, h, w) float32, all positions."""
        return self._runtime(images)

    def patches(self, images: Float) -> Tensor:
        """(B, 3, H, W) -> (B, N, D) float32: `interior_patches` of the maps."""
        return interior_patches(self.maps(images))

    def bytes_of_patches(self, images: Float) -> int:
        """Bytes that the patches of (B, 3, H, W) images take."""
        return 4 * self.dimensions * len(images) * self.count((images.shape[2], images.shape[3]))

    def standardise(self, patches: Tensor, standard: ChannelStandard, network: tuple[int, int]) -> Tensor:
        """(..., N, D) raw patches of images of one network size -> standardised, shrunk toward 0 at the border.

        Deeper features see reflect padding at the border. The padding counts as the mean of normal patches, which is 0, so a
        feature is multiplied by the share of its neighbourhood that lies inside the image. Otherwise the varied borders of
        normal parts would take up most of the bank.
        """
        return standard(patches) * self._share(network).to(patches.device)

    def _share(self, network: tuple[int, int]) -> Tensor:
        """(N, D): the share of every feature's neighbourhood that lies inside the image."""
        if network not in self._inside:
            self._inside[network] = interior_patches(self._extractor.inside(network))[0].to(self.device)
        return self._inside[network]


def interior_patches(maps: Tensor) -> Tensor:
    """(B, D, h, w) maps -> (B, N, D): the patches at interior positions, row by row."""
    inside = maps[:, :, *interior((maps.shape[2], maps.shape[3]))]
    return inside.flatten(2).transpose(1, 2)


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
