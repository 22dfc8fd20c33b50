"""Signals of every normal image as if it were new: against a bank in which no patch of its own is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.detector.engine import SignalEngine
from offnominal.detector.model import SearchError, UsualDistance
from offnominal.memory import EXACT_INDEXES, HeldOutBanks, NearestPatches
from offnominal.noising import STEPS, Head, train_head
from offnominal.scoring import SIGNALS
from offnominal.types import Float

#: Images whose held-out distances say what is usual.
USUAL_IMAGES = 16
#: Heads are trained each on all folds but one, on this many images of them.
FOLDS, HEAD_IMAGES = 2, 48
HEAD_STEPS = FOLDS * STEPS


def usual_distance(banks: HeldOutBanks, images: int, settings: Settings, device: torch.device) -> UsualDistance:
    """Mean and deviation of the mean distance over K neighbours, of the held-out patches of up to 16 images, evenly spread."""
    engine = SignalEngine(banks.bank, settings, None, device)
    found = []
    for image in range(0, images, max(1, images // USUAL_IMAGES)):
        squared, rows = banks.neighbours(image, settings.neighbors)
        if rows.shape[1]:
            around = engine.of_neighbours(banks.patches(image), squared, rows, with_noise=False).around
            found.append(around.distances.mean(1))
    distances = torch.cat(found)
    deviation = float(distances.std(unbiased=False))
    return UsualDistance(float(distances.mean()), deviation if deviation > 0 else 1.0)


def search_error(banks: HeldOutBanks, images: int, settings: Settings) -> SearchError | None:
    """What the index of the settings costs, on the CPU and on held-out patches of up to 16 images; None where it is exact.

    Patches are left out whose next neighbours in the bank are nearly all of their own image, or copies of them.
    """
    if settings.index in EXACT_INDEXES:
        return None
    bank, k = banks.bank.cpu(), min(settings.distance_neighbors, len(banks.bank))
    exact, tried = NearestPatches(bank), NearestPatches(bank, settings.index)
    random = torch.Generator().manual_seed(settings.seed)
    chosen = range(0, images, max(1, images // USUAL_IMAGES))
    found: list[tuple[int, float, float, float]] = []
    for noise in (0.0, 1.0):
        changes, peaks = [torch.zeros(0)], [0.0]
        for image in chosen:
            points = banks.patches(image).cpu()
            points = points + noise * torch.randn(points.shape, generator=random)
            (right, enough), (rows, also) = (banks.found_by(search, image, points, k) for search in (exact, tried))
            kept = (enough & also).cpu()
            before, after = (_mean_distance(points[kept], bank, some.cpu()[kept]) for some in (right, rows))
            before, after = before[before > 0], after[before > 0]
            if len(before):
                changes.append(after / before - 1)
                peaks.append(float(after.max() / before.max()) - 1)
        # The same neighbours in another order sum up to distances that differ in rounding.
        change = torch.cat(changes).clamp(min=0)
        some = len(change) > 0
        found.append((len(change), float(change.mean()) if some else 0.0, float(change.max()) if some else 0.0, max(peaks)))
    (patches, *usual), (_, *odd) = found
    return SearchError(len(chosen), patches, *usual, *odd)


def _mean_distance(points: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """(n, D) patches and the (n, K) rows of their neighbours -> (n,) float32."""
    distances: Tensor = torch.linalg.vector_norm(points[:, None] - bank[rows], dim=2)
    return distances.mean(1)


def held_out_signals(
    banks: HeldOutBanks,
    images: int,
    settings: Settings,
    usual: UsualDistance,
    device: torch.device,
    tick: Callable[[int], None] = lambda done: None,
    *,
    first: int = 0,
    heads: Sequence[Head] = (),
) -> list[Float]:
    """(n, S) signals of the patches of every image from `first` on, by heads that missed it.

    Its own patches are not in the bank, and what stands in for them is.
    """
    engine = SignalEngine(banks.bank, settings, usual, device, heads)
    wanted = engine.neighbours
    signals: list[Float] = []
    near: list[tuple[Tensor, Tensor]] = []
    for image in range(first, images):
        squared, rows = banks.neighbours(image, wanted)
        near.append((squared, rows.int()))
        if rows.shape[1]:
            signals.append(engine.of_neighbours(banks.patches(image), squared, rows, fold=fold_of(image, heads)).values)
        else:  # all of the bank is the image's own: what stands in follows below
            signals.append(np.zeros((len(rows), len(SIGNALS)), np.float32))
        tick(image + 1)
    for image, (squared, rows) in enumerate(near, first):
        stand_ins = banks.stand_ins(image)
        if len(stand_ins):
            touched, squared, rows = _with_stand_ins(banks.patches(image), squared, rows, stand_ins, wanted, len(banks.bank))
            if len(touched):
                bank, patches = torch.cat([banks.bank, stand_ins]), banks.patches(image)[touched]
                again = engine.of_neighbours(patches, squared, rows, bank=bank, fold=fold_of(image, heads)).values
                signals[image - first][touched.cpu().numpy()] = again
        tick(images)
    return signals


def _with_stand_ins(
    patches: Tensor, squared: Tensor, rows: Tensor, stand_ins: Tensor, wanted: int, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which of (n, D) patches a stand-in is as near as their last neighbour, and the neighbours of these with stand-ins.

    `squared` and `rows` (n, K) are the nearest without them, all that there are where K is below `wanted`; rows of the
    (s, D) stand-ins count from `first` on. So the nearest of both are among the nearest of each, and nothing is searched anew.
    """
    away = torch.cdist(patches, stand_ins, compute_mode="use_mm_for_euclid_dist").square()
    reach = squared[:, -1] if squared.shape[1] == wanted else squared.new_full((len(squared),), torch.inf)
    touched = torch.nonzero(away.amin(1) <= reach).flatten()
    numbers = torch.arange(first, first + len(stand_ins), device=rows.device).expand(len(touched), -1)
    both, all_rows = torch.cat([squared[touched], away[touched]], 1), torch.cat([rows[touched].long(), numbers], 1)
    nearest = both.topk(min(wanted, both.shape[1]), largest=False)
    return touched, nearest.values, all_rows.gather(1, nearest.indices)


def fold_of(image: int, heads: Sequence[Head]) -> int | None:
    """The fold of an image: the head of this number has not seen it. None where there are no heads."""
    return image % len(heads) if heads else None


def cross_fitted_heads(
    banks: HeldOutBanks, images: int, settings: Settings, tick: Callable[[int], None] = lambda done: None
) -> tuple[Head, ...]:
    """One head a fold, trained on up to `HEAD_IMAGES` images of the other folds; `tick` counts to `HEAD_STEPS`.

    A new image is told by their mean, a training image by the one that has not seen it, so that its score is held out.
    """
    heads = []
    for fold in range(FOLDS):
        others = [image for image in range(images) if image % FOLDS != fold]
        some = others[:: max(1, -(-len(others) // HEAD_IMAGES))]
        found = [(banks.patches(image), *banks.neighbours(image, settings.neighbors)) for image in some]
        fewest = min(rows.shape[1] for _, _, rows in found)
        if fewest == 0:
            return ()  # the bank is one image's own
        patches, squared, rows = (
            torch.cat([one[part] if part == 0 else one[part][:, :fewest] for one in found]) for part in range(3)
        )
        heads.append(
            train_head(
                patches,
                banks.bank,
                squared,
                rows,
                seed=settings.seed + fold,
                tick=lambda done, before=fold * STEPS: tick(before + done),  # type: ignore[misc]
            )
        )
    return tuple(heads)
