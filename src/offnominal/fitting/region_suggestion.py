"""Suggest a region of interest from normal images: the part, without the background."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from offnominal.config import settings_from
from offnominal.errors import InputError
from offnominal.fitting.survey import survey
from offnominal.images import Preprocessing, Source, batches, path_of
from offnominal.inference import member_engines
from offnominal.observer import SILENT, Observer
from offnominal.roi import RegionOfInterest, same_aspect
from offnominal.types import Float, Mask

#: Images that are read at most, evenly spaced, and the fewest that show what they have in common.
MOST, FEWEST = 50, 3
#: Longest side of the suggested mask in pixels.
SIDE = 1024
#: Share of the variance that part and background must explain. Evenly spread values reach 0.75, normally distributed ones 0.64.
SEPARATION = 0.75
#: Positions at the border that are left out of this share, because the padding of the network alters them.
RING = 2


def suggest_region(sources: Sequence[Source], observer: Observer = SILENT) -> RegionOfInterest:
    """Suggest the region in which the part lies.

    The patches of a network are projected onto their first principal component, which usually separates part and background.
    The side that the border of the images has less of is the part. Positions count that are part in at least a tenth of the
    images, with one position around them, so that a part that moves stays inside. Look at the suggestion before you use it.

    Parameters
    ----------
    sources
        Normal images of one aspect ratio.
    observer
        Receives the progress.

    Returns
    -------
    RegionOfInterest

    Raises
    ------
    InputError
        Fewer than three images can be read, their aspect ratios differ, or nothing separates a part from the background.

    References
    ----------
    Damm et al., "AnomalyDINO", WACV 2025 (arXiv 2405.14529): masks from the first principal component.

    Examples
    --------
    >>> suggest_region(["a.png", "b.png", "c.png"]).share  # doctest: +SKIP
    0.42
    """
    chosen = [sources[at] for at in sorted({at * len(sources) // MOST for at in range(MOST)})] if sources else []
    failures: list[str] = []
    values, surveyed = survey(
        chosen, [path_of(source) or "array" for source in chosen], lambda index, reason: failures.append(reason)
    )
    sizes = [image.size for image in surveyed.values()]
    for size in sizes:
        if not same_aspect(size, sizes[0]):
            raise InputError(
                f"images of {sizes[0][1]} x {sizes[0][0]} and {size[1]} x {size[0]}: a region needs images of one aspect ratio"
            )
    (engine,) = member_engines(settings_from(preset="fast"))
    maps: list[Float] = []
    usable = [chosen[index] for index in surveyed]
    for batch in batches(
        usable,
        Preprocessing((engine.geometry(sizes),), values),
        batch_size=1,
        failed=lambda index, error: failures.append(str(error)),
    ):
        maps.append(engine.maps(batch.network_input(0))[0].cpu().numpy())
        observer.on_progress("features", len(maps), len(usable))
    if len(maps) < FEWEST:
        reason = f"; the first that cannot: {failures[0]}" if failures else ""
        raise InputError(f"{len(maps)} of {len(chosen)} images can be read, a suggestion needs {FEWEST}{reason}")
    share = _foreground(maps)
    if share is None:
        raise InputError("no part can be told from the background; draw the region of interest by hand")
    height, width = sizes[0]
    factor = min(1.0, SIDE / max(height, width))
    target = max(1, round(width * factor)), max(1, round(height * factor))
    smooth = cv2.resize(share.astype(np.float32), target, interpolation=cv2.INTER_LINEAR)
    return RegionOfInterest.of(np.asarray(smooth >= 0.5, dtype=np.bool_))


def _foreground(maps: Sequence[Float]) -> Mask | None:
    """(h, w) positions of the part, from (D, h, w) maps of each image; None if the sides cannot be told apart."""
    grid = maps[0].shape[1], maps[0].shape[2]
    resized = [F.interpolate(torch.from_numpy(one)[None], grid, mode="bilinear")[0] for one in maps]
    points = torch.stack(resized).permute(0, 2, 3, 1)
    flat = points.flatten(0, 2)
    centred = (flat - flat.mean(0)) / flat.std(0).clamp_min(1e-6)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    projected = (centred @ vectors[:, -1]).reshape(len(maps), *grid).numpy()
    level, separation = _otsu(projected)
    if separation < SEPARATION:
        return None
    sides = projected > level
    border = np.ones(grid, np.bool_)
    border[1:-1, 1:-1] = False
    if sides[:, border].mean() > sides[:, ~border].mean():
        sides = ~sides
    # A position counts if it shows the part in some of the images.
    often = (sides.mean(0) >= 0.1).astype(np.uint8)
    often = cv2.morphologyEx(often, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    often = cv2.dilate(often, np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(np.ascontiguousarray(often), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(grid, np.uint8)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    return filled.astype(np.bool_) if filled.sum() > 0 else None


def _otsu(projected: Float) -> tuple[float, float]:
    """Level that separates the values best, and the share of the variance that it explains away from the border (Otsu 1979)."""
    values = projected[:, RING:-RING, RING:-RING] if min(projected.shape[1:]) > 2 * RING + 1 else projected
    low, high = np.percentile(values, [1, 99])
    scaled = np.clip((values - low) / max(float(high - low), 1e-12) * 255, 0, 255).astype(np.uint8)
    found, _ = cv2.threshold(scaled.reshape(1, -1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    level = float(low + (high - low) * found / 255)
    above = values > level
    share = float(above.mean())
    if not 0 < share < 1:
        return level, 0.0
    between = share * (1 - share) * float(values[above].mean() - values[~above].mean()) ** 2
    return level, between / max(float(values.var()), 1e-12)
