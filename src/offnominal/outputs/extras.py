"""What `inspect` leaves behind on demand: evidence with its receipts, maps as files, masks for the next tool."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np

from offnominal.decisions import region_masks
from offnominal.errors import SettingsError, nearest
from offnominal.model import Model
from offnominal.outputs.report_files import write_file, write_picture
from offnominal.reports import LEVELS, CocoMasks, MapFormat, Picture, SourcePicture, encode_map, encode_mask, receipt
from offnominal.storage import write_whole
from offnominal.storage.owned_files import own
from offnominal.types import Evidence, Float, Inspection, Region

#: Maps that can be written, and forms of masks.
MAPS, MASKS = ("anomaly", "influence", "noise", "layers"), ("png", "coco")
#: Quality of a receipt's JPEG.
_QUALITY = 85


@dataclass(frozen=True)
class Extras:
    """What is wanted beside scores and overlays; made by `extras_from`."""

    evidence: bool = False
    maps: tuple[str, ...] = ()
    map_format: MapFormat = "png"
    masks: tuple[str, ...] = ()
    receipts: bool = False

    @property
    def further_maps(self) -> bool:
        """Whether maps are wanted that a plain inspection does not make."""
        return bool({"noise", "layers"} & set(self.maps))


def extras_from(
    evidence: bool | None = None,
    maps: str | None = None,
    map_format: str | None = None,
    masks: str | None = None,
    receipts: bool = False,
) -> Extras:
    """`Extras` from what a command line gives: names separated by commas. Receipts need evidence, which they bring along.

    Raises:
        SettingsError: a name is unknown, a format is given without maps, or receipts while evidence is refused.
    """
    if receipts and evidence is False:
        raise SettingsError("--receipts shows the evidence that --no-evidence leaves out: give one of them")
    if map_format is not None and maps is None:
        raise SettingsError("--map-format without --maps: name the maps to write, such as --maps anomaly,influence")
    kinds: tuple[MapFormat, ...] = get_args(MapFormat)
    given = _known("--map-format", [map_format or "png"], kinds)[0]
    kind = next(kind for kind in kinds if kind == given)
    given_maps, given_masks = _known("--maps", _names(maps), MAPS), _known("--masks", _names(masks), MASKS)
    return Extras(bool(evidence) or receipts, given_maps, kind, given_masks, receipts)


def _names(words: str | None) -> list[str]:
    return [] if words is None else [name.strip() for name in words.split(",")]


def _known(option: str, names: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise SettingsError(f"{option} {name or repr(name)}: {nearest(name, known)}")
    return tuple(dict.fromkeys(names))


class ExtraWriter:
    """Writes the extras of one image after another into `folder`; `finish` when all are there."""

    def __init__(self, folder: Path, model: Model, extras: Extras) -> None:
        self._folder, self._model, self._extras = folder, model, extras
        self._coco = CocoMasks()
        self._index = {source.name: at for at, source in enumerate(model.sources)}
        self._source = lru_cache(maxsize=512)(self._read_source)

    def add(self, index: int, stem: str, path: str, found: Inspection, picture: Picture) -> dict[str, Any]:
        """Write what belongs to one image; returns what its row of `results.jsonl` holds beside the plain entries.

        Args:
            index, stem: number and name that its files go by.
            path: as it stands in `results.jsonl`.
            picture: (H, W, 3) uint8 for a screen.
        """
        added: dict[str, Any] = {}
        if self._extras.receipts:
            added["receipt"] = self._receipt(stem, found, picture) if found.regions else None
        if self._extras.maps:
            added["maps"] = self._maps(stem, found)
        if self._extras.masks:
            masks = region_masks(found.anomaly_map, found.threshold, found.regions)
            if "png" in self._extras.masks:
                whole = np.logical_or.reduce([np.zeros(found.anomaly_map.shape, np.bool_), *masks])
                added["mask"] = self._written(f"masks/{stem}.png", encode_mask(whole))
            if "coco" in self._extras.masks:
                self._coco.add(index, path, found.anomaly_map.shape, found.regions, masks)
        return added

    def forget(self, index: int) -> None:
        """Leave an image out of what `finish` writes."""
        self._coco.remove(index)

    def finish(self) -> None:
        """Write `masks.json` where COCO was asked for."""
        if "coco" in self._extras.masks:
            write_whole(own(self._folder, "masks.json", "inspect"), (json.dumps(self._coco.as_json()) + "\n").encode())

    def _receipt(self, stem: str, found: Inspection, picture: Picture) -> str:
        """The picture of the leading region, whose peak is the image's score; the others' evidence stands in the row."""
        sources = {near.image: self._source(near.image) for near in found.evidence(found.regions[0]).nearest}
        drawn = receipt(picture, found, 0, sources)
        name = f"receipts/{stem}.jpg"
        write_picture(own(self._folder, name, "inspect"), drawn, _QUALITY)
        return name

    def _read_source(self, name: str) -> SourcePicture:
        at = self._index[name]
        kept = self._model.thumbnails
        return SourcePicture(None if kept is None else kept.picture(at), self._model.sources[at].size)

    def _maps(self, stem: str, found: Inspection) -> dict[str, Any]:
        kind = self._extras.map_format
        told: dict[str, dict[str, Any]] = {}
        for name, values, low, high in self._chosen(found):
            file = f"maps/{stem}-{name.replace(':', '-')}.{kind}"  # Windows allows no colon, which stands behind a member
            path = self._written(file, encode_map(values, kind, low, high))
            told[name] = {"path": path}
            if kind in LEVELS:
                told[name] |= {"low": low, "high": high, "levels": LEVELS[kind]}
        return told

    def _chosen(self, found: Inspection) -> Iterable[tuple[str, Float, float, float]]:
        """Name, values, and the values of the lowest and the highest level of every map asked for.

        Bounded maps have the same levels in every image. That of the anomaly map holds all of the image's values and reaches
        twice the threshold at least, so that a good part looks calm.
        """
        for name in self._extras.maps:
            if name == "anomaly":
                high = max(float(found.anomaly_map.max()), 2 * found.threshold)
                low = float(found.anomaly_map.min())
                yield name, found.anomaly_map, low, high if high > low else low + 1
            elif name == "influence":
                yield name, found.influence_map, 0.0, 1.0
            elif name == "noise":
                assert found.noise_map is not None
                yield name, found.noise_map, 0.0, self._model.settings.noise_range[1]
            else:
                for layer, values in (found.layer_maps or {}).items():
                    yield f"layer-{layer}", values, 0.0, 1.0

    def _written(self, name: str, content: bytes) -> str:
        write_file(own(self._folder, name, "inspect"), content)
        return name


def region_row(region: Region) -> dict[str, Any]:
    """An entry of `regions` in `results.jsonl`, with `evidence` where there is some."""
    row: dict[str, Any] = {
        "box": list(region.box),
        "area": region.area,
        "peak": region.peak,
        "peak_at": list(region.peak_at),
        "p_value": region.p_value,
    }
    return row if region.evidence is None else {**row, "evidence": evidence_row(region.evidence)}


def evidence_row(evidence: Evidence) -> dict[str, Any]:
    """Evidence as `results.jsonl` holds it; boxes are `[left, top, right, bottom]`, right and bottom exclusive."""
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
        "usual_box": None if evidence.usual_box is None else list(evidence.usual_box),
        "usual_curve": [list(pair) for pair in evidence.usual_curve],
    }
