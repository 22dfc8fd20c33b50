"""Images side by side, each on a thread of its own.

What is done with one image is too little to be shared well between processor cores, and what follows the network leaves all but
one idle for much of the time. Many images get through sooner when every core has one of them to itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Generic, TypeVar

import numpy as np
import torch

from offnominal.errors import ImageError, OffnominalError, SettingsError, reason_of
from offnominal.images import MEMORY, Geometry, ImageBatch, Source, ValueRange, batches

#: Fewer images than this are done before a network is ready for several at once.
FEWEST = 24
#: Bytes that results which are in progress or wait for the caller may hold; one result is always allowed.
MOST_WAITING = 256_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_through(
    sources: Sequence[Source],
    geometries: Sequence[Geometry],
    values: ValueRange,
    work: Callable[[ImageBatch], Iterable[Result]],
    size: Callable[[ImageBatch], int],
    *,
    threads: int,
    batch_size: int,
    failed: Callable[[int, ImageError], None],
    keep: bool = False,
    memory: int = MEMORY,
) -> Iterator[Result]:
    """What `work` gives for the sources that can be read, in the order of `images.batches`.

    With several threads an image at a time on each, whose results hold `size` bytes. With one in batches of `batch_size`, and
    a result is worked out when it is asked for.

    An image that `work` fails with, whatever it raises, is passed to `failed` as one that cannot be read, and left out.

    Raises:
        SettingsError: a batch does not fit into the memory of the GPU.
    """
    apart = _Apart(sources, work)
    if threads < 2:
        alone: Iterable[ImageBatch] = batches(
            sources, geometries, values, batch_size=batch_size, failed=failed, keep=keep, memory=memory
        )
        found: Iterable[Iterable[Result | _Failure]] = map(apart, alone)
    else:
        alone = batches(sources, geometries, values, batch_size=1, failed=failed, workers=threads, keep=keep, memory=memory)
        found = side_by_side(lambda image: list(apart(image)), alone, threads, size)
    for results in found:
        for result in results:
            if isinstance(result, _Failure):
                failed(result.index, result.error)
            else:
                yield result


@dataclass(frozen=True)
class _Failure:
    """An image that `work` could not be done with."""

    index: int
    error: ImageError


class _Apart(Generic[Result]):
    """`work`, so that an image that fails costs no other image: a batch that fails is gone through one by one.

    `work` gives one result an image, in their order, or one of the whole batch.
    """

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
            raise _no_room(batch) from None
        except Exception as error:
            if isinstance(error, OffnominalError) and not isinstance(error, ImageError):
                raise
            if len(batch.index) == 1:
                yield _Failure(batch.index[0], self._named(batch.index[0], error))
                return
        for at in range(done, len(batch.index)):
            yield from self(_only(batch, at))

    def _named(self, index: int, error: Exception) -> ImageError:
        source = self._sources[index]
        name = str(source) if isinstance(source, (str, Path)) else "image"
        found = ImageError(f"{name}: cannot be scored ({reason_of(error)})")
        found.__cause__ = error
        return found


def _only(batch: ImageBatch, at: int) -> ImageBatch:
    """The batch of one of its images."""
    one = slice(at, at + 1)
    return replace(
        batch,
        views=tuple(view[one] for view in batch.views),
        index=batch.index[one],
        original=batch.original[one],
        decoded=batch.decoded[one],
    )


def _no_room(batch: ImageBatch) -> SettingsError:
    count, _, height, width = max(batch.views, key=np.size).shape
    return SettingsError(
        f"{count} image{'' if count == 1 else 's'} of {width} x {height} do not fit into the memory of the GPU; use a "
        "smaller --batch-size, fit with a smaller --image-size, or use --device cpu"
    )


def side_by_side(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, size: Callable[[Item], int]
) -> Iterator[Result]:
    """`work(item)` for all items, in their order; those that follow are worked on while the caller looks at a result.

    In `work` torch uses one thread, and so does what follows its setting. Items are taken in the caller's thread. `size(item)`
    is how many bytes its result holds: no more than `MOST_WAITING` of them are in progress or waiting, unless it is one alone.
    What `work` raises is raised here, in its turn. With one thread that is the caller's, and so are torch's threads.
    """
    if threads < 2:
        yield from map(work, items)
        return
    waiting: deque[tuple[int, Future[Result]]] = deque()
    with _pool(threads) as pool:
        try:
            for item in items:
                waiting.append((size(item), pool.submit(work, item)))
                while len(waiting) > 2 * threads or (len(waiting) > 1 and sum(held for held, _ in waiting) > MOST_WAITING):
                    yield waiting.popleft()[1].result()
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, future in waiting:
                future.cancel()


def threads_for(images: int, device: torch.device) -> int:
    """How many of so many images to work on side by side: on a CPU one a thread of torch, on a GPU, which has its own, one."""
    return torch.get_num_threads() if device.type == "cpu" and images >= FEWEST else 1


@contextmanager
def one_beside(threads: int) -> Iterator[None]:
    """Beside several threads the caller's torch uses one: another of its own would keep a core from them, busily waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in each of which torch uses one; everywhere else it uses as many as before."""
    before, ready = torch.get_num_threads(), Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # torch sets up a thread when it is first asked something there, and would undo what follows
        torch.set_num_threads(1)
        with suppress(BrokenBarrierError):
            ready.wait()

    pool = ThreadPoolExecutor(threads, "offnominal", initializer=start)
    try:
        for _ in range(threads):  # nobody is idle before all have started, so each of these starts one
            pool.submit(torch.get_num_threads)
        ready.wait()
    except BaseException:  # Ctrl-C, or no thread could be started: they would wait for ever, and the process for them
        ready.abort()
        raise
    finally:
        torch.set_num_threads(before)
    return pool
