"""Held-out signals: each normal image is scored as if it were new, against a bank that holds none of its patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.fitting.member_patches import choose_coreset
from offnominal.inference import SignalEngine
from offnominal.memory import HeldOutBanks, PatchRows, RemainingRows, Upsampling
from offnominal.model import DistanceScale
from offnominal.scoring import SIGNALS
from offnominal.types import Float

#: Number of units that the distance scale is estimated from, which is enough for a mean and a deviation.
SCALE_UNITS = 16
#: Number of folds; each needs a coreset of its own.
FOLD_COUNT = 5


def distance_scale(banks: HeldOutBanks, units: int, settings: Settings) -> DistanceScale:
    """Mean and deviation of the mean distance to K neighbours, over the held-out patches of evenly spaced units."""
    engine = SignalEngine(banks.bank, settings, None, banks.bank.device)
    means = []
    for unit in range(0, units, max(1, units // SCALE_UNITS)):
        squared, rows = banks.neighbours(unit, settings.neighbors)
        if rows.shape[1]:
            near = engine.of_neighbours(banks.patches(unit), squared, rows, with_noise=False).neighbourhood
            means.append(near.distances.mean(1))
    distances = torch.cat(means)
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
            signals.append(engine.of_neighbours(banks.patches(unit), squared, rows).values)
        else:  # the bank holds patches of this unit only: all neighbours will be replacements
            signals.append(np.zeros((len(rows), len(SIGNALS)), np.float32))
        tick(unit + 1)
    for unit, (squared, rows) in enumerate(neighbours, first):
        replacements = banks.replacements(unit)
        if len(replacements):
            changed, squared, rows = _with_replacements(
                banks.patches(unit), squared, rows, replacements, k=k, first=len(banks.bank)
            )
            if len(changed):
                bank, patches = torch.cat([banks.bank, replacements]), banks.patches(unit)[changed]
                values = engine.of_neighbours(patches, squared, rows, bank=bank).values
                signals[unit - first][changed.cpu().numpy()] = values
        tick(units)
    return signals


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


def fold_signals(
    patches: PatchRows,
    images: Sequence[slice],
    units: Sequence[slice],
    *,
    size: int,
    settings: Settings,
    scale: DistanceScale,
    device: torch.device,
    upsamplings: Sequence[Upsampling | None],
    tick: Callable[[int], None] = lambda done: None,
) -> list[Float]:
    """Fold signals: for each fold, a new coreset of the patches outside the fold.

    Each of these banks has as many patches as the whole bank. With a fifth fewer, new patches would be farther from it, and the
    threshold would give about half of the stated false alarms.

    Parameters
    ----------
    patches
        (N, D) standardised patches, image by image.
    images
        Rows of each image.
    units
        Images that are held out together, as slices of `images`; folds do not split them.
    size
        Number of patches of each bank.
    settings
        Sampler, numbers of neighbours and fusion.
    scale
        Scale of the distance, for the proposed noise.
    device
        Device of the search.
    upsamplings
        Upsampling of each image; None where it is unknown.
    tick
        Called with the number of images done.

    Returns
    -------
    list of arrays
        (n, S) float32 signals of the patches of each image; higher is more anomalous.
    """
    signals: list[Float] = []
    for fold in np.array_split(np.arange(len(units)), min(FOLD_COUNT, len(units))):
        held_out = range(units[fold[0]].start, units[fold[-1]].stop)
        remaining = RemainingRows(patches, images[held_out[0]].start, images[held_out[-1]].stop)
        coreset = choose_coreset(remaining, min(size, len(remaining)), settings)
        engine = SignalEngine(remaining[torch.from_numpy(coreset.indices)], settings, scale, device)
        for image in held_out:
            signals.append(engine(patches[images[image]].to(device), upsamplings[image]).values)
            tick(len(signals))
    return signals
