"""Small disturbances of an image, as cameras and lamps cause them. The drift monitor learns its statistics from them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from offnominal.types import Float

#: Shift in network pixels, and sigma of the blur in network pixels.
SHIFT, BLUR = 2, 1.0
#: Gain of the light, gain of red (and loss of blue), and stray light as a share of the range.
GAIN, WARMTH, HAZE = 1.1, 1.05, 0.05


def brighter(pixels: Float) -> Float:
    """(3, H, W), about 0 to 1: 10 % more light, clipped where the camera saturates."""
    return _saturated(pixels * np.float32(GAIN), pixels)


def hazier(pixels: Float) -> Float:
    """Add uniform stray light of 5 % of the range."""
    return _saturated(pixels + np.float32(HAZE), pixels)


def warmer(pixels: Float) -> Float:
    """Add 5 % red and remove 5 % blue."""
    gain = np.array([WARMTH, 1.0, 1 / WARMTH], dtype=np.float32)[:, None, None]
    return _saturated(pixels * gain, pixels)


def blurrier(pixels: Float) -> Float:
    """Blur with a Gaussian of sigma 1."""
    return np.stack([cv2.GaussianBlur(channel, (0, 0), BLUR, borderType=cv2.BORDER_REFLECT_101) for channel in pixels])


def moved_sideways(pixels: Float) -> Float:
    """Shift left by 2 pixels, with reflect padding at the right."""
    return np.pad(pixels[:, :, SHIFT:], ((0, 0), (0, 0), (0, SHIFT)), mode="reflect")


def moved_up(pixels: Float) -> Float:
    """Shift up by 2 pixels, with reflect padding at the bottom."""
    return np.pad(pixels[:, SHIFT:], ((0, 0), (0, SHIFT), (0, 0)), mode="reflect")


def _saturated(pixels: Float, original: Float) -> Float:
    """Clip at 1, or at the maximum of the original image if that is higher."""
    return np.asarray(np.minimum(pixels, max(1.0, float(original.max()))), dtype=np.float32)


#: Name of a drift statistic -> the disturbance that it responds to, (3, H, W) -> (3, H, W).
DISTURBANCES: dict[str, Callable[[Float], Float]] = {
    "brightness": brighter,
    "haze": hazier,
    "colour": warmer,
    "blur": blurrier,
    "sideways": moved_sideways,
    "upward": moved_up,
}
