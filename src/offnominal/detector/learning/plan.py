"""What a fit is going to do, known before it starts, and how long the rest of it takes, measured where it runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from offnominal.config import Settings
from offnominal.detector.engine import FeatureEngine, SignalEngine
from offnominal.detector.learning.hold_out import USUAL_IMAGES
from offnominal.detector.model import UsualDistance
from offnominal.detector.threads import work_through
from offnominal.images import Geometry, Source, ValueRange

#: Patches of the product that is rehearsed.
REHEARSED = 512


@dataclass(frozen=True)
class Plan:
    """What a fit is going to do, known before it starts.

    Attributes:
        images, patches, dimensions, bank: how many images and patches, features of a patch, patches of the bank.
        spacing: pixels from one patch of an image to the next, across or down, where that is more; the median over images.
        bytes, on_disk: what the patches take, and whether they wait on disk.
    """

    images: int
    patches: int
    dimensions: int
    bank: int
    spacing: float
    bytes: int
    on_disk: bool


@dataclass(frozen=True)
class Estimate:
    """How long the rest of a fit takes, if it goes on as it began on this machine; waits for the disk are not in it.

    Attributes:
        seconds: still to go.
        measured: images that went through decoding and network before, and `features` the seconds of one.
        scoring: seconds of one image in what follows, rehearsed with the patches of one against a bank of the final size.
    """

    seconds: float
    measured: int
    features: float
    scoring: float


def plan_of(originals: Collection[tuple[int, int]], geometry: Geometry, settings: Settings, engine: FeatureEngine) -> Plan:
    """Of images of these (H, W), at least one."""
    networks = [geometry.network_size(original) for original in originals]
    patches = sum(map(engine.count, networks))
    spacing = [
        max(side / places for side, places in zip(original, engine.grids(network)[0], strict=True))
        for original, network in zip(originals, networks, strict=True)
    ]
    size = patches * engine.dimensions * 4
    return Plan(
        len(networks),
        patches,
        engine.dimensions,
        settings.bank_size(patches),
        float(np.median(spacing)),
        size,
        on_disk=size > settings.memory,
    )


class Rehearsal:
    """What follows the features, tried with one image that can be read: before many go side by side, for what follows has all
    threads."""

    def __init__(
        self,
        plan: Plan,
        geometry: Geometry,
        settings: Settings,
        engine: FeatureEngine,
        sources: Sequence[Source],
        values: ValueRange,
    ) -> None:
        self._plan, self._geometry, self._settings, self._engine = plan, geometry, settings, engine
        self._scoring = self._tried(sources, values)

    def estimate(self, features: float, done: int) -> Estimate:
        """From the seconds that an image took so far, and takes in what follows."""
        images = self._plan.images
        return Estimate((images - done) * features + images * self._scoring, done, features, self._scoring)

    def _tried(self, sources: Sequence[Source], values: ValueRange) -> float:
        """Seconds an image; 0 where none can be read."""
        for source in sources:
            tried = work_through(
                [source],
                self._geometry,
                values,
                lambda batch: [self._seconds(self._engine.patches(batch)[0])],
                self._engine.size_of_patches,
                threads=1,
                batch_size=1,
                failed=lambda place, error: None,
            )
            for seconds in tried:
                return seconds
        return 0.0

    def _seconds(self, patches: torch.Tensor) -> float:
        """By the (N, D) patches of one image and a bank of the final size made of them."""
        patches = patches.cpu()
        bank = patches[torch.arange(self._plan.bank) % len(patches)]
        usual = UsualDistance(1.0, 1.0)
        for _ in range(2):  # the first time is start-up
            started = perf_counter()
            SignalEngine(bank, self._settings, usual, self._engine.device)(patches.to(self._engine.device))
            scored = perf_counter()
            some = patches[:REHEARSED]
            torch.mm(some, bank.T)
            multiplied = scored + (perf_counter() - scored) * len(patches) / len(some)
        images = self._plan.images
        twice = len(range(0, images, max(1, images // USUAL_IMAGES)))  # some are scored again, for the usual distance
        # The coreset meets each patch with each centre about once: a product. An audit does all of it before, and one more.
        scoring = (1 + twice / images) * (scored - started) + (multiplied - scored)
        if self._settings.contamination != 0:
            scoring = 2 * scoring + (multiplied - scored)
        return scoring
