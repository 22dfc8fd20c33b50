"""Images to batches: decoded in threads while the network works, grouped by shape, unreadable images reported."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from offnominal.errors import ImageError
from offnominal.images.arrays import Pixels, planes
from offnominal.images.exposure import Exposure
from offnominal.images.file_checks import DEFAULT_MEMORY
from offnominal.images.geometry import Geometry, resize
from offnominal.images.image_source import Source, as_image_error, name_of, pixels_of
from offnominal.images.value_range import ValueRange
from offnominal.roi import RegionOfInterest
from offnominal.types import Float, Mask, require

#: Limit of the decoded pixels in memory, in bytes: once while images wait for their turn, once while a batch fills. Batches of
#: large images are therefore smaller.
MOST_KEPT = 256_000_000


@dataclass(frozen=True)
class ImageBatch:
    """Images of one network size.

    Attributes
    ----------
    views
        (B, 3, height, width) float32 per geometry, about 0 to 1: the resized images, before exposure correction.
    index
        Position of each image in the input, B numbers.
    original
        (H, W) of each original image.
    decoded
        (H, W, 3) stored values of each image, or None if they are not kept.
    exposure
        Exposure of the normal images, for the correction in `network_input`; None for no correction.

    Examples
    --------
    >>> view = np.full((1, 3, 64, 64), 0.4, np.float32)
    >>> batch = ImageBatch((view,), (0,), ((600, 800),), (None,), Exposure(level=0.5, spread=0.2))
    >>> round(float(batch.network_input(0).mean()), 3)
    0.5
    """

    views: tuple[Float, ...]
    index: tuple[int, ...]
    original: tuple[tuple[int, int], ...]
    decoded: tuple[Pixels | None, ...]
    exposure: Exposure | None = None

    def __post_init__(self) -> None:
        for pixels in self.views:
            require(pixels.ndim == 4 and pixels.shape[1] == 3, f"a view must be (B, 3, H, W), got {pixels.shape}")
        lengths = {*map(len, self.views), len(self.index), len(self.original), len(self.decoded)}
        require(len(lengths) == 1, "views, index, original and decoded differ in length")

    def network_input(self, view: int) -> Float:
        """Return the network input of a view, (B, 3, height, width) float32, with corrected exposure."""
        return self.views[view] if self.exposure is None else self.exposure.corrected(self.views[view])


@dataclass(frozen=True)
class Prepared:
    """One image, resized for the networks.

    Attributes
    ----------
    views
        (height, width, 3) float32 per geometry, about 0 to 1.
    original
        (H, W) of the original image.
    decoded
        (H, W, 3) stored values, or None if they are not kept.

    Examples
    --------
    >>> from offnominal.images import EIGHT_BIT
    >>> prepare(np.zeros((600, 800), np.uint8), [Geometry((256, 256), "keep")], EIGHT_BIT).shapes
    ((256, 352, 3),)
    """

    views: tuple[Float, ...]
    original: tuple[int, int]
    decoded: Pixels | None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the views."""
        return tuple(view.shape for view in self.views)

    @property
    def kept(self) -> int:
        """Bytes of `decoded`."""
        return 0 if self.decoded is None else self.decoded.nbytes


def prepare(
    source: Source,
    geometries: Sequence[Geometry],
    values: ValueRange,
    *,
    region: RegionOfInterest | None = None,
    keep: bool = False,
    memory: int = DEFAULT_MEMORY,
) -> Prepared:
    """Decode, clip, resize and scale one image. Every entry point uses this preprocessing.

    Parameters
    ----------
    source
        The image.
    geometries
        One view is made for each geometry.
    values
        Value range of the model.
    region
        Region of interest. In the views, the mean of its pixels replaces all others, so that these have no influence.
    keep
        Whether to keep the stored values, for overlays and masks.
    memory
        Bytes that the image may take.

    Raises
    ------
    ImageError
        The source cannot be read, it would take more than `memory` bytes, its depth differs from that of the model, or its
        aspect ratio from that of the region.

    Examples
    --------
    >>> from offnominal.images import EIGHT_BIT
    >>> prepared = prepare(np.full((600, 800), 255, np.uint8), [Geometry((64, 64), "squash")], EIGHT_BIT)
    >>> prepared.views[0].shape, float(prepared.views[0].max()), prepared.original
    ((64, 64, 3), 1.0, (600, 800))
    """
    with as_image_error(source):
        pixels = pixels_of(source, memory)
        original = (int(pixels.shape[0]), int(pixels.shape[1]))
        clipped, name = values.clipped(planes(pixels)), name_of(source)
        if region is not None and not region.suits(original):
            raise ImageError(f"{name}: {region.unsuited(original)}")
        views = []
        for geometry in geometries:
            height, width = geometry.network_size(original)
            scaled = values.scale(resize(clipped, (height, width)), name).reshape(height, width, -1)
            if region is not None and not region.whole:
                inside = _inside(region, original, (height, width))
                scaled = np.where(inside[:, :, None], scaled, scaled[inside].mean(axis=0, dtype=np.float64).astype(np.float32))
            views.append(np.broadcast_to(scaled, (height, width, 3)))
        return Prepared(tuple(views), original, pixels if keep else None)


@lru_cache(maxsize=32)
def _inside(region: RegionOfInterest, original: tuple[int, int], network: tuple[int, int]) -> Mask:
    """(height, width) network pixels that the pixels of the region alone determine."""
    shares = resize(region.at(original).astype(np.float32), network)
    return np.asarray(shares >= 1 - 1e-6, dtype=np.bool_)


def raise_unreadable(index: int, error: ImageError) -> None:
    """Raise the error: a value for the `failed` of `batches` that stops at the first unreadable image.

    Raises
    ------
    ImageError
        `error`.

    Examples
    --------
    >>> raise_unreadable(0, ImageError("part.png: the file is empty"))
    Traceback (most recent call last):
    offnominal.errors.ImageError: part.png: the file is empty
    """
    raise error


def batches(
    sources: Iterable[Source],
    geometries: Sequence[Geometry],
    values: ValueRange,
    *,
    batch_size: int,
    failed: Callable[[int, ImageError], None],
    region: RegionOfInterest | None = None,
    workers: int = 2,
    keep: bool = False,
    memory: int = DEFAULT_MEMORY,
) -> Iterator[ImageBatch]:
    """Group images into batches of equal shapes. Images are decoded in threads while the caller works.

    Images of one shape stay in order. Batches of different shapes interleave; `ImageBatch.index` identifies the images.

    Parameters
    ----------
    sources
        The images.
    geometries
        One view is made for each geometry.
    values
        Value range of the model.
    batch_size
        Largest number of images in a batch.
    failed
        `failed(index, error)` is called for each image that cannot be read, or that would take more than `memory` bytes. The
        image is left out.
    region
        Region of interest; see `prepare`.
    workers
        Number of decoding threads.
    keep
        Whether to keep the stored values, for overlays and masks. About `MOST_KEPT` bytes of them wait at most.
    memory
        Bytes that one image may take.

    Yields
    ------
    ImageBatch

    Examples
    --------
    >>> from offnominal.images import EIGHT_BIT
    >>> images = [np.zeros((64, 64), np.uint8), np.zeros((64, 96), np.uint8), np.zeros((64, 64), np.uint8)]
    >>> geometry = Geometry((64, 64), "keep")
    >>> [batch.index for batch in batches(images, [geometry], EIGHT_BIT, batch_size=2, failed=raise_unreadable)]
    [(0, 2), (1,)]
    """
    waiting: dict[tuple[tuple[int, ...], ...], list[tuple[int, Prepared]]] = {}
    ready = partial(prepare, geometries=geometries, values=values, region=region, keep=keep, memory=memory)
    for index, prepared in _prepared(sources, ready, failed, batch_size + workers, workers):
        group = waiting.setdefault(prepared.shapes, [])
        group.append((index, prepared))
        if len(group) == batch_size:
            yield _batch(waiting.pop(prepared.shapes), values)
        elif sum(image.kept for group in waiting.values() for _, image in group) > MOST_KEPT:
            yield _batch(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))), values)
    for group in waiting.values():
        yield _batch(group, values)


def _prepared(
    sources: Iterable[Source],
    ready: Callable[[Source], Prepared],
    failed: Callable[[int, ImageError], None],
    ahead: int,
    workers: int,
) -> Iterator[tuple[int, Prepared]]:
    if isinstance(sources, (list, tuple)) and len(sources) == 1:  # threads cost more than they save
        try:
            yield 0, ready(sources[0])
        except ImageError as error:
            failed(0, error)
        return
    queue: deque[tuple[int, Future[Prepared]]] = deque()
    largest = 0  # bytes of the largest image so far: large images are decoded less far ahead

    def take() -> Iterator[tuple[int, Prepared]]:
        nonlocal largest
        index, future = queue.popleft()
        try:
            prepared = future.result()
        except ImageError as error:
            failed(index, error)
            return
        largest = max(largest, prepared.kept)
        yield index, prepared

    with ThreadPoolExecutor(workers) as pool:
        try:
            for index, source in enumerate(sources):
                queue.append((index, pool.submit(ready, source)))
                while len(queue) > ahead or (len(queue) > workers and len(queue) * largest > MOST_KEPT):
                    yield from take()
            while queue:
                yield from take()
        finally:
            for _, future in queue:
                future.cancel()


def _batch(group: list[tuple[int, Prepared]], values: ValueRange) -> ImageBatch:
    views = []
    for view, (height, width, channels) in enumerate(group[0][1].shapes):
        pixels = np.empty((len(group), channels, height, width), np.float32)
        for row, (_, prepared) in enumerate(group):
            pixels[row] = prepared.views[view].transpose(2, 0, 1)
        views.append(pixels)
    return ImageBatch(
        tuple(views),
        tuple(index for index, _ in group),
        tuple(prepared.original for _, prepared in group),
        tuple(prepared.decoded for _, prepared in group),
        values.exposure,
    )
