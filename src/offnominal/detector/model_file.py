"""The model file: one `.safetensors` with tensors and JSON metadata, written whole or not at all, checked when read.

Metadata keys: `format` (`offnominal`), `version`, `description` (JSON) and `digest`, the SHA-256 of the description and of all
tensors, so that a damaged file is noticed and not believed. Never pickle.
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
from offnominal.decisions import Appearance, Calibration
from offnominal.detector.appearances import OF_PIXELS
from offnominal.detector.learnt import Learnt, LeftOut, StandIns
from offnominal.detector.model import (
    BackboneIdentity,
    HeadVerdict,
    Model,
    PresetChoice,
    PresetTried,
    SearchError,
    UsualDistance,
)
from offnominal.detector.model_checks import (
    parsed,
    require_bank,
    require_geometry,
    require_grids,
    require_indices,
    require_places,
    require_tensors,
    require_thumbnails,
    require_types,
)
from offnominal.errors import ModelFileError, OutputError, unwritable
from offnominal.features import ChannelStandard
from offnominal.images import Exposure, Geometry, Thumbnails, ValueRange
from offnominal.memory import MemoryBank, SourceImage
from offnominal.noising import Head
from offnominal.scoring import SIGNALS, NormalSignals
from offnominal.storage import remove_unfinished
from offnominal.storage import write_whole as write_whole
from offnominal.types import require

FORMAT = "offnominal"
VERSION = 8
_Tensors = dict[str, npt.NDArray[Any]]
_HEAD = ("inner", "inner_bias", "outer", "outer_bias")
_APPEARANCE = ("center", "scale", "directions", "reference")


def save_model(model: Model, path: Path) -> None:
    """Write `model` to `path`: beside it first, then synced and renamed, so that a crash leaves the old file or the new one.

    Raises:
        OutputError: the place cannot be written, or the disk is full; what was there before is kept.
    """
    tensors = _tensors(model)
    description = json.dumps(_description(model), sort_keys=True, ensure_ascii=True, allow_nan=False)
    metadata = {"format": FORMAT, "version": str(VERSION), "description": description, "digest": _digest(description, tensors)}
    write_whole(path, _ordered(save(tensors, metadata)))


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with its header's keys in order: the library writes them in any, and equal models should be
    equal files. Offsets count from the end of the header, so they stay; its length is padded to a multiple of 8."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def require_writable(path: Path) -> None:
    """Whether a file could be written there, before the work that is to end in it; nothing of it is left.

    Raises:
        OutputError: it could not.
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
    """Read a model file and check it: format, version, digest, shapes.

    Raises:
        ModelFileError: missing, not a model of ours, of another version, or damaged.
    """
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; name the model file in it, such as {path / 'part.safetensors'}")
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file; make one with: offnominal fit DATA --out {path}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelFileError(f"{path}: is a safetensors file, but not an offnominal model; give one that fit wrote")
            if metadata.get("version") != str(VERSION):
                raise ModelFileError(
                    f"{path}: has format version {metadata.get('version')}, this release reads {VERSION}; "
                    "fit anew, or use the release that made it"
                )
            tensors: _Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelFileError(
            f"{path}: is not a readable model file ({str(error).splitlines()[0][:90]}); copy it again"
        ) from None
    description = metadata.get("description", "")
    if metadata.get("digest") != _digest(description, tensors):
        raise ModelFileError(f"{path}: is damaged (its digest does not match); copy it again or fit anew")
    try:
        require_tensors(tensors)
        model = _model(parsed(description), tensors)
        require_model(model)
    except Exception as error:  # noqa: BLE001 - what a stranger wrote raises many kinds, and none may pass
        why = (str(error).splitlines() or [""])[0][:90] or type(error).__name__
        raise ModelFileError(f"{path}: is inconsistent ({why}); fit anew") from None
    return model


def require_model(model: Model) -> None:
    """What the parts do not say of themselves: types, finite numbers, indices and sizes. Raises `ValueError`."""
    require_types(model, Model, "model")
    require_geometry(model.geometry, model.values)
    require_thumbnails(model.thumbnails, len(model.bank.sources))
    grids = [(image.shape[0], image.shape[1]) for image in model.learnt.signals]
    require_bank(model.bank, model.geometry, grids)
    stand_ins = model.learnt.stand_ins
    require_places(stand_ins.image, stand_ins.place, grids, "stand_ins")
    require_indices(stand_ins.replaces, len(grids), "stand_ins.replaces")
    wanted = model.bank.patches.shape[1]
    require(stand_ins.patches.shape[1] == wanted, f"stand-ins have {stand_ins.patches.shape[1]} features, not {wanted}")
    require(model.usual_distance.deviation > 0, "the deviation of the usual distance must be above 0")
    require(min(model.learnt.added, model.learnt.removed) >= 0, "a negative number of images was added or removed")


def _digest(description: str, tensors: _Tensors) -> str:
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _tensors(model: Model) -> _Tensors:
    pictures: _Tensors = {}
    if model.thumbnails is not None:
        pictures = {"thumbnails.content": model.thumbnails.content, "thumbnails.ends": model.thumbnails.ends}
    appearance = model.appearance
    watched: _Tensors = {}
    if appearance is not None:
        watched = {f"appearance.{name}": getattr(appearance, name) for name in _APPEARANCE}
    return {
        **pictures,
        **watched,
        "bank.patches": model.bank.patches.cpu().numpy(),
        "bank.image": model.bank.image,
        "bank.place": model.bank.place,
        "standard.mean": model.standard.mean.cpu().numpy(),
        "standard.scale": model.standard.scale.cpu().numpy(),
        "normal.mean": model.normal.mean,
        "normal.deviation": model.normal.deviation,
        "calibration.scores": model.calibration.scores,
        **{f"head.{fold}.{name}": getattr(head, name).cpu().numpy() for fold, head in enumerate(model.heads) for name in _HEAD},
        **_learnt_tensors(model.learnt, _used(model.settings, len(model.heads))),
    }


def _used(settings: Settings, heads: int) -> list[int]:
    """The signals that are not 0 everywhere: the response where it is used, the head where there is one."""
    return [0, 1, *([2] if settings.fusion.response > 0 else []), *([3] if heads else [])]


def _learnt_tensors(learnt: Learnt, columns: list[int]) -> _Tensors:
    """Signals of all images one after another, those of `columns`."""
    return {
        "learnt.signals": np.ascontiguousarray(
            np.concatenate([image.reshape(-1, len(SIGNALS)) for image in learnt.signals])[:, columns], dtype=np.float16
        ),
        "learnt.grid": np.array([image.shape[:2] for image in learnt.signals], dtype=np.int64),
        "stand_ins.patches": learnt.stand_ins.patches.cpu().numpy(),
        "stand_ins.replaces": learnt.stand_ins.replaces,
        "stand_ins.image": learnt.stand_ins.image,
        "stand_ins.place": learnt.stand_ins.place,
    }


def _learnt(stored: dict[str, Any], tensors: _Tensors, images: int, columns: list[int]) -> Learnt:
    flat, grids = tensors["learnt.signals"], [(int(height), int(width)) for height, width in tensors["learnt.grid"]]
    require(flat.ndim == 2 and flat.shape[1] == len(columns), f"held-out signals have the shape {flat.shape}")
    require_grids(grids, len(flat))
    ends = np.cumsum([height * width for height, width in grids])
    if len(grids) != images or len(flat) != ends[-1]:
        raise ValueError(f"{images} images, held-out signals of {len(grids)}")
    padded = np.zeros((len(flat), len(SIGNALS)), dtype=np.float32)
    padded[:, columns] = flat
    signals = tuple(part.reshape(*grid, -1) for part, grid in zip(np.split(padded, ends[:-1]), grids, strict=True))
    stand_ins = StandIns(
        torch.from_numpy(tensors["stand_ins.patches"]),
        tensors["stand_ins.replaces"],
        tensors["stand_ins.image"],
        tensors["stand_ins.place"],
    )
    return Learnt(signals, stand_ins, stored["radius"], stored["added"], stored["removed"])


def _description(model: Model) -> dict[str, Any]:
    return {
        "settings": model.settings.model_dump(mode="json"),
        "backbone": dataclasses.asdict(model.backbone),
        "geometry": dataclasses.asdict(model.geometry),
        "values": dataclasses.asdict(model.values),
        "usual_distance": dataclasses.asdict(model.usual_distance),
        "calibration": {"asked": model.calibration.asked, "method": model.calibration.method},
        "head": dataclasses.asdict(model.head),
        "heads": len(model.heads),
        "appearance": None if model.appearance is None else list(model.appearance.names),
        "bank": {"radius": model.bank.radius, "sources": [[source.name, *source.size] for source in model.bank.sources]},
        "learnt": {"radius": model.learnt.radius, "added": model.learnt.added, "removed": model.learnt.removed},
        "left_out": [dataclasses.asdict(entry) for entry in model.left_out],
        "skipped": [list(entry) for entry in model.skipped],
        "versions": model.versions,
        **({} if model.search_error is None else {"search_error": dataclasses.asdict(model.search_error)}),
        **({} if model.choice is None else {"choice": dataclasses.asdict(model.choice)}),
    }


def _model(stored: dict[str, Any], tensors: _Tensors) -> Model:
    backbone, geometry = stored["backbone"], stored["geometry"]
    mean = torch.from_numpy(tensors["standard.mean"])
    bank = MemoryBank(
        torch.from_numpy(tensors["bank.patches"]),
        tensors["bank.image"],
        tensors["bank.place"],
        tuple(SourceImage(name, (height, width)) for name, height, width in stored["bank"]["sources"]),
        stored["bank"]["radius"],
    )
    require(len(mean) > 0, "there are no features")
    if bank.patches.shape[1:] != mean.shape:
        raise ValueError(f"bank has D={bank.patches.shape[1]}, its standardisation D={len(mean)}")
    appearance = None
    if stored["appearance"] is not None:
        appearance = Appearance(tuple(stored["appearance"]), **{name: tensors[f"appearance.{name}"] for name in _APPEARANCE})
        if len(appearance.center) != len(mean) + OF_PIXELS:
            raise ValueError(f"appearance has {len(appearance.center)} features, expected {len(mean) + OF_PIXELS}")
    exposure = stored["values"].pop("exposure")
    settings, heads = Settings.model_validate_json(json.dumps(stored["settings"])), int(stored["heads"])
    return Model(
        settings=settings,
        backbone=BackboneIdentity(backbone["name"], tuple(backbone["layers"]), backbone["digest"]),
        geometry=Geometry(tuple(geometry["size"]), geometry["resize"], geometry["multiple"], geometry["longest"]),
        values=ValueRange(**stored["values"], exposure=None if exposure is None else Exposure(**exposure)),
        standard=ChannelStandard(mean, torch.from_numpy(tensors["standard.scale"])),
        bank=bank,
        usual_distance=UsualDistance(**stored["usual_distance"]),
        normal=NormalSignals(tensors["normal.mean"], tensors["normal.deviation"]),
        calibration=Calibration(tensors["calibration.scores"], stored["calibration"]["asked"], stored["calibration"]["method"]),
        head=HeadVerdict(**stored["head"]),
        heads=tuple(_head(tensors, fold, len(mean)) for fold in range(heads)),
        appearance=appearance,
        learnt=_learnt(stored["learnt"], tensors, len(bank.sources), _used(settings, heads)),
        left_out=tuple(LeftOut(**entry) for entry in stored["left_out"]),
        skipped=tuple((name, reason) for name, reason in stored["skipped"]),
        versions=stored["versions"],
        thumbnails=_thumbnails(tensors),
        search_error=SearchError(**stored["search_error"]) if "search_error" in stored else None,
        choice=_choice(stored["choice"]) if "choice" in stored else None,
    )


def _head(tensors: _Tensors, fold: int, dimensions: int) -> Head:
    head = Head(*(torch.from_numpy(tensors[f"head.{fold}.{name}"]) for name in _HEAD))
    if head.inner.shape[1] != 2 * dimensions:
        raise ValueError(f"head {fold} is for D={head.inner.shape[1] // 2}, the bank has D={dimensions}")
    return head


def _choice(stored: dict[str, Any]) -> PresetChoice:
    return PresetChoice(stored["chosen"], stored["reason"], tuple(PresetTried(**one) for one in stored["tried"]))


def _thumbnails(tensors: _Tensors) -> Thumbnails | None:
    if "thumbnails.ends" not in tensors:
        return None
    return Thumbnails(tensors["thumbnails.content"], tensors["thumbnails.ends"])
