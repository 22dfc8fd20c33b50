"""Optional outputs of `inspect`: evidence with receipts, maps, and masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from offnominal.decisions import region_masks
from offnominal.errors import SettingsError, suggest
from offnominal.model import Model
from offnominal.outputs.report_writer import write_file, write_picture
from offnominal.reports import LEVELS, CocoMasks, MapFormat, Picture, SourcePicture, encode_map, encode_mask, receipt
from offnominal.storage import write_atomically
from offnominal.storage.owned_files import own
from offnominal.types import Evidence, Float, Inspection, Region

#: Values of `--maps` and of `--masks`.
MAPS, MASKS = ("anomaly", "influence", "noise", "layers"), ("png", "coco")
#: JPEG quality of receipts.
_QUALITY = 85


@dataclass(frozen=True)
class Extras:
    """The optional outputs of an inspection; see `extras_from`."""

    evidence: bool = False
    maps: tuple[str, ...] = ()
    map_format: MapFormat = "png"
    masks: tuple[str, ...] = ()
    receipts: bool = False

    @property
    def needs_noise_or_layer_maps(self) -> bool:
        """Whether maps are requested that an inspection computes only on demand."""
        return bool({"noise", "layers"} & set(self.maps))


def extras_from(
    evidence: bool | None = None,
    maps: str | None = None,
    map_format: str | None = None,
    masks: str | None = None,
    receipts: bool = False,
) -> Extras:
    """Parse the options of the command line.

    Parameters
    ----------
    evidence
        `--evidence` or `--no-evidence`; None if neither is given. Receipts imply evidence.
    maps, masks
        Names separated by commas.
    map_format
        File format of the maps.
    receipts
        Whether receipts are requested.

    Raises
    ------
    SettingsError
        A name is unknown, a format is given without maps, or receipts together with `--no-evidence`.

    Examples
    --------
    >>> extras_from(maps="anomaly, noise", receipts=True)
    Extras(evidence=True, maps=('anomaly', 'noise'), map_format='png', masks=(), receipts=True)
    """
    if receipts and evidence is False:
        raise SettingsError("--receipts shows the evidence that --no-evidence leaves out: give only one of them")
    if map_format is not None and maps is None:
        raise SettingsError("--map-format without --maps: name the maps to write, such as --maps anomaly,influence")
    formats: tuple[MapFormat, ...] = get_args(MapFormat)
    format_name = _checked("--map-format", [map_format or "png"], formats)[0]
    return Extras(
        evidence=bool(evidence) or receipts,
        maps=_checked("--maps", _names(maps), MAPS),
        map_format=next(known for known in formats if known == format_name),
        masks=_checked("--masks", _names(masks), MASKS),
        receipts=receipts,
    )


def _names(text: str | None) -> list[str]:
    return [] if text is None else [name.strip() for name in text.split(",")]


def _checked(option: str, names: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """The names without duplicates; an unknown one is an error."""
    for name in names:
        if name not in known:
            raise SettingsError(f"{option} {name or repr(name)}: {suggest(name, known)}")
    return tuple(dict.fromkeys(names))


class ExtraWriter:
    """Writes the optional outputs into `folder`, image by image; `finish` writes what concerns all images."""

    def __init__(self, folder: Path, model: Model, extras: Extras) -> None:
        self._folder, self._model, self._extras = folder, model, extras
        self._coco = CocoMasks()

    def add(self, index: int, stem: str, path: str, inspection: Inspection, picture: Picture) -> dict[str, Any]:
        """Write the outputs of one image.

        Parameters
        ----------
        index
            Number of the image.
        stem
            Stem of its files.
        path
            Its path, as in `results.jsonl`.
        inspection
            Its result.
        picture
            (H, W, 3) uint8 for display.

        Returns
        -------
        dict
            Additional entries of its row in `results.jsonl`.
        """
        entries: dict[str, Any] = {}
        if self._extras.receipts:
            entries["receipt"] = self._receipt(stem, inspection, picture) if inspection.regions else None
        if self._extras.maps:
            entries["maps"] = self._maps(stem, inspection)
        if self._extras.masks:
            shape = inspection.anomaly_map.shape
            masks = region_masks(inspection.anomaly_map, inspection.threshold, inspection.regions)
            if "png" in self._extras.masks:
                union = np.logical_or.reduce([np.zeros(shape, np.bool_), *masks])
                entries["mask"] = self._write(f"masks/{stem}.png", encode_mask(union))
            if "coco" in self._extras.masks:
                self._coco.add(index, path, shape, inspection.regions, masks)
        return entries

    def forget(self, index: int) -> None:
        """Exclude an image from what `finish` writes."""
        self._coco.remove(index)

    def finish(self) -> None:
        """Write `masks.json` if COCO masks are requested."""
        if "coco" in self._extras.masks:
            write_atomically(own(self._folder, "masks.json", "inspect"), (json.dumps(self._coco.as_json()) + "\n").encode())

    def _receipt(self, stem: str, inspection: Inspection, picture: Picture) -> str:
        name = f"receipts/{stem}.jpg"
        content = receipt_picture(self._model, inspection, picture)
        write_picture(own(self._folder, name, "inspect"), content, _QUALITY)
        return name

    def _maps(self, stem: str, inspection: Inspection) -> dict[str, Any]:
        """Write the requested maps; returns their entries for `results.jsonl`."""
        file_format = self._extras.map_format
        entries: dict[str, dict[str, Any]] = {}
        for name, values, low, high in self._requested_maps(inspection):
            file = f"maps/{stem}-{name.replace(':', '-')}.{file_format}"  # `MEMBER:LAYER`; Windows allows no colon
            entries[name] = {"path": self._write(file, encode_map(values, file_format, low, high))}
            if file_format in LEVELS:
                entries[name] |= {"low": low, "high": high, "levels": LEVELS[file_format]}
        return entries

    def _requested_maps(self, inspection: Inspection) -> Iterator[tuple[str, Float, float, float]]:
        """Name, values, and the values of the lowest and the highest level.

        Bounded maps have the same levels in every image. Those of the anomaly map cover its values and at least twice the
        threshold, so that a normal image looks uniform.
        """
        for name in self._extras.maps:
            if name == "anomaly":
                high = max(float(inspection.anomaly_map.max()), 2 * inspection.threshold)
                low = float(inspection.anomaly_map.min())
                yield name, inspection.anomaly_map, low, high if high > low else low + 1
            elif name == "influence":
                yield name, inspection.influence_map, 0.0, 1.0
            elif name == "noise":
                assert inspection.noise_map is not None
                yield name, inspection.noise_map, 0.0, self._model.settings.noise_range[1]
            else:
                for layer, values in (inspection.layer_maps or {}).items():
                    yield f"layer-{layer}", values, 0.0, 1.0

    def _write(self, name: str, content: bytes) -> str:
        write_file(own(self._folder, name, "inspect"), content)
        return name


def receipt_picture(model: Model, inspection: Inspection, picture: Picture) -> Picture:
    """Draw the receipt of the leading region, the one with the smallest p-value.

    Parameters
    ----------
    model
        The model that inspected the image.
    inspection
        Its result, with evidence and at least one region.
    picture
        (H, W, 3) uint8 for display.
    """
    named = {near.image for near in inspection.evidence(inspection.regions[0]).nearest}
    sources = {
        source.name: SourcePicture(None if model.thumbnails is None else model.thumbnails.picture(index), source.size)
        for index, source in enumerate(model.sources)
        if source.name in named
    }
    return receipt(picture, inspection, 0, sources)


def region_row(region: Region) -> dict[str, Any]:
    """An entry of `regions` in `results.jsonl`; with `evidence` if the region has any.

    Examples
    --------
    >>> region_row(Region(box=(8, 0, 12, 4), area=14, peak=7.5, peak_at=(9, 2), p_value=0.01))["box"]
    [8, 0, 12, 4]
    """
    row: dict[str, Any] = {
        "box": list(region.box),
        "area": region.area,
        "peak": region.peak,
        "peak_at": list(region.peak_at),
        "p_value": region.p_value,
        "length": region.length,
        "width": region.width,
        "area_mm2": None if region.mm is None else region.mm.area,
        "length_mm": None if region.mm is None else region.mm.length,
        "width_mm": None if region.mm is None else region.mm.width,
        "zone": region.zone,
    }
    return row if region.evidence is None else {**row, "evidence": evidence_row(region.evidence)}


def evidence_row(evidence: Evidence) -> dict[str, Any]:
    """Evidence as in `results.jsonl`; boxes are `[left, top, right, bottom]`, right and bottom exclusive."""
    return {
        "member": evidence.member,
        "box": list(evidence.box),
        "nearest": [
            {"image": near.image, "box": list(near.box), "distance": near.distance, "distance_in_sd": near.distance_in_sd}
            for near in evidence.nearest
        ],
        "layer_shares": evidence.layer_shares,
        "channel_shares": [list(pair) for pair in evidence.channel_shares],
        "influence": [list(pair) for pair in evidence.influence],
        "noise_std": evidence.noise_std,
        "response": evidence.response,
        "p_value": evidence.p_value,
        "curve": [list(pair) for pair in evidence.curve],
        "usual_box": None if evidence.typical_box is None else list(evidence.typical_box),
        "usual_curve": [list(pair) for pair in evidence.typical_curve],
    }
