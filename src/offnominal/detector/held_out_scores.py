"""From the held-out signals of all training images to normal statistics and calibration scores, in fit and update alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offnominal.config import Settings
from offnominal.scoring import NormalSignals, NormalSignalsBuilder, average_maps, image_score, member_map
from offnominal.types import Float

#: The held-out signals of one member, (h, w, S) an image, and the (height, width) at which it saw each.
MemberSignals = tuple[Sequence[Float], Sequence[tuple[int, int]]]


def normal_signals(signals: Sequence[Float]) -> NormalSignals:
    """Statistics of the held-out signals of all images."""
    builder = NormalSignalsBuilder()
    for image in signals:
        builder.add(image)
    return builder.build()


def held_out_maps(members: Sequence[MemberSignals], settings: Settings) -> list[Float]:
    """The working map of every training image, each by the statistics of the others."""
    return [average_maps(of_image) for of_image in zip(*(_maps(*member, settings) for member in members), strict=True)]


def held_out_scores(members: Sequence[MemberSignals], settings: Settings) -> Float:
    """(n,) float32 scores of the training images: the scores that calibrate."""
    return np.array([image_score(one) for one in held_out_maps(members, settings)], dtype=np.float32)


def _maps(signals: Sequence[Float], networks: Sequence[tuple[int, int]], settings: Settings) -> list[Float]:
    builder = NormalSignalsBuilder()
    for image in signals:
        builder.add(image)
    weights = settings.fusion.weights
    return [
        member_map(image, builder.without(image), weights, network, settings.smoothing, settings.halo)
        for image, network in zip(signals, networks, strict=True)
    ]
