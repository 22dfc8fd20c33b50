"""Region of interest and alignment in a model file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.images import Alignment, PoseLimits
from offnominal.roi import RegionOfInterest
from offnominal.types import require

Tensors = dict[str, npt.NDArray[Any]]


def region_tensors(region: RegionOfInterest | None) -> Tensors:
    """The tensors of a region of interest."""
    if region is None:
        return {}
    return {"region.size": np.array(region.size, np.int64), "region.bits": np.frombuffer(region.packed, np.uint8)}


def region_from(tensors: Tensors) -> RegionOfInterest | None:
    """The region of interest in the tensors of a file; None if there is none. Raises `ValueError`."""
    if "region.size" not in tensors:
        return None
    size, bits = tensors["region.size"], tensors["region.bits"]
    require(size.shape == (2,) and bits.dtype == np.uint8 and bits.ndim == 1, "the region of interest is malformed")
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
