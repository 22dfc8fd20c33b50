"""Add images to a model.

Greedy k-center continues from each bank until the new patches are within the covering radius of the fit. The new images are
held out one by one. Channel statistics and distance scale stay those of the fit. The held-out signals of the other images still
refer to the previous bank: their distances can only be too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from offnominal.errors import ImageError, InputError
from offnominal.fitting.held_out_signals import held_out_signals
from offnominal.fitting.member_patches import locate
from offnominal.fitting.training_sources import TrainingSource
from offnominal.images import Thumbnails, mm_per_pixel_of
from offnominal.inference import FeatureEngine, Inspector
from offnominal.memory import HeldOutBanks, MemoryBank, SourceImage, cover, random_coreset
from offnominal.model import HeldOut, Member, Model, Replacements, as_stored
from offnominal.observer import Observer
from offnominal.roi import Layout
from offnominal.types import Index


def with_images(
    model: Model, engines: Sequence[FeatureEngine], add: Sequence[TrainingSource], observer: Observer
) -> tuple[Model, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The model with the images that can be read, their names, and name and reason of the others."""
    failures: dict[int, str] = {}

    def fail(index: int, error: ImageError) -> None:
        failures[index] = str(error)

    images: dict[int, tuple[tuple[int, int], list[Tensor], bytes]] = {}
    for index, original, patches, picture in Inspector(model, engines).patches([source.source for source in add], fail):
        images[index] = original, [of_member.cpu() for of_member in patches], picture
        observer.on_progress("features", len(images), len(add))
    if not images:
        raise InputError(f"none of {len(add)} images can be added; the first error: {failures[min(failures)]}")
    order = sorted(images)
    originals = [images[at][0] for at in order]
    members = tuple(
        _member_with(model, member, engine, originals, [images[at][1][number] for at in order], observer=observer)
        for number, (member, engine) in enumerate(zip(model.members, engines, strict=True))
    )
    names = tuple(add[at].name for at in order)
    skipped = tuple((add[at].name, reason) for at, reason in sorted(failures.items()))
    stored = model.thumbnails
    pictures = [] if stored is None else [stored.stored(at) for at in range(len(model.sources))]
    model = replace(
        model,
        members=members,
        sources=model.sources
        + tuple(SourceImage(add[at].name, images[at][0], mm_per_pixel=mm_per_pixel_of(add[at].source)) for at in order),
        skipped=model.skipped + skipped,
        thumbnails=None if stored is None else Thumbnails.of([*pictures, *(images[at][2] for at in order)]),
        added=model.added + len(order),
    )
    return model, names, skipped


@dataclass(frozen=True)
class _Pool:
    """Patches for the held-out banks of new images: the bank, image by image, then all patches of the new images.

    Of the old images only the bank patches are known. `starts` holds the first row of each image, `layouts` the positions of
    the patches of the new images, and `old` the number of old images.
    """

    patches: Tensor
    starts: Index
    layouts: Sequence[Layout]
    old: int

    @property
    def first_new(self) -> int:
        """First row of the new images."""
        return int(self.starts[self.old])

    def locate(self, rows: Index) -> tuple[Index, Index]:
        """Image and position of patches of new images."""
        image, position = locate(rows - self.first_new, self.starts[self.old :] - self.first_new, self.layouts)
        return image + self.old, position


def _member_with(
    model: Model,
    member: Member,
    engine: FeatureEngine,
    originals: Sequence[tuple[int, int]],
    patches: Sequence[Tensor],
    *,
    observer: Observer,
) -> Member:
    """The member with new images of these original (H, W) and (N, D) patches."""
    bank, held_out = member.bank, member.held_out
    old, new = len(model.sources), torch.cat(list(patches))
    networks = [member.geometry.network_size(original) for original in originals]
    by_image = np.argsort(bank.image, kind="stable")
    starts = np.searchsorted(bank.image[by_image], np.arange(old), side="left")
    starts = np.concatenate([starts, len(by_image) + np.cumsum([0, *map(len, patches[:-1])])])
    pool = _Pool(
        torch.cat([bank.patches[torch.from_numpy(by_image)], new]), starts, [engine.layout(size) for size in networks], old
    )
    rows = pool.first_new + _selected(model, member, engine, new)
    # The few patches of old images are no complete grid, and aligned images may repeat patches.
    upsamplings = [*[None] * old, *(engine.upsampling(size) if model.alignment is None else None for size in networks)]
    banks = HeldOutBanks(
        pool.patches,
        starts,
        np.concatenate([np.arange(len(by_image)), rows]),
        math.nan if held_out.radius is None else held_out.radius,
        engine.device,
        upsamplings,
    )
    values = held_out_signals(
        banks,
        len(starts),
        model.settings,
        member.distance_scale,
        first=old,
        tick=lambda done: observer.on_progress("held-out scores", done - old, len(originals)),
    )
    signals = [as_stored(layout.fill(image)) for image, layout in zip(values, pool.layouts, strict=True)]
    image, position = pool.locate(rows)
    return replace(
        member,
        bank=MemoryBank(
            torch.cat([bank.patches, pool.patches[torch.from_numpy(rows)]]),
            np.concatenate([bank.image, image]),
            np.concatenate([bank.position, position]),
            bank.radius,
        ),
        held_out=HeldOut(
            held_out.signals + tuple(signals),
            _with_new_replacements(held_out.replacements, banks, pool),
            held_out.radius,
        ),
    )


def _selected(model: Model, member: Member, engine: FeatureEngine, new: Tensor) -> Index:
    """Rows of the new patches that enter the bank."""
    if member.held_out.radius is not None:
        return cover(new, member.bank.patches, member.held_out.radius)
    fitted_on = sum(map(engine.count, model.networks(member)))
    count = min(len(new), max(1, round(len(member.bank.patches) * len(new) / fitted_on)))
    return random_coreset(len(new), count, model.settings.seed + len(model.sources))


def _with_new_replacements(replacements: Replacements, banks: HeldOutBanks, pool: _Pool) -> Replacements:
    """The replacements of the model, and those of the new images; old images can only give patches of the bank."""
    new_images = np.arange(pool.old, len(pool.starts))
    of_images = [banks.replacement_rows(int(image)).numpy() for image in new_images]
    rows = np.concatenate(of_images)
    image, position = pool.locate(rows)
    return Replacements(
        torch.cat([replacements.patches, pool.patches[torch.from_numpy(rows)]]),
        np.concatenate([replacements.replaces, np.repeat(new_images, [len(of_image) for of_image in of_images])]),
        np.concatenate([replacements.image, image]),
        np.concatenate([replacements.position, position]),
    )
