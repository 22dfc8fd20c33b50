"""What a model keeps of its images so that it can learn on: held-out signals, and what stands in for an image that goes.

From the signals of all images follow what is usual at every place and the calibration scores, in fit and in update alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from offnominal.config import Settings
from offnominal.scoring import NormalSignals, NormalSignalsBuilder, image_score, working_map
from offnominal.types import Float, Index, require


@dataclass(frozen=True)
class StandIns:
    """Patches that enter the bank when an image goes, because its own covered them: those it was held out with.

    Attributes:
        patches: (s, D) float32, standardised.
        replaces: (s,) image whose patches each stands in for.
        image: (s,) image each comes from.
        place: (s, 3) segment, row, column there.
    """

    patches: Tensor
    replaces: Index
    image: Index
    place: Index

    def __post_init__(self) -> None:
        count = len(self.patches)
        require(self.patches.ndim == 2, f"stand-ins must be (s, D), got {tuple(self.patches.shape)}")
        require(self.replaces.shape == self.image.shape == (count,), f"stand-ins: {count} patches, their images differ")
        require(self.place.shape == (count, 3), f"place must be ({count}, 3), got {self.place.shape}")


@dataclass(frozen=True)
class Learnt:
    """What update needs beyond the bank.

    Attributes:
        signals: (h, w, S) held-out signals of every image of the bank's `sources`, in their order; see `as_kept`.
        stand_ins: for when an image goes.
        radius: that the bank of the fit covered all patches with, and that added patches are covered with; None for a
            random bank.
        added, removed: images since the fit.
    """

    signals: tuple[Float, ...]
    stand_ins: StandIns
    radius: float | None
    added: int = 0
    removed: int = 0


@dataclass(frozen=True)
class LeftOut:
    """An image that `contamination` kept out of bank and calibration: its name, its audit score and p-value."""

    name: str
    score: float
    p_value: float


def as_kept(signals: Float) -> Float:
    """The signals rounded to what the model file keeps of them (float16), so that fit and update compute with the same."""
    return signals.astype(np.float16).astype(np.float32)


def usual_and_maps(
    signals: Sequence[Float], networks: Sequence[tuple[int, int]], settings: Settings, *, head: bool
) -> tuple[NormalSignals, list[Float]]:
    """What is usual at every place on all images, and the working map of every image against the others' usual.

    `signals` (h, w, S) and `networks`, the (height, width) that the network saw, one an image; `head` where heads count.
    """
    builder = NormalSignalsBuilder()
    for image in signals:
        builder.add(image)
    weights = settings.fusion.weights(head=head)
    maps = [
        working_map(image, builder.without(image), weights, network, settings.smoothing, settings.context, settings.halo)
        for image, network in zip(signals, networks, strict=True)
    ]
    return builder.build(), maps


def usual_and_scores(
    signals: Sequence[Float], networks: Sequence[tuple[int, int]], settings: Settings, *, head: bool
) -> tuple[NormalSignals, Float]:
    """As `usual_and_maps`, with the (n,) float32 scores of the maps: the scores that calibrate."""
    normal, maps = usual_and_maps(signals, networks, settings, head=head)
    return normal, np.array([image_score(one) for one in maps], dtype=np.float32)
