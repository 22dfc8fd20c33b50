"""Small disturbances of what the network sees, as a camera or a lamp makes them: what a watch over a stream learns from."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from offnominal.types import Float

#: Pixels of the network that the image is moved by, and the sigma of the blur in them.
MOVED, BLUR = 2, 1.0
#: Gain of the light, of red over blue, and stray light in shares of the range.
GAIN, WARMTH, HAZE = 1.1, 1.05, 0.05


def brighter(pixels: Float) -> Float:
    """(3, H, W), about 0 to 1: 10 % more light, cut off where the camera is blinded."""
    return _cut(pixels * np.float32(GAIN), pixels)


def hazier(pixels: Float) -> Float:
    """Stray light of 5 % of the range everywhere."""
    return _cut(pixels + np.float32(HAZE), pixels)


def warmer(pixels: Float) -> Float:
    """5 % more red, 5 % less blue."""
    gain = np.array([WARMTH, 1.0, 1 / WARMTH], dtype=np.float32)[:, None, None]
    return _cut(pixels * gain, pixels)


def blurrier(pixels: Float) -> Float:
    """A Gaussian of sigma 1."""
    return np.stack([cv2.GaussianBlur(channel, (0, 0), BLUR, borderType=cv2.BORDER_REFLECT_101) for channel in pixels])


def moved_sideways(pixels: Float) -> Float:
    """Moved left by 2 pixels; what comes in at the right is mirrored."""
    return np.pad(pixels[:, :, MOVED:], ((0, 0), (0, 0), (0, MOVED)), mode="reflect")


def moved_up(pixels: Float) -> Float:
    """Moved up by 2 pixels; what comes in below is mirrored."""
    return np.pad(pixels[:, MOVED:], ((0, 0), (0, MOVED), (0, 0)), mode="reflect")


def _cut(pixels: Float, before: Float) -> Float:
    return np.asarray(np.minimum(pixels, max(1.0, float(before.max()))), dtype=np.float32)


#: Name of the statistic -> the disturbance that it answers to.
DISTURBANCES: dict[str, Callable[[Float], Float]] = {
    "brightness": brighter,
    "haze": hazier,
    "colour": warmer,
    "blur": blurrier,
    "sideways": moved_sideways,
    "upward": moved_up,
}
