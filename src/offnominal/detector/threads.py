"""Images side by side, each on a thread of its own.

What is done with one image is too little to be shared well between processor cores, and what follows the network leaves all but
one idle for much of the time. Many images get through sooner when every core has one of them to itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

import torch

from offnominal.errors import ImageError, SettingsError
from offnominal.images import MEMORY, Geometry, ImageBatch, Source, ValueRange, batches

#: Fewer images than this are done before a network is ready for several at once.
FEWEST = 24
#: Bytes that results which are in progress or wait for the caller may hold; one result is always allowed.
MOST_WAITING = 256_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_through(
    sources: Sequence[Source],
    geometry: Geometry,
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

    Raises:
        SettingsError: a batch does not fit into the memory of the GPU.
    """
    work = _with_room(work)
    if threads < 2:
        for batch in batches(sources, geometry, values, batch_size=batch_size, failed=failed, keep=keep, memory=memory):
            yield from work(batch)
        return
    alone = batches(sources, geometry, values, batch_size=1, failed=failed, workers=threads, keep=keep, memory=memory)
    for results in side_by_side(lambda image: list(work(image)), alone, threads, size):
        yield from results


def _with_room(work: Callable[[ImageBatch], Iterable[Result]]) -> Callable[[ImageBatch], Iterator[Result]]:
    def worked(batch: ImageBatch) -> Iterator[Result]:
        try:
            yield from work(batch)
        except torch.cuda.OutOfMemoryError:
            count, _, height, width = batch.pixels.shape
            raise SettingsError(
                f"{count} image{'' if count == 1 else 's'} of {width} x {height} do not fit into the memory of the GPU; use a "
                "smaller --batch-size, fit with a smaller --image-size, or use --device cpu"
            ) from None

    return worked


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
