"""The receipt of a region: one picture that shows the evidence behind it to a person.

Above, the place beside the good patches nearest to it; below, which layers and channels make the distance, and what happens to
the distance when the noise grows along the influence. Every number in it stands in `types.Evidence`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from offnominal.reports.overlay import Picture
from offnominal.types import Evidence, Float, Inspection, Neighbour, require

Box = tuple[int, int, int, int]
Colour = tuple[int, int, int]

#: Good patches shown, pixels of a crop's side, and the sides of a patch that a crop is wide.
NEIGHBOURS, CROP, CONTEXT = 3, 256, 12
_MARGIN, _GAP = 20, 16
_WIDTH = 2 * _MARGIN + (NEIGHBOURS + 1) * CROP + NEIGHBOURS * _GAP
_CROPS, _CHARTS, _HEIGHT = 106, 456, 672
_CHART_HEIGHT = 150
#: Layers that there is room for.
_LAYERS = 4
_INK, _FAINT, _LINE, _PAPER, _EMPTY = (34, 34, 34), (95, 95, 95), (205, 205, 205), (255, 255, 255), (236, 236, 236)
_ODD, _GOOD = (209, 73, 91), (43, 122, 120)


@dataclass(frozen=True)
class SourcePicture:
    """A training image as far as it was kept: `picture` (h, w, 3) of any scale, or None; `size` is the original's (H, W)."""

    picture: Picture | None
    size: tuple[int, int]


def receipt(image: Picture, found: Inspection, number: int, sources: Mapping[str, SourcePicture]) -> Picture:
    """(H, W, 3) uint8, the receipt of `found.regions[number]`.

    Args:
        image: (H, W, 3) uint8, the inspected image for a screen, in original pixels.
        found: its inspection, made with evidence.
        sources: training images by name; those that the evidence names must be among them.

    Raises:
        InputError: the inspection holds no evidence.
    """
    region = found.regions[number]
    evidence = found.evidence(region)
    require(image.shape[:2] == found.anomaly_map.shape, "image and map differ in shape")
    sheet = _Sheet()
    name = "" if found.path is None else f" of {Path(found.path).name}"
    sheet.text((_MARGIN, 14), f"Region {number + 1} of {len(found.regions)}{name}", 20, _INK, bold=True)
    sheet.text(
        (_MARGIN, 44),
        f"Its peak is {region.peak:.2f}, the alarm is above {found.threshold:.2f}. A good image reaches that peak somewhere "
        f"with a chance of at most {evidence.p_value:.2%} (p-value).",
        14,
        _INK,
    )
    _crops(sheet, image, found, evidence, sources)
    width = (_WIDTH - 2 * _MARGIN - 2 * 2 * _GAP) // 3
    for column, draw in enumerate((_layers, _channels, _curve)):
        draw(sheet, evidence, _MARGIN + column * (width + 2 * _GAP), width)
    return sheet.canvas


class _Sheet:
    """Paper to draw on."""

    def __init__(self) -> None:
        self.canvas: Picture = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)

    def text(
        self, at: tuple[float, float], words: str, size: int, colour: Colour, *, bold: bool = False, anchor: str = "la"
    ) -> None:
        """Write `words`; `anchor` is Pillow's: left, middle or right, then ascender or middle."""
        strip, (left, top) = _written(words, size, colour, bold, anchor)
        x, y = max(0, round(at[0]) + left), max(0, round(at[1]) + top)
        paper = self.canvas[y : y + strip.shape[0], x : x + strip.shape[1]]
        np.minimum(paper, strip[: paper.shape[0], : paper.shape[1]], out=paper)

    def bar(self, box: Sequence[float], colour: Colour) -> None:
        left, top, right, bottom = (round(side) for side in box)
        self.canvas[top:bottom, min(left, right) : max(left, right)] = colour

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: int = 1) -> None:
        placed = np.array([[round(16 * x), round(16 * y)] for x, y in points], np.int32)
        cv2.polylines(self.canvas, [placed[:, None]], False, colour, width, cv2.LINE_AA, 4)

    def dot(self, at: tuple[float, float], colour: Colour, radius: float = 4) -> None:
        cv2.circle(self.canvas, (round(16 * at[0]), round(16 * at[1])), round(16 * radius), colour, -1, cv2.LINE_AA, 4)


@lru_cache(maxsize=2048)
def _written(words: str, size: int, colour: Colour, bold: bool, anchor: str) -> tuple[Picture, tuple[int, int]]:
    """(h, w, 3) words on white, and the offset of their corner; most words of a receipt are those of the one before."""
    font = _font(size, bold)
    left, top, right, bottom = (round(side) for side in font.getbbox(words, anchor=anchor))
    paper = Image.new("RGB", (max(1, right - left), max(1, bottom - top)), _PAPER)
    ImageDraw.Draw(paper).text((-left, -top), words, colour, font, anchor)
    return np.asarray(paper), (left, top)


@lru_cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size, layout_engine=ImageFont.Layout.BASIC
    )


def _short(words: str, longest: int) -> str:
    """The end of a name says more than its beginning."""
    return words if len(words) <= longest else "…" + words[-longest + 1 :]


def _crops(sheet: _Sheet, image: Picture, found: Inspection, evidence: Evidence, sources: Mapping[str, SourcePicture]) -> None:
    size = found.anomaly_map.shape
    panel, inner = crop(image, size, evidence.box)
    level, _ = crop(found.anomaly_map, size, evidence.box)
    contours, _ = cv2.findContours((level > found.threshold).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    panel = np.ascontiguousarray(panel)
    cv2.drawContours(panel, contours, -1, _ODD, 1, cv2.LINE_AA)
    _panel(sheet, 0, panel, inner, _ODD, "This place")
    left, top, right, bottom = evidence.box
    sheet.text((_MARGIN, _CROPS + CROP + 6), f"x {left} to {right}, y {top} to {bottom}", 12, _FAINT)
    sheet.text((_MARGIN, _CROPS + CROP + 22), "thin line: above the threshold", 12, _FAINT)
    sheet.text((_MARGIN, _CROPS + CROP + 38), f"member {_short(evidence.member, 26)}", 12, _FAINT)
    for place, neighbour in enumerate(evidence.nearest[:NEIGHBOURS], 1):
        source = sources[neighbour.image]
        title = "Nearest good patch" if place == 1 else f"{_ORDINAL[place]} nearest"
        if source.picture is None:
            x = _panel(sheet, place, np.full((CROP, CROP, 3), _EMPTY, np.uint8), None, _GOOD, title)
        else:
            x = _panel(sheet, place, *crop(source.picture, source.size, neighbour.box), _GOOD, title)
        if source.picture is None:
            sheet.text((x + CROP / 2, _CROPS + CROP / 2), "no picture kept", 13, _FAINT, anchor="mm")
        _neighbour(sheet, x, neighbour)


_ORDINAL = {2: "Second", 3: "Third"}


def _panel(sheet: _Sheet, place: int, panel: Picture, inner: Box | None, colour: Colour, title: str) -> int:
    """Put a crop and outline the patch in it; returns where it begins."""
    x = _MARGIN + place * (CROP + _GAP)
    sheet.text((x, _CROPS - 22), title, 14, colour, bold=True)
    sheet.canvas[_CROPS : _CROPS + CROP, x : x + CROP] = panel
    if inner is not None:
        left, top, right, bottom = inner
        for tone, wider in ((_PAPER, 3), (colour, 1)):
            corner = (x + left - wider, _CROPS + top - wider), (x + right + wider - 1, _CROPS + bottom + wider - 1)
            cv2.rectangle(sheet.canvas, *corner, tone, 2)
    return x


def _neighbour(sheet: _Sheet, x: int, neighbour: Neighbour) -> None:
    y = _CROPS + CROP + 6
    sheet.text((x, y), f"distance {neighbour.distance:.2f}: {neighbour.distance_in_sd:+.1f} sd", 12, _INK)
    sheet.text((x, y + 16), _short(Path(neighbour.image).name, 34), 12, _FAINT)
    left, top, right, bottom = neighbour.box
    sheet.text((x, y + 32), f"x {left} to {right}, y {top} to {bottom}", 12, _FAINT)


def crop(picture: Picture | Float, size: tuple[int, int], box: Box) -> tuple[Picture, Box]:
    """A square window around a box of an image of `size` (H, W), cut from a picture of it in any scale.

    Returns:
        (CROP, CROP[, 3]), and the box in its pixels. The window is `CONTEXT` sides of the box wide, but no wider than the
        image, and stays inside where it can; what lies outside is grey.
    """
    left, top, right, bottom = box
    side = min(CONTEXT * max(right - left, bottom - top), max(size))
    begin = [
        (length - side) / 2 if side > length else min(max((low + high - side) / 2, 0), length - side)
        for low, high, length in ((left, right, size[1]), (top, bottom, size[0]))
    ]
    window: Any = picture
    for axis, (start, length) in enumerate(zip(begin[::-1], size, strict=True)):
        window = _stretch(window, axis, start * picture.shape[axis] / length, side * picture.shape[axis] / length)
    inner = [round((edge - begin[at % 2]) * CROP / side) for at, edge in enumerate(box)]
    return window, (inner[0], inner[1], inner[2], inner[3])


def _stretch(picture: Any, axis: int, start: float, length: float) -> Any:
    """`CROP` places along one axis from `start`, `length` pixels long; averaged where it shrinks, interpolated where it grows.

    The cut is made at whole pixels, before and after: an edge may be off by half a place.
    """
    first, last = int(np.floor(start)), int(np.ceil(start + length))
    before, after = max(0, -first), max(0, last - picture.shape[axis])
    part = picture[max(0, first) : last] if axis == 0 else picture[:, max(0, first) : last]
    if before or after:
        grey: Any = _EMPTY if picture.ndim == 3 else 0.0
        rows, columns = ((before, after), (0, 0)) if axis == 0 else ((0, 0), (before, after))
        part = cv2.copyMakeBorder(part, rows[0], rows[1], columns[0], columns[1], cv2.BORDER_CONSTANT, value=grey)
    count = max(CROP, round((last - first) * CROP / length))
    wanted = (part.shape[1], count) if axis == 0 else (count, part.shape[0])
    grown = cv2.resize(part, wanted, interpolation=cv2.INTER_AREA if length > CROP else cv2.INTER_LINEAR)
    skipped = min(round((start - first) * CROP / length), count - CROP)
    return grown[skipped : skipped + CROP] if axis == 0 else grown[:, skipped : skipped + CROP]


def _layers(sheet: _Sheet, evidence: Evidence, x: int, width: int) -> None:
    sheet.text((x, _CHARTS - 26), "Share of each layer in the distance", 14, _INK, bold=True)
    y = _CHARTS + 4
    for layer, share in _few(evidence.layer_shares):
        sheet.text((x, y), _short(layer, 36), 12, _INK)
        sheet.text((x + width, y), f"{share:.1%}", 12, _INK, anchor="ra")
        sheet.bar((x, y + 17, x + width, y + 25), _EMPTY)
        sheet.bar((x, y + 17, x + share * width, y + 25), _ODD)
        y += 32
    told = (
        ("proposed noise (rms)", f"{evidence.noise_std:.3f}"),
        ("response to it", f"{evidence.response:.3f}"),
        ("p-value", f"{evidence.p_value:.3g}"),
    )
    y = max(y + 4, _CHARTS + _CHART_HEIGHT - 42)
    for name, value in told:
        sheet.text((x, y), name, 12, _FAINT)
        sheet.text((x + width, y), value, 12, _INK, anchor="ra")
        y += 18


def _few(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """The layers in their order; of more than `_LAYERS`, the largest ones and the sum of the others."""
    if len(shares) <= _LAYERS:
        return list(shares.items())
    kept = sorted(shares, key=lambda layer: -shares[layer])[: _LAYERS - 1]
    others = sum(share for layer, share in shares.items() if layer not in kept)
    return [*((layer, share) for layer, share in shares.items() if layer in kept), ("other layers", others)]


def _channels(sheet: _Sheet, evidence: Evidence, x: int, width: int) -> None:
    sheet.text((x, _CHARTS - 26), "Leading channels", 14, _INK, bold=True)
    half = width // 2 - 10
    begin = x + half + 20
    sheet.text((x, _CHARTS - 4), "share in the distance", 12, _FAINT)
    sheet.text((begin, _CHARTS - 4), "influence: less | more", 12, _FAINT)
    shares, pulls = evidence.channel_shares, evidence.influence
    most = max((share for _, share in shares), default=1.0)
    for place, (channel, share) in enumerate(shares):
        y = _CHARTS + 18 + place * 17
        sheet.text((x + 28, y), str(channel), 12, _INK, anchor="ra")
        sheet.bar((x + 34, y + 2, x + 34 + share / most * (half - 84), y + 12), _ODD)
        sheet.text((x + half, y), f"{share:.1%}", 12, _INK, anchor="ra")
    strongest = max((abs(pull) for _, pull in pulls), default=1.0)
    middle, reach = begin + 34 + (half - 84) / 2, (half - 84) / 2
    for place, (channel, pull) in enumerate(pulls):
        y = _CHARTS + 18 + place * 17
        sheet.text((begin + 28, y), str(channel), 12, _INK, anchor="ra")
        sheet.bar((middle, y + 2, middle + pull / strongest * reach, y + 12), _ODD if pull > 0 else _GOOD)
        sheet.text((begin + half, y), f"{pull:+.2f}", 12, _INK, anchor="ra")
    if pulls:
        sheet.line([(middle, _CHARTS + 17), (middle, _CHARTS + 18 + len(pulls) * 17)], _FAINT)


def _curve(sheet: _Sheet, evidence: Evidence, x: int, width: int) -> None:
    sheet.text((x, _CHARTS - 26), "Distance, with noise along the influence", 14, _INK, bold=True)
    lines = [line for line in (evidence.usual_curve, evidence.curve) if line]
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
        sheet.text((at(step, low)[0], bottom + 5), "as it is" if step == 0 else f"{step:+d}", 11, _FAINT, anchor="ma")
    for line, colour in ((evidence.usual_curve, _GOOD), (evidence.curve, _ODD)):
        if line:
            sheet.line([at(*point) for point in line], colour, 2)
            sheet.dot(at(0, dict(line)[0.0]), colour)
    sheet.text((left + 4, bottom - 22), "● this place", 12, _ODD)
    sheet.text((left + 100, bottom - 22), "● usual place of this image", 12, _GOOD)
    sheet.text((x + width / 2, bottom + 22), "← towards good          noise, in times of the proposed", 11, _FAINT, anchor="ma")


def _ticks(high: float) -> list[float]:
    """A few round numbers from 0 to `high`."""
    step = 10.0 ** np.floor(np.log10(high))
    step = next(step * part for part in (1, 0.5, 0.25, 0.2) if high / (step * part) >= 3)
    return [float(step * count) for count in range(int(high / step) + 1)]
