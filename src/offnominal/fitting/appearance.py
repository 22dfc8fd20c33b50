"""Features of whole images, and how small disturbances change them -> `decisions.Appearance`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from offnominal.decisions import Appearance, halves, learn_appearance
from offnominal.decisions.appearance import FEWEST
from offnominal.images import DISTURBANCES, ImageBatch
from offnominal.inference import image_features, parallel_map, threads_for
from offnominal.types import Float

#: Number of images that are disturbed: a disturbance changes all images alike, so a few suffice.
MAX_DISTURBED = 32
#: Bytes of their pixels, which stay in memory until `build`.
MAX_DISTURBED_BYTES = 200_000_000


class AppearanceLearner:
    """Collects features of whole images during the feature extraction: `add` each batch, then `build`.

    The fitting half is chosen at random by number and seed only, so that the choice does not depend on content.

    Parameters
    ----------
    images
        Number of images.
    seed
        Seed of the choice.
    maps_of
        (B, 3, H, W) network inputs -> (B, D, h, w) maps of the first member.
    device
        Device of the network.
    """

    def __init__(self, images: int, seed: int, maps_of: Callable[[Float], Tensor], device: torch.device) -> None:
        self._maps_of, self._device = maps_of, device
        fitting_half, _ = halves(images, seed)
        self._fitting_half = frozenset(fitting_half.tolist())
        self._features: dict[int, Float] = {}
        self._to_disturb: list[ImageBatch] = []
        self._count = self._bytes = 0

    def add(self, batch: ImageBatch, features: Float) -> None:
        """Add a batch and its (B, D + 131) `image_features`."""
        self._features.update(zip(batch.index, features, strict=True))
        remaining = MAX_DISTURBED - self._count if self._bytes < MAX_DISTURBED_BYTES else 0
        selected = [at for at, index in enumerate(batch.index) if index in self._fitting_half][:remaining]
        if selected:
            pixels = batch.views[0][selected]
            self._to_disturb.append(
                replace(
                    batch,
                    views=(pixels,),
                    index=tuple(batch.index[at] for at in selected),
                    original=tuple(batch.original[at] for at in selected),
                    decoded=(None,) * len(selected),
                )
            )
            self._count += len(selected)
            self._bytes += pixels.nbytes

    def build(self) -> Appearance | None:
        """Appearance statistics; None if one of the halves has too few images."""
        features = self._features.items()
        fitting_features = np.array([values for index, values in features if index in self._fitting_half], dtype=np.float32)
        reference = np.array([values for index, values in features if index not in self._fitting_half], dtype=np.float32)
        if min(len(fitting_features), len(reference)) < FEWEST:
            return None
        before = np.array([self._features[index] for batch in self._to_disturb for index in batch.index])
        threads = threads_for(len(before) * len(DISTURBANCES), self._device)
        # The results are a few numbers per image, so their size does not count.
        after = np.concatenate(list(parallel_map(self._disturb, self._to_disturb, threads, lambda batch: 0)), axis=1)
        disturbed = {name: (before, values) for name, values in zip(DISTURBANCES, after, strict=True)}
        return learn_appearance(fitting_features, disturbed, reference)

    def _disturb(self, batch: ImageBatch) -> Float:
        """(disturbances, B, D + 131) features of a batch after each disturbance."""
        features = []
        for disturb in DISTURBANCES.values():
            disturbed = replace(batch, views=(np.stack([disturb(image) for image in batch.views[0]]),))
            features.append(image_features(disturbed, self._maps_of(disturbed.network_input(0))))
        return np.stack(features)
