"""Files of regions of interest and zones: masks, and polygons in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from offnominal.config import Settings
from offnominal.errors import ImageError, InputError
from offnominal.gates import Gate, Zone
from offnominal.images.masks import bright_pixels
from offnominal.roi import MOST_SIDE, RegionOfInterest, resized, same_aspect
from offnominal.setting_values import parse_area, parse_length
from offnominal.types import Mask

#: Bytes of a file of polygons, which is read whole.
MOST_BYTES = 10_000_000


def with_region(settings: Settings) -> Settings:
    """The settings with their region of interest and their zones read from files.

    Raises
    ------
    InputError
        A file cannot be read, or no pixel is left.

    Examples
    --------
    >>> with_region(Settings()).region is None
    True
    """
    if isinstance(settings.zones, Path):
        settings = settings.model_copy(update={"zones": read_zones(settings.zones)})
    if settings.ignore is None and not isinstance(settings.roi, Path):
        return settings
    roi, ignore = _mask(settings.roi), _mask(settings.ignore)
    if roi is not None and ignore is not None:
        if not same_aspect(roi.shape, ignore.shape):
            raise InputError(
                f"{settings.ignore}: is {_size(ignore)}, the region of interest {_size(roi)}; draw both on the same image"
            )
        mask = roi & ~resized(ignore, roi.shape)
    elif ignore is not None:
        mask = ~ignore
    else:
        assert roi is not None
        mask = roi
    if not mask.any():
        raise InputError(
            f"{settings.ignore or settings.roi}: leaves no pixel to inspect; white pixels of roi count, white pixels of ignore "
            "do not"
        )
    return settings.model_copy(update={"roi": RegionOfInterest.of(mask), "ignore": None})


def _mask(region: RegionOfInterest | Path | None) -> Mask | None:
    if isinstance(region, Path):
        return read_region(region)
    return None if region is None else region.mask


def _size(mask: Mask) -> str:
    return f"{mask.shape[1]} x {mask.shape[0]}"


def read_region(path: Path) -> Mask:
    """Read the pixels that a file marks.

    Parameters
    ----------
    path
        An image whose white pixels are marked, or JSON: `{"width": W, "height": H, "polygons": [[[x, y], ...], ...]}` in pixels
        of the image, or a file of LabelMe.

    Returns
    -------
    ndarray of bool
        (H, W).

    Raises
    ------
    InputError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "roi.json"
    ...     _ = path.write_text('{"width": 4, "height": 2, "polygons": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}')
    ...     read_region(path).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0]])
    """
    if path.suffix.lower() != ".json":
        try:
            return bright_pixels(path)
        except ImageError as error:
            raise InputError(str(error)) from None
    help = "is no region ({}); give width, height and polygons, each a list of [x, y] in pixels"
    with _as_input_error(path, help):
        return _drawn(_json(path))


def read_zones(path: Path) -> tuple[Zone, ...]:
    """Read zones.

    Parameters
    ----------
    path
        JSON: `{"width": W, "height": H, "zones": [{"name": ..., "polygon": [[x, y], ...], "gate": {"min_area": "0.3mm2",
        "min_length": "1mm"}}, ...]}` in pixels of the image. A zone without a gate counts regions of any size. In place of
        `polygon`, a zone may have `polygons`.

    Raises
    ------
    InputError
        The file cannot be read, or zones overlap.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "zones.json"
    ...     zone = '{"name": "rim", "polygon": [[0, 0], [3, 0], [3, 1], [0, 1]], "gate": {"min_length": "1mm"}}'
    ...     _ = path.write_text(f'{{"width": 4, "height": 4, "zones": [{zone}]}}')
    ...     [(zone.name, zone.region.share, str(zone.gate)) for zone in read_zones(path)]
    [('rim', 0.5, 'length from 1mm')]
    """
    help = "are no zones ({}); give width, height and zones, each with name, polygon and gate"
    with _as_input_error(path, help):
        content = _json(path)
        if not isinstance(content, dict):
            raise TypeError("not an object")
        size, zones = (content["height"], content["width"]), content["zones"]
        if not isinstance(zones, list) or not zones:
            raise ValueError("the list of zones is empty")
        read = tuple(_zone(zone, size) for zone in zones)
        names = [zone.name for zone in read]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two zones are named '{twice}'")
    for at, zone in enumerate(read):
        for other in read[:at]:
            shared = (zone.region.mask & other.region.mask).astype(np.uint8)
            if cv2.erode(shared, np.ones((3, 3), np.uint8), borderValue=0).any():  # common borders do not count
                raise InputError(f"{path}: the zones '{other.name}' and '{zone.name}' overlap; draw them apart")
    return read


def _zone(content: Any, size: tuple[int, int]) -> Zone:
    name, gate = content["name"], content.get("gate") or {}
    if not isinstance(name, str) or not name.strip():
        raise ValueError("a zone has no name")
    unknown = [*(set(content) - {"name", "polygon", "polygons", "gate"}), *(set(gate) - {"min_area", "min_length"})]
    if unknown:
        raise ValueError(f"zone '{name}': unknown entry '{unknown[0]}'; a gate has min_area and min_length")
    polygons = content["polygons"] if "polygons" in content else [content["polygon"]]
    mask = _filled(polygons, size)
    if not mask.any():
        raise ValueError(f"zone '{name}' is empty")
    try:
        limits = Gate(parse_area(gate.get("min_area")), parse_length(gate.get("min_length")))
    except ValueError as error:
        raise ValueError(f"zone '{name}': {error}") from None
    return Zone(name, RegionOfInterest.of(mask), limits)


@contextmanager
def _as_input_error(path: Path, help: str) -> Iterator[None]:
    """Turn errors of the content of a file into an `InputError`; `help` receives the reason."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: {help.format(reason)}") from None


def _json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES / 1e6:g} MB")
    return json.loads(content)


def _drawn(content: Any) -> Mask:
    """(H, W) pixels inside of polygons."""
    if not isinstance(content, dict):
        raise TypeError("not an object")
    if "shapes" in content:  # LabelMe
        return _filled([_corners(shape) for shape in content["shapes"]], (content["imageHeight"], content["imageWidth"]))
    return _filled(content["polygons"], (content["height"], content["width"]))


def _filled(polygons: Any, size: tuple[int, int]) -> Mask:
    """(H, W) pixels inside of polygons; a large image is reduced to `MOST_SIDE`."""
    if not all(isinstance(side, int) and 1 <= side <= 1_000_000 for side in size):
        raise ValueError(f"a size of {size[1]} x {size[0]}")
    factor = min(1.0, MOST_SIDE / max(size))
    mask = np.zeros([max(1, round(side * factor)) for side in size], np.uint8)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise ValueError("a polygon needs at least three points [x, y]")
        limit = 2.0 * max(size)  # further outside of the image, coordinates make no difference
        cv2.fillPoly(mask, [np.rint(np.clip(points, -limit, limit) * factor).astype(np.int32)], 1)
    return mask.astype(np.bool_)


def _corners(shape: Any) -> Any:
    """Corners of a shape of LabelMe."""
    if shape.get("shape_type", "polygon") != "rectangle":
        return shape["points"]
    (left, top), (right, bottom) = shape["points"]
    return [[left, top], [right, top], [right, bottom], [left, bottom]]
