"""Signals of every normal image as if it were new: against a bank that holds none of its patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.fitting.member_patches import choose
from offnominal.inference import SignalEngine
from offnominal.memory import HeldOutBanks, PatchRows, RemainingRows, Upsampling
from offnominal.model import DistanceScale
from offnominal.scoring import SIGNALS
from offnominal.types import Float

#: Units whose held-out distances give the scale of the distance.
SCALE_UNITS = 16
#: Folds of the calibration that chooses the bank again without each.
FOLDS = 5


def distance_scale(banks: HeldOutBanks, units: int, settings: Settings, device: torch.device) -> DistanceScale:
    """Mean and deviation of the mean distance over K neighbours, of the held-out patches of evenly spaced units."""
    engine = SignalEngine(banks.bank, settings, None, device)
    found = []
    for unit in range(0, units, max(1, units // SCALE_UNITS)):
        squared, rows = banks.neighbours(unit, settings.neighbors)
        if rows.shape[1]:
            around = engine.of_neighbours(banks.patches(unit), squared, rows, with_noise=False).around
            found.append(around.distances.mean(1))
    distances = torch.cat(found)
    deviation = float(distances.std(unbiased=False))
    return DistanceScale(float(distances.mean()), deviation if deviation > 0 else 1.0)


def held_out_signals(
    banks: HeldOutBanks,
    units: int,
    settings: Settings,
    scale: DistanceScale,
    device: torch.device,
    tick: Callable[[int], None] = lambda done: None,
    *,
    first: int = 0,
) -> list[Float]:
    """Leave-one-out: (n, S) signals of the patches of every unit from `first` on.

    Its own patches are not in the bank, and their replacements are.
    """
    engine = SignalEngine(banks.bank, settings, scale, device)
    wanted = engine.neighbours
    signals: list[Float] = []
    near: list[tuple[Tensor, Tensor]] = []
    for unit in range(first, units):
        squared, rows = banks.neighbours(unit, wanted)
        near.append((squared, rows.int()))
        if rows.shape[1]:
            signals.append(engine.of_neighbours(banks.patches(unit), squared, rows).values)
        else:  # all of the bank is the unit's own: the replacements follow below
            signals.append(np.zeros((len(rows), len(SIGNALS)), np.float32))
        tick(unit + 1)
    for unit, (squared, rows) in enumerate(near, first):
        replacements = banks.replacements(unit)
        if len(replacements):
            touched, squared, rows = _with_replacements(
                banks.patches(unit), squared, rows, replacements, wanted, len(banks.bank)
            )
            if len(touched):
                bank, patches = torch.cat([banks.bank, replacements]), banks.patches(unit)[touched]
                again = engine.of_neighbours(patches, squared, rows, bank=bank).values
                signals[unit - first][touched.cpu().numpy()] = again
        tick(units)
    return signals


def _with_replacements(
    patches: Tensor, squared: Tensor, rows: Tensor, replacements: Tensor, wanted: int, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which of (n, D) patches have a replacement as near as their last neighbour, and the neighbours of these with them.

    `squared` and `rows` (n, K) are the nearest without them, all that there are if K is below `wanted`; rows of the (s, D)
    replacements count from `first` on. So the nearest of both are among the nearest of each, and nothing is searched again.
    """
    away = torch.cdist(patches, replacements, compute_mode="use_mm_for_euclid_dist").square()
    reach = squared[:, -1] if squared.shape[1] == wanted else squared.new_full((len(squared),), torch.inf)
    touched = torch.nonzero(away.amin(1) <= reach).flatten()
    numbers = torch.arange(first, first + len(replacements), device=rows.device).expand(len(touched), -1)
    both, all_rows = torch.cat([squared[touched], away[touched]], 1), torch.cat([rows[touched].long(), numbers], 1)
    nearest = both.topk(min(wanted, both.shape[1]), largest=False)
    return touched, nearest.values, all_rows.gather(1, nearest.indices)


def fold_signals(
    patches: PatchRows,
    images: Sequence[slice],
    units: Sequence[slice],
    size: int,
    settings: Settings,
    scale: DistanceScale,
    device: torch.device,
    upsamplings: Sequence[Upsampling | None],
    tick: Callable[[int], None] = lambda done: None,
) -> list[Float]:
    """Folds: (n, S) signals of every image against a bank that was chosen again without its fold.

    A fold's bank has `size` patches, as many as the whole bank: with a fifth fewer, unseen patches lie farther from it, and
    about half of the stated false alarms come out.

    Parameters
    ----------
    patches
        (N, D) standardised patches of all images, one image after another.
    images
        The rows of each image.
    units
        Images that are held out together, as slices of `images`; a unit is never split between folds.
    upsamplings
        Of each image; None where it is not known.
    """
    signals: list[Float] = []
    for fold in np.array_split(np.arange(len(units)), min(FOLDS, len(units))):
        chosen = range(units[fold[0]].start, units[fold[-1]].stop)
        remaining = RemainingRows(patches, images[chosen[0]].start, images[chosen[-1]].stop)
        coreset = choose(remaining, min(size, len(remaining)), settings)
        engine = SignalEngine(remaining[torch.from_numpy(coreset.indices)], settings, scale, device)
        for image in chosen:
            signals.append(engine(patches[images[image]].to(device), upsamplings[image]).values)
            tick(len(signals))
    return signals
