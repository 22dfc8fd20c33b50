"""Features of images as a whole, and how small disturbances move them -> `decisions.Appearance`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from offnominal.decisions import Appearance, halves, learn_appearance
from offnominal.decisions.appearance import FEWEST
from offnominal.images import DISTURBANCES, ImageBatch
from offnominal.inference import image_features, side_by_side, threads_for
from offnominal.types import Float

#: Teachers that are disturbed, and bytes of their pixels that may wait: how a disturbance moves them is alike for all.
DISTURBED, MOST_WAITING = 32, 200_000_000


class AppearanceLearner:
    """Collects while features are extracted: `add` a batch, then `build`.

    Which image teaches depends on its number and the seed alone, never on what it shows.
    """

    def __init__(self, images: int, seed: int, maps_of: Callable[[Float], Tensor], device: torch.device) -> None:
        self._maps_of, self._device = maps_of, device
        teachers, _ = halves(images, seed)
        self._teachers = frozenset(teachers.tolist())
        self._found: dict[int, Float] = {}
        self._waiting: list[ImageBatch] = []
        self._waits = self._bytes = 0

    def add(self, batch: ImageBatch, wholes: Float) -> None:
        """A batch and its (B, D + 131) `image_features`."""
        self._found.update(zip(batch.index, wholes, strict=True))
        room = DISTURBED - self._waits if self._bytes < MOST_WAITING else 0
        chosen = [place for place, index in enumerate(batch.index) if index in self._teachers][:room]
        if chosen:
            pixels = batch.views[0][chosen]
            self._waiting.append(
                replace(
                    batch,
                    views=(pixels,),
                    index=tuple(batch.index[place] for place in chosen),
                    original=tuple(batch.original[place] for place in chosen),
                    decoded=(None,) * len(chosen),
                )
            )
            self._waits += len(chosen)
            self._bytes += pixels.nbytes

    def build(self) -> Appearance | None:
        """None where there are too few images to learn from or to hold a stream against."""
        taught = np.array([mean for index, mean in self._found.items() if index in self._teachers], dtype=np.float32)
        reference = np.array([mean for index, mean in self._found.items() if index not in self._teachers], dtype=np.float32)
        if min(len(taught), len(reference)) < FEWEST:
            return None
        before = np.array([self._found[index] for batch in self._waiting for index in batch.index])
        passes = len(before) * len(DISTURBANCES)
        each = side_by_side(self._disturbed, self._waiting, threads_for(passes, self._device), lambda batch: 0)  # a few numbers
        after = np.concatenate(list(each), axis=1)
        return learn_appearance(
            taught, {name: (before, moved) for name, moved in zip(DISTURBANCES, after, strict=True)}, reference
        )

    def _disturbed(self, batch: ImageBatch) -> Float:
        """(disturbances, B, D + 131): a batch after each of them."""
        found = []
        for change in DISTURBANCES.values():
            changed = replace(batch, views=(np.stack([change(image) for image in batch.views[0]]),))
            found.append(image_features(changed, self._maps_of(changed.seen(0))))
        return np.stack(found)
