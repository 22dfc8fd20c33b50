"""Values of settings as users write them: text and lists -> the types of `config.Settings`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

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
