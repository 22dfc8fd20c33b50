"""The surveyed images of a fit, in an order that depends on their content only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from offnominal.config import Settings
from offnominal.errors import InputError
from offnominal.fitting.alignment import learn_alignment
from offnominal.fitting.member_patches import TrainingImage
from offnominal.fitting.plan import plan_fit
from offnominal.fitting.resolution import resolution_note
from offnominal.fitting.survey import Map, SurveyedImage, common_exposure, survey
from offnominal.fitting.training_sources import TrainingSource, unit_keys
from offnominal.images import Alignment, Geometry, Preprocessing, ValueRange, mm_per_pixel_of, views_of
from offnominal.inference import FeatureEngine
from offnominal.memory import SourceImage
from offnominal.observer import Observer, Plan
from offnominal.scoring import working_size

#: A fit holds one image out, and needs another.
MIN_IMAGES = 2
#: Fewest units of a shard, if there are several shards; fewer would not be worth a process.
MIN_SHARD = 8


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Surveyed images of a fit.

    Attributes
    ----------
    sources
        All images that the user named.
    images
        The usable images, in the order of the fit.
    preprocessing
        From pixels to the view of each member.
    plan
        The plan of the fit.
    skipped
        Reason by index in `sources`, for images that cannot be used.
    """

    sources: Sequence[TrainingSource]
    images: tuple[TrainingImage, ...]
    preprocessing: Preprocessing
    plan: Plan
    skipped: dict[int, str]


def training_set(
    sources: Sequence[TrainingSource],
    settings: Settings,
    engines: Sequence[FeatureEngine],
    observer: Observer,
    survey_all: Map,
) -> TrainingSet:
    """Survey the images.

    Raises
    ------
    InputError
        If fewer than two images can be used, or none has contrast.
    """
    skipped: dict[int, str] = {}
    paths = [source.source for source in sources]
    values, surveyed = survey(paths, [source.name for source in sources], skipped.__setitem__, survey_all, settings.memory)
    for index, image in list(surveyed.items()):
        if settings.region is not None and not settings.region.suits(image.size):
            skipped[index] = f"{sources[index].name}: {settings.region.unsuited(image.size)}"
            del surveyed[index]
    alignment = None
    if settings.align != "off" and surveyed:
        alignment, not_found = _alignment(sources, surveyed, values, settings, survey_all)
        skipped |= not_found
        surveyed = {index: image for index, image in surveyed.items() if index not in not_found}
    geometries = tuple(engine.geometry([image.size for image in surveyed.values()]) for engine in engines)
    unsuited = _unsuited(sources, surveyed, geometries, settings)
    skipped |= unsuited
    surveyed = {index: image for index, image in surveyed.items() if index not in unsuited}
    require_enough(len(surveyed), skipped)
    images = _sorted(sources, surveyed)
    preprocessing = Preprocessing(geometries, values, settings.region, alignment, settings.memory)
    if settings.exposure == "auto":
        usable = [paths[image.source] for image in images]
        first = replace(preprocessing, geometries=views_of(geometries)[:1])
        exposure = common_exposure(usable, first, seed=settings.seed, progress=observer.on_progress)
        preprocessing = replace(preprocessing, values=replace(values, exposure=exposure))
    plan = plan_fit([image.original for image in images], geometries, settings, engines)
    note = resolution_note(settings, plan)
    if note is not None:
        observer.on_note(note)
    return TrainingSet(sources=sources, images=images, preprocessing=preprocessing, plan=plan, skipped=skipped)


def _unsuited(
    sources: Sequence[TrainingSource],
    surveyed: dict[int, SurveyedImage],
    geometries: Sequence[Geometry],
    settings: Settings,
) -> dict[int, str]:
    """Reason by index, for images in which no region could pass a gate. Raises `InputError` if that holds for all images."""
    unsuited = {}
    for index, image in surveyed.items():
        shape = working_size([geometry.network_size(image.size) for geometry in geometries])
        problem = settings.gates.problem(shape, image.size, mm_per_pixel_of(sources[index].source))
        if problem is not None:
            unsuited[index] = f"{sources[index].name}: {problem}"
    if unsuited and len(unsuited) == len(surveyed):
        raise InputError(next(iter(unsuited.values())))
    return unsuited


def _alignment(
    sources: Sequence[TrainingSource],
    surveyed: dict[int, SurveyedImage],
    values: ValueRange,
    settings: Settings,
    survey_all: Map,
) -> tuple[Alignment, dict[int, str]]:
    """The alignment, and reason by index in `sources` for images in which the part is not found."""
    order = sorted(surveyed, key=lambda index: surveyed[index].digest)  # the choice depends on the images only
    alignment, skipped = learn_alignment(
        [sources[index].source for index in order],
        [sources[index].name for index in order],
        [surveyed[index].size for index in order],
        values,
        settings,
        survey_all,
    )
    return alignment, {order[at]: reason for at, reason in skipped.items()}


def units_of(images: Sequence[TrainingImage]) -> list[slice]:
    """Slices of `images` that are held out together."""
    numbers = np.array([image.unit for image in images])
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def shard_bounds(images: Sequence[TrainingImage], shards: int) -> list[slice]:
    """Split the images into at most `shards` consecutive parts of about equal size; units stay together.

    Each shard has at least `MIN_SHARD` units, so there may be fewer shards.
    """
    units = units_of(images)
    parts = np.array_split(np.arange(len(units)), max(1, min(shards, len(units) // MIN_SHARD)))
    return [slice(units[part[0]].start, units[part[-1]].stop) for part in parts]


def require_units(images: Sequence[TrainingImage]) -> None:
    """Raise `InputError` if all images are held out together."""
    if len(units_of(images)) < MIN_IMAGES:
        raise InputError(
            f"all {len(images)} images are duplicates or belong to one group: a fit needs at least two that can be held out "
            "separately; add other normal images, or correct the column group"
        )


def source_images(images: Sequence[TrainingImage]) -> tuple[SourceImage, ...]:
    """The images as listed in the model; images of one unit share the name of their group."""
    sources: list[SourceImage] = []
    for unit in units_of(images):
        of_unit = images[unit]
        groups = sorted({image.group for image in of_unit if image.group is not None})
        name = " + ".join(groups) or f"copies of {of_unit[0].name}"
        group = None if len(of_unit) == 1 else name
        sources += [replace(image.listed, group=group) for image in of_unit]
    return tuple(sources)


def require_enough(count: int, skipped: dict[int, str]) -> None:
    """Raise `InputError` if `count` images are too few for a fit."""
    if count >= MIN_IMAGES:
        return
    why = f"; the first of {len(skipped)} that cannot be read: {next(iter(skipped.values()))}" if skipped else ""
    raise InputError(
        f"{count} readable good image{'' if count == 1 else 's'}: a fit needs at least {MIN_IMAGES}, "
        f"and a false-alarm rate of 1 % needs 99{why}"
    )


def _sorted(sources: Sequence[TrainingSource], surveyed: dict[int, SurveyedImage]) -> tuple[TrainingImage, ...]:
    """The usable images sorted by a digest of their content; the images of a unit are adjacent."""
    indices = list(surveyed)
    usable = [sources[at] for at in indices]
    digests = [surveyed[at].digest for at in indices]
    units = unit_keys(usable, digests)
    order = sorted(range(len(indices)), key=lambda at: (units[at], digests[at], usable[at].name))
    numbers = {unit: number for number, unit in enumerate(sorted(set(units)))}
    return tuple(
        TrainingImage(
            indices[at],
            usable[at].name,
            surveyed[indices[at]].size,
            usable[at].group,
            numbers[units[at]],
            mm_per_pixel_of(usable[at].source),
        )
        for at in order
    )
