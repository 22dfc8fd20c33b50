"""Training images, region of interest, zones and alignment in a model file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.gates import Gate, Zone
from offnominal.images import Alignment, PoseLimits
from offnominal.memory import SourceImage
from offnominal.roi import RegionOfInterest
from offnominal.types import require

Tensors = dict[str, npt.NDArray[Any]]


def sources_description(sources: Sequence[SourceImage]) -> dict[str, Any]:
    """The entries of the training images in the description of a file."""
    measured = {number: source.mm_per_pixel for number, source in enumerate(sources) if source.mm_per_pixel is not None}
    return {
        "sources": [[source.name, *source.size, source.group] for source in sources],
        "mm_per_pixel": {str(number): list(size) for number, size in measured.items()},
    }


def sources_from(stored: dict[str, Any]) -> tuple[SourceImage, ...]:
    """The training images of a file. Raises `ValueError` and others."""
    sizes = {int(number): (width, height) for number, (width, height) in stored.get("mm_per_pixel", {}).items()}
    require(all(0 < side < math.inf for size in sizes.values() for side in size), "the size of a pixel is not positive")
    return tuple(
        SourceImage(name, (height, width), group, sizes.get(number))
        for number, (name, height, width, group) in enumerate(stored["sources"])
    )


def region_tensors(region: RegionOfInterest | None) -> Tensors:
    """The tensors of a region of interest."""
    return {} if region is None else _mask_tensors("region", region)


def region_from(tensors: Tensors) -> RegionOfInterest | None:
    """The region of interest in the tensors of a file; None if there is none. Raises `ValueError`."""
    return _mask_from("region", tensors) if "region.size" in tensors else None


def zone_tensors(zones: Sequence[Zone]) -> Tensors:
    """The tensors of zones."""
    tensors: Tensors = {}
    for number, zone in enumerate(zones):
        tensors |= _mask_tensors(f"zone.{number}", zone.region)
    return tensors


def zones_description(zones: Sequence[Zone]) -> list[dict[str, Any]]:
    """The entry of zones in the description of a file."""
    return [{"name": zone.name, **asdict(zone.gate)} for zone in zones]


def zones_from(stored: list[dict[str, Any]], tensors: Tensors) -> tuple[Zone, ...] | None:
    """The zones of a file; None if there are none. Raises `ValueError` and others."""
    zones = []
    for number, entry in enumerate(stored):
        gate = Gate(entry["min_area"], entry["min_length"])
        _ = gate.limits  # raises for a malformed one
        zones.append(Zone(entry["name"], _mask_from(f"zone.{number}", tensors), gate))
    return tuple(zones) or None


def _mask_tensors(prefix: str, region: RegionOfInterest) -> Tensors:
    return {f"{prefix}.size": np.array(region.size, np.int64), f"{prefix}.bits": np.frombuffer(region.packed, np.uint8)}


def _mask_from(prefix: str, tensors: Tensors) -> RegionOfInterest:
    size, bits = tensors[f"{prefix}.size"], tensors[f"{prefix}.bits"]
    require(size.shape == (2,) and bits.dtype == np.uint8 and bits.ndim == 1, f"the mask {prefix} is malformed")
    return RegionOfInterest((int(size[0]), int(size[1])), bits.tobytes())


def alignment_tensors(alignment: Alignment | None) -> Tensors:
    """The tensors of an alignment."""
    return {} if alignment is None else {"alignment.pixels": alignment.reference}


def alignment_description(alignment: Alignment | None) -> dict[str, Any] | None:
    """The entry of an alignment in the description of a file."""
    if alignment is None:
        return None
    limits = None if alignment.limits is None else asdict(alignment.limits)
    return {
        "kind": alignment.kind,
        "name": alignment.name,
        "size": list(alignment.size),
        "limits": limits,
        "missed": alignment.missed,
        "images": alignment.images,
    }


def alignment_from(stored: dict[str, Any] | None, tensors: Tensors, region: RegionOfInterest | None) -> Alignment | None:
    """The alignment of a file; None if there is none. Raises `ValueError` and others."""
    if stored is None:
        return None
    (height, width), limits = stored["size"], stored["limits"]
    require(min(height, width) > 0, "the size of the reference is not positive")
    return Alignment(
        stored["kind"],
        tensors["alignment.pixels"],
        (height, width),
        stored["name"],
        region,
        None if limits is None else PoseLimits(tuple(limits["low"]), tuple(limits["high"]), limits["quality"]),
        stored["missed"],
        stored["images"],
    )
