"""Values of settings as users write them: text and lists -> the types of `config.Settings`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.gates import MmPerPixel, parse_limit
from offnominal.roi import RegionOfInterest


def parse_size(value: object) -> object:
    """`256`, `"256"`, `"256x640"` or `[256, 640]` -> `(height, width)`."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)(?:\s*[x×]\s*(\d+))?\s*", value)
        if match is None:
            raise ValueError("give one number, or height x width such as 256x640")
        value = [int(part) for part in match.groups() if part]
    if isinstance(value, int):
        value = [value]
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = [value[0], value[0]]
    return tuple(value) if isinstance(value, list) else value


def parse_bytes(value: object) -> object:
    """`"2GB"`, `"800 MB"` or a number of bytes -> int."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*([kKmMgGtT]?)i?[bB]?\s*", value)
        if match is None:
            raise ValueError("give a size such as 800MB or 2GB")
        return int(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))
    return value


def parse_region(value: object) -> object:
    """A path as text -> Path; an (H, W) mask -> region of interest."""
    if isinstance(value, np.ndarray) and value.ndim == 2:
        return RegionOfInterest.of(np.asarray(value > 0, dtype=np.bool_))
    return Path(value) if isinstance(value, str) else value


def parse_path(value: object) -> object:
    """A path as text -> Path."""
    return Path(value) if isinstance(value, str) else value


def parse_names(value: object) -> object:
    """`"a, b"` or `["a", "b"]` -> `("a", "b")`."""
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
        if not value:
            raise ValueError("give at least one layer; separate several with commas")
    return tuple(value) if isinstance(value, list) else value


def parse_bank(value: object) -> object:
    """`"auto"`, a share or a number of patches, also as text."""
    if isinstance(value, str) and value != "auto":
        try:
            value = float(value) if "." in value or "e" in value.lower() else int(value)
        except ValueError:
            raise ValueError("give auto, a share such as 0.01, or a number of patches such as 5000") from None
    return value


def parse_share(value: object) -> object:
    """`"auto"`, or a number in [0, 0.5), also as text -> `"auto"` or float."""
    if value == "auto":
        return value
    message = "give auto, or a share from 0 to below 0.5 such as 0.05"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(message)
    try:
        share = float(value)
    except ValueError:
        raise ValueError(message) from None
    if not 0 <= share < 0.5:
        raise ValueError(message)
    return share


def parse_area(value: object) -> str | None:
    """`"0.3 mm²"` -> `"0.3mm2"`."""
    return _limit(value, 2)


def parse_length(value: object) -> str | None:
    """`"1 mm"` -> `"1mm"`."""
    return _limit(value, 1)


def _limit(value: object, power: int) -> str | None:
    """A limit in its shortest form; None for no limit."""
    if value is None:
        return None
    text = str(value).strip()
    if re.fullmatch(r"0+(\.0*)?", text):
        return None
    return parse_limit(text, power).text(power)


def parse_mm_per_pixel(value: object) -> MmPerPixel | None:
    """`0.02`, `"0.02"`, `"0.02,0.03"` or `[0.02, 0.03]` -> `(horizontal, vertical)` in mm."""
    message = "give the size of a pixel in mm such as 0.02, or 0.02,0.03 for width and height"
    if value is None:
        return None
    parts: list[Any] = [value]
    if isinstance(value, (str, list, tuple)):
        parts = value.split(",") if isinstance(value, str) else list(value)
    try:
        numbers = [float(part) for part in parts if not isinstance(part, bool)]
    except (TypeError, ValueError):
        raise ValueError(message) from None
    if len(numbers) != len(parts) or len(numbers) not in (1, 2) or not all(0 < number < math.inf for number in numbers):
        raise ValueError(message)
    return numbers[0], numbers[-1]
