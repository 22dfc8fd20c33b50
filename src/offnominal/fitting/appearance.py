"""Features of whole images, and how small disturbances change them -> `decisions.Appearance`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
#: Number of images that the statistics are learned from; more would only take memory.
MAX_IMAGES = 20_000
#: Bytes of their pixels, which stay in memory until `build`.
MAX_DISTURBED_BYTES = 200_000_000


@dataclass(frozen=True)
class AppearanceFeatures:
    """Features of whole images of one shard.

    Attributes
    ----------
    fitting, reference
        (a, D) and (n, D) features of the images of both halves.
    before, after
        (b, D) and (disturbances, b, D) features of some images of the fitting half before and after each disturbance.
    """

    fitting: Float
    reference: Float
    before: Float
    after: Float

    @classmethod
    def none(cls) -> AppearanceFeatures:
        """Features of no image."""
        nothing = np.empty((0, 0), np.float32)
        return cls(nothing, nothing, nothing, np.empty((len(DISTURBANCES), 0, 0), np.float32))


def learn_from(shards: Sequence[AppearanceFeatures]) -> Appearance | None:
    """Appearance statistics from the features of all shards; None if one of the halves has too few images."""

    def joined(parts: Sequence[Float], axis: int = 0) -> Float:
        return np.concatenate([part for part in parts if part.size] or list(parts[:1]), axis=axis)

    fitting, reference = joined([shard.fitting for shard in shards]), joined([shard.reference for shard in shards])
    before, after = joined([shard.before for shard in shards]), joined([shard.after for shard in shards], axis=1)
    if min(len(fitting), len(reference)) < FEWEST:
        return None
    return learn_appearance(
        fitting, {name: (before, values) for name, values in zip(DISTURBANCES, after, strict=True)}, reference
    )


class AppearanceLearner:
    """Collects features of whole images during the feature extraction: `add` each batch, then call `features`.

    The fitting half is chosen at random by number and seed only, so that the choice does not depend on content.

    Parameters
    ----------
    images
        Number of images of all shards.
    seed
        Seed of the choice.
    maps_of
        (B, 3, H, W) network inputs -> (B, D, h, w) maps of the first member.
    device
        Device of the network.
    first
        Number of the first image of this shard among the images of all shards.
    shards
        Number of shards.
    """

    def __init__(
        self,
        images: int,
        seed: int,
        maps_of: Callable[[Float], Tensor],
        device: torch.device,
        *,
        first: int = 0,
        shards: int = 1,
    ) -> None:
        self._maps_of, self._device, self._first = maps_of, device, first
        fitting_half, _ = halves(images, seed)
        self._fitting_half = frozenset(fitting_half.tolist())
        most = 0 if len(fitting_half) < FEWEST else math.ceil(MAX_DISTURBED / shards)
        self._disturbed = frozenset(fitting_half[fitting_half >= first][:most].tolist())
        self._end = first + math.ceil(MAX_IMAGES / shards)
        self._features: dict[int, Float] = {}
        self._to_disturb: list[ImageBatch] = []
        self._bytes = 0

    def add(self, batch: ImageBatch, features: Float) -> None:
        """Add a batch and its (B, D + 131) `image_features`."""
        numbers = [self._first + index for index in batch.index]
        for number, values in zip(numbers, features, strict=True):
            if number < self._end:
                self._features[number] = values
        selected = [at for at, number in enumerate(numbers) if number in self._disturbed]
        if selected and self._bytes < MAX_DISTURBED_BYTES:
            pixels = batch.overview[selected]
            self._to_disturb.append(
                replace(
                    batch,
                    views=(pixels,),
                    index=tuple(numbers[at] for at in selected),
                    original=tuple(batch.original[at] for at in selected),
                    decoded=(None,) * len(selected),
                    poses=(None,) * len(selected),
                    mm_per_pixel=(None,) * len(selected),
                )
            )
            self._bytes += pixels.nbytes

    def features(self) -> AppearanceFeatures:
        """The features of all images, and of the disturbed ones, in the order of the images."""
        if not self._features:
            return AppearanceFeatures.none()
        of_half: dict[bool, list[Float]] = {True: [], False: []}
        for number, values in sorted(self._features.items()):
            of_half[number in self._fitting_half].append(values)
        fitting, reference = (np.array(of_half[half], dtype=np.float32) for half in (True, False))
        numbers = np.array([number for batch in self._to_disturb for number in batch.index], dtype=np.int64)
        if not len(numbers):
            none = AppearanceFeatures.none()
            return AppearanceFeatures(fitting, reference, none.before, none.after)
        order = np.argsort(numbers)
        before = np.array([self._features[number] for number in numbers[order].tolist()])
        threads = threads_for(len(before) * len(DISTURBANCES), self._device)
        # The results are a few numbers per image, so their size does not count.
        after = np.concatenate(list(parallel_map(self._disturb, self._to_disturb, threads, lambda batch: 0)), axis=1)
        return AppearanceFeatures(fitting, reference, before, after[:, order])

    def _disturb(self, batch: ImageBatch) -> Float:
        """(disturbances, B, D + 131) features of a batch after each disturbance."""
        features = []
        for disturb in DISTURBANCES.values():
            disturbed = replace(batch, views=(np.stack([disturb(image) for image in batch.overview]),))
            features.append(image_features(disturbed, self._maps_of(disturbed.network_input(0))))
        return np.stack(features)
