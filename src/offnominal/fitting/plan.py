"""What a fit is going to do, known before it starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from offnominal.config import Settings
from offnominal.images import Geometry
from offnominal.inference.engine import FeatureEngine


@dataclass(frozen=True)
class MemberPlan:
    """What a fit is going to do for one member.

    Attributes:
        name: of the member.
        patches, dimensions, bank: patches of all images, features of a patch, patches of the bank.
        spacing: original pixels from one patch to the next, across or down, whichever is more; the median over images.
        enlarged: how much the network enlarges the images, the median over images; at most 1 if it shrinks them.
    """

    name: str
    patches: int
    dimensions: int
    bank: int
    spacing: float
    enlarged: float


@dataclass(frozen=True)
class Plan:
    """What a fit is going to do.

    Attributes:
        images: how many.
        members: of the model.
        bytes, on_disk: what the patches of all members take, and whether they spill to disk.
    """

    images: int
    members: tuple[MemberPlan, ...]
    bytes: int
    on_disk: bool


def plan_of(
    originals: Collection[tuple[int, int]], geometries: Sequence[Geometry], settings: Settings, engines: Sequence[FeatureEngine]
) -> Plan:
    """The plan for a non-empty collection of original (H, W)."""
    networks = [[geometry.network_size(original) for original in originals] for geometry in geometries]
    patches = [sum(map(engine.count, sizes)) for engine, sizes in zip(engines, networks, strict=True)]
    bank = settings.bank_size(min(patches))
    members = tuple(
        MemberPlan(
            engine.name,
            count,
            engine.dimensions,
            min(bank, count),
            _median(
                max(side / positions for side, positions in zip(original, engine.grid(network), strict=True))
                for original, network in zip(originals, sizes, strict=True)
            ),
            _median(max(network) / max(original) for original, network in zip(originals, sizes, strict=True)),
        )
        for engine, sizes, count in zip(engines, networks, patches, strict=True)
    )
    size = sum(4 * member.patches * member.dimensions for member in members)
    return Plan(len(originals), members, size, on_disk=size > settings.memory)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
