"""Heat over an image against the naive blend of every pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from offnominal.reports import overlay

RNG = np.random.default_rng(0)


def naive(image: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The blend of every pixel with the colour of its level, also where there is no heat."""
    heat = np.clip((level - 0.5) / 1.5, 0, 1)
    colour = cv2.applyColorMap(((0.35 + 0.65 * heat) * 255).astype(np.uint8), cv2.COLORMAP_HOT)[:, :, ::-1]
    opacity = (0.75 * np.minimum(1, 2 * heat))[:, :, None].astype(np.float32)
    return np.asarray((image * (1 - opacity) + colour * opacity).astype(np.uint8))


@pytest.mark.parametrize("highest", [0.0, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (64, 48)])
def test_heat_below_the_threshold(size: tuple[int, int], highest: float) -> None:
    image = RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
    level = (highest * RNG.random(size)).astype(np.float32)
    assert np.array_equal(overlay(image, level, 1.0), naive(image, level))
    assert np.array_equal(overlay(image, 3 * level, 3.0), naive(image, (3 * level) / np.float32(3.0)))


@pytest.mark.parametrize("level", [1.01, 2.0, 50.0])
def test_heat_inside_the_outline(level: float) -> None:
    image = RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    grey = np.broadcast_to(image[:, :, :1], image.shape)  # as grey images are stored
    for picture in (image, grey):
        drawn, levels = overlay(picture, np.full((40, 50), level, np.float32), 1.0), np.full((40, 50), level, np.float32)
        assert np.array_equal(drawn[5:-5, 5:-5], naive(picture, levels)[5:-5, 5:-5])
