"""Checks of a model that was read from a file: it may be damaged, and it may come from a stranger.

The digest in a file protects against accidents, not against whoever writes it anew. So nothing in the file is believed: numbers
are finite, values have the types of their fields, indices point at what is there, and sizes are bounded, so that no file makes
a process take more memory than its own size accounts for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import torch

from offnominal.images import Geometry, ValueRange
from offnominal.memory import MemoryBank, SourceImage
from offnominal.types import require

Tensors = Mapping[str, npt.NDArray[Any]]

#: Ends of the names of tensors that hold whole numbers, and of those that hold bytes; all others hold floats.
WHOLE, BYTES = ("image", "position", "replaces", "grid", "ends"), ("content",)
#: The longest side of an original image and of the network's, and the coarsest stride of a map.
LONGEST_ORIGINAL, LONGEST_NETWORK, COARSEST = 2**31 - 1, 4096, 256
#: Whole numbers in a description.
MOST = 2**53
#: Rows of a tensor without values, which take no room in the file.
MOST_OF_NOTHING = 2**20


def require_numbers(*arrays: npt.NDArray[Any] | torch.Tensor) -> None:
    """Raise `ValueError` if a value is NaN or infinite: what is computed from it would be no verdict."""
    finite = (
        (torch.isfinite(values) if isinstance(values, torch.Tensor) else np.isfinite(values)).all().item() for values in arrays
    )
    require(all(finite), "it gives values that are not finite numbers")


def parsed(description: str) -> dict[str, Any]:
    """The JSON object of a model file. Raises `ValueError` where it is none, or holds NaN or infinity."""
    try:
        stored = json.loads(description, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("its description is nested too deeply") from None
    require(isinstance(stored, dict), "its description is no object")
    return dict(stored)


def require_tensors(tensors: Tensors) -> None:
    """Types and finiteness of all tensors of a model file. Raises `ValueError`."""
    for name, values in tensors.items():
        require(values.size > 0 or max(values.shape, default=0) <= MOST_OF_NOTHING, f"{name} has the shape {values.shape}")
        end = name.rpartition(".")[2]
        if end in WHOLE:
            require(values.dtype == np.int64, f"{name} holds {values.dtype}, expected int64")
        elif end in BYTES:
            require(values.dtype == np.uint8, f"{name} holds {values.dtype}, expected uint8")
        else:
            expected = values.dtype in (np.float16, np.float32)
            require(expected, f"{name} holds {values.dtype}, expected float32 or float16")
            require(bool(np.isfinite(values).all()), f"{name} holds values that are not finite numbers")


def require_types(value: Any, of: Any, name: str) -> None:
    """The fields of a dataclass, and what is in them, are of the types that they are declared with; numbers are finite.

    What is no plain value (arrays, tensors, settings) is not looked into.

    Raises:
        ValueError: a value of another type, NaN, or an absurdly large number.
    """
    origin = get_origin(of)
    if origin in (Union, UnionType):
        _require_any(value, get_args(of), name)
    elif origin is Literal:
        require(value in get_args(of), f"{name} is {_shown(value)}, expected one of {', '.join(map(str, get_args(of)))}")
    elif origin is tuple:
        _require_tuple(value, get_args(of), name)
    elif origin is dict:
        require(isinstance(value, dict), f"{name} is {_shown(value)}, expected a table")
        for key, entry in value.items():
            require_types(key, get_args(of)[0], name)
            require_types(entry, get_args(of)[1], f"{name}.{key}")
    elif is_dataclass(of):
        require(isinstance(value, of) if isinstance(of, type) else False, f"{name} is {_shown(value)}")
        hints = get_type_hints(of)
        for field in fields(of):
            require_types(getattr(value, field.name), hints[field.name], f"{name}.{field.name}")
    elif of in _PLAIN:
        require(_PLAIN[of](value), f"{name} is {_shown(value)}, expected {of.__name__}")


def require_geometry(geometry: Geometry, values: ValueRange) -> None:
    """Sizes that a network can have, and a range that can be divided by. Raises `ValueError`."""
    shortest, longest = min(geometry.size), max(geometry.size)
    require(1 <= shortest <= LONGEST_NETWORK and longest <= 2**40, f"size {geometry.size} is absurd")
    require(1 <= geometry.multiple <= COARSEST, f"multiple {geometry.multiple} is absurd")
    require(1 <= geometry.longest <= LONGEST_NETWORK, f"longest {geometry.longest} is absurd")
    width = np.float32(values.high) - np.float32(values.low)
    require(bool(np.isfinite(width) and width > 0), f"values from {values.low} to {values.high} are no range")


def require_bank(
    bank: MemoryBank, geometry: Geometry, sources: Sequence[SourceImage], grids: Sequence[tuple[int, int]]
) -> None:
    """Sizes of the sources, and patches at positions of their grids. Raises `ValueError`."""
    require(len(sources) == len(grids), f"{len(sources)} images, grids of {len(grids)}")
    for source, grid in zip(sources, grids, strict=True):
        require(all(1 <= side <= LONGEST_ORIGINAL for side in source.size), f"an image of {source.size} is absurd")
        for side, positions in zip(geometry.network_size(source.size), grid, strict=True):
            require(1 <= positions <= side <= COARSEST * positions, f"a grid of {grid} does not fit its image")
    require(bank.radius is None or bank.radius >= 0, f"radius {bank.radius} is negative")
    require_positions(bank.image, bank.position, grids, "bank")


def require_positions(image: npt.NDArray[Any], position: npt.NDArray[Any], grids: Sequence[tuple[int, int]], name: str) -> None:
    """(n,) images and (n, 2) rows and columns point at what is there. Raises `ValueError`."""
    require_indices(image, len(grids), f"{name}.image")
    sides = np.array(grids, dtype=np.int64).reshape(-1, 2)[image]
    inside = (position >= 0) & (position < sides)
    require(bool(inside.all()), f"{name}.position points outside its image")


def require_indices(indices: npt.NDArray[Any], count: int, name: str) -> None:
    """(n,) whole numbers from 0 to below `count`. Raises `ValueError`."""
    require(bool(((indices >= 0) & (indices < count)).all()), f"{name} points outside the {count} that there are")


def require_grids(grids: Sequence[tuple[int, int]], signals: int) -> None:
    """Grids of all images that take up the signals there are. Raises `ValueError`."""
    require(all(1 <= side <= LONGEST_NETWORK for grid in grids for side in grid), "a grid is empty or absurdly large")
    require(sum(height * width for height, width in grids) == signals, f"{signals} held-out signals do not fit their grids")


def _require_any(value: Any, kinds: Sequence[Any], name: str) -> None:
    if value is None and NoneType in kinds:
        return
    problems = []
    for kind in kinds:
        try:
            require_types(value, kind, name)
        except ValueError as error:
            problems.append(error)
        else:
            return
    raise problems[0]


def _require_tuple(value: Any, kinds: Sequence[Any], name: str) -> None:
    require(isinstance(value, tuple), f"{name} is {_shown(value)}, expected a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = [kinds[0]] * len(value)
    require(len(value) == len(kinds), f"{name} has {len(value)} entries, expected {len(kinds)}")
    for entry, kind in zip(value, kinds, strict=True):
        require_types(entry, kind, name)


def _is_float(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -MOST <= value <= MOST


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    float: _is_float,
    int: _is_int,
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    NoneType: lambda value: value is None,
}


def _refuse(constant: str) -> float:
    raise ValueError(f"its description holds {constant}, which is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    require(math.isfinite(number), "its description holds a number that is too large")
    return number


def _shown(value: Any) -> str:
    return repr(value)[:40]
