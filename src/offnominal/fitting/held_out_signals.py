"""Held-out signals: each normal image is scored as if it were new, against a bank that holds none of its patches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.inference import BLOCK, SignalEngine
from offnominal.memory import HeldOutBanks
from offnominal.model import DistanceScale
from offnominal.scoring import SIGNALS
from offnominal.types import Float

#: Number of units that the distance scale is estimated from, which is enough for a mean and a deviation.
SCALE_UNITS = 16
#: Distances from patches to replacements that are computed at a time; each takes 20 bytes.
DISTANCES = 2**23
#: Number of folds; each needs a coreset of its own.
FOLD_COUNT = 5


def distances_to_bank(
    banks: HeldOutBanks,
    units: int,
    settings: Settings,
    most: int = SCALE_UNITS,
    tick: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Mean distances to K neighbours of the held-out patches of about `most` evenly spaced units.

    `tick` is called with the number of the unit that is done.
    """
    engine = SignalEngine(banks.bank, settings, None, banks.bank.device)
    means = [torch.empty(0)]
    for unit in range(0, units, max(1, units // most)):
        squared, rows = banks.neighbours(unit, settings.neighbors)
        if rows.shape[1]:
            for block in zip(banks.patches(unit).split(BLOCK), squared.split(BLOCK), rows.split(BLOCK), strict=True):
                near = engine.of_neighbours(*block, with_noise=False).neighbourhood
                means.append(near.distances.mean(1).cpu())
        tick(unit)
    return torch.cat(means)


def distance_scale(distances: Tensor) -> DistanceScale:
    """Mean and deviation of the `distances_to_bank` of all shards."""
    deviation = float(distances.std(unbiased=False))
    return DistanceScale(float(distances.mean()), deviation if deviation > 0 else 1.0)


def held_out_signals(
    banks: HeldOutBanks,
    units: int,
    settings: Settings,
    scale: DistanceScale,
    *,
    first: int = 0,
    tick: Callable[[int], None] = lambda done: None,
) -> list[Float]:
    """Leave-one-out signals: the bank without the patches of a unit and with their replacements.

    Parameters
    ----------
    banks
        Leave-one-out banks; a unit is an image, or several images that are held out together.
    units
        Number of units.
    settings
        Numbers of neighbours and fusion.
    scale
        Scale of the distance, for the proposed noise.
    first
        Units before this one are skipped.
    tick
        Called with the number of units done.

    Returns
    -------
    list of arrays
        (n, S) float32 signals of the patches of each unit; higher is more anomalous.
    """
    engine = SignalEngine(banks.bank, settings, scale, banks.bank.device)
    k = engine.neighbours
    signals: list[Float] = []
    neighbours: list[tuple[Tensor, Tensor]] = []
    for unit in range(first, units):
        squared, rows = banks.neighbours(unit, k)
        neighbours.append((squared, rows.int()))
        if rows.shape[1]:
            blocks = zip(banks.patches(unit).split(BLOCK), squared.split(BLOCK), rows.split(BLOCK), strict=True)
            signals.append(np.concatenate([_values(engine, banks, *block) for block in blocks]))
        else:  # the bank holds patches of this unit only: all neighbours will be replacements
            signals.append(np.zeros((len(rows), len(SIGNALS)), np.float32))
        tick(unit + 1)
    for unit, (squared, rows) in enumerate(neighbours, first):
        replacements = banks.replacements(unit)
        if not len(replacements):
            tick(units)
            continue
        bank, patches = torch.cat([banks.bank, replacements]), banks.patches(unit)
        size = max(1, DISTANCES // len(replacements))
        blocks = zip(patches.split(size), squared.split(size), rows.split(size), strict=True)
        for number, (of_block, squared_of_block, rows_of_block) in enumerate(blocks):
            changed, nearest, nearest_rows = _with_replacements(
                of_block, squared_of_block, rows_of_block, replacements, k=k, first=len(banks.bank)
            )
            if len(changed):
                values = engine.values(of_block[changed], nearest, nearest_rows, bank=bank)
                signals[unit - first][number * size + changed.cpu().numpy()] = values
            banks.release()
        tick(units)
    return signals


def _values(engine: SignalEngine, banks: HeldOutBanks, patches: Tensor, squared: Tensor, rows: Tensor) -> Float:
    """(n, S) signals of a block of patches; their memory is released."""
    values = engine.values(patches, squared, rows)
    banks.release()
    return values


def _with_replacements(
    patches: Tensor, squared: Tensor, rows: Tensor, replacements: Tensor, *, k: int, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the (n, D) patches with a replacement among their `k` nearest, and the neighbours of these patches.

    `squared` and `rows` are the (n, K) neighbours without the (s, D) replacements; K is below `k` if there are no more. The
    rows of the replacements start at `first`. No search is needed: the nearest of the union are among the nearest of both.
    """
    to_replacements = torch.cdist(patches, replacements, compute_mode="use_mm_for_euclid_dist").square()
    farthest = squared[:, -1] if squared.shape[1] == k else squared.new_full((len(squared),), torch.inf)
    changed = torch.nonzero(to_replacements.amin(1) <= farthest).flatten()
    replacement_rows = torch.arange(first, first + len(replacements), device=rows.device).expand(len(changed), -1)
    all_squared = torch.cat([squared[changed], to_replacements[changed]], 1)
    all_rows = torch.cat([rows[changed].long(), replacement_rows], 1)
    nearest = all_squared.topk(min(k, all_squared.shape[1]), largest=False)
    return changed, nearest.values, all_rows.gather(1, nearest.indices)


def folds_of(units: int) -> list[slice]:
    """Split units into folds of about equal size.

    The bank of a fold is a coreset of the patches outside it, with as many patches as the whole bank. With a fifth fewer, new
    patches would be farther from it, and the threshold would give about half of the stated false alarms.

    Examples
    --------
    >>> folds_of(7)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None), slice(5, 6, None), slice(6, 7, None)]
    """
    folds = np.array_split(np.arange(units), min(FOLD_COUNT, units))
    return [slice(int(fold[0]), int(fold[-1]) + 1) for fold in folds]
