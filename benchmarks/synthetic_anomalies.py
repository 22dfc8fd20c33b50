"""Defects made on pictures of good parts: what settings and heads are judged on where no real defect is at hand.

Each kind changes a small region in its own way. None is like a real defect, so what helps against one kind alone says little;
what helps on average over kinds and sizes is the evidence that normal images can give.

    pasted    another image's piece, turned (after CutPaste, Li et al. 2021)
    textured  another image's texture, recoloured, where smooth noise is high (after DRAEM, Zavrtanik et al. 2021)
    blurred   the region without its detail
    warped    the region pushed sideways, as in a dent
    scratched a thin line, darker or lighter
    stained   a soft blot, darker or lighter
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from offnominal.images.decode import Pixels
from offnominal.images.geometry import resize
from offnominal.types import Float, Mask, require

#: Smallest and largest radius of a region, as a share of the shorter side; drawn evenly on a logarithmic scale.
RADII = (0.02, 0.15)
#: A region must change by this share of the image's range on average, or another place is tried, so often at most.
VISIBLE, TRIES = 0.04, 8
#: The mask holds what is changed by at least this share of the full change.
MARKED = 0.3

#: (rng, (H, W), radius) -> (H, W) share of the change, 0 to 1.
Region = Callable[[np.random.Generator, tuple[int, int], float], Float]
#: (rng, good, other, share, radius) -> (H, W, 3): what the region becomes.
Change = Callable[[np.random.Generator, Float, Float, Float, float], Float]


def synthetic_anomaly(pixels: Pixels, other: Pixels, kind: str, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """One made defect of a kind.

    Args:
        pixels: (H, W, 3) stored values of a good image, any depth.
        other: (H', W', 3) stored values of another one of the same depth, where pieces come from.
        kind: one of `SYNTHETIC_ANOMALIES`.
        rng: says where, how large and how strong.

    Returns:
        (H, W, 3) of the same dtype, and the (H, W) mask of what was changed.

    Raises:
        ValueError: an unknown kind.
    """
    require(kind in SYNTHETIC_ANOMALIES, f"kind must be one of {', '.join(SYNTHETIC_ANOMALIES)}, got {kind!r}")
    good = pixels.astype(np.float32)
    low, high = float(good.min()), max(float(good.max()), float(good.min()) + 1e-6)
    source = resize(other, good.shape[:2]).astype(np.float32)
    region, change = SYNTHETIC_ANOMALIES[kind]
    most, found = -1.0, (pixels, np.zeros(pixels.shape[:2], bool))
    for _ in range(TRIES):
        radius = float(np.exp(rng.uniform(*np.log(RADII)))) * min(good.shape[:2])
        share = region(rng, good.shape[:2], radius)
        changed = np.clip(change(rng, good, source, share, radius), low, high)
        mixed = good + share[:, :, None] * (changed - good)
        mask = (share >= MARKED) & (np.abs(mixed - good).max(2) > 0)
        seen = float(np.abs(mixed - good)[mask].mean()) / (high - low) if mask.any() else 0.0
        if seen > most:
            stored = mixed if np.issubdtype(pixels.dtype, np.floating) else np.rint(mixed)
            most, found = seen, (stored.astype(pixels.dtype), mask)
        if most >= VISIBLE:
            break
    return found


def _blot(rng: np.random.Generator, size: tuple[int, int], radius: float) -> Float:
    """(H, W) 0 to 1: an ellipse at a random place, its edge soft over a fifth of its radius."""
    row, column = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    aspect, angle = float(np.exp(rng.uniform(-0.7, 0.7))), rng.uniform(0, np.pi)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
    across = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
    away = np.sqrt((along / aspect) ** 2 + (across * aspect) ** 2) / max(radius, 1.0)
    share: Float = np.clip((1.1 - away) / 0.2, 0, 1).astype(np.float32)
    return share


def _line(rng: np.random.Generator, size: tuple[int, int], radius: float) -> Float:
    """(H, W) 0 to 1: a bent line about four radii long and a sixth of a radius wide, at least 1.5 pixels."""
    start = np.array([rng.uniform(0, size[1]), rng.uniform(0, size[0])])
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, 8))
    points = start + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1) * radius / 2, axis=0)
    line = np.zeros(size, np.uint8)
    cv2.polylines(line, [np.rint(points * 8).astype(np.int32)], False, 255, max(1, round(radius / 6)), cv2.LINE_AA, 3)
    return np.asarray(cv2.GaussianBlur(line, (0, 0), 0.7), dtype=np.float32) / np.float32(255)


def _patchy(rng: np.random.Generator, size: tuple[int, int], radius: float) -> Float:
    """(H, W) 0 to 1: a blot where smooth noise, which varies over half a radius, is above its mean."""
    share: Float = _blot(rng, size, radius) * (_smooth_noise(rng, size, radius / 2) > 0)
    return share


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int], scale: float) -> Float:
    """(H, W) noise of mean 0 that varies over `scale` pixels: normal numbers on a coarse grid, laid over finely."""
    coarse = max(2, round(size[0] / max(scale, 1))), max(2, round(size[1] / max(scale, 1)))
    noise = rng.normal(size=coarse).astype(np.float32)
    return np.asarray(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _pasted(rng: np.random.Generator, good: Float, other: Float, share: Float, radius: float) -> Float:
    height, width = good.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(0, 360), float(np.exp(rng.uniform(-0.2, 0.2))))
    turn[:, 2] += rng.uniform(-0.5, 0.5, 2) * (width, height)
    return np.asarray(cv2.warpAffine(other, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101), dtype=np.float32)


def _textured(rng: np.random.Generator, good: Float, other: Float, share: Float, radius: float) -> Float:
    piece = _pasted(rng, good, other, share, radius)
    centre = piece.mean((0, 1))
    colours = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    recoloured: Float = (piece - centre) @ colours * np.float32(2) + centre[rng.permutation(3)]
    return recoloured


def _blurred(rng: np.random.Generator, good: Float, other: Float, share: Float, radius: float) -> Float:
    return np.asarray(cv2.GaussianBlur(good, (0, 0), max(1.0, radius / 3)), dtype=np.float32)


def _warped(rng: np.random.Generator, good: Float, other: Float, share: Float, radius: float) -> Float:
    y, x = np.mgrid[: good.shape[0], : good.shape[1]].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    push = cv2.GaussianBlur(share, (0, 0), max(1.0, radius / 3)) * np.float32(0.8 * radius)
    moved = cv2.remap(
        good,
        (x + push * np.float32(np.cos(angle))),
        (y + push * np.float32(np.sin(angle))),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(moved, dtype=np.float32)


def _shaded(rng: np.random.Generator, good: Float, other: Float, share: Float, radius: float) -> Float:
    contrast = rng.uniform(0.15, 0.5) * (good.max() - good.min()) * rng.choice([-1, 1])
    shaded: Float = good + np.float32(contrast)
    return shaded


#: Name -> its region, and what this becomes; the change is laid over the image by the region's share.
SYNTHETIC_ANOMALIES: dict[str, tuple[Region, Change]] = {
    "pasted": (_blot, _pasted),
    "textured": (_patchy, _textured),
    "blurred": (_blot, _blurred),
    "warped": (_blot, _warped),
    "scratched": (_line, _shaded),
    "stained": (_blot, _shaded),
}
