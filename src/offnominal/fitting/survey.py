"""Survey of the images before the fit: which can be read, their sizes and depths, their value range and exposure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.decisions import halves
from offnominal.errors import ImageError, InputError
from offnominal.images import (
    DEFAULT_MEMORY,
    EIGHT_BIT,
    Exposure,
    Preprocessing,
    Source,
    ValueRange,
    batches,
    block_levels,
    content_digest,
    depth_of,
    exposure_of,
    file_of,
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
#: `survey_all(function, sources, stage)`: the results of a function for many images, in their order.
Map = Callable[[Callable[[Any], Any], Sequence[Source], str], Iterator[Any]]
#: Number of images that the common exposure is estimated from, which is enough for a median.
EXPOSURE_IMAGES = 64


@dataclass(frozen=True)
class SurveyedImage:
    """What the survey knows of an image.

    Attributes
    ----------
    size
        (H, W).
    depth
        Depth of its values.
    digest
        Digest of its content.
    """

    size: tuple[int, int]
    depth: Depth
    digest: str


def survey_image(source: Source, memory: int = DEFAULT_MEMORY) -> SurveyedImage | str:
    """Read size and depth of an image, and the digest of its content; for an unreadable image, return the reason."""
    try:
        with file_of(source) as file:
            if isinstance(file, (str, Path)):
                header = read_header(Path(file), memory)
                size, depth = header.size, header.depth
            else:
                pixels = pixels_of(file, memory)
                size, depth = (pixels.shape[0], pixels.shape[1]), depth_of(pixels)
            return SurveyedImage(size, depth, content_digest(file).hex())
    except ImageError as error:
        return str(error)


def range_of(source: Source, memory: int = DEFAULT_MEMORY) -> tuple[float, float] | str:
    """Range of the pixel values of an image; for an unreadable image, the reason."""
    try:
        return image_range(pixels_of(source, memory))
    except ImageError as error:
        return str(error)


def survey(
    sources: Sequence[Source],
    names: Sequence[str],
    failed: Callable[[int, str], None],
    survey_all: Map | None = None,
    memory: int = DEFAULT_MEMORY,
) -> tuple[ValueRange, dict[int, SurveyedImage]]:
    """Read sizes and depths of all images, and determine the value range.

    Only images of the most common depth can be used.

    Parameters
    ----------
    names
        Names of the sources in messages.
    failed
        Called with index and reason of each image that cannot be used.
    survey_all
        Applies a function to many images; by default one after another.
    memory
        Largest number of bytes of a decoded image.

    Returns
    -------
    values, images
        Value range, and by index the images that can be used.

    Raises
    ------
    InputError
        If no image has contrast, so that no defect could be seen.
    """
    survey_all = survey_all or (lambda function, sources, stage: map(function, sources))
    images: dict[int, SurveyedImage] = {}
    for index, surveyed in enumerate(survey_all(partial(survey_image, memory=memory), sources, "survey")):
        if isinstance(surveyed, str):
            failed(index, surveyed)
        else:
            images[index] = surveyed
    if not images:
        return EIGHT_BIT, {}
    depth = Counter(image.depth for image in images.values()).most_common(1)[0][0]
    for index, image in images.items():
        if image.depth != depth:
            failed(index, f"{names[index]}: is {image.depth}, most images are {depth}; convert it")
    kept = {index: image for index, image in images.items() if image.depth == depth}
    values = EIGHT_BIT
    if depth != "8-bit":
        ranges = list(survey_all(partial(range_of, memory=memory), [sources[index] for index in kept], "value range"))
        for index, of_image in zip(list(kept), ranges, strict=True):
            if isinstance(of_image, str):
                failed(index, of_image)
                del kept[index]
        readable = [of_image for of_image in ranges if not isinstance(of_image, str)]
        values = join_ranges(depth, readable) if readable else EIGHT_BIT
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
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    progress: Progress = SILENT.on_progress,
) -> Exposure | None:
    """Estimate the common exposure from at most `EXPOSURE_IMAGES` evenly spaced images.

    These images come from the half that the drift monitor learns from, because the other half, its reference, must not
    influence the model. If a half has too few images, all images are used.

    Parameters
    ----------
    preprocessing
        From pixels to a view.
    seed
        Seed of the halves.
    progress
        Called with the stage, the number of images done, and their total.

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
    for batch in batches(selected, preprocessing, batch_size=1, failed=lambda index, error: None):
        means.append(levels(batch.overview))
        blocks.append(block_levels(batch.overview))
        progress("exposure", len(means), len(selected))
    return exposure_of(means, blocks)
