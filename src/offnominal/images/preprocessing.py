"""From an image to the views of the networks: decode, clip, align, resize, scale. Every entry point uses this path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from offnominal.errors import ImageError
from offnominal.gates import MmPerPixel
from offnominal.images.alignment import Alignment, aligned
from offnominal.images.arrays import Pixels, planes
from offnominal.images.file_checks import DEFAULT_MEMORY
from offnominal.images.geometry import Geometry, resize
from offnominal.images.image_source import Source, as_image_error, mm_per_pixel_of, name_of, pixels_of
from offnominal.images.tiles import LargeImage
from offnominal.images.value_range import ValueRange
from offnominal.roi import RegionOfInterest
from offnominal.types import Float, Mask, Pose


@dataclass(frozen=True)
class Prepared:
    """One image, resized for the networks.

    Attributes
    ----------
    views
        (height, width, 3) float32 per geometry, about 0 to 1; a large image for a geometry with tiles.
    original
        (H, W) of the original image.
    decoded
        (H, W, 3) stored values, or None if they are not kept.
    pose
        Pose of the part; None without alignment.
    mm_per_pixel
        Size of a pixel of the original image in mm; None if the source does not say.

    Examples
    --------
    >>> from offnominal.images import EIGHT_BIT
    >>> Preprocessing((Geometry((256, 256), "keep"),), EIGHT_BIT).prepare(np.zeros((600, 800), np.uint8)).shapes
    ((256, 352, 3),)
    """

    views: tuple[Float | LargeImage, ...]
    original: tuple[int, int]
    decoded: Pixels | None
    pose: Pose | None
    mm_per_pixel: MmPerPixel | None = None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the views."""
        return tuple(tuple(view.shape) for view in self.views)

    @property
    def kept(self) -> int:
        """Bytes of `decoded`."""
        return 0 if self.decoded is None else self.decoded.nbytes


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a model are prepared.

    Attributes
    ----------
    geometries
        One view is made for each geometry. If some have tiles, the first has none.
    values
        Value range, and the exposure of the normal images.
    region
        Region of interest, in pixels of the aligned image. In the views, the mean of its pixels replaces all others, so that
        these have no influence.
    alignment
        Brings each image to the reference; None for no alignment.
    memory
        Bytes that an image may take.

    Examples
    --------
    >>> from offnominal.images import EIGHT_BIT
    >>> preprocessing = Preprocessing((Geometry((64, 64), "squash"),), EIGHT_BIT)
    >>> prepared = preprocessing.prepare(np.full((600, 800), 255, np.uint8))
    >>> prepared.views[0].shape, float(prepared.views[0].max()), prepared.original
    ((64, 64, 3), 1.0, (600, 800))
    """

    geometries: Sequence[Geometry]
    values: ValueRange
    region: RegionOfInterest | None = None
    alignment: Alignment | None = None
    memory: int = DEFAULT_MEMORY

    def prepare(self, source: Source, *, keep: bool = False) -> Prepared:
        """Prepare one image.

        Parameters
        ----------
        source
            The image.
        keep
            Whether to keep the stored values, for overlays and masks.

        Raises
        ------
        ImageError
            The source cannot be read, it would take more than `memory` bytes, its depth differs from that of the model, or its
            aspect ratio from that of the region or the reference.
        """
        values, region = self.values, self.region
        with as_image_error(source):
            pixels = pixels_of(source, self.memory)
            original = (int(pixels.shape[0]), int(pixels.shape[1]))
            clipped, name = values.clipped(planes(pixels)), name_of(source)
            if region is not None and not region.suits(original):
                raise ImageError(f"{name}: {region.unsuited(original)}")
            pose = None
            if self.alignment is not None:
                pose = self.alignment.locate(clipped, values, name)
                clipped = aligned(clipped, pose)
            views: list[Float | LargeImage] = []
            mean = None
            for geometry in self.geometries:
                height, width = geometry.network_size(original)
                resized = resize(clipped, (height, width))
                inside = None if region is None or region.whole else _inside(region, original, (height, width))
                if geometry.tile:
                    views.append(LargeImage(resized, values, name, inside, mean))
                    continue
                scaled = values.scale(resized, name).reshape(height, width, -1)
                if inside is not None:
                    mean = scaled[inside].mean(axis=0, dtype=np.float64).astype(np.float32)
                    scaled = np.where(inside[:, :, None], scaled, mean)
                views.append(np.broadcast_to(scaled, (height, width, 3)))
            return Prepared(tuple(views), original, pixels if keep else None, pose, mm_per_pixel_of(source))


def views_of(geometries: Sequence[Geometry]) -> tuple[Geometry, ...]:
    """The geometries of the views for some members: each once, and a view of the whole image first.

    Examples
    --------
    >>> tiled = Geometry((256, 256), "area", tile=512, density=1.0)
    >>> [geometry.tile for geometry in views_of([tiled, tiled])]
    [0, 512]
    """
    first = geometries[0].overview if geometries[0].tile else geometries[0]
    return tuple(dict.fromkeys((first, *geometries)))


@lru_cache(maxsize=32)
def _inside(region: RegionOfInterest, original: tuple[int, int], network: tuple[int, int]) -> Mask:
    """(height, width) network pixels that the pixels of the region alone determine."""
    shares = resize(region.at(original).astype(np.float32), network)
    return np.asarray(shares >= 1 - 1e-6, dtype=np.bool_)
