"""Survey of the images before the fit: which can be read, their sizes and depths, their value range and exposure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from offnominal.decisions import halves
from offnominal.errors import ImageError, InputError
from offnominal.images import (
    DEFAULT_MEMORY,
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
from offnominal.observer import SILENT
from offnominal.types import Depth, Progress

#: Smallest share of the value range that an image with contrast covers: a quarter of an 8-bit grey level.
MIN_CONTRAST = 1 / 1024
#: Number of images that the common exposure is estimated from, which is enough for a median.
EXPOSURE_IMAGES = 64


def survey(
    sources: Sequence[Source],
    names: Sequence[str],
    failed: Callable[[int, str], None],
    tick: Callable[[int], None],
    memory: int = DEFAULT_MEMORY,
) -> tuple[ValueRange, dict[int, tuple[int, int]]]:
    """Read sizes and depths of all images, and determine the value range.

    Only images of the most common depth can be used.

    Parameters
    ----------
    names
        Names of the sources in messages.
    failed
        Called with index and reason of each image that cannot be used.
    tick
        Called with the number of images done.
    memory
        Largest number of bytes of a decoded image.

    Returns
    -------
    values, sizes
        Value range; (H, W) by index, for images that can be used.

    Raises
    ------
    InputError
        If no image has contrast, so that no defect could be seen.
    """
    sizes: dict[int, tuple[int, int]] = {}
    depths: dict[int, Depth] = {}
    for index, source in enumerate(sources):
        tick(index)
        try:
            sizes[index], depths[index] = _size_and_depth(source, memory)
        except ImageError as error:
            failed(index, str(error))
    tick(len(sources))
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
            f"no image has contrast: between {values.low:g} and {values.high:g}, all {len(kept)} images are constant; "
            "check exposure and depth of the images, and values that mark missing data"
        )
    return values, kept


def _has_contrast(source: Source, values: ValueRange, memory: int) -> bool:
    """Whether an image has contrast in the value range; true for an image that cannot be read."""
    try:
        pixels = values.clipped(pixels_of(source, memory))
    except ImageError:
        return True
    return (float(pixels.max()) - float(pixels.min())) / (values.high - values.low) >= MIN_CONTRAST


def common_exposure(
    sources: Sequence[Source],
    geometry: Geometry,
    values: ValueRange,
    *,
    seed: int = 0,
    progress: Progress = SILENT.on_progress,
    memory: int = DEFAULT_MEMORY,
) -> Exposure | None:
    """Estimate the common exposure from at most `EXPOSURE_IMAGES` evenly spaced images.

    These images come from the half that the drift monitor learns from, because the other half, its reference, must not
    influence the model. If a half has too few images, all images are used.

    Parameters
    ----------
    geometry
        How images are resized.
    values
        Value range.
    seed
        Seed of the halves.
    progress
        Called with the stage, the number of images done, and their total.
    memory
        Largest number of bytes of a decoded image.

    Returns
    -------
    exposure
        None if the lighting does not vary.
    """
    half, _ = halves(len(sources), seed)
    candidates = half if len(half) >= EXPOSURE_IMAGES else np.arange(len(sources))
    evenly_spaced = sorted({at * len(candidates) // EXPOSURE_IMAGES for at in range(EXPOSURE_IMAGES)})
    selected = [sources[candidates[at]] for at in evenly_spaced]
    means, blocks = [], []
    for batch in batches(selected, (geometry,), values, batch_size=1, failed=lambda index, error: None, memory=memory):
        means.append(levels(batch.views[0]))
        blocks.append(block_levels(batch.views[0]))
        progress("exposure", len(means), len(selected))
    return exposure_of(means, blocks)


def _range(
    depth: Depth,
    sources: Sequence[Source],
    kept: dict[int, tuple[int, int]],
    failed: Callable[[int, str], None],
    memory: int,
) -> ValueRange:
    """Value range of all images; removes images that cannot be decoded from `kept`."""
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
