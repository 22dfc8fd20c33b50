"""The model file: one `.safetensors` file with tensors and JSON metadata, written atomically and checked when read.

Metadata keys: `format` (`offnominal`), `version`, `description` (JSON) and `digest`, the SHA-256 of the description and of all
tensors, which detects damage. Never pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from offnominal.config import Settings
from offnominal.decisions import LEAVE_ONE_OUT, Appearance, Calibration
from offnominal.errors import ModelFileError, OutputError, unwritable
from offnominal.features import ChannelStandard
from offnominal.images import PIXEL_FEATURES, Exposure, Geometry, Thumbnails, ValueRange
from offnominal.memory import MemoryBank
from offnominal.model.checks import (
    parse_description,
    require_bank,
    require_geometry,
    require_grids,
    require_indices,
    require_positions,
    require_tensors,
    require_types,
)
from offnominal.model.image_area import (
    alignment_description,
    alignment_from,
    alignment_tensors,
    region_from,
    region_tensors,
    sources_description,
    sources_from,
    zone_tensors,
    zones_description,
    zones_from,
)
from offnominal.model.member import BackboneIdentity, DistanceScale, HeldOut, Member, Merge, Replacements
from offnominal.model.model import LeftOut, Model
from offnominal.scoring import DISTANCE, INFLUENCE, RESPONSE, SIGNALS, NormalSignals
from offnominal.storage import remove_unfinished, write_atomically
from offnominal.types import require

#: Value of the metadata key `format`.
FORMAT = "offnominal"
#: Format version: raised whenever tensors or description change. Files of `READABLE` versions load.
VERSION = 12
READABLE = (9, 10, 11, VERSION)
#: Arrays of `Appearance`, stored as tensors.
_APPEARANCE = ("center", "scale", "directions", "reference")
#: Names of calibration methods in files of versions 9 and 10.
_METHODS = {"leave-one-image-out": LEAVE_ONE_OUT}
_Tensors = dict[str, npt.NDArray[Any]]


def save_model(model: Model, path: Path) -> None:
    """Write a model atomically: a crash leaves the old file or the new one.

    Equal models give equal bytes.

    Raises
    ------
    OutputError
        If the file cannot be written or the disk is full; an existing file is kept.

    Examples
    --------
    >>> model = load_model(Path("part.safetensors"))  # doctest: +SKIP
    >>> save_model(model, Path("copy.safetensors"))  # doctest: +SKIP
    """
    tensors = _tensors(model)
    description = json.dumps(_description(model), sort_keys=True, ensure_ascii=True, allow_nan=False)
    metadata = {"format": FORMAT, "version": str(VERSION), "description": description, "digest": _digest(description, tensors)}
    write_atomically(path, _ordered(save(tensors, metadata)))


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with sorted header keys, because the library writes them in random order.

    Offsets count from the end of the header, so they stay valid. The header is padded to a multiple of 8 bytes.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def require_writable(path: Path) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Creates the parent folder; writes nothing else.

    Raises
    ------
    OutputError
        If the path is a folder or cannot be written.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     require_writable(Path(folder) / "part.safetensors")
    """
    if not path.name or path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it, such as {path / 'part.safetensors'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, path.name)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def load_model(path: Path) -> Model:
    """Read a model file; check format, version, digest, types, shapes and finiteness.

    Raises
    ------
    ModelFileError
        If the file is missing, is not an offnominal model, has another format version, or is damaged.

    Examples
    --------
    >>> load_model(Path("part"))
    Traceback (most recent call last):
    offnominal.errors.ModelFileError: part: no such model file; create one with: offnominal fit DATA --out part
    """
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; name the model file in it, such as {path / 'part.safetensors'}")
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file; create one with: offnominal fit DATA --out {path}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelFileError(f"{path}: is a safetensors file, but not an offnominal model; pass a file written by fit")
            version, readable = metadata.get("version", "none"), [str(number) for number in READABLE]
            if version not in readable:
                raise ModelFileError(
                    f"{path}: has format version {version}, this release reads {' and '.join(readable)}; "
                    "fit again, or use the release that wrote it"
                )
            tensors: _Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelFileError(
            f"{path}: is not a readable model file ({str(error).splitlines()[0][:90]}); copy it again"
        ) from None
    description = metadata.get("description", "")
    if metadata.get("digest") != _digest(description, tensors):
        raise ModelFileError(f"{path}: is damaged (its digest does not match); copy it again or fit again")
    try:
        require_tensors(tensors)
        model = _model(parse_description(description), tensors)
        require_model(model)
    except Exception as error:  # noqa: BLE001 - an untrusted file may raise anything
        why = (str(error).splitlines() or [""])[0][:90] or type(error).__name__
        raise ModelFileError(f"{path}: is inconsistent ({why}); fit again") from None
    return model


def require_model(model: Model) -> None:
    """Check what the dataclasses do not check themselves: types, finite numbers, indices and sizes. Raises `ValueError`."""
    require_types(model, Model, "model")
    require(min(model.added, model.removed) >= 0, "the number of added or removed images is negative")
    for member in model.members:
        require_geometry(member.geometry, model.values)
        held_out = member.held_out
        grids = [(image.shape[0], image.shape[1]) for image in held_out.signals]
        require_bank(member.bank, member.geometry, model.sources, grids)
        replacements = held_out.replacements
        require_positions(replacements.image, replacements.position, grids, "replacements")
        require_indices(replacements.replaces, len(grids), "replacements.replaces")
        expected, features = member.bank.patches.shape[1], replacements.patches.shape[1]
        require(features == expected, f"replacement patches have {features} features, expected {expected}")
        require(member.distance_scale.deviation > 0, "the deviation of the distance is not positive")


def _digest(description: str, tensors: _Tensors) -> str:
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _tensors(model: Model) -> _Tensors:
    tensors: _Tensors = {"calibration.scores": model.calibration.scores}
    if model.thumbnails is not None:
        tensors |= {"thumbnails.content": model.thumbnails.content, "thumbnails.ends": model.thumbnails.ends}
    tensors |= region_tensors(model.region) | zone_tensors(model.gates.zones) | alignment_tensors(model.alignment)
    if model.appearance is not None:
        tensors |= {f"appearance.{name}": getattr(model.appearance, name) for name in _APPEARANCE}
    for number, member in enumerate(model.members):
        of_member = _member_tensors(member, _stored_signals(model.settings))
        tensors |= {f"member.{number}.{name}": values for name, values in of_member.items()}
    return tensors


def _member_tensors(member: Member, columns: list[int]) -> _Tensors:
    held_out, replacements = member.held_out, member.held_out.replacements
    signals = np.concatenate([image.reshape(-1, len(SIGNALS)) for image in held_out.signals])[:, columns]
    return {
        "bank.patches": member.bank.patches.cpu().numpy(),
        "bank.image": member.bank.image,
        "bank.position": member.bank.position,
        "standard.mean": member.standard.mean.cpu().numpy(),
        "standard.scale": member.standard.scale.cpu().numpy(),
        "normal.mean": member.normal.mean,
        "normal.deviation": member.normal.deviation,
        "held_out.signals": np.ascontiguousarray(signals, dtype=np.float16),
        "held_out.grid": np.array([image.shape[:2] for image in held_out.signals], dtype=np.int64),
        "replacements.patches": replacements.patches.cpu().numpy(),
        "replacements.replaces": replacements.replaces,
        "replacements.image": replacements.image,
        "replacements.position": replacements.position,
    }


def _stored_signals(settings: Settings) -> list[int]:
    """Columns of the stored signals; the response is 0 everywhere, and omitted, if the fusion does not use it."""
    return [DISTANCE, INFLUENCE, *([RESPONSE] if settings.fusion.response > 0 else [])]


def _description(model: Model) -> dict[str, Any]:
    return {
        "settings": model.settings.model_dump(mode="json"),
        "members": [
            {
                "name": member.name,
                "backbone": dataclasses.asdict(member.backbone),
                "geometry": dataclasses.asdict(member.geometry),
                "distance_scale": dataclasses.asdict(member.distance_scale),
                "radius": member.bank.radius,
                "fit_radius": member.held_out.radius,
                **({} if member.merge is None else {"merge": dataclasses.asdict(member.merge)}),
            }
            for member in model.members
        ],
        "values": dataclasses.asdict(model.values),
        **sources_description(model.sources),
        "zones": zones_description(model.gates.zones),
        "calibration": {"asked": model.calibration.requested_rate, "method": model.calibration.method},
        "alignment": alignment_description(model.alignment),
        "appearance": None if model.appearance is None else list(model.appearance.names),
        "left_out": [dataclasses.asdict(entry) for entry in model.left_out],
        "skipped": [list(entry) for entry in model.skipped],
        "versions": model.versions,
        "added": model.added,
        "removed": model.removed,
        "threshold_removed": model.threshold_removed,
    }


def _model(stored: dict[str, Any], tensors: _Tensors) -> Model:
    areas = {"roi": region_from(tensors), "zones": zones_from(stored.get("zones", []), tensors)}
    settings = Settings.model_validate_json(json.dumps(stored["settings"])).model_copy(update=areas)
    sources = sources_from(stored)
    members = tuple(
        _member(entry, _with_prefix(tensors, f"member.{number}."), len(sources), _stored_signals(settings))
        for number, entry in enumerate(stored["members"])
    )
    appearance = None
    if stored["appearance"] is not None:
        appearance = Appearance(tuple(stored["appearance"]), **{name: tensors[f"appearance.{name}"] for name in _APPEARANCE})
        expected = len(members[0].standard.mean) + PIXEL_FEATURES
        require(len(appearance.center) == expected, f"appearance has {len(appearance.center)} features, expected {expected}")
    exposure = stored["values"].pop("exposure")
    stored["calibration"]["method"] = _METHODS.get(stored["calibration"]["method"], stored["calibration"]["method"])
    return Model(
        settings=settings,
        members=members,
        values=ValueRange(**stored["values"], exposure=None if exposure is None else Exposure(**exposure)),
        sources=sources,
        calibration=Calibration(tensors["calibration.scores"], stored["calibration"]["asked"], stored["calibration"]["method"]),
        appearance=appearance,
        left_out=tuple(LeftOut(**entry) for entry in stored["left_out"]),
        skipped=tuple((name, reason) for name, reason in stored["skipped"]),
        versions=stored["versions"],
        thumbnails=_thumbnails(tensors),
        alignment=alignment_from(stored.get("alignment"), tensors, settings.region),
        added=stored["added"],
        removed=stored["removed"],
        threshold_removed=stored["threshold_removed"],
    )


def _with_prefix(tensors: _Tensors, prefix: str) -> _Tensors:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


def _member(stored: dict[str, Any], tensors: _Tensors, images: int, columns: list[int]) -> Member:
    backbone, geometry = stored["backbone"], stored["geometry"]
    mean = torch.from_numpy(tensors["standard.mean"])
    bank = MemoryBank(
        torch.from_numpy(tensors["bank.patches"]), tensors["bank.image"], tensors["bank.position"], stored["radius"]
    )
    require(len(mean) > 0, "the patches have no features")
    require(bank.patches.shape[1:] == mean.shape, f"the bank has {bank.patches.shape[1:]} features, expected {len(mean)}")
    return Member(
        name=stored["name"],
        backbone=BackboneIdentity(backbone["name"], tuple(backbone["layers"]), backbone["digest"]),
        geometry=Geometry(**{**geometry, "size": tuple(geometry["size"])}),
        standard=ChannelStandard(mean, torch.from_numpy(tensors["standard.scale"])),
        bank=bank,
        distance_scale=DistanceScale(**stored["distance_scale"]),
        normal=NormalSignals(tensors["normal.mean"], tensors["normal.deviation"]),
        held_out=_held_out(stored, tensors, images, columns),
        merge=Merge(**stored["merge"]) if "merge" in stored else None,
    )


def _held_out(stored: dict[str, Any], tensors: _Tensors, images: int, columns: list[int]) -> HeldOut:
    flat = tensors["held_out.signals"]
    grids = [(int(height), int(width)) for height, width in tensors["held_out.grid"]]
    require(flat.ndim == 2 and flat.shape[1] == len(columns), f"held-out signals have the shape {flat.shape}")
    require(len(grids) == images, f"held-out signals of {len(grids)} images, expected {images}")
    require_grids(grids, len(flat) or None)
    if len(flat):
        ends = np.cumsum([height * width for height, width in grids])
        complete = np.zeros((len(flat), len(SIGNALS)), dtype=np.float32)
        complete[:, columns] = flat
        signals = tuple(image.reshape(*grid, -1) for image, grid in zip(np.split(complete, ends[:-1]), grids, strict=True))
    else:
        signals = tuple(np.empty((*grid, 0), np.float32) for grid in grids)
    replacements = Replacements(
        torch.from_numpy(tensors["replacements.patches"]),
        tensors["replacements.replaces"],
        tensors["replacements.image"],
        tensors["replacements.position"],
    )
    return HeldOut(signals, replacements, stored["fit_radius"])


def _thumbnails(tensors: _Tensors) -> Thumbnails | None:
    if "thumbnails.ends" not in tensors:
        return None
    return Thumbnails(tensors["thumbnails.content"], tensors["thumbnails.ends"])
