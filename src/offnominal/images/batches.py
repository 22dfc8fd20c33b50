"""Images to batches: decoded in threads while the network works, grouped by shape, unreadable images reported."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from offnominal.errors import ImageError
from offnominal.gates import MmPerPixel
from offnominal.images.arrays import Pixels
from offnominal.images.exposure import Exposure
from offnominal.images.image_source import Source
from offnominal.images.preprocessing import Prepared, Preprocessing
from offnominal.images.tiles import LargeImage, Tile, View
from offnominal.types import Float, Pose, require

#: Limit of the decoded pixels in memory, in bytes: once while images wait for their turn, once while a batch fills. Batches of
#: large images are therefore smaller.
MOST_KEPT = 256_000_000


@dataclass(frozen=True)
class ImageBatch:
    """Images of one network size.

    Attributes
    ----------
    views
        (B, 3, height, width) float32 per geometry, about 0 to 1: the resized images, before exposure correction. The view of a
        geometry with tiles is a `LargeImage`; B is then 1.
    index
        Position of each image in the input, B numbers.
    original
        (H, W) of each original image.
    decoded
        (H, W, 3) stored values of each image, or None if they are not kept.
    poses
        Pose of the part in each image, or None without alignment.
    mm_per_pixel
        Size of the pixels of each original image in mm, or None if it is not known.
    exposure
        Exposure of the normal images, for the correction in `network_input`; None for no correction.

    Examples
    --------
    >>> view = np.full((1, 3, 64, 64), 0.4, np.float32)
    >>> batch = ImageBatch((view,), (0,), ((600, 800),), (None,), (None,), (None,), Exposure(level=0.5, spread=0.2))
    >>> round(float(batch.network_input(0).mean()), 3)
    0.5
    """

    views: tuple[View, ...]
    index: tuple[int, ...]
    original: tuple[tuple[int, int], ...]
    decoded: tuple[Pixels | None, ...]
    poses: tuple[Pose | None, ...]
    mm_per_pixel: tuple[MmPerPixel | None, ...]
    exposure: Exposure | None = None

    def __post_init__(self) -> None:
        for pixels in self.views:
            require(len(pixels.shape) == 4 and pixels.shape[1] == 3, f"a view must be (B, 3, H, W), got {pixels.shape}")
        of_images: tuple[Sized, ...] = (self.index, self.original, self.decoded, self.poses, self.mm_per_pixel)
        lengths = {pixels.shape[0] for pixels in self.views} | {len(values) for values in of_images}
        require(len(lengths) == 1, "the entries of a batch differ in length")

    @property
    def overview(self) -> Float:
        """(B, 3, height, width) float32 whole images, as the first view shows them."""
        view = self.views[0]
        assert not isinstance(view, LargeImage)
        return view

    def network_input(self, view: int) -> Float:
        """Return the network input of a view, (B, 3, height, width) float32, with corrected exposure."""
        pixels = self.views[view]
        assert not isinstance(pixels, LargeImage)
        return pixels if self.exposure is None else self.exposure.corrected(pixels)

    def tile_input(self, view: int, tile: Tile) -> Float:
        """Return the network input of a tile of a large image, (1, 3, height, width) float32, with corrected exposure."""
        large = self.views[view]
        assert isinstance(large, LargeImage)
        pixels = large.cut(tile)
        return pixels if self.exposure is None else np.asarray(pixels * self._gain)

    @cached_property
    def _gain(self) -> np.float32:
        """Gain of the exposure correction of a large image."""
        assert self.exposure is not None
        return np.float32(self.exposure.gains(self.overview)[0])


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
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    failed: Callable[[int, ImageError], None],
    workers: int = 2,
    keep: bool = False,
) -> Iterator[ImageBatch]:
    """Group images into batches of equal shapes. Images are decoded in threads while the caller works.

    Images of one shape stay in order. Batches of different shapes interleave; `ImageBatch.index` identifies the images.

    Parameters
    ----------
    sources
        The images.
    preprocessing
        From pixels to the views of the networks.
    batch_size
        Largest number of images in a batch.
    failed
        `failed(index, error)` is called for each image that cannot be read. The image is left out.
    workers
        Number of decoding threads.
    keep
        Whether to keep the stored values, for overlays and masks. About `MOST_KEPT` bytes of them wait at most.

    Yields
    ------
    ImageBatch

    Examples
    --------
    >>> from offnominal.images import EIGHT_BIT, Geometry
    >>> images = [np.zeros((64, 64), np.uint8), np.zeros((64, 96), np.uint8), np.zeros((64, 64), np.uint8)]
    >>> preprocessing = Preprocessing((Geometry((64, 64), "keep"),), EIGHT_BIT)
    >>> [batch.index for batch in batches(images, preprocessing, batch_size=2, failed=raise_unreadable)]
    [(0, 2), (1,)]
    """
    waiting: dict[tuple[tuple[int, ...], ...], list[tuple[int, Prepared]]] = {}
    ready, exposure = partial(preprocessing.prepare, keep=keep), preprocessing.values.exposure
    ahead = batch_size + workers
    if any(geometry.tile for geometry in preprocessing.geometries):  # one large image at a time, to save memory
        batch_size, ahead, workers = 1, 0, 1
    for index, prepared in _prepared(sources, ready, failed, ahead, workers):
        group = waiting.setdefault(prepared.shapes, [])
        group.append((index, prepared))
        if len(group) == batch_size:
            yield _batch(waiting.pop(prepared.shapes), exposure)
        elif sum(image.kept for group in waiting.values() for _, image in group) > MOST_KEPT:
            yield _batch(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))), exposure)
    for group in waiting.values():
        yield _batch(group, exposure)


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


def _batch(group: list[tuple[int, Prepared]], exposure: Exposure | None) -> ImageBatch:
    views: list[View] = []
    for view, first in enumerate(group[0][1].views):
        if isinstance(first, LargeImage):
            views.append(first)
            continue
        height, width, channels = first.shape
        pixels = np.empty((len(group), channels, height, width), np.float32)
        for row, (_, prepared) in enumerate(group):
            shown = prepared.views[view]
            assert not isinstance(shown, LargeImage)
            pixels[row] = shown.transpose(2, 0, 1)
        views.append(pixels)
    return ImageBatch(
        tuple(views),
        tuple(index for index, _ in group),
        tuple(prepared.original for _, prepared in group),
        tuple(prepared.decoded for _, prepared in group),
        tuple(prepared.pose for _, prepared in group),
        tuple(prepared.mm_per_pixel for _, prepared in group),
        exposure,
    )
