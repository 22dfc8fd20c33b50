"""The receipt of a region: one picture of the evidence for it.

The upper half shows the patch at the peak and its nearest good patches. The lower half shows the squared distance by layer and
by channel, and the distance as noise grows along the influence. All numbers come from `types.Evidence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from offnominal.reports.overlay import Picture
from offnominal.reports.sheet import Colour, Sheet
from offnominal.types import Evidence, Float, Inspection, Neighbour, require

Box = tuple[int, int, int, int]

#: Good patches shown, side of a crop in pixels, and side of a crop in patches.
NEIGHBOURS, CROP, CONTEXT = 3, 256, 12
_MARGIN, _GAP = 20, 16
_WIDTH = 2 * _MARGIN + (NEIGHBOURS + 1) * CROP + NEIGHBOURS * _GAP
_CROPS, _CHARTS, _HEIGHT = 106, 456, 672
_CHART_HEIGHT = 150
#: Layers that fit.
_LAYERS = 4
_INK, _FAINT, _LINE, _PAPER, _EMPTY = (34, 34, 34), (95, 95, 95), (205, 205, 205), (255, 255, 255), (236, 236, 236)
_ANOMALOUS, _GOOD = (209, 73, 91), (43, 122, 120)


@dataclass(frozen=True)
class SourcePicture:
    """A stored training image.

    Attributes
    ----------
    picture
        (h, w, 3) uint8 in any scale; None if no picture is stored.
    size
        (H, W) of the original image.

    Examples
    --------
    >>> SourcePicture(None, (96, 120)).size
    (96, 120)
    """

    picture: Picture | None
    size: tuple[int, int]


def receipt(image: Picture, inspection: Inspection, number: int, sources: Mapping[str, SourcePicture]) -> Picture:
    """Draw the receipt of a region.

    Parameters
    ----------
    image
        (H, W, 3) uint8, the inspected image for display, in original pixels.
    inspection
        Its result, with evidence.
    number
        Index of the region in `inspection.regions`.
    sources
        Name -> training image, at least for the images that the evidence names.

    Returns
    -------
    array
        (672, 1112, 3) uint8 RGB.

    Raises
    ------
    InputError
        The inspection holds no evidence.

    Examples
    --------
    >>> from offnominal.types import Region
    >>> evidence = Evidence(
    ...     member="efficientnet-lite0",
    ...     box=(40, 30, 48, 38),
    ...     nearest=(Neighbour("3.png", (8, 16, 16, 24), 12.5, 8.4),),
    ...     layer_shares={"blocks.2": 0.75, "blocks.4": 0.25},
    ...     channel_shares=((17, 0.2),), influence=((17, -0.5),),
    ...     noise_std=0.1, response=0.5, p_value=0.01, curve=((-1.0, 9.0), (0.0, 12.0), (1.0, 15.0)),
    ... )
    >>> region = Region((40, 30, 48, 38), 64, peak=8.4, peak_at=(44, 34), p_value=0.01, evidence=evidence)
    >>> flat = np.zeros((96, 120), np.float32)
    >>> inspection = Inspection("a.png", 8.4, 0.01, True, 3.5, anomaly_map=flat, influence_map=flat, regions=(region,))
    >>> receipt(np.zeros((96, 120, 3), np.uint8), inspection, 0, {"3.png": SourcePicture(None, (96, 120))}).shape
    (672, 1112, 3)
    """
    region = inspection.regions[number]
    evidence = inspection.evidence(region)
    require(image.shape[:2] == inspection.anomaly_map.shape, "image and map differ in shape")
    sheet = Sheet(_HEIGHT, _WIDTH)
    name = "" if inspection.path is None else f" in {Path(inspection.path).name}"
    sheet.text((_MARGIN, 14), f"Region {number + 1} of {len(inspection.regions)}{name}", 20, _INK, bold=True)
    sheet.text(
        (_MARGIN, 44),
        f"Peak {region.peak:.2f}, threshold {inspection.threshold:.2f}. "
        f"On average at most {evidence.p_value:.2%} of good images reach this peak (p-value).",
        14,
        _INK,
    )
    _crops(sheet, image, inspection, evidence, sources)
    width = (_WIDTH - 2 * _MARGIN - 2 * 2 * _GAP) // 3
    for column, draw in enumerate((_layers, _channels, _curve)):
        draw(sheet, evidence, _MARGIN + column * (width + 2 * _GAP), width)
    return sheet.canvas


def _short(words: str, longest: int) -> str:
    """A name shortened at its beginning, since its end says more."""
    return words if len(words) <= longest else "…" + words[-longest + 1 :]


def _crops(
    sheet: Sheet, image: Picture, inspection: Inspection, evidence: Evidence, sources: Mapping[str, SourcePicture]
) -> None:
    size = inspection.anomaly_map.shape
    panel, inner = crop(image, size, evidence.box)
    level, _ = crop(inspection.anomaly_map, size, evidence.box)
    contours, _ = cv2.findContours((level > inspection.threshold).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    panel = np.ascontiguousarray(panel)
    cv2.drawContours(panel, contours, -1, _ANOMALOUS, 1, cv2.LINE_AA)
    _panel(sheet, 0, panel, inner, _ANOMALOUS, "This patch")
    left, top, right, bottom = evidence.box
    sheet.text((_MARGIN, _CROPS + CROP + 6), f"x {left} to {right}, y {top} to {bottom}", 12, _FAINT)
    sheet.text((_MARGIN, _CROPS + CROP + 22), "outline: above the threshold", 12, _FAINT)
    sheet.text((_MARGIN, _CROPS + CROP + 38), f"member {_short(evidence.member, 26)}", 12, _FAINT)
    for column, neighbour in enumerate(evidence.nearest[:NEIGHBOURS], 1):
        source = sources[neighbour.image]
        title = "Nearest good patch" if column == 1 else f"{_ORDINAL[column]} nearest"
        if source.picture is None:
            x = _panel(sheet, column, np.full((CROP, CROP, 3), _EMPTY, np.uint8), None, _GOOD, title)
        else:
            x = _panel(sheet, column, *crop(source.picture, source.size, neighbour.box), _GOOD, title)
        if source.picture is None:
            sheet.text((x + CROP / 2, _CROPS + CROP / 2), "no picture stored", 13, _FAINT, anchor="mm")
        _neighbour(sheet, x, neighbour)


_ORDINAL = {2: "Second", 3: "Third"}


def _panel(sheet: Sheet, column: int, panel: Picture, inner: Box | None, colour: Colour, title: str) -> int:
    """Place a crop and outline the patch in it; returns the left edge."""
    x = _MARGIN + column * (CROP + _GAP)
    sheet.text((x, _CROPS - 22), title, 14, colour, bold=True)
    sheet.canvas[_CROPS : _CROPS + CROP, x : x + CROP] = panel
    if inner is not None:
        left, top, right, bottom = inner
        for tone, offset in ((_PAPER, 3), (colour, 1)):
            corners = (x + left - offset, _CROPS + top - offset), (x + right + offset - 1, _CROPS + bottom + offset - 1)
            cv2.rectangle(sheet.canvas, *corners, tone, 2)
    return x


def _neighbour(sheet: Sheet, x: int, neighbour: Neighbour) -> None:
    y = _CROPS + CROP + 6
    sheet.text((x, y), f"distance {neighbour.distance:.2f}: {neighbour.distance_in_sd:+.1f} sd", 12, _INK)
    sheet.text((x, y + 16), _short(Path(neighbour.image).name, 34), 12, _FAINT)
    left, top, right, bottom = neighbour.box
    sheet.text((x, y + 32), f"x {left} to {right}, y {top} to {bottom}", 12, _FAINT)


def crop(picture: Picture | Float, size: tuple[int, int], box: Box) -> tuple[Picture, Box]:
    """Cut a square window around a box.

    The window is `CONTEXT` times as wide as the box, at most as wide as the image, and lies inside the image if possible. The
    area outside of the image is grey.

    Parameters
    ----------
    picture
        (h, w[, 3]) picture or map of the image, in any scale.
    size
        (H, W) of the original image.
    box
        `(left, top, right, bottom)` in original pixels.

    Returns
    -------
    array
        (CROP, CROP[, 3]) window.
    tuple
        The box in pixels of the window.

    Examples
    --------
    >>> window, box = crop(np.zeros((96, 96, 3), np.uint8), (96, 96), (44, 44, 52, 52))
    >>> window.shape, box
    ((256, 256, 3), (117, 117, 139, 139))
    """
    left, top, right, bottom = box
    side = min(CONTEXT * max(right - left, bottom - top), max(size))
    start = [
        (length - side) / 2 if side > length else min(max((low + high - side) / 2, 0), length - side)
        for low, high, length in ((left, right, size[1]), (top, bottom, size[0]))
    ]
    window: Any = picture
    for axis, (first, length) in enumerate(zip(start[::-1], size, strict=True)):
        window = _stretch(window, axis, first * picture.shape[axis] / length, side * picture.shape[axis] / length)
    inner = [round((edge - start[index % 2]) * CROP / side) for index, edge in enumerate(box)]
    return window, (inner[0], inner[1], inner[2], inner[3])


def _stretch(picture: Any, axis: int, start: float, length: float) -> Any:
    """Resample `length` pixels from `start` along one axis to `CROP`: averaged if it shrinks, interpolated if it grows.

    Cuts are at whole pixels, so an edge may be off by half a pixel.
    """
    first, last = int(np.floor(start)), int(np.ceil(start + length))
    before, after = max(0, -first), max(0, last - picture.shape[axis])
    part = picture[max(0, first) : last] if axis == 0 else picture[:, max(0, first) : last]
    if before or after:
        grey: Any = _EMPTY if picture.ndim == 3 else 0.0
        rows, columns = ((before, after), (0, 0)) if axis == 0 else ((0, 0), (before, after))
        part = cv2.copyMakeBorder(part, rows[0], rows[1], columns[0], columns[1], cv2.BORDER_CONSTANT, value=grey)
    count = max(CROP, round((last - first) * CROP / length))
    target = (part.shape[1], count) if axis == 0 else (count, part.shape[0])
    resized = cv2.resize(part, target, interpolation=cv2.INTER_AREA if length > CROP else cv2.INTER_LINEAR)
    skipped = min(round((start - first) * CROP / length), count - CROP)
    return resized[skipped : skipped + CROP] if axis == 0 else resized[:, skipped : skipped + CROP]


def _layers(sheet: Sheet, evidence: Evidence, x: int, width: int) -> None:
    sheet.text((x, _CHARTS - 26), "Squared distance by layer", 14, _INK, bold=True)
    y = _CHARTS + 4
    for layer, share in _largest(evidence.layer_shares):
        sheet.text((x, y), _short(layer, 36), 12, _INK)
        sheet.text((x + width, y), f"{share:.1%}", 12, _INK, anchor="ra")
        sheet.bar((x, y + 17, x + width, y + 25), _EMPTY)
        sheet.bar((x, y + 17, x + share * width, y + 25), _ANOMALOUS)
        y += 32
    numbers = (
        ("proposed noise (rms)", f"{evidence.noise_std:.3f}"),
        ("response to the noise", f"{evidence.response:.3f}"),
        ("p-value", f"{evidence.p_value:.3g}"),
    )
    y = max(y + 4, _CHARTS + _CHART_HEIGHT - 42)
    for name, value in numbers:
        sheet.text((x, y), name, 12, _FAINT)
        sheet.text((x + width, y), value, 12, _INK, anchor="ra")
        y += 18


def _largest(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """The layers in their order; with more than `_LAYERS`, the largest ones and the sum of the others."""
    if len(shares) <= _LAYERS:
        return list(shares.items())
    shown = sorted(shares, key=lambda layer: -shares[layer])[: _LAYERS - 1]
    others = sum(share for layer, share in shares.items() if layer not in shown)
    return [*((layer, share) for layer, share in shares.items() if layer in shown), ("other layers", others)]


def _channels(sheet: Sheet, evidence: Evidence, x: int, width: int) -> None:
    sheet.text((x, _CHARTS - 26), "Leading channels", 14, _INK, bold=True)
    half = width // 2 - 10
    begin = x + half + 20
    sheet.text((x, _CHARTS - 4), "squared distance", 12, _FAINT)
    sheet.text((begin, _CHARTS - 4), "influence (signed)", 12, _FAINT)
    shares, influences = evidence.channel_shares, evidence.influence
    largest = max((share for _, share in shares), default=1.0)
    for row, (channel, share) in enumerate(shares):
        y = _CHARTS + 18 + row * 17
        sheet.text((x + 28, y), str(channel), 12, _INK, anchor="ra")
        sheet.bar((x + 34, y + 2, x + 34 + share / largest * (half - 84), y + 12), _ANOMALOUS)
        sheet.text((x + half, y), f"{share:.1%}", 12, _INK, anchor="ra")
    strongest = max((abs(influence) for _, influence in influences), default=1.0)
    middle, reach = begin + 34 + (half - 84) / 2, (half - 84) / 2
    for row, (channel, influence) in enumerate(influences):
        y = _CHARTS + 18 + row * 17
        sheet.text((begin + 28, y), str(channel), 12, _INK, anchor="ra")
        sheet.bar((middle, y + 2, middle + influence / strongest * reach, y + 12), _ANOMALOUS if influence > 0 else _GOOD)
        sheet.text((begin + half, y), f"{influence:+.2f}", 12, _INK, anchor="ra")
    if influences:
        sheet.line([(middle, _CHARTS + 17), (middle, _CHARTS + 18 + len(influences) * 17)], _FAINT)


def _curve(sheet: Sheet, evidence: Evidence, x: int, width: int) -> None:
    sheet.text((x, _CHARTS - 26), "Distance over noise along the influence", 14, _INK, bold=True)
    lines = [line for line in (evidence.typical_curve, evidence.curve) if line]
    values = [distance for line in lines for _, distance in line]
    steps = [step for line in lines for step, _ in line]
    high, low = max(values), min(0.0, *values)
    high = high if high > low else low + 1
    left, right, top, bottom = x + 30, x + width - 8, _CHARTS + 4, _CHARTS + _CHART_HEIGHT

    def at(step: float, distance: float) -> tuple[float, float]:
        across = (step - min(steps)) / (max(steps) - min(steps))
        return left + across * (right - left), bottom - (distance - low) / (high - low) * (bottom - top)

    for tick in _ticks(high):
        sheet.line([at(min(steps), tick), at(max(steps), tick)], _LINE)
        sheet.text((left - 6, at(0, tick)[1]), f"{tick:g}", 11, _FAINT, anchor="rm")
    sheet.line([at(0, low), at(0, high)], _FAINT)
    for step in sorted({round(step) for step in steps}):
        sheet.text((at(step, low)[0], bottom + 5), "no noise" if step == 0 else f"{step:+d}", 11, _FAINT, anchor="ma")
    for line, colour in ((evidence.typical_curve, _GOOD), (evidence.curve, _ANOMALOUS)):
        if line:
            sheet.line([at(*point) for point in line], colour, 2)
            sheet.dot(at(0, dict(line)[0.0]), colour)
    sheet.text((left + 4, bottom - 22), "● this patch", 12, _ANOMALOUS)
    sheet.text((left + 100, bottom - 22), "● typical patch of this image", 12, _GOOD)
    sheet.text((x + width / 2, bottom + 22), "← towards normal          noise / proposed noise", 11, _FAINT, anchor="ma")


def _ticks(high: float) -> list[float]:
    """A few round numbers from 0 to `high`."""
    step = 10.0 ** np.floor(np.log10(high))
    step = next(step * part for part in (1, 0.5, 0.25, 0.2) if high / (step * part) >= 3)
    return [float(step * count) for count in range(int(high / step) + 1)]
