"""Images -> patches, by the backbone of a member."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.errors import BackboneError, SettingsError
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
from offnominal.images import Geometry, ImageBatch, Tile, View, covered
from offnominal.inference.parallel import parallel_map, threads_for
from offnominal.inference.tiled_features import TiledFeatures, TileRows
from offnominal.memory import Upsampling
from offnominal.model import BackboneIdentity, require_finite
from offnominal.roi import Layout
from offnominal.types import Float, interior, interior_shape

#: Network sizes whose constants are kept; images of strangers may have any shape, and memory has an end.
MOST_SIZES = 16
#: Shortest side of a network input in pixels: below, the deepest maps have too few positions.
MIN_SIDE = 64

Value = TypeVar("Value")


def member_engines(settings: Settings, weights: Path | None = None, *, pretrained: bool = True) -> tuple[FeatureEngine, ...]:
    """Load the networks of all members named by the setting `backbone`.

    Parameters
    ----------
    weights
        A file of weights for the backbone, instead of its own.
    pretrained
        Whether to load weights at all; without, they are random.

    Raises
    ------
    BackboneError
        If a backbone, a layer or the weights cannot be loaded, or if `layers` or `weights` are set with several backbones.

    Examples
    --------
    >>> from offnominal.config import settings_from
    >>> settings = settings_from(backbone="efficientnet-lite0+efficientnet-lite0@1.5")
    >>> [engine.name for engine in member_engines(settings)]  # doctest: +SKIP
    ['efficientnet-lite0', 'efficientnet-lite0@1.5']
    """
    members = parse_members(settings.backbone)
    if (settings.layers is not None or weights is not None) and len({member.backbone for member in members}) > 1:
        raise BackboneError(
            f"{settings.backbone}: layers and a weights file belong to one backbone; leave them out, or name one backbone"
        )
    return tuple(FeatureEngine(settings, member, weights, pretrained=pretrained) for member in members)


class FeatureEngine:
    """The backbone of a member on its runtime: batches of images -> raw patches.

    Positions at the border of the finest map have no patch, because a third or more of their neighbourhood is reflect padding.
    Maps of patches are extended to the border by `Layout.fill`.

    Attributes
    ----------
    name
        Name of the member, such as `efficientnet-lite0@1.5`.
    identity
        The backbone, its layers and the digest of its weights.
    device
        Device of the network and the search.
    dimensions
        Number D of features of a patch.
    layer_weights
        (layers, D) share of each layer in each feature.

    Examples
    --------
    >>> import numpy as np
    >>> from offnominal.config import settings_from
    >>> (engine,) = member_engines(settings_from(backbone="efficientnet-lite0"))  # doctest: +SKIP
    >>> engine.patches(np.zeros((1, 3, 64, 96), np.float32)).shape, engine.grid((64, 96))  # doctest: +SKIP
    (torch.Size([1, 60, 152]), (8, 12))
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
        self._region = settings.region
        self._layouts: dict[tuple[int, int], Layout] = {}
        self._shares_inside: dict[tuple[int, int], Tensor] = {}
        self._upsamplings: dict[tuple[int, int], Upsampling | None] = {}
        self._in_float32 = settings.precision in ("auto", "float32")
        height, width = settings.image_size
        if backbone.default_size is not None and "image_size" not in settings.model_fields_set:
            height, width = backbone.default_size
        size = max(MIN_SIDE, round(height * member.scale)), max(MIN_SIDE, round(width * member.scale))
        self._geometry = Geometry(size, settings.resize, self._extractor.multiple)
        self.tiled: TiledFeatures | None = None
        if settings.tile is not None:
            self._geometry = replace(self._geometry, tile=settings.tile, density=member.scale * settings.density)
            self.tiled = TiledFeatures(self._extractor, settings.tile, self._region, self.device)

    def geometry(self, originals: Collection[tuple[int, int]]) -> Geometry:
        """How a model of images with these original (H, W) resizes images for this member."""
        return self._geometry.suited_to(originals)

    def grid(self, network: tuple[int, int]) -> tuple[int, int]:
        """Grid (h, w) of patch positions for a network input (height, width); `layout` says which have a patch."""
        return self._extractor.grid(network)

    def layout(self, network: tuple[int, int]) -> Layout:
        """Where the patches of an image lie on its grid, for a network input (height, width).

        Raises
        ------
        SettingsError
            The region of interest has no position.
        """
        with suppress(KeyError):  # another thread may remove it
            return self._layouts[network]
        try:
            layout = Layout(self.grid(network), self._region)
        except ValueError as error:
            raise SettingsError(
                f"{error} at {network[1]} x {network[0]} pixels; enlarge it, or use a larger image_size"
            ) from None
        return _kept(self._layouts, network, layout)

    def count(self, network: tuple[int, int]) -> int:
        """Number of patches of an image for a network input (height, width)."""
        return len(self.layout(network))

    def upsampling(self, network: tuple[int, int]) -> Upsampling | None:
        """How the deeper features of an image were upsampled, which speeds up the search on a CPU.

        None on a GPU, at precisions below float32, for networks whose features are not upsampled, and in a region of interest.
        """
        with suppress(KeyError):  # another thread may remove it
            return self._upsamplings[network]
        usable = self.device.type == "cpu" and self._in_float32 and self.tiled is None and self.layout(network).complete
        first = self._extractor.upsampled_from(network) if usable else None
        return _kept(self._upsamplings, network, None if first is None else self._upsampling_from(first, network))

    def _upsampling_from(self, first: int, network: tuple[int, int]) -> Upsampling:
        grid = self.grid(network)
        return Upsampling(first, grid, self._share_inside(network)[:, -1].view(interior_shape(grid)))

    def maps(self, images: Float) -> Tensor:
        """(B, 3, H, W) float32 network inputs -> (B, D, h, w) float32 features at all positions."""
        return self._runtime(images)

    def patches(self, images: Float) -> Tensor:
        """(B, 3, H, W) float32 network inputs -> (B, N, D) float32 raw patches at the positions of `layout`."""
        return self.patches_of(self.maps(images), (images.shape[2], images.shape[3]))

    def patches_of(self, maps: Tensor, network: tuple[int, int]) -> Tensor:
        """(B, D, h, w) maps of a network input (height, width) -> (B, N, D) patches, row by row."""
        layout = self.layout(network)
        if layout.complete:
            return interior_patches(maps)
        return maps.flatten(2)[:, :, torch.from_numpy(layout.positions).to(maps.device)].transpose(1, 2)

    def tile_patches(self, batch: ImageBatch, view: int, tile: Tile) -> Tensor:
        """(n, D) raw patches at the interior positions of a tile of a large image."""
        return interior_patches(self.maps(batch.tile_input(view, tile)))[0]

    def over_tiles(self, network: tuple[int, int], work: Callable[[tuple[Tile, TileRows]], Value]) -> Iterator[Value]:
        """Results of a function for all tiles of a network input (height, width); on a CPU, tiles are processed in parallel."""
        assert self.tiled is not None
        tiles = self.tiled.tiles(network, self.layout(network))
        self.tiled.shares(network)  # before several threads need them
        return parallel_map(work, tiles, threads_for(len(tiles), self.device), lambda _: 0)

    def large_patches(
        self, batch: ImageBatch, view: int, target: Tensor | None = None, done: Callable[[], None] = lambda: None
    ) -> Tensor:
        """(N, D) raw patches of a large image, at the positions of `layout`.

        Parameters
        ----------
        target
            (N, D) tensor that receives them; by default a new one.
        done
            Called after every tile.

        Raises
        ------
        ValueError
            A feature is not finite.
        """
        _, _, height, width = batch.views[view].shape
        patches = torch.empty((self.count((height, width)), self.dimensions)) if target is None else target

        def work(entry: tuple[Tile, TileRows]) -> None:
            tile, rows = entry
            of_tile = self.tile_patches(batch, view, tile)[rows.own].cpu()
            require_finite(of_tile)
            patches[torch.from_numpy(rows.numbers)] = of_tile

        for _ in self.over_tiles((height, width), work):
            done()
        return patches

    def shown(self, batch: ImageBatch, network: tuple[int, int]) -> list[Tensor | None]:
        """For each image of a batch, the (N,) numbers of the patches that stand for its patches.

        After an alignment, a part of the reference may lie outside of an image. A patch there repeats the nearest one inside.
        None if all patches lie inside.
        """
        layout, shown = self.layout(network), list[Tensor | None]()
        for pose, original in zip(batch.poses, batch.original, strict=True):
            inside = covered(layout.grid, pose, original)
            shown.append(None if inside is None else torch.from_numpy(layout.shown(inside)).to(self.device))
        return shown

    def bytes_of_patches(self, images: View) -> int:
        """Bytes of the patches of (B, 3, H, W) network inputs."""
        count, _, height, width = images.shape
        size: int = 4 * self.dimensions * count * self.count((height, width))
        return size

    def standardise(self, patches: Tensor, standard: ChannelStandard, network: tuple[int, int]) -> Tensor:
        """(..., N, D) raw patches -> standardised patches, shrunk toward the mean 0 near the border.

        Deeper features see reflect padding near the border. The padding counts as the mean of normal patches, so each feature
        is multiplied by the share of its neighbourhood inside the image. Otherwise the varied borders of normal parts would
        fill most of the bank. The border of a region of interest is treated alike.
        """
        return standard(patches) * self._share_inside(network).to(patches.device)

    def _share_inside(self, network: tuple[int, int]) -> Tensor:
        """(N, D) share of each feature's neighbourhood that lies inside the image and the region of interest."""
        share = self._shares_inside.get(network)
        if share is None:
            inside = self.patches_of(self._extractor.inside(network, self._region), network)[0]
            share = _kept(self._shares_inside, network, inside.to(self.device))
        return share


def _kept(values: dict[tuple[int, int], Value], network: tuple[int, int], value: Value) -> Value:
    """Store a value by network size and return it; of many sizes, the oldest are removed."""
    values[network] = value
    for oldest in list(values)[:-MOST_SIZES]:
        values.pop(oldest, None)
    return value


def interior_patches(maps: Tensor) -> Tensor:
    """(B, D, h, w) maps -> (B, N, D) patches at the interior positions, row by row.

    Examples
    --------
    >>> import torch
    >>> maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    >>> interior_patches(maps).flatten().tolist()
    [5.0, 6.0]
    """
    inside = maps[:, :, *interior((maps.shape[2], maps.shape[3]))]
    return inside.flatten(2).transpose(1, 2)
