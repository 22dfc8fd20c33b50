"""Localisation metrics in pixels of the original images: pixel rankings and AUPRO."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from offnominal.metrics.ranking import Ranking, area_under_roc, rank_blocks, true_shares
from offnominal.types import Mask, require

_EIGHT_CONNECTED = np.ones((3, 3))
#: Good pixels that are sorted together, which limits the memory.
_BLOCK = 32_000_000


class PixelScores:
    """Collects anomaly maps and masks, and ranks their pixels.

    Only defect pixels are copied. Maps and masks are read again in blocks, so they may be memory-mapped files.

    Examples
    --------
    >>> pixels = PixelScores()
    >>> pixels.add(np.array([[0.1, 0.9]]), np.array([[False, True]]))
    >>> pixels.add(np.array([[0.2, 0.3]]), None)  # a good image
    >>> area_under_roc(pixels.by_pixel())
    1.0
    """

    def __init__(self) -> None:
        self._images: list[tuple[npt.NDArray[Any], Mask | None, Mask | None]] = []
        self._positives: list[npt.NDArray[Any]] = []
        self._regions: list[npt.NDArray[Any]] = []

    def add(self, scores: npt.NDArray[Any], mask: Mask | None, counted: Mask | None = None) -> None:
        """Add the (H, W) map of an image, its (H, W) mask, None for a good image, and the (H, W) pixels that count.

        Raises
        ------
        ValueError
            If the shapes of map and mask differ.
        """
        if mask is not None:
            require(scores.shape == mask.shape, f"map is {scores.shape}, its mask {mask.shape}: give both in original pixels")
        self._images.append((scores, mask, counted))
        if mask is None:
            return
        if counted is not None:
            mask = mask & counted
        labels, count = ndimage.label(mask, structure=_EIGHT_CONNECTED)
        inside = labels[mask]
        sizes = np.bincount(inside, minlength=count + 1)
        self._positives.append(scores[mask])
        self._regions.append(1.0 / sizes[inside])

    @property
    def complete(self) -> bool:
        """Whether there are both defect and good pixels."""
        positives = sum(map(len, self._positives))
        pixels = sum(scores.size if counted is None else int(counted.sum()) for scores, _, counted in self._images)
        return 0 < positives < pixels

    def by_pixel(self) -> Ranking:
        """Ranking with equal weights of all defect pixels."""
        return rank_blocks(np.concatenate(self._positives), self._negatives())

    def by_region(self, by_pixel: Ranking) -> Ranking:
        """Ranking with equal weights of all 8-connected defect regions: its true share is the mean overlap (PRO).

        The good pixels are not sorted again; their ranks come from `by_pixel`.
        """
        return replace(by_pixel, true_share=true_shares(np.concatenate(self._positives), np.concatenate(self._regions)))

    def _negatives(self) -> Iterator[npt.NDArray[Any]]:
        """Good pixels, in blocks of about `_BLOCK`."""
        block: list[npt.NDArray[Any]] = []
        for scores, mask, counted in self._images:
            good = counted if mask is None else ~mask if counted is None else counted & ~mask
            block.append(scores.ravel() if good is None else scores[good])
            if sum(map(len, block)) >= _BLOCK:
                yield np.concatenate(block)
                block = []
        if block:
            yield np.concatenate(block)


def aupro(maps: Sequence[Any], masks: Sequence[Any], *, limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to a false-positive rate, normalised to [0, 1].

    The per-region overlap (PRO) is the share of a ground-truth region at or above the threshold, averaged over regions. The
    false-positive rate is pooled over the good pixels of all images. The area is exact: each distinct score is a threshold.

    Parameters
    ----------
    maps
        (H, W) anomaly maps, NumPy arrays or torch tensors; higher is more anomalous.
    masks
        (H, W) masks of the same shapes; non-zero is a defect.
    limit
        Largest false-positive rate, in (0, 1].

    Returns
    -------
    float
        Area divided by `limit`, in [0, 1]; higher is better.

    Raises
    ------
    ValueError
        If lengths or shapes differ, there is no defect pixel or no good pixel, or `limit` is out of range.

    Examples
    --------
    >>> aupro([np.array([[0.1, 0.2], [0.8, 0.9]])], [np.array([[0, 0], [0, 1]])])
    1.0

    References
    ----------
    Bergmann et al., "The MVTec anomaly detection dataset", 2021, section 4.
    """
    require(0 < limit <= 1, f"limit must lie in (0, 1], got {limit}")
    require(len(maps) == len(masks), f"expected a mask for each map, got {len(maps)} maps and {len(masks)} masks")
    pixels = PixelScores()
    for scores, mask in zip(maps, masks, strict=True):
        pixels.add(_array(scores), _array(mask) > 0)
    require(pixels.complete, "AUPRO needs at least one defect pixel and one good pixel")
    return area_under_roc(pixels.by_region(pixels.by_pixel()), limit)


def _array(values: Any) -> np.ndarray[Any, Any]:
    """Convert an array, or a torch tensor on any device, to a NumPy array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
