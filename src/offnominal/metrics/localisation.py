"""How well maps show where defects are: pixel figures and AUPRO, in pixels of the original images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from offnominal.metrics.ranking import Ranking, area_under_roc, rank_blocks, true_shares
from offnominal.types import require

_EIGHT_CONNECTED = np.ones((3, 3))
#: Good pixels that are sorted together.
_BLOCK = 32_000_000


class PixelScores:
    """Map values of many images, split by their masks; add images one by one, then rank.

    Copies are made of defect pixels alone; maps and masks are looked at again in blocks, so they may lie on disk.
    """

    def __init__(self) -> None:
        self._images: list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]] = []
        self._positives: list[npt.NDArray[Any]] = []
        self._regions: list[npt.NDArray[Any]] = []

    def add(self, scores: npt.NDArray[Any], mask: npt.NDArray[np.bool_] | None) -> None:
        """Add an (H, W) map and its (H, W) mask; None means a good image.

        Raises:
            ValueError: map and mask differ in shape.
        """
        if mask is not None:
            require(scores.shape == mask.shape, f"map is {scores.shape}, its mask {mask.shape}: give both in original pixels")
        self._images.append((scores, mask))
        if mask is None:
            return
        labels, count = ndimage.label(mask, structure=_EIGHT_CONNECTED)
        inside = labels[mask]
        sizes = np.bincount(inside, minlength=count + 1)
        self._positives.append(scores[mask])
        self._regions.append(1.0 / sizes[inside])

    @property
    def complete(self) -> bool:
        """Whether there are both defect and good pixels."""
        positives = sum(map(len, self._positives))
        return 0 < positives < sum(scores.size for scores, _ in self._images)

    def by_pixel(self) -> Ranking:
        """Every defect pixel counts the same."""
        return rank_blocks(np.concatenate(self._positives), self._negatives())

    def by_region(self, by_pixel: Ranking) -> Ranking:
        """Every 8-connected defect region counts the same, whatever its size: the true share is the mean overlap (PRO).

        All but the shares is that of `by_pixel`, so the good pixels are not sorted again.
        """
        return replace(by_pixel, true_share=true_shares(np.concatenate(self._positives), np.concatenate(self._regions)))

    def _negatives(self) -> Iterator[npt.NDArray[Any]]:
        """Good pixels, in blocks of about `_BLOCK`."""
        block: list[npt.NDArray[Any]] = []
        for scores, mask in self._images:
            block.append(scores.ravel() if mask is None else scores[~mask])
            if sum(map(len, block)) >= _BLOCK:
                yield np.concatenate(block)
                block = []
        if block:
            yield np.concatenate(block)


def aupro(maps: Sequence[Any], masks: Sequence[Any], *, limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to a false-positive rate of `limit`, divided by `limit` (0 to 1).

    Bergmann et al. 2021, section 4: PRO is the share of each ground-truth region at or above the threshold, averaged over
    regions; the false-positive rate is pooled over the good pixels of all images. Exact: every distinct score is a threshold.

    Args:
        maps: (H, W) anomaly maps, higher = more anomalous; NumPy arrays or torch tensors.
        masks: (H, W) masks of the same shapes, non-zero = defect.
        limit: largest false-positive rate, in (0, 1].

    Raises:
        ValueError: different lengths or shapes, no defect pixel, no good pixel, `limit` outside (0, 1].
    """
    require(0 < limit <= 1, f"limit must lie in (0, 1], got {limit}")
    require(len(maps) == len(masks), f"{len(maps)} maps but {len(masks)} masks")
    pixels = PixelScores()
    for scores, mask in zip(maps, masks, strict=True):
        pixels.add(_array(scores), _array(mask) > 0)
    require(pixels.complete, "AUPRO needs at least one defect pixel and one good pixel")
    return area_under_roc(pixels.by_region(pixels.by_pixel()), limit)


def _array(values: Any) -> np.ndarray[Any, Any]:
    """A NumPy array, or a torch tensor on any device, as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
