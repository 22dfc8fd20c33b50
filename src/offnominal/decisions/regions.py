"""Connected regions of an anomaly map above the threshold, in pixels of the original image.

The image score is the highest level of the same map at which a region passes its gate: its maximum if there is no gate. So an
image has regions exactly if it is flagged, and the probability of any region in a good image is the false-alarm rate. The
p-value of a region compares its own level with the image scores of good images, so P(any region of a good image has a p-value
<= alpha) <= alpha, whatever their number.

References
----------
Westfall and Young, "Resampling-based multiple testing", 1993, section 2.3 (maximum statistic).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from offnominal.decisions.calibration import Calibration
from offnominal.gates import EXTENT_SHARE, LEAKAGE_LEVEL, Area, Gates, MmPerPixel, Points, outline, sizes_of
from offnominal.types import Float, Index, Mask, Region, SizeInMm


def find_regions(
    scores: Float,
    calibration: Calibration,
    original: tuple[int, int],
    areas: Sequence[Area] = (),
    mm_per_pixel: MmPerPixel | None = None,
    moved: Callable[[Points], Points] | None = None,
    magnified: float = 1.0,
) -> tuple[Region, ...]:
    """Find the 8-connected regions of a map above the threshold that pass the gate of their area.

    The p-value of a region is that of the highest level at which it passes the gate: of its peak if there is no gate.

    Parameters
    ----------
    scores
        (h, w) float32 working map, after `gates.extents`.
    calibration
        Calibration with the threshold.
    original
        (H, W) of the original image.
    areas
        Areas of the map, of `Gates.areas`; by default, all regions count.
    mm_per_pixel
        Size of a pixel of the original image in mm; None if it is not known.
    moved
        Moves (n, 2) points (x, y) of the map, in pixels of the original, to the image: for maps of aligned images. Sizes in mm
        are those before the move.
    magnified
        Area of the moved map, as a multiple of that of the map.

    Returns
    -------
    tuple of Region
        Regions in pixels of the original image, smallest p-value first.

    Examples
    --------
    >>> from offnominal.decisions import calibrate
    >>> scores = np.zeros((4, 4), np.float32)
    >>> scores[1, 2] = 9.0
    >>> (region,) = find_regions(scores, calibrate(np.array([1.0, 2.0, 3.0]), rate=0.25), original=(40, 40))
    >>> region.box, region.area, region.peak, region.p_value
    ((20, 10, 30, 20), 100, 9.0, 0.25)
    """
    above = scores > np.float32(calibration.threshold)
    if not above.any():
        return ()
    scale = np.array([original[1] / scores.shape[1], original[0] / scores.shape[0]])
    limits = np.array(original[::-1])
    regions: list[tuple[float, Region]] = []
    for area in areas or Gates().areas(scores.shape, original):
        labels, _ = ndimage.label(area.within(above), structure=np.ones((3, 3)))
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            inside = labels[rows, columns] == label
            if not area.large_enough(inside):
                continue
            values = np.where(inside, scores[rows, columns], -np.inf)
            row, column = np.unravel_index(int(values.argmax()), values.shape)
            level = replace(area, inside=inside).level(scores[rows, columns])
            offset = np.array([columns.start, rows.start])
            corners = (outline(inside) + offset) * scale
            centre = (np.array([[column, row]]) + offset + 0.5) * scale
            if moved is not None:
                corners, centre = moved(corners), moved(centre)
            low = np.clip(np.floor(corners.min(axis=0)), 0, limits - 1).astype(int).tolist()
            high = np.clip(np.ceil(corners.max(axis=0)), 1, limits).astype(int).tolist()
            x, y = np.clip(centre[0], 0, limits - 1).astype(int).tolist()
            size, length, width = sizes_of(inside, (scale[0], scale[1]))
            region = Region(
                box=(low[0], low[1], high[0], high[1]),
                area=max(1, round(size * magnified)),
                peak=float(values[row, column]),
                p_value=calibration.p_value(level),
                peak_at=(x, y),
                length=length * magnified**0.5,
                width=width * magnified**0.5,
                mm=None if mm_per_pixel is None else SizeInMm(*sizes_of(inside, tuple(scale * mm_per_pixel))),
                zone=area.name,
            )
            regions.append((level, region))
    return tuple(region for _, region in sorted(regions, key=lambda entry: (-entry[0], -entry[1].peak)))


def region_masks(anomaly_map: Float, threshold: float, regions: Sequence[Region]) -> list[Mask]:
    """Masks of the regions on the map in original pixels.

    A pixel above the threshold belongs to the region whose peak lies in the same connected area; if several peaks do, to the
    nearest peak. An area without a peak belongs to the nearest box that it touches; if it touches none, it is too small for its
    gate. As in `gates.extents`, a mask ends at half of a high peak. The pixel of the peak is always in it.

    Parameters
    ----------
    anomaly_map
        (H, W) float32.
    threshold
        Decision threshold.
    regions
        Regions of the image, from `find_regions`.

    Returns
    -------
    list of array
        One (H, W) bool mask for each region.

    Examples
    --------
    >>> anomaly_map = np.array([[0.0, 5.0, 6.0], [0.0, 0.0, 0.0]], np.float32)
    >>> region = Region(box=(1, 0, 3, 1), area=2, peak=6.0, peak_at=(2, 0), p_value=0.01)
    >>> region_masks(anomaly_map, 4.0, [region])[0].astype(int)
    array([[0, 1, 1],
           [0, 0, 0]])
    """
    labels, _ = ndimage.label(anomaly_map > threshold, structure=np.ones((3, 3)))
    masks = [np.zeros(labels.shape, np.bool_) for _ in regions]
    owners: dict[int, list[int]] = {}
    for index, region in enumerate(regions):
        x, y = region.peak_at
        owners.setdefault(int(labels[y, x]), []).append(index)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = np.nonzero(labels[box] == label)
        rows, columns = rows + box[0].start, columns + box[1].start
        candidates = owners.get(label) or _touched(columns, rows, regions)
        if not candidates:
            continue
        distances = [np.hypot(columns - regions[index].peak_at[0], rows - regions[index].peak_at[1]) for index in candidates]
        nearest = np.argmin(distances, axis=0)
        for order, index in enumerate(candidates):
            masks[index][rows[nearest == order], columns[nearest == order]] = True
    for mask, region in zip(masks, regions, strict=True):
        if region.peak > LEAKAGE_LEVEL:
            mask &= anomaly_map >= EXTENT_SHARE * region.peak
        mask[region.peak_at[1], region.peak_at[0]] = True
    return masks


def _touched(columns: Index, rows: Index, regions: Sequence[Region]) -> list[int]:
    """Index of the region whose box is nearest to some pixels, if they touch it."""
    distances = []
    for region in regions:
        left, top, right, bottom = region.box
        across = np.maximum(np.maximum(left - 1 - columns, columns - right), 0)
        down = np.maximum(np.maximum(top - 1 - rows, rows - bottom), 0)
        distances.append(int((across + down).min()))
    nearest = int(np.argmin(distances)) if distances else -1
    return [nearest] if nearest >= 0 and distances[nearest] == 0 else []
