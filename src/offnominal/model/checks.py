"""Checks of a model read from an untrusted file. All raise `ValueError`.

The digest in a model file detects accidental damage, not tampering. Therefore these checks trust nothing in the file: numbers
are finite, values have the declared types, indices are in range, and sizes are bounded, so that the memory needed to load a
file is proportional to its size.
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

from offnominal.images import ALIGNED, Geometry, ValueRange
from offnominal.memory import MemoryBank, SourceImage
from offnominal.types import require

Tensors = Mapping[str, npt.NDArray[Any]]

#: Last parts of the names of int64 and of uint8 tensors; all others hold floats.
INT_NAMES, BYTE_NAMES = ("image", "position", "replaces", "grid", "ends", "size"), ("content", "bits", "pixels")
#: Longest side of an original image (int32, as in OpenCV) and of a network input, in pixels.
MAX_ORIGINAL_SIDE, MAX_NETWORK_SIDE = 2**31 - 1, 4096
#: Largest stride of a feature map in pixels; backbones have at most 32.
MAX_STRIDE = 256
#: Network pixels for each pixel of the original, with tiles.
MAX_DENSITY = 1000.0
#: Largest integer that JSON readers keep exactly.
MAX_INT = 2**53
#: Largest side of a tensor without values: such a tensor takes no bytes in the file, whatever its shape.
MAX_EMPTY_SIDE = 2**20
#: Longest side of `Geometry.size`; `Geometry.longest` bounds the network input itself.
MAX_SIZE = 2**40


def require_finite(*arrays: npt.NDArray[Any] | torch.Tensor) -> None:
    """Raise `ValueError` if a value is NaN or infinite, because no verdict could follow from it.

    Examples
    --------
    >>> require_finite(np.array([1.0, 2.0]), torch.zeros(3))
    >>> require_finite(np.array([1.0, np.nan]))
    Traceback (most recent call last):
    ValueError: the results contain values that are not finite
    """
    finite = (
        (torch.isfinite(values) if isinstance(values, torch.Tensor) else np.isfinite(values)).all().item() for values in arrays
    )
    require(all(finite), "the results contain values that are not finite")


def parse_description(description: str) -> dict[str, Any]:
    """Parse the JSON object of a model file; NaN and infinity are refused."""
    try:
        stored = json.loads(description, parse_constant=_refuse_constant, parse_float=_finite_float)
    except RecursionError:
        raise ValueError("the description is nested too deeply") from None
    require(isinstance(stored, dict), "the description is not a JSON object")
    return dict(stored)


def require_tensors(tensors: Tensors) -> None:
    """Require the expected types and finite values in all tensors of a model file."""
    for name, values in tensors.items():
        require(values.size > 0 or max(values.shape, default=0) <= MAX_EMPTY_SIDE, f"{name} has the shape {values.shape}")
        kind = name.rpartition(".")[2]
        if kind in INT_NAMES:
            require(values.dtype == np.int64, f"{name} holds {values.dtype}, expected int64")
        elif kind in BYTE_NAMES:
            require(values.dtype == np.uint8, f"{name} holds {values.dtype}, expected uint8")
        else:
            is_float = values.dtype in (np.float16, np.float32)
            require(is_float, f"{name} holds {values.dtype}, expected float32 or float16")
            require(bool(np.isfinite(values).all()), f"{name} holds values that are not finite")


def require_types(value: Any, annotation: Any, name: str) -> None:
    """Require that a value has the annotated type, recursively through dataclasses, tuples and dicts; numbers are finite.

    Arrays, tensors and settings are not inspected.

    Parameters
    ----------
    annotation
        A resolved type annotation.
    name
        Name of the value in the error message.
    """
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        _require_any(value, get_args(annotation), name)
    elif origin is Literal:
        choices = get_args(annotation)
        _require_value(value in choices, value, name, f"expected one of {', '.join(map(str, choices))}")
    elif origin is tuple:
        _require_tuple(value, get_args(annotation), name)
    elif origin is dict:
        _require_value(isinstance(value, dict), value, name, "expected an object")
        for key, entry in value.items():
            require_types(key, get_args(annotation)[0], name)
            require_types(entry, get_args(annotation)[1], f"{name}.{key}")
    elif is_dataclass(annotation):
        is_instance = isinstance(value, annotation) if isinstance(annotation, type) else False
        _require_value(is_instance, value, name, "expected an object")
        hints = get_type_hints(annotation)
        for field in fields(annotation):
            require_types(getattr(value, field.name), hints[field.name], f"{name}.{field.name}")
    elif annotation in _PLAIN:
        _require_value(_PLAIN[annotation](value), value, name, f"expected {annotation.__name__}")


def require_geometry(geometry: Geometry, values: ValueRange) -> None:
    """Require plausible network sizes and a value range of positive width."""
    shortest, longest = min(geometry.size), max(geometry.size)
    require(1 <= shortest <= MAX_NETWORK_SIDE and longest <= MAX_SIZE, f"size {geometry.size} is out of range")
    require(1 <= geometry.multiple <= MAX_STRIDE, f"multiple {geometry.multiple} is out of range")
    require(1 <= geometry.longest <= MAX_NETWORK_SIDE, f"longest {geometry.longest} is out of range")
    tile = geometry.tile
    require(tile == 0 or (256 <= tile <= MAX_NETWORK_SIDE and tile % ALIGNED == 0), f"tile {tile} is out of range")
    require(0 <= geometry.density <= MAX_DENSITY, f"density {geometry.density} is out of range")
    width = np.float32(values.high) - np.float32(values.low)
    require(bool(np.isfinite(width) and width > 0), f"values from {values.low} to {values.high} are not a range")


def require_bank(
    bank: MemoryBank, geometry: Geometry, sources: Sequence[SourceImage], grids: Sequence[tuple[int, int]]
) -> None:
    """Require plausible image sizes, grids that fit them, and bank patches at positions of these grids."""
    require(len(sources) == len(grids), f"{len(sources)} images, {len(grids)} grids")
    for source, grid in zip(sources, grids, strict=True):
        require(all(1 <= side <= MAX_ORIGINAL_SIDE for side in source.size), f"image size {source.size} is out of range")
        for side, positions in zip(geometry.network_size(source.size), grid, strict=True):
            require(1 <= positions <= side <= MAX_STRIDE * positions, f"grid {grid} does not fit its image")
    require(bank.radius is None or bank.radius >= 0, f"radius {bank.radius} is negative")
    require_positions(bank.image, bank.position, grids, "bank")


def require_positions(image: npt.NDArray[Any], position: npt.NDArray[Any], grids: Sequence[tuple[int, int]], name: str) -> None:
    """Require (n,) existing images and (n, 2) rows and columns on their grids."""
    require_indices(image, len(grids), f"{name}.image")
    sides = np.array(grids, dtype=np.int64).reshape(-1, 2)[image]
    inside = (position >= 0) & (position < sides)
    require(bool(inside.all()), f"{name}.position is outside the grid of its image")


def require_indices(indices: npt.NDArray[Any], count: int, name: str) -> None:
    """Require (n,) integers from 0 to `count - 1`."""
    require(bool(((indices >= 0) & (indices < count)).all()), f"{name} is out of range, expected 0 to {count - 1}")


def require_grids(grids: Sequence[tuple[int, int]], signals: int | None) -> None:
    """Require grids with as many positions as there are signals; None if the model keeps none."""
    require(all(1 <= side <= MAX_NETWORK_SIDE for grid in grids for side in grid), "a grid is empty or too large")
    positions = sum(height * width for height, width in grids)
    require(signals is None or positions == signals, f"{signals} held-out signals, {positions} positions of the grids")


def _require_any(value: Any, annotations: Sequence[Any], name: str) -> None:
    if value is None and NoneType in annotations:
        return
    problems = []
    for annotation in annotations:
        try:
            require_types(value, annotation, name)
        except ValueError as error:
            problems.append(error)
        else:
            return
    raise problems[0]


def _require_tuple(value: Any, annotations: Sequence[Any], name: str) -> None:
    _require_value(isinstance(value, tuple), value, name, "expected a list")
    if len(annotations) == 2 and annotations[1] is Ellipsis:
        annotations = [annotations[0]] * len(value)
    require(len(value) == len(annotations), f"{name} has {len(value)} entries, expected {len(annotations)}")
    for entry, annotation in zip(value, annotations, strict=True):
        require_types(entry, annotation, name)


def _is_float(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -MAX_INT <= value <= MAX_INT


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    float: _is_float,
    int: _is_int,
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    NoneType: lambda value: value is None,
}


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"the description holds {constant}")


def _finite_float(digits: str) -> float:
    number = float(digits)
    require(math.isfinite(number), "the description holds a number that is too large")
    return number


def _require_value(condition: bool, value: Any, name: str, expected: str) -> None:
    # The representation of a large value takes long: only the message makes it.
    if not condition:
        raise ValueError(f"{name} is {repr(value)[:40]}, {expected}")
