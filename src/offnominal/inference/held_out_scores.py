"""From the held-out signals of all training images to normal statistics and calibration scores, in fit and update alike."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from offnominal.config import Settings
from offnominal.model import Model
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


def held_out_maps(
    members: Sequence[MemberSignals], settings: Settings, together: Sequence[Hashable | None] = ()
) -> list[Float]:
    """The working map of every training image, each by the statistics of the others.

    `together` has an equal entry for images that are held out together, None for one on its own; empty: all on their own.
    """
    together = together or [None] * len(members[0][0])
    maps = (_maps(*member, settings, together) for member in members)
    return [average_maps(of_image) for of_image in zip(*maps, strict=True)]


def held_out_scores(members: Sequence[MemberSignals], settings: Settings, together: Sequence[Hashable | None] = ()) -> Float:
    """(n,) float32 scores of the training images: the scores that calibrate. Arguments as for `held_out_maps`."""
    return np.array([image_score(one) for one in held_out_maps(members, settings, together)], dtype=np.float32)


def scores_of_model(model: Model) -> Float:
    """(n,) float32 held-out scores of the images that a model knows."""
    members = [(member.held_out.signals, model.networks(member)) for member in model.members]
    return held_out_scores(members, model.settings, [source.group for source in model.sources])


def _maps(
    signals: Sequence[Float],
    networks: Sequence[tuple[int, int]],
    settings: Settings,
    together: Sequence[Hashable | None],
) -> list[Float]:
    builder = NormalSignalsBuilder()
    held_with: dict[Hashable, list[Float]] = {}
    for image, unit in zip(signals, together, strict=True):
        builder.add(image)
        held_with.setdefault(unit, []).append(image)
    weights = settings.fusion.weights
    return [
        member_map(
            image,
            builder.without(*([image] if unit is None else held_with[unit])),
            weights,
            network,
            settings.smoothing,
            settings.halo,
        )
        for image, network, unit in zip(signals, networks, together, strict=True)
    ]
