"""Images -> patches, by the backbone of a member."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

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
from offnominal.memory import Upsampling
from offnominal.model import BackboneIdentity
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
