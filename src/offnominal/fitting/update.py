"""Incremental update: images added to a model and removed from it, without a new fit.

Removing is exact in the banks: each becomes the bank that the image was held out with, so that the image, inspected afterwards,
has its leave-one-out score. Adding keeps the covering radius: greedy k-center goes on from the bank's patches until the new
ones are covered as well. Normal statistics and calibration scores are computed again from all held-out signals, so the
threshold is that of the images that the model then knows. New ones are held out alone, whatever the fit did. The drift monitor
stays that of the fit.

Approximate is that the held-out signals of the other images stay those of the bank before (after adding, their distances can
only be too large; after removing, too small), and that channel statistics and distance scale stay those of the fit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offnominal.decisions import FOLDS, LEAVE_ONE_OUT, calibrate
from offnominal.errors import ImageError, InputError
from offnominal.fitting.held_out_signals import held_out_signals
from offnominal.fitting.member_patches import whence
from offnominal.fitting.sources import TrainingSource
from offnominal.fitting.training_set import FEWEST_IMAGES
from offnominal.images import Thumbnails
from offnominal.inference import FeatureEngine, Inspector, normal_signals, scores_of_model
from offnominal.memory import HeldOutBanks, MemoryBank, SourceImage, cover, random_coreset
from offnominal.model import HeldOut, Member, Model, Replacements, as_stored
from offnominal.observer import Observer
from offnominal.scoring import to_grid
from offnominal.types import Index


@dataclass(frozen=True)
class Change:
    """What an update did.

    Attributes:
        added, removed: names of the images.
        skipped: images that could not be added, with the reason.
        patches_added, patches_removed: of all banks; replacement patches count as added.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    patches_added: int
    patches_removed: int


def updated(
    model: Model,
    engines: Sequence[FeatureEngine],
    add: Sequence[TrainingSource],
    remove: Sequence[str],
    observer: Observer,
) -> tuple[Model, Change]:
    """The model without the images named `remove`, then with the named images `add`.

    Raises:
        InputError: an unknown or doubled name, too few images left, or none of the new ones can be read.
    """
    if not add and not remove:
        raise InputError("nothing to update: name images to add or to remove")
    gone = _named(model, remove)
    left = {source.name for at, source in enumerate(model.sources) if at not in gone}
    added = Counter(source.name for source in add)
    doubled = sorted(name for name, count in added.items() if count > 1 or name in left)
    if doubled:
        raise InputError(
            f"'{doubled[0]}' would be in the model twice: remove it in the same update, or add a folder above it, by which its "
            "name differs"
        )
    remove = tuple(dict.fromkeys(remove))
    patches_removed = patches_added = 0
    skipped: tuple[tuple[str, str], ...] = ()
    names: tuple[str, ...] = ()
    if gone:
        patches_removed = sum(int(np.isin(member.bank.image, list(gone)).sum()) for member in model.members)
        before = _bank_patches(model)
        model = _without(model, gone)
        patches_added = _bank_patches(model) - before + patches_removed
    if add:
        before = _bank_patches(model)
        model, names, skipped = _with(model, engines, add, observer)
        patches_added += _bank_patches(model) - before
    observer.on_progress("calibration", 0, 1)
    members = tuple(replace(member, normal=normal_signals(member.held_out.signals)) for member in model.members)
    model = replace(model, members=members)
    method = FOLDS if model.calibration.method == FOLDS and not add else LEAVE_ONE_OUT
    calibration = calibrate(scores_of_model(model), model.calibration.asked, method)
    observer.on_progress("calibration", 1, 1)
    return replace(model, calibration=calibration), Change(names, remove, skipped, patches_added, patches_removed)


def _bank_patches(model: Model) -> int:
    return sum(len(member.bank.patches) for member in model.members)


def _named(model: Model, names: Sequence[str]) -> set[int]:
    known = [source.name for source in model.sources]
    for name in names:
        if name not in known:
            tails = [one for one in known if one.endswith(f"/{name}") or name.endswith(f"/{one}")]
            near = tails or get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"its images are named as '{known[0]}'"
            raise InputError(f"the model was not fitted on '{name}': {hint}")
        if known.count(name) > 1:
            raise InputError(
                f"the model was fitted on {known.count(name)} images named '{name}': fit again without the one to remove"
            )
    gone = {at for at, one in enumerate(known) if one in set(names)}
    if len(known) - len(gone) < FEWEST_IMAGES:
        raise InputError(
            f"removing {len(gone)} of {len(known)} images would leave {len(known) - len(gone)}; "
            f"a model needs {FEWEST_IMAGES}: fit again on other images"
        )
    return gone


def _without(model: Model, gone: set[int]) -> Model:
    """The model without any patch or signal of some images; normal statistics and calibration are still the old ones."""
    at_threshold = scores_of_model(model) >= np.float32(model.calibration.threshold)
    kept = [at for at in range(len(model.sources)) if at not in gone]
    return replace(
        model,
        members=tuple(_member_without(member, gone, model.sources) for member in model.members),
        sources=tuple(model.sources[at] for at in kept),
        thumbnails=_pictures(model, kept),
        removed=model.removed + len(gone),
        threshold_removed=model.threshold_removed or bool(at_threshold[list(gone)].any()),
    )


def _member_without(member: Member, gone: set[int], sources: Sequence[SourceImage]) -> Member:
    bank, held_out = member.bank, member.held_out
    known = held_out.replacements
    leaving = np.isin(bank.image, list(gone))
    foreign = ~np.isin(known.image, list(gone))
    # Replacements belong to the first image of those that are held out together.
    anchors = {image: _anchor(image, known.replaces, sources) for image in gone}
    needed = np.isin(known.replaces, list(anchors.values()))
    entering = np.flatnonzero(foreign & needed)
    # One patch may replace patches of several images.
    _, firsts = np.unique(np.column_stack([known.image, known.position])[entering], axis=0, return_index=True)
    entering = entering[np.sort(firsts)]
    patches = torch.cat([bank.patches[torch.from_numpy(~leaving)], known.patches[torch.from_numpy(entering)]])
    if len(patches) == 0:
        raise InputError("all patches of the bank come from the images to remove: fit again on other images")
    number = np.cumsum([at not in gone for at in range(len(sources))]) - 1
    kept = foreign & ~needed
    return replace(
        member,
        bank=MemoryBank(
            patches,
            number[np.concatenate([bank.image[~leaving], known.image[entering]])],
            np.concatenate([bank.position[~leaving], known.position[entering]]),
            _loosened(bank.radius, bank.patches[torch.from_numpy(leaving)], patches),
        ),
        held_out=HeldOut(
            tuple(one for at, one in enumerate(held_out.signals) if at not in gone),
            Replacements(
                known.patches[torch.from_numpy(kept)],
                number[known.replaces[kept]],
                number[known.image[kept]],
                known.position[kept],
            ),
            held_out.radius,
        ),
    )


def _anchor(image: int, replaces: Index, sources: Sequence[SourceImage]) -> int:
    """The image that the replacements of `image` are recorded under: itself, or the one of its group that has some."""
    group = sources[image].group
    if group is None:
        return image
    of_group = [at for at, source in enumerate(sources) if source.group == group]
    recorded = set(replaces[np.isin(replaces, of_group)].tolist())
    return min(recorded, default=image)


def _pictures(model: Model, images: Sequence[int], new: Sequence[bytes] = ()) -> Thumbnails | None:
    """Thumbnails of some images of the model and of new ones; None if it keeps none."""
    kept = model.thumbnails
    return None if kept is None else Thumbnails.of([*(kept.stored(at) for at in images), *new])


def _loosened(radius: float | None, leaving: Tensor, left: Tensor) -> float | None:
    """A bound of the covering radius after patches left: it grows by at most d(removed, nearest kept)."""
    if radius is None or len(leaving) == 0:
        return radius
    return radius + float(torch.cat([torch.cdist(part, left).amin(1) for part in leaving.split(1024)]).max())


def _with(
    model: Model, engines: Sequence[FeatureEngine], add: Sequence[TrainingSource], observer: Observer
) -> tuple[Model, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The model with the images that can be read, their names, and why the others cannot."""
    failed: dict[int, str] = {}

    def fail(index: int, error: ImageError) -> None:
        failed[index] = str(error)

    found: dict[int, tuple[tuple[int, int], list[Tensor], bytes]] = {}
    for index, original, patches, picture in Inspector(model, engines).patches([source.source for source in add], fail):
        found[index] = original, [of_member.cpu() for of_member in patches], picture
        observer.on_progress("features", len(found), len(add))
    if not found:
        raise InputError(f"none of {len(add)} images can be added; the first: {failed[min(failed)]}")
    order = sorted(found)
    originals = [found[at][0] for at in order]
    members = tuple(
        _member_with(model, member, engine, originals, [found[at][1][number] for at in order], observer)
        for number, (member, engine) in enumerate(zip(model.members, engines, strict=True))
    )
    names = tuple(add[at].name for at in order)
    skipped = tuple((add[at].name, reason) for at, reason in sorted(failed.items()))
    model = replace(
        model,
        members=members,
        sources=model.sources + tuple(SourceImage(name, size) for name, size in zip(names, originals, strict=True)),
        skipped=model.skipped + skipped,
        thumbnails=_pictures(model, range(len(model.sources)), [found[at][2] for at in order]),
        added=model.added + len(order),
    )
    return model, names, skipped


def _member_with(
    model: Model,
    member: Member,
    engine: FeatureEngine,
    originals: Sequence[tuple[int, int]],
    patches: Sequence[Tensor],
    observer: Observer,
) -> Member:
    """The member with the (N, D) patches of new images of these original (H, W)."""
    bank, held_out, settings = member.bank, member.held_out, model.settings
    new, counts = torch.cat(list(patches)), [len(one) for one in patches]
    rows = _chosen(model, member, engine, new)
    # All that is left of the old images are their patches in the bank, image by image; the new images follow with all.
    by_image = np.argsort(bank.image, kind="stable")
    old = len(model.sources)
    starts = np.searchsorted(bank.image[by_image], np.arange(old), side="left")
    starts = np.concatenate([starts, len(by_image) + np.cumsum([0, *counts[:-1]])])
    everything = torch.cat([bank.patches[torch.from_numpy(by_image)], new])
    centres = np.concatenate([np.arange(len(by_image)), len(by_image) + rows])
    radius = math.nan if held_out.radius is None else held_out.radius
    networks = [member.geometry.network_size(original) for original in originals]
    upsamplings = [*[None] * old, *map(engine.upsampling, networks)]  # of the old images only some patches are left
    banks = HeldOutBanks(everything, starts, centres, radius, engine.device, upsamplings)
    images = old + len(originals)
    values = held_out_signals(
        banks,
        images,
        settings,
        member.distance_scale,
        engine.device,
        lambda done: observer.on_progress("held-out scores", done - old, len(originals)),
        first=old,
    )
    grids = [engine.grid(network) for network in networks]
    signals = [as_stored(to_grid(one, grid)) for one, grid in zip(values, grids, strict=True)]
    places = np.cumsum([0, *counts[:-1]])
    image, position = whence(rows, places, grids)
    return replace(
        member,
        bank=MemoryBank(
            torch.cat([bank.patches, new[torch.from_numpy(rows)]]),
            np.concatenate([bank.image, image + old]),
            np.concatenate([bank.position, position]),
            bank.radius,
        ),
        held_out=HeldOut(
            held_out.signals + tuple(signals),
            _more_replacements(held_out.replacements, banks, old, everything, starts, places, grids),
            held_out.radius,
        ),
    )


def _chosen(model: Model, member: Member, engine: FeatureEngine, new: Tensor) -> Index:
    """Rows of the new patches that enter the bank."""
    if member.held_out.radius is not None:
        return cover(new, member.bank.patches, member.held_out.radius)
    seen = sum(map(engine.count, model.networks(member)))
    count = min(len(new), max(1, round(len(member.bank.patches) * len(new) / seen)))
    return random_coreset(len(new), count, model.settings.seed + len(model.sources))


def _more_replacements(
    known: Replacements,
    banks: HeldOutBanks,
    old: int,
    everything: Tensor,
    starts: Index,
    places: Index,
    grids: Sequence[tuple[int, int]],
) -> Replacements:
    """Those known, and patches of new images for other new ones; what old images could give is in the bank already."""
    found: list[npt.NDArray[np.int64]] = [banks.replacement_rows(image).numpy() for image in range(old, len(starts))]
    rows = np.concatenate(found)
    replaces = np.repeat(np.arange(old, len(starts)), [len(one) for one in found])
    image, position = whence(rows - starts[old], places, grids)
    return Replacements(
        torch.cat([known.patches, everything[torch.from_numpy(rows)]]),
        np.concatenate([known.replaces, replaces]),
        np.concatenate([known.image, image + old]),
        np.concatenate([known.position, position]),
    )
