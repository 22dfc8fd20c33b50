"""Learning on: images added to a model and taken out of it, without a new fit.

Taking out is exact in the bank: it becomes the very bank that the image was held out with, so that the image, inspected
afterwards, scores what its calibration score was. Adding keeps the covering radius: greedy k-center goes on from the bank's
patches until the new ones are covered as well. What is usual and the calibration scores are worked out anew from all
held-out signals, so the threshold is that of the images that the model then knows; a model calibrated on a split of its
images is calibrated by leaving one out from then on. What a stream is watched by stays that of the fit.

Approximate is that the signals of the other images stay those of the bank before (after adding their distances can only be
too large, after taking out too small), and that channel standardisation and usual distance stay those of the fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from offnominal.decisions import calibrate
from offnominal.detector.engine import FeatureEngine
from offnominal.detector.inspector import Inspector
from offnominal.detector.learning.fit import FEWEST_IMAGES
from offnominal.detector.learning.hold_out import held_out_signals
from offnominal.detector.learning.placed import whence
from offnominal.detector.learnt import Learnt, StandIns, as_kept, usual_and_scores
from offnominal.detector.model import Model
from offnominal.errors import ImageError, InputError
from offnominal.images import Source, Thumbnails
from offnominal.memory import HeldOutBanks, MemoryBank, SourceImage, cover, random_coreset
from offnominal.scoring import grid_of
from offnominal.types import Index, Progress


@dataclass(frozen=True)
class Change:
    """What an update did.

    Attributes:
        added, removed: names of the images.
        skipped: images that could not be added, with the reason.
        patches_added, patches_removed: of the bank; what stands in for removed ones counts as added.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    patches_added: int
    patches_removed: int


def updated(
    model: Model,
    engine: FeatureEngine,
    add: Sequence[tuple[str, Source]],
    remove: Sequence[str],
    progress: Progress,
) -> tuple[Model, Change]:
    """The model without the images named `remove`, then with the named images `add`.

    Raises:
        InputError: an unknown or doubled name, too few images left, or none of the new ones can be read.
    """
    if not add and not remove:
        raise InputError("nothing to update: name images to add or to remove")
    gone = _found(model, remove)
    left = {source.name for at, source in enumerate(model.bank.sources) if at not in gone}
    doubled = sorted(left & {name for name, _ in add} | {name for name in (n for n, _ in add) if _count(add, name) > 1})
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
        patches_removed = int(np.isin(model.bank.image, list(gone)).sum())
        before = len(model.bank.patches)
        model = _less(model, gone)
        patches_added = len(model.bank.patches) - before + patches_removed
    if add:
        before = len(model.bank.patches)
        model, names, skipped = _more(model, engine, add, progress)
        patches_added += len(model.bank.patches) - before
    networks = [model.geometry.network_size(source.size) for source in model.bank.sources]
    progress("calibration", 0, 1)
    normal, scores = usual_and_scores(model.learnt.signals, networks, model.settings, head=bool(model.heads))
    progress("calibration", 1, 1)
    model = replace(model, normal=normal, calibration=calibrate(scores, model.calibration.asked))
    return model, Change(names, remove, skipped, patches_added, patches_removed)


def _count(add: Sequence[tuple[str, Source]], name: str) -> int:
    return sum(other == name for other, _ in add)


def _found(model: Model, names: Sequence[str]) -> set[int]:
    known = [source.name for source in model.bank.sources]
    for name in names:
        if name not in known:
            tails = [one for one in known if one.endswith(f"/{name}") or name.endswith(f"/{one}")]
            near = tails or get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"its images are named as '{known[0]}'"
            raise InputError(f"the model was not fitted on '{name}': {hint}")
        if known.count(name) > 1:
            raise InputError(
                f"the model was fitted on {known.count(name)} images named '{name}': fit anew without what is to go"
            )
    gone = {at for at, one in enumerate(known) if one in set(names)}
    if len(known) - len(gone) < FEWEST_IMAGES:
        raise InputError(
            f"removing {len(gone)} of {len(known)} images would leave {len(known) - len(gone)}; "
            f"a model needs {FEWEST_IMAGES}: fit anew on other images"
        )
    return gone


def _less(model: Model, gone: set[int]) -> Model:
    """The model without any patch, signal or stand-in of some images; `normal` and calibration are still the old ones."""
    bank, learnt = model.bank, model.learnt
    stand_ins = learnt.stand_ins
    leaving = np.isin(bank.image, list(gone))
    foreign = ~np.isin(stand_ins.image, list(gone))
    entering = np.flatnonzero(foreign & np.isin(stand_ins.replaces, list(gone)))
    # One patch may stand in for several images.
    _, firsts = np.unique(np.column_stack([stand_ins.image, stand_ins.place])[entering], axis=0, return_index=True)
    entering = entering[np.sort(firsts)]
    patches = torch.cat([bank.patches[torch.from_numpy(~leaving)], stand_ins.patches[torch.from_numpy(entering)]])
    if len(patches) == 0:
        raise InputError("all patches of the bank come from the images to remove: fit anew on other images")
    number = np.cumsum([at not in gone for at in range(len(bank.sources))]) - 1
    kept_stand_ins = foreign & ~np.isin(stand_ins.replaces, list(gone))
    return replace(
        model,
        bank=MemoryBank(
            patches,
            number[np.concatenate([bank.image[~leaving], stand_ins.image[entering]])],
            np.concatenate([bank.place[~leaving], stand_ins.place[entering]]),
            tuple(source for at, source in enumerate(bank.sources) if at not in gone),
            _loosened(bank.radius, bank.patches[torch.from_numpy(leaving)], patches),
        ),
        learnt=Learnt(
            tuple(one for at, one in enumerate(learnt.signals) if at not in gone),
            StandIns(
                stand_ins.patches[torch.from_numpy(kept_stand_ins)],
                number[stand_ins.replaces[kept_stand_ins]],
                number[stand_ins.image[kept_stand_ins]],
                stand_ins.place[kept_stand_ins],
            ),
            learnt.radius,
            learnt.added,
            learnt.removed + len(gone),
        ),
        thumbnails=_pictures(model, [at for at in range(len(bank.sources)) if at not in gone]),
    )


def _pictures(model: Model, images: Sequence[int], new: Sequence[bytes] = ()) -> Thumbnails | None:
    """Thumbnails of some images of the model and of new ones; None where it keeps none."""
    kept = model.thumbnails
    return None if kept is None else Thumbnails.of([*(kept.stored(at) for at in images), *new])


def _loosened(radius: float | None, leaving: Tensor, left: Tensor) -> float | None:
    """A bound of the covering radius after patches left: who was covered by one has the nearest that is left at most the
    distance between these two farther away."""
    if radius is None or len(leaving) == 0:
        return radius
    return radius + float(torch.cat([torch.cdist(part, left).amin(1) for part in leaving.split(1024)]).max())


def _more(
    model: Model, engine: FeatureEngine, add: Sequence[tuple[str, Source]], progress: Progress
) -> tuple[Model, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The model with the images that can be read, their names, and why the others cannot."""
    failed: dict[int, str] = {}

    def fail(index: int, error: ImageError) -> None:
        failed[index] = str(error)

    found: dict[int, tuple[tuple[int, int], Tensor, bytes]] = {}
    for index, original, patches, picture in Inspector(model, engine).patches([source for _, source in add], fail):
        found[index] = original, patches.cpu(), picture
        progress("features", len(found), len(add))
    if not found:
        raise InputError(f"none of {len(add)} images can be added; the first: {failed[min(failed)]}")
    order = sorted(found)
    originals = [found[at][0] for at in order]
    new = torch.cat([found[at][1] for at in order])
    counts = [len(found[at][1]) for at in order]
    skipped = tuple((add[at][0], reason) for at, reason in sorted(failed.items()))
    names = tuple(add[at][0] for at in order)

    bank, learnt = model.bank, model.learnt
    rows = _chosen(model, engine, new)
    # All of the old images that is left are their patches in the bank, image by image; the new images follow with all.
    by_image = np.argsort(bank.image, kind="stable")
    old = len(bank.sources)
    starts = np.searchsorted(bank.image[by_image], np.arange(old), side="left")
    starts = np.concatenate([starts, len(by_image) + np.cumsum([0, *counts[:-1]])])
    everything = torch.cat([bank.patches[torch.from_numpy(by_image)], new])
    centres = np.concatenate([np.arange(len(by_image)), len(by_image) + rows])
    radius = math.nan if learnt.radius is None else learnt.radius
    networks = [model.geometry.network_size(original) for original in originals]
    upsamplings = [*[None] * old, *map(engine.upsampling, networks)]  # of the old images only some patches are left
    banks = HeldOutBanks(everything, starts, centres, radius, engine.device, upsamplings)
    values = held_out_signals(
        banks,
        old + len(order),
        model.settings,
        model.usual_distance,
        engine.device,
        lambda done: progress("held-out scores", done - old, len(order)),
        first=old,
        heads=model.heads,
    )
    grids = [engine.grids(network) for network in networks]
    signals = [as_kept(grid_of(one, grid)) for one, grid in zip(values, grids, strict=True)]
    places = np.cumsum([0, *counts[:-1]])
    image, place = whence(rows, places, grids)
    learnt = Learnt(
        learnt.signals + tuple(signals),
        _and_stand_ins(learnt.stand_ins, banks, old, everything, starts, places, grids),
        learnt.radius,
        learnt.added + len(order),
        learnt.removed,
    )
    sources = tuple(SourceImage(name, original) for name, original in zip(names, originals, strict=True))
    bank = MemoryBank(
        torch.cat([bank.patches, new[torch.from_numpy(rows)]]),
        np.concatenate([bank.image, image + old]),
        np.concatenate([bank.place, place]),
        bank.sources + sources,
        bank.radius,
    )
    pictures = _pictures(model, range(old), [found[at][2] for at in order])
    model = replace(model, bank=bank, learnt=learnt, skipped=model.skipped + skipped, thumbnails=pictures)
    return model, names, skipped


def _chosen(model: Model, engine: FeatureEngine, new: Tensor) -> Index:
    """Rows of the new patches that enter the bank."""
    if model.learnt.radius is not None:
        return cover(new, model.bank.patches, model.learnt.radius)
    networks = [model.geometry.network_size(source.size) for source in model.bank.sources]
    seen = sum(map(engine.count, networks))
    count = min(len(new), max(1, round(len(model.bank.patches) * len(new) / seen)))
    return random_coreset(len(new), count, model.settings.seed + len(model.bank.sources))


def _and_stand_ins(
    known: StandIns,
    banks: HeldOutBanks,
    old: int,
    everything: Tensor,
    starts: Index,
    places: Index,
    grids: Sequence[Sequence[tuple[int, int]]],
) -> StandIns:
    """Those known, and patches of new images for other new ones; what of old images may stand in is in the bank already."""
    found = [banks.stand_in_rows(image).numpy() for image in range(old, len(starts))]
    rows = np.concatenate(found)
    replaces = np.repeat(np.arange(old, len(starts)), [len(one) for one in found])
    image, place = whence(rows - starts[old], places, grids)
    return StandIns(
        torch.cat([known.patches, everything[torch.from_numpy(rows)]]),
        np.concatenate([known.replaces, replaces]),
        np.concatenate([known.image, image + old]),
        np.concatenate([known.place, place]),
    )
