"""The plan of a fit: patches and bank size of each member, before the work starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from offnominal.config import Settings
from offnominal.images import Geometry
from offnominal.inference import FeatureEngine
from offnominal.observer import MemberPlan, Plan


def plan_fit(
    originals: Collection[tuple[int, int]], geometries: Sequence[Geometry], settings: Settings, engines: Sequence[FeatureEngine]
) -> Plan:
    """Build the plan from the original (H, W) of at least one image, and the geometry of each member."""
    networks = [[geometry.network_size(original) for original in originals] for geometry in geometries]
    patches = [sum(map(engine.count, sizes)) for engine, sizes in zip(engines, networks, strict=True)]
    bank = settings.bank_size(min(patches))
    members = tuple(
        MemberPlan(
            name=engine.name,
            patches=count,
            dimensions=engine.dimensions,
            bank=min(bank, count),
            spacing=_median(
                max(side / positions for side, positions in zip(original, engine.grid(network), strict=True))
                for original, network in zip(originals, sizes, strict=True)
            ),
            enlarged=_median(max(network) / max(original) for original, network in zip(originals, sizes, strict=True)),
        )
        for engine, sizes, count in zip(engines, networks, patches, strict=True)
    )
    size = sum(4 * member.patches * member.dimensions for member in members)
    return Plan(images=len(originals), members=members, bytes=size, on_disk=size > settings.memory)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
