"""What images are before any is decoded: which can be read, their size and depth, and so the range of their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from offnominal.decisions import halves
from offnominal.errors import ImageError
from offnominal.images import (
    EIGHT_BIT,
    Exposure,
    Geometry,
    Source,
    ValueRange,
    batches,
    block_levels,
    depth_of,
    exposure_of,
    image_range,
    join_ranges,
    levels,
    pixels_of,
    read_header,
)
from offnominal.types import Depth, Progress, silent

#: Images that say how brightly all of them are lit.
LOOKED_AT = 64


def survey(
    sources: Sequence[Source], names: Sequence[str], failed: Callable[[int, str], None], tell: Callable[[int], None]
) -> tuple[ValueRange, dict[int, tuple[int, int]]]:
    """The range of the values, and (H, W) of every source that can be used, by its number.

    The most common depth wins. Why another source cannot be used is told by `failed(index, reason)`; `tell(done)` is called as
    it goes on.
    """
    sizes: dict[int, tuple[int, int]] = {}
    depths: dict[int, Depth] = {}
    for index, source in enumerate(sources):
        tell(index)
        try:
            sizes[index], depths[index] = _size_and_depth(source)
        except ImageError as error:
            failed(index, str(error))
    tell(len(sources))
    if not depths:
        return EIGHT_BIT, {}
    depth = Counter(depths.values()).most_common(1)[0][0]
    for index, other in depths.items():
        if other != depth:
            failed(index, f"{names[index]}: is {other}, most images are {depth}; convert it")
    kept = {index: size for index, size in sizes.items() if depths[index] == depth}
    return (EIGHT_BIT if depth == "8-bit" else _range(depth, sources, kept, failed)), kept


def common_exposure(
    sources: Sequence[Source],
    geometry: Geometry,
    values: ValueRange,
    seed: int = 0,
    progress: Progress = silent,
    memory: int = MEMORY,
) -> Exposure | None:
    """The exposure of these images, from `LOOKED_AT` evenly spaced ones; None if their lighting does not vary.

    They are of the half that the drift monitor learns from: the other half, its reference, must not have taught anything. If
    a half has fewer than `LOOKED_AT` images, all of them count.
    """
    half, _ = halves(len(sources), seed)
    asked = half if len(half) >= LOOKED_AT else np.arange(len(sources))
    some = [sources[asked[at]] for at in sorted({at * len(asked) // LOOKED_AT for at in range(LOOKED_AT)})]
    means, blocks = [], []
    for batch in batches(some, (geometry,), values, batch_size=1, failed=lambda index, error: None, memory=memory):
        means.append(levels(batch.views[0]))
        blocks.append(block_levels(batch.views[0]))
        progress("exposure", len(means), len(some))
    return exposure_of(means, blocks)


def _range(
    depth: Depth, sources: Sequence[Source], kept: dict[int, tuple[int, int]], failed: Callable[[int, str], None]
) -> ValueRange:
    """That of all images; takes out of `kept` what cannot be decoded after all."""
    ranges = []
    for index in list(kept):
        try:
            ranges.append(image_range(pixels_of(sources[index])))
        except ImageError as error:
            failed(index, str(error))
            del kept[index]
    return join_ranges(depth, ranges) if ranges else EIGHT_BIT


def _size_and_depth(source: Source) -> tuple[tuple[int, int], Depth]:
    if isinstance(source, (str, Path)):
        header = read_header(Path(source))
        return header.size, header.depth
    pixels = pixels_of(source)
    return (pixels.shape[0], pixels.shape[1]), depth_of(pixels)
