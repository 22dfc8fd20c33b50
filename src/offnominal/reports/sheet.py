"""A canvas for text, bars and lines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from offnominal.reports.overlay import Picture

Colour = tuple[int, int, int]


class Sheet:
    """A white (height, width, 3) uint8 canvas.

    Examples
    --------
    >>> sheet = Sheet(20, 40)
    >>> sheet.bar((0, 0, 10, 20), (209, 73, 91))
    >>> sheet.canvas[5, 5].tolist(), sheet.canvas[5, 20].tolist()
    ([209, 73, 91], [255, 255, 255])
    """

    def __init__(self, height: int, width: int) -> None:
        self.canvas: Picture = np.full((height, width, 3), 255, np.uint8)

    def text(
        self, at: tuple[float, float], words: str, size: int, colour: Colour, *, bold: bool = False, anchor: str = "la"
    ) -> None:
        """Write a text; `anchor` is Pillow's: left, middle or right, then ascender or middle."""
        strip, (left, top) = _rendered(words, size, colour, bold, anchor)
        x, y = max(0, round(at[0]) + left), max(0, round(at[1]) + top)
        target = self.canvas[y : y + strip.shape[0], x : x + strip.shape[1]]
        np.minimum(target, strip[: target.shape[0], : target.shape[1]], out=target)

    def bar(self, box: Sequence[float], colour: Colour) -> None:
        left, top, right, bottom = (round(side) for side in box)
        self.canvas[top:bottom, min(left, right) : max(left, right)] = colour

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: int = 1) -> None:
        placed = np.array([[round(16 * x), round(16 * y)] for x, y in points], np.int32)
        cv2.polylines(self.canvas, [placed[:, None]], False, colour, width, cv2.LINE_AA, 4)

    def dot(self, at: tuple[float, float], colour: Colour, radius: float = 4) -> None:
        cv2.circle(self.canvas, (round(16 * at[0]), round(16 * at[1])), round(16 * radius), colour, -1, cv2.LINE_AA, 4)


@lru_cache(maxsize=2048)
def _rendered(words: str, size: int, colour: Colour, bold: bool, anchor: str) -> tuple[Picture, tuple[int, int]]:
    """(h, w, 3) text on white, and the offset of its corner; cached, because receipts share most of their text."""
    font = _font(size, bold)
    left, top, right, bottom = (round(side) for side in font.getbbox(words, anchor=anchor))
    strip = Image.new("RGB", (max(1, right - left), max(1, bottom - top)), (255, 255, 255))
    ImageDraw.Draw(strip).text((-left, -top), words, colour, font, anchor)
    return np.asarray(strip), (left, top)


@lru_cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size, layout_engine=ImageFont.Layout.BASIC
    )
