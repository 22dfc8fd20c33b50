"""Images in, batches out: decoded beside the network's work, grouped by shape, failures set aside."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from offnominal.errors import ImageError, InputError
from offnominal.images.decode import Pixels, decode, from_array, from_pillow, planes
from offnominal.images.exposure import Exposure
from offnominal.images.files import MEMORY
from offnominal.images.frames import page_of
from offnominal.images.geometry import Geometry, resize
from offnominal.images.value_range import ValueRange
from offnominal.types import Float, require

Source = Path | str | Image.Image | Any

#: Bytes of kept decoded pixels that may wait, once for their turn and once for their batch; smaller batches are the price.
MOST_KEPT = 256_000_000


@dataclass(frozen=True)
class ImageBatch:
    """Images of one network size.

    Attributes:
        views: (B, 3, height, width) float32 each, about 0 to 1: the images resized for each geometry.
        index: where each stands in the input, B numbers.
        original: (H, W) of each original image.
        decoded: (H, W, 3) stored values of each, or None where they were not to be kept.
        exposure: how brightly the model's normal images are lit, None where each is to be seen as bright as it is.
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

    def seen(self, view: int) -> Float:
        """(B, 3, height, width) float32: a view as the network sees it, with its exposure corrected."""
        return self.views[view] if self.exposure is None else self.exposure.corrected(self.views[view])


@dataclass(frozen=True)
class Prepared:
    """One image for the networks: (height, width, 3) float32 a view, the original's (H, W), its stored values if kept."""

    views: tuple[Float, ...]
    original: tuple[int, int]
    decoded: Pixels | None

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the views."""
        return tuple(view.shape for view in self.views)

    @property
    def kept(self) -> int:
        """Bytes of the stored values."""
        return 0 if self.decoded is None else self.decoded.nbytes


def pixels_of(source: Source, memory: int = MEMORY) -> Pixels:
    """Decoded pixels of a path, a Pillow image or an array.

    Raises:
        ImageError: it cannot be read, or it would take more than `memory` bytes.
    """
    with _as_image_error(source):
        if isinstance(source, (str, Path)):
            return decode(Path(source), memory)
        if isinstance(source, Image.Image):
            return from_pillow(source, memory=memory)
        return from_array(source, memory=memory)


@contextmanager
def _as_image_error(source: Source) -> Iterator[None]:
    """Whatever reading a source raises is an error of that image, so that the others go on."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders and objects of others raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ImageError(f"{_name(source)}: cannot be read ({type(error).__name__}: {reason})") from None


def _name(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else "image"


def content_digest(source: Source) -> bytes:
    """16 bytes that depend on the content of a source alone: of a file its bytes, of an array or Pillow image its pixels.

    Raises:
        ImageError: it cannot be read.
    """
    with _as_image_error(source):
        digest = blake2b(digest_size=16)
        if isinstance(source, (str, Path)):
            file, page = page_of(Path(source))
            digest.update(f"{page} ".encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
        else:
            pixels = planes(pixels_of(source))
            digest.update(f"{pixels.dtype} {pixels.shape} ".encode())
            digest.update(np.ascontiguousarray(pixels).data)
        return digest.digest()


def several(sources: Iterable[Source]) -> Sequence[Source]:
    """The sources as a sequence.

    Raises:
        InputError: one image was given in place of several, whose rows or letters would be taken for images.
    """
    if isinstance(sources, (str, Path)) and os.path.isdir(sources):
        raise InputError(f"{sources}: is a folder; list its images, such as sorted(Path({str(sources)!r}).glob('*.png'))")
    one = isinstance(sources, (str, Path, Image.Image))
    if isinstance(sources, np.ndarray):
        one = sources.ndim < 3 or (sources.ndim == 3 and sources.shape[2] in (1, 3, 4))
    if one:
        raise InputError("one image was given where several are expected: put it in a list, [image]")
    if not isinstance(sources, Iterable):
        raise InputError(f"{str(sources)[:60]} was given where several images are expected: a sequence of paths and arrays")
    return sources if isinstance(sources, Sequence) else list(sources)


def prepare(
    source: Source, geometries: Sequence[Geometry], values: ValueRange, *, keep: bool = False, memory: int = MEMORY
) -> Prepared:
    """The one way from any source to what the networks see: decode, clip to near the range of values, resize, scale.

    Raises:
        ImageError: it cannot be read, it would take more than `memory` bytes, or its depth is not the model's.
    """
    with _as_image_error(source):
        pixels = pixels_of(source, memory)
        original = (int(pixels.shape[0]), int(pixels.shape[1]))
        clipped, name = values.clipped(planes(pixels)), _name(source)
        views = []
        for geometry in geometries:
            height, width = geometry.network_size(original)
            scaled = values.scale(resize(clipped, (height, width)), name).reshape(height, width, -1)
            views.append(np.broadcast_to(scaled, (height, width, 3)))
        return Prepared(tuple(views), original, pixels if keep else None)


def raise_unreadable(index: int, error: ImageError) -> None:
    """`failed` of where an image that cannot be read ends the work. Raises `error`."""
    raise error


def batches(
    sources: Iterable[Source],
    geometries: Sequence[Geometry],
    values: ValueRange,
    *,
    batch_size: int,
    failed: Callable[[int, ImageError], None],
    workers: int = 2,
    keep: bool = False,
    memory: int = MEMORY,
) -> Iterator[ImageBatch]:
    """Batches of images of the same shapes, a view for each geometry, decoded in threads while the caller works.

    A source that cannot be read, or would take more than `memory` bytes, is passed to `failed(index, error)` and left out. The
    order inside a shape is kept; with several shapes the batches interleave, and `index` says which image is which. With `keep`
    the decoded pixels come along, for whoever draws on them; no more than about `MOST_KEPT` bytes of them wait.
    """
    waiting: dict[tuple[tuple[int, ...], ...], list[tuple[int, Prepared]]] = {}
    for index, prepared in _prepared(sources, geometries, values, failed, batch_size + workers, workers, keep, memory):
        group = waiting.setdefault(prepared.shapes, [])
        group.append((index, prepared))
        if len(group) == batch_size:
            yield _batch(waiting.pop(prepared.shapes), values)
        elif sum(one.kept for group in waiting.values() for _, one in group) > MOST_KEPT:
            yield _batch(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))), values)
    for group in waiting.values():
        yield _batch(group, values)


def _prepared(
    sources: Iterable[Source],
    geometries: Sequence[Geometry],
    values: ValueRange,
    failed: Callable[[int, ImageError], None],
    ahead: int,
    workers: int,
    keep: bool,
    memory: int,
) -> Iterator[tuple[int, Prepared]]:
    if isinstance(sources, (list, tuple)) and len(sources) == 1:  # threads cost more than they save
        try:
            yield 0, prepare(sources[0], geometries, values, keep=keep, memory=memory)
        except ImageError as error:
            failed(0, error)
        return
    queue: deque[tuple[int, Future[Prepared]]] = deque()
    largest = 0  # image so far, so that large ones are decoded less far ahead

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
                queue.append((index, pool.submit(prepare, source, geometries, values, keep=keep, memory=memory)))
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
        for at, (_, prepared) in enumerate(group):
            pixels[at] = prepared.views[view].transpose(2, 0, 1)
        views.append(pixels)
    return ImageBatch(
        tuple(views),
        tuple(index for index, _ in group),
        tuple(prepared.original for _, prepared in group),
        tuple(prepared.decoded for _, prepared in group),
        values.exposure,
    )
