"""Remove images from a model.

Each bank becomes the one that the images were held out with, so an inspection of a removed image gives its leave-one-out score.
The held-out signals of the other images still refer to the previous bank: their distances can only be too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from offnominal.errors import InputError
from offnominal.images import Thumbnails
from offnominal.inference import scores_of_model
from offnominal.memory import MemoryBank, SourceImage
from offnominal.model import HeldOut, Member, Model, Replacements
from offnominal.types import Index

#: Patches per block of distances, which bounds the memory.
BLOCK = 1024


def without_images(model: Model, leaving: set[int]) -> Model:
    """The model without patches and signals of some images; normal statistics and calibration are not updated yet."""
    at_threshold = scores_of_model(model) >= np.float32(model.calibration.threshold)
    stored = model.thumbnails
    kept = [at for at in range(len(model.sources)) if at not in leaving]
    return replace(
        model,
        members=tuple(_member_without(member, leaving, model.sources) for member in model.members),
        sources=tuple(model.sources[at] for at in kept),
        thumbnails=None if stored is None else Thumbnails.of([stored.stored(at) for at in kept]),
        removed=model.removed + len(leaving),
        threshold_removed=model.threshold_removed or bool(at_threshold[list(leaving)].any()),
    )


def _member_without(member: Member, leaving: set[int], sources: Sequence[SourceImage]) -> Member:
    bank, held_out = member.bank, member.held_out
    replacements = held_out.replacements
    in_bank = ~np.isin(bank.image, list(leaving))
    available = ~np.isin(replacements.image, list(leaving))
    recorded_at = {_recorded_at(image, replacements.replaces, sources) for image in leaving}
    needed = np.isin(replacements.replaces, list(recorded_at))
    entering = np.flatnonzero(available & needed)
    # One patch may replace patches of several images.
    _, firsts = np.unique(np.column_stack([replacements.image, replacements.position])[entering], axis=0, return_index=True)
    entering = entering[np.sort(firsts)]
    patches = torch.cat([bank.patches[torch.from_numpy(in_bank)], replacements.patches[torch.from_numpy(entering)]])
    if len(patches) == 0:
        raise InputError("all patches of the bank come from the images to remove: fit again on other images")
    new_index = np.cumsum([at not in leaving for at in range(len(sources))]) - 1
    remaining = available & ~needed
    return replace(
        member,
        bank=MemoryBank(
            patches,
            new_index[np.concatenate([bank.image[in_bank], replacements.image[entering]])],
            np.concatenate([bank.position[in_bank], replacements.position[entering]]),
            _enlarged_radius(bank.radius, bank.patches[torch.from_numpy(~in_bank)], patches),
        ),
        held_out=HeldOut(
            tuple(signals for at, signals in enumerate(held_out.signals) if at not in leaving),
            Replacements(
                replacements.patches[torch.from_numpy(remaining)],
                new_index[replacements.replaces[remaining]],
                new_index[replacements.image[remaining]],
                replacements.position[remaining],
            ),
            held_out.radius,
        ),
    )


def _recorded_at(image: int, replaces: Index, sources: Sequence[SourceImage]) -> int:
    """The image that the replacements of `image` are recorded for: itself, or the image of its group that has some."""
    group = sources[image].group
    if group is None:
        return image
    of_group = [at for at, source in enumerate(sources) if source.group == group]
    recorded = set(replaces[np.isin(replaces, of_group)].tolist())
    return min(recorded, default=image)


def _enlarged_radius(radius: float | None, removed: Tensor, kept: Tensor) -> float | None:
    """Bound of the covering radius after a removal: it grows by at most d(removed, nearest kept)."""
    if radius is None or len(removed) == 0:
        return radius
    return radius + float(torch.cat([torch.cdist(block, kept).amin(1) for block in removed.split(BLOCK)]).max())
