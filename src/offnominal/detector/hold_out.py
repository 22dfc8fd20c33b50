"""Signals of every normal image as if it were new: against a bank in which no patch of its own is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from offnominal.config import Settings
from offnominal.detector.engine import SignalEngine
from offnominal.detector.model import UsualDistance
from offnominal.memory import HeldOutBanks
from offnominal.scoring import SIGNALS
from offnominal.types import Float

#: Images whose held-out distances say what is usual.
USUAL_IMAGES = 16


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


def held_out_signals(
    banks: HeldOutBanks,
    images: int,
    settings: Settings,
    usual: UsualDistance,
    device: torch.device,
    tick: Callable[[int], None] = lambda done: None,
    *,
    first: int = 0,
) -> list[Float]:
    """(n, S) signals of the patches of every image from `first` on against `banks.without(image)`."""
    engine = SignalEngine(banks.bank, settings, usual, device)
    wanted = engine.neighbours
    signals: list[Float] = []
    reach: list[Tensor] = []
    for image in range(first, images):
        squared, rows = banks.neighbours(image, wanted)
        # Whoever lacks neighbours takes any stand-in; the others one that is nearer than their last.
        full = rows.shape[1] == wanted
        reach.append(squared[:, -1].sqrt() if full else squared.new_full((len(rows),), torch.inf))
        if rows.shape[1]:
            signals.append(engine.of_neighbours(banks.patches(image), squared, rows).values)
        else:  # all of the bank is the image's own: what stands in follows below
            signals.append(np.zeros((len(rows), len(SIGNALS)), np.float32))
        tick(image + 1)
    for image, touched in _touched(banks, reach, first):
        again = SignalEngine(banks.without(image), settings, usual, device)
        signals[image - first][touched.cpu().numpy()] = again(banks.patches(image)[touched]).values
    return signals


def _touched(banks: HeldOutBanks, reach: list[Tensor], first: int) -> Iterator[tuple[int, Tensor]]:
    """Images from `first` on of which a patch has a stand-in within its reach, and the rows of these patches."""
    for image, distance in enumerate(reach, first):
        stand_ins = banks.stand_ins(image)
        if len(stand_ins):
            near = torch.cdist(banks.patches(image), stand_ins, compute_mode="use_mm_for_euclid_dist").amin(1)
            touched = torch.nonzero(near <= distance).flatten()
            if len(touched):
                yield image, touched
