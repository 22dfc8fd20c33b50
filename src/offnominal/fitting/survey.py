"""What images are before any is decoded: which can be read, their size and depth, and so the range of their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from offnominal.decisions import halves
from offnominal.errors import ImageError, InputError
from offnominal.images import (
    EIGHT_BIT,
    MEMORY,
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
from offnominal.observer import SILENT
from offnominal.types import Depth

#: Share of the range of values that an image must fill to have contrast: a quarter of a grey level of 8 bits.
LEAST_CONTRAST = 1 / 1024
#: Images that say how brightly all of them are lit.
LOOKED_AT = 64


def survey(
    sources: Sequence[Source],
    names: Sequence[str],
    failed: Callable[[int, str], None],
    tell: Callable[[int], None],
    memory: int = MEMORY,
) -> tuple[ValueRange, dict[int, tuple[int, int]]]:
    """The range of the values, and (H, W) of every source that can be used, by its number.

    The most common depth wins. Why another source cannot be used is told by `failed(index, reason)`; `tell(done)` is called as
    it goes on. An image that would take more than `memory` bytes cannot be used.

    Raises:
        InputError: no image has contrast, so that no defect could be seen.
    """
    sizes: dict[int, tuple[int, int]] = {}
    depths: dict[int, Depth] = {}
    for index, source in enumerate(sources):
        tell(index)
        try:
            sizes[index], depths[index] = _size_and_depth(source, memory)
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
    values = EIGHT_BIT if depth == "8-bit" else _range(depth, sources, kept, failed, memory)
    if kept and not any(_has_contrast(sources[index], values, memory) for index in kept):
        raise InputError(
            f"no image has contrast: scaled from {values.low:g} to {values.high:g} to 0 to 1, all {len(kept)} are constant, so "
            "no defect could be seen; check exposure and depth of the images, and values that mean no data"
        )
    return values, kept


def _has_contrast(source: Source, values: ValueRange, memory: int) -> bool:
    """Whether the values of an image differ once they are scaled; that of one that cannot be read is not judged."""
    try:
        pixels = values.clipped(pixels_of(source, memory))
    except ImageError:
        return True
    return (float(pixels.max()) - float(pixels.min())) / (values.high - values.low) >= LEAST_CONTRAST


def common_exposure(
    sources: Sequence[Source],
    geometry: Geometry,
    values: ValueRange,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = SILENT.on_progress,
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
    depth: Depth,
    sources: Sequence[Source],
    kept: dict[int, tuple[int, int]],
    failed: Callable[[int, str], None],
    memory: int,
) -> ValueRange:
    """That of all images; takes out of `kept` what cannot be decoded after all."""
    ranges = []
    for index in list(kept):
        try:
            ranges.append(image_range(pixels_of(sources[index], memory)))
        except ImageError as error:
            failed(index, str(error))
            del kept[index]
    return join_ranges(depth, ranges) if ranges else EIGHT_BIT


def _size_and_depth(source: Source, memory: int) -> tuple[tuple[int, int], Depth]:
    if isinstance(source, (str, Path)):
        header = read_header(Path(source), memory)
        return header.size, header.depth
    pixels = pixels_of(source, memory)
    return (pixels.shape[0], pixels.shape[1]), depth_of(pixels)
