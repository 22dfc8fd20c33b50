"""Parallel processing of images, one thread per image.

A single image gives several cores too little to share, and the steps after the network use one core for much of the time.
Therefore throughput on many images is highest if each core processes an image of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from threading import Barrier, BrokenBarrierError
from typing import Generic, TypeVar

import torch

from offnominal.errors import ImageError, OffnominalError, SettingsError, reason_of
from offnominal.images import ImageBatch, LargeImage, Preprocessing, Source, batches, path_of

#: Fewer images are processed one after another: they finish before a network is prepared for parallel use.
MIN_PARALLEL = 24
#: Bytes of the results that are in progress or not yet consumed; a single result may exceed it.
MAX_PENDING_BYTES = 256_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")


def process_images(
    sources: Sequence[Source],
    preprocessing: Preprocessing,
    work: Callable[[ImageBatch], Iterable[Result]],
    size: Callable[[ImageBatch], int],
    *,
    threads: int,
    batch_size: int,
    failed: Callable[[int, ImageError], None],
    keep: bool = False,
) -> Iterator[Result]:
    """Read images and apply `work` to them, in the order of `images.batches`.

    Several threads process one image each. A single thread processes batches of `batch_size` lazily.

    Parameters
    ----------
    sources
        Paths or arrays.
    preprocessing
        From pixels to the views of a batch.
    work
        Returns one result per image of a batch, in order, or one result for the batch.
    size
        Bytes of the results of a batch.
    failed
        Called with index and error of each image that cannot be read or for which `work` raises; it has no result.
    keep
        Whether batches keep the decoded pixels.

    Raises
    ------
    SettingsError
        If a batch does not fit into the memory of the GPU.

    Examples
    --------
    >>> import numpy as np
    >>> from offnominal.images import EIGHT_BIT, Geometry, raise_unreadable
    >>> images = [np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 255, np.uint8)]
    >>> means = process_images(
    ...     images, Preprocessing((Geometry((32, 32), "squash"),), EIGHT_BIT),
    ...     work=lambda batch: [float(pixels.mean()) for pixels in batch.overview],
    ...     size=lambda batch: 0, threads=1, batch_size=2, failed=raise_unreadable,
    ... )
    >>> list(means)
    [0.0, 1.0]
    """
    isolated = _Isolated(sources, work)
    read = partial(batches, sources, preprocessing, failed=failed, keep=keep)
    outcomes: Iterable[Iterable[Result | _Failure]]
    if threads < 2:
        outcomes = map(isolated, read(batch_size=batch_size))
    else:
        outcomes = parallel_map(lambda batch: list(isolated(batch)), read(batch_size=1, workers=threads), threads, size)
    for batch_outcomes in outcomes:
        for outcome in batch_outcomes:
            if isinstance(outcome, _Failure):
                failed(outcome.index, outcome.error)
            else:
                yield outcome


@dataclass(frozen=True)
class _Failure:
    """An image for which `work` raised."""

    index: int
    error: ImageError


class _Isolated(Generic[Result]):
    """`work`, with failures isolated: if a batch fails, its images without a result are processed one by one."""

    def __init__(self, sources: Sequence[Source], work: Callable[[ImageBatch], Iterable[Result]]) -> None:
        self._sources, self._work = sources, work

    def __call__(self, batch: ImageBatch) -> Iterator[Result | _Failure]:
        done = 0
        try:
            for result in self._work(batch):
                yield result
                done += 1
            return
        except torch.cuda.OutOfMemoryError:
            raise _out_of_memory(batch) from None
        except Exception as error:
            if isinstance(error, OffnominalError) and not isinstance(error, ImageError):
                raise
            if len(batch.index) == 1:
                yield _Failure(batch.index[0], self._image_error(batch.index[0], error))
                return
        for at in range(done, len(batch.index)):
            yield from self(_single(batch, at))

    def _image_error(self, index: int, error: Exception) -> ImageError:
        source = self._sources[index]
        name = path_of(source) or "image"
        image_error = ImageError(f"{name}: cannot be scored ({reason_of(error)})")
        image_error.__cause__ = error
        return image_error


def _single(batch: ImageBatch, at: int) -> ImageBatch:
    """One image of a batch, as a batch."""
    part = slice(at, at + 1)
    return replace(
        batch,
        views=tuple(view if isinstance(view, LargeImage) else view[part] for view in batch.views),
        index=batch.index[part],
        original=batch.original[part],
        decoded=batch.decoded[part],
        poses=batch.poses[part],
        mm_per_pixel=batch.mm_per_pixel[part],
    )


def _out_of_memory(batch: ImageBatch) -> SettingsError:
    count, _, height, width = max((view.shape for view in batch.views), key=prod)
    return SettingsError(
        f"{count} image{'' if count == 1 else 's'} of {width} x {height} do not fit into the memory of the GPU; use a "
        "smaller --batch-size, fit with a smaller --image-size, or use --device cpu"
    )


def parallel_map(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, size: Callable[[Item], int]
) -> Iterator[Result]:
    """Map `work` over items in parallel; results come in the order of the items.

    Each worker thread runs torch on one thread. Items are taken, and errors of `work` are raised, in the caller's thread. While
    the caller handles a result, the workers go on, until `MAX_PENDING_BYTES` are pending. With a single thread, `work` runs in
    the caller's thread.

    Parameters
    ----------
    size
        Bytes of the result of an item.

    Examples
    --------
    >>> list(parallel_map(abs, [-1, 2, -3], threads=2, size=lambda item: 8))
    [1, 2, 3]
    """
    if threads < 2:
        yield from map(work, items)
        return
    pending: deque[tuple[int, Future[Result]]] = deque()
    with worker_pool(threads) as pool:
        try:
            for item in items:
                pending.append((size(item), pool.submit(work, item)))
                while len(pending) > 2 * threads or (len(pending) > 1 and sum(held for held, _ in pending) > MAX_PENDING_BYTES):
                    yield pending.popleft()[1].result()
            while pending:
                yield pending.popleft()[1].result()
        finally:
            for _, future in pending:
                future.cancel()


def threads_for(images: int, device: torch.device) -> int:
    """Number of threads for this many images: torch's number on a CPU with enough images, otherwise 1.

    Examples
    --------
    >>> threads_for(2, torch.device("cpu"))
    1
    """
    return torch.get_num_threads() if device.type == "cpu" and images >= MIN_PARALLEL else 1


@contextmanager
def single_torch_thread(threads: int) -> Iterator[None]:
    """Run torch on one thread in the caller while several `threads` work, so that it takes no core from them.

    Examples
    --------
    >>> with single_torch_thread(threads=4):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def worker_pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch uses one thread each; everywhere else torch keeps its number.

    Examples
    --------
    >>> with worker_pool(2) as pool:
    ...     pool.submit(torch.get_num_threads).result()
    1
    """
    before, ready = torch.get_num_threads(), Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # initialises torch in this thread, which would otherwise override the next line
        torch.set_num_threads(1)
        with suppress(BrokenBarrierError):
            ready.wait()

    pool = ThreadPoolExecutor(threads, "offnominal", initializer=start)
    try:
        for _ in range(threads):  # the barrier keeps each thread busy, so every submission starts another
            pool.submit(torch.get_num_threads)
        ready.wait()
    except BaseException:  # Ctrl-C, or a thread failed to start: release the others, which would wait forever
        ready.abort()
        raise
    finally:
        torch.set_num_threads(before)
    return pool
