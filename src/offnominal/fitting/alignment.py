"""Learn an alignment from normal images: the reference image, and the poses that count as found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from offnominal.config import Settings
from offnominal.errors import ImageError, InputError
from offnominal.fitting.survey import Map
from offnominal.images import Alignment, PoseLimits, Source, ValueRange, pixels_of
from offnominal.images.arrays import planes
from offnominal.roi import same_aspect
from offnominal.types import Float, Pose

#: Images that the reference is chosen from, evenly spaced, and those that each is compared with.
CANDIDATES = 12
#: Normal images must reach this correlation with the reference in the median; below, their edges have too little in common.
LEAST_QUALITY = 0.2
#: Images whose correlation or pose is this many deviations away from the median are left out of the fit.
OUTLIER = 6.0
#: Largest share of normal images in which the part may not be found.
MOST_LOST = 0.1
#: Smallest margins of the limits: shift as a share of the longest side, degrees, scale, and correlation.
MARGINS = (0.02, 0.02, 2.0, 0.02)
QUALITY_MARGIN = 0.05


def learn_alignment(
    sources: Sequence[Source],
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    values: ValueRange,
    settings: Settings,
    survey_all: Map,
) -> tuple[Alignment, dict[int, str]]:
    """Choose a reference, and learn from the poses of all images which ones are normal.

    The limits of shift, rotation and scale exceed the range of the normal images by half its width on each side. The limit of
    the correlation lies below the lowest one by half the distance of this one to the median.

    Parameters
    ----------
    sources
        Normal images that can be read.
    names
        Their names in messages.
    sizes
        (H, W) of each.
    values
        Value range.
    settings
        Kind of alignment, region of interest, and the reference if the user chose one.
    survey_all
        Applies a function to many images.

    Returns
    -------
    Alignment
        With limits.
    dict
        Reason by index, for images in which the part is not found; the fit leaves them out.

    Raises
    ------
    InputError
        The reference cannot be read, the images have too little in common, or the part is not found in many of them.
    """
    alignment = _with_reference(sources, names, sizes, values, settings)
    skipped = {
        index: f"{names[index]}: is {size[1]} x {size[0]}, and the reference image is {alignment.size[1]} x "
        f"{alignment.size[0]}; an alignment needs images of one shape"
        for index, size in enumerate(sizes)
        if not same_aspect(alignment.size, size)
    }
    usable = [index for index in range(len(sources)) if index not in skipped]
    locate = partial(_pose_of, alignment=alignment, values=values, memory=settings.memory)
    poses: dict[int, Pose] = {}
    for index, pose in zip(usable, survey_all(locate, [sources[at] for at in usable], "alignment"), strict=True):
        if isinstance(pose, str):
            skipped[index] = pose
        else:
            poses[index] = pose
    median = float(np.median([pose.quality for pose in poses.values()])) if poses else 0.0
    if median < LEAST_QUALITY:
        raise InputError(
            f"align = {settings.align}: the images have too little in common with the reference (median correlation of edges "
            f"{median:.2f}, at least {LEAST_QUALITY} is needed); alignment needs a part with edges that all images show"
        )
    lost = _outliers(poses, sizes, names)
    if len(lost) > MOST_LOST * len(poses):
        raise InputError(
            f"align = {settings.align}: the part is not found in {len(lost)} of {len(poses)} normal images, and as many good "
            f"parts would be flagged ({next(iter(lost.values()))}); alignment needs a part whose edges tell where it lies"
        )
    normal = [(pose, max(sizes[index])) for index, pose in poses.items() if index not in lost]
    missed = len(lost) + _missed_if_held_out(normal)
    return replace(alignment, limits=_limits(normal), missed=missed, images=len(poses)), skipped | lost


def _outliers(poses: dict[int, Pose], sizes: Sequence[tuple[int, int]], names: Sequence[str]) -> dict[int, str]:
    """Reason by index, for images whose correlation or pose is far from those of the others."""
    values = np.array([[*_shares(pose, max(sizes[index])), pose.quality] for index, pose in poses.items()])
    median = np.median(values, axis=0)
    allowed = np.array([*MARGINS, QUALITY_MARGIN]) + OUTLIER * 1.4826 * np.median(np.abs(values - median), axis=0)
    away = np.abs(values - median)
    away[:, -1] = median[-1] - values[:, -1]
    lost = {}
    for index, far in zip(poses, away > allowed, strict=True):
        pose = poses[index]
        if far.any() or pose.quality <= 0:
            lost[index] = (
                f"{names[index]}: the part is not found (shifted by {pose.dx:.0f} and {pose.dy:.0f} pixels, rotated by "
                f"{pose.degrees:.1f} degrees, correlation {pose.quality:.2f}; the others have {median[-1]:.2f} in the median)"
            )
    return lost


def _shares(pose: Pose, longest: int) -> tuple[float, float, float, float]:
    """A pose in the units of `PoseLimits`."""
    return pose.dx / longest, pose.dy / longest, pose.degrees, pose.scale


def _pose_of(source: Source, alignment: Alignment, values: ValueRange, memory: int) -> Pose | str:
    """Pose of the part in an image; for an unreadable image, the reason."""
    try:
        return alignment.locate(values.clipped(planes(pixels_of(source, memory))), values, "image")
    except ImageError as error:
        return str(error)


def _with_reference(
    sources: Sequence[Source],
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    values: ValueRange,
    settings: Settings,
) -> Alignment:
    """The alignment to the image that the user chose, or to the one that most others agree with."""
    if settings.align == "off":
        raise ValueError("no alignment is set")
    if settings.reference is not None:
        try:
            pixels = pixels_of(settings.reference, settings.memory)
        except ImageError as error:
            raise InputError(f"reference: {error}") from None
        name, region = settings.reference.name, settings.region
        if region is not None and not region.suits((pixels.shape[0], pixels.shape[1])):
            raise InputError(f"{name}: {region.unsuited((pixels.shape[0], pixels.shape[1]))}")
        return Alignment.of(values.clipped(planes(pixels)), values, settings.align, name=name, region=region)
    common, _ = Counter(sizes).most_common(1)[0]
    alike = [index for index, size in enumerate(sizes) if size == common]
    chosen = [alike[at] for at in sorted({at * len(alike) // CANDIDATES for at in range(CANDIDATES)})]
    candidates: list[Alignment] = []
    for index in chosen:
        try:
            pixels = values.clipped(planes(pixels_of(sources[index], settings.memory)))
        except ImageError:
            continue
        candidates.append(Alignment.of(pixels, values, settings.align, name=names[index], region=settings.region))
    if not candidates:
        raise InputError("align: none of the candidates for the reference can be read")
    return max(candidates, key=lambda candidate: _agreement(candidate, candidates))


def _agreement(reference: Alignment, candidates: Sequence[Alignment]) -> float:
    """How well the other candidates match a reference, less how far they lie from it; both in the median."""
    poses = [reference.pose(_shown(other), other.size) for other in candidates if other is not reference]
    if not poses:
        return 0.0
    longest = max(reference.size)
    away = [float(np.hypot(pose.dx, pose.dy)) / longest + abs(np.deg2rad(pose.degrees)) / 2 for pose in poses]
    return float(np.median([pose.quality for pose in poses])) - float(np.median(away))


def _shown(alignment: Alignment) -> Float:
    return alignment.reference.astype(np.float32) / np.float32(255)


def _limits(normal: Sequence[tuple[Pose, int]]) -> PoseLimits:
    values = np.array([_shares(pose, longest) for pose, longest in normal])
    low, high = values.min(axis=0), values.max(axis=0)
    margin = np.maximum(MARGINS, (high - low) / 2)
    quality = np.array([pose.quality for pose, _ in normal])
    below = max(QUALITY_MARGIN, float(np.median(quality) - quality.min()) / 2)
    least, most = (low - margin).tolist(), (high + margin).tolist()
    return PoseLimits(tuple(least), tuple(most), float(quality.min()) - below)


def _missed_if_held_out(normal: Sequence[tuple[Pose, int]]) -> int:
    """Number of images that would not be found if they were left out of the limits; only extremes can be."""
    values = np.array([[*_shares(pose, longest), pose.quality] for pose, longest in normal])
    extremes = {*values.argmin(axis=0).tolist(), *values[:, :-1].argmax(axis=0).tolist()}
    if len(normal) < 3:
        return 0
    return sum(_limits([*normal[:at], *normal[at + 1 :]]).problem(*normal[at]) is not None for at in sorted(extremes))
