"""Images in, batches out: decoded beside the network's work, grouped by shape, failures set aside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from offnominal.errors import ImageError
from offnominal.images.decode import Pixels, decode, from_array, from_pillow
from offnominal.images.geometry import Geometry, resize
from offnominal.images.value_range import ValueRange
from offnominal.types import Float, require

Source = Path | str | Image.Image | Any


@dataclass(frozen=True)
class ImageBatch:
    """Images of one network size.

    Attributes:
        pixels: (B, 3, height, width) float32, about 0 to 1.
        index: where each stands in the input, B numbers.
        original: (H, W) of each original image.
    """

    pixels: Float
    index: tuple[int, ...]
    original: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        require(self.pixels.ndim == 4 and self.pixels.shape[1] == 3, f"pixels must be (B, 3, H, W), got {self.pixels.shape}")
        require(len(self.pixels) == len(self.index) == len(self.original), "pixels, index and original differ in length")


@dataclass(frozen=True)
class Prepared:
    """One image, ready for the network: (height, width, 3) float32 and the original's (H, W)."""

    pixels: Float
    original: tuple[int, int]


def pixels_of(source: Source) -> Pixels:
    """Decoded pixels of a path, a Pillow image or an array.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(source, (str, Path)):
        return decode(Path(source))
    if isinstance(source, Image.Image):
        return from_pillow(source)
    return from_array(source)


def prepare(source: Source, geometry: Geometry, values: ValueRange) -> Prepared:
    """The one way from any source to what the network sees: decode, resize, scale.

    Raises:
        ImageError: it cannot be read, or its depth is not the model's.
    """
    pixels = pixels_of(source)
    original = (int(pixels.shape[0]), int(pixels.shape[1]))
    small = resize(pixels, geometry.network_size(original))
    name = str(source) if isinstance(source, (str, Path)) else "image"
    return Prepared(values.scale(small, name), original)


def batches(
    sources: Iterable[Source],
    geometry: Geometry,
    values: ValueRange,
    *,
    batch_size: int,
    failed: Callable[[int, ImageError], None],
    workers: int = 2,
) -> Iterator[ImageBatch]:
    """Batches of one shape each, decoded in threads while the caller works on the batch before.

    A source that cannot be read is passed to `failed(index, error)` and left out. The order inside a shape is kept; with
    several shapes the batches interleave, and `index` says which image is which.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Prepared]]] = {}
    for index, prepared in _prepared(sources, geometry, values, failed, batch_size + workers, workers):
        group = waiting.setdefault(prepared.pixels.shape, [])
        group.append((index, prepared))
        if len(group) == batch_size:
            yield _batch(waiting.pop(prepared.pixels.shape))
    for group in waiting.values():
        yield _batch(group)


def _prepared(
    sources: Iterable[Source],
    geometry: Geometry,
    values: ValueRange,
    failed: Callable[[int, ImageError], None],
    ahead: int,
    workers: int,
) -> Iterator[tuple[int, Prepared]]:
    queue: deque[tuple[int, Future[Prepared]]] = deque()

    def take() -> Iterator[tuple[int, Prepared]]:
        index, future = queue.popleft()
        try:
            yield index, future.result()
        except ImageError as error:
            failed(index, error)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for index, source in enumerate(sources):
                queue.append((index, pool.submit(prepare, source, geometry, values)))
                if len(queue) > ahead:
                    yield from take()
            while queue:
                yield from take()
        finally:
            for _, future in queue:
                future.cancel()


def _batch(group: list[tuple[int, Prepared]]) -> ImageBatch:
    pixels = np.stack([prepared.pixels.transpose(2, 0, 1) for _, prepared in group])
    return ImageBatch(pixels, tuple(index for index, _ in group), tuple(prepared.original for _, prepared in group))
