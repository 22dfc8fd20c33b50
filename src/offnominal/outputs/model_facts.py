"""Facts about a model: for `info`, for reports, and as warnings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from offnominal.config import Settings
from offnominal.errors import SettingsError
from offnominal.features import choose_device
from offnominal.gates import Gates
from offnominal.images import Alignment, Exposure
from offnominal.machine import Kernel, kernels
from offnominal.model import Member, Model
from offnominal.outputs.guarantee import calibration_facts, calibration_warnings, drift_facts, promise
from offnominal.scoring import SIGNALS


def facts(model: Model) -> dict[str, Any]:
    """The facts that `offnominal info --json` prints."""
    return {
        "images": len(model.sources),
        "thumbnails": 0 if model.thumbnails is None else model.thumbnails.kept,
        "skipped": [{"image": name, "reason": reason} for name, reason in model.skipped],
        "left_out": [asdict(entry) for entry in model.left_out],
        "updates": {"added": model.added, "removed": model.removed},
        "preset": model.settings.preset,
        "members": [member_facts(member) for member in model.members],
        "fused": {name: weight for name, weight in zip(SIGNALS, model.settings.fusion.weights, strict=True) if weight},
        "values": asdict(model.values),
        **({} if model.region is None else {"region": {"size": list(model.region.size), "share": model.region.share}}),
        **({} if model.alignment is None else {"alignment": _alignment_facts(model.alignment)}),
        **_gate_facts(model.gates),
        "calibration": calibration_facts(model),
        "promise": promise(model),
        "drift": drift_facts(model),
        "settings": model.settings.model_dump(mode="json"),
        "versions": model.versions,
    }


def kernels_of(settings: Settings) -> dict[str, Kernel]:
    """The kernels that a detector with these settings uses on this machine."""
    try:
        device = choose_device(settings.device, settings.runtime).type
    except SettingsError:  # fitted on a GPU, read on a machine without one
        device = "cpu"
    return kernels(settings.runtime, device)


def member_facts(member: Member) -> dict[str, Any]:
    """An entry of `members` in `info --json`."""
    backbone, bank = member.backbone, member.bank
    return {
        "name": member.name,
        "backbone": {"name": backbone.name, "layers": list(backbone.layers), "sha256": backbone.digest},
        "input": {"resize": member.geometry.resize, "size": list(member.geometry.size)},
        "bank": {"patches": int(bank.patches.shape[0]), "dimensions": int(bank.patches.shape[1]), "radius": bank.radius},
        **({} if member.merge is None else {"merge": asdict(member.merge)}),
    }


def warnings_of(model: Model) -> list[str]:
    """Warnings for the user of a model, one sentence each."""
    warnings = calibration_warnings(model)
    if model.left_out:
        worst, total = model.left_out[0], len(model.left_out) + model.calibration.count
        warnings.append(
            f"{len(model.left_out)} of {total} images were left out as suspects; the worst is {worst.name} "
            f"(score {worst.score:.2f})."
        )
    if model.added or model.removed:
        warnings.append(
            f"{model.added} images were added and {model.removed} removed since the fit; the held-out scores of the other "
            "images and the channel statistics still come from the fit."
        )
    if model.alignment is not None:
        missed, images = model.alignment.missed, model.alignment.images
        warnings.append(
            f"The stated rate is that of the score; good parts that are not found come on top: {missed} of {images} normal "
            "images."
        )
    if model.skipped:
        warnings.append(f"{len(model.skipped)} training images could not be used; the first: {model.skipped[0][1]}")
    return warnings


def readable_facts(model: Model) -> dict[str, str]:
    """The facts that a report shows: label -> text."""
    calibration = model.calibration
    several = len(model.members) > 1
    members = {}
    for number, member in enumerate(model.members, 1):
        name = f"Member {number}" if several else "Backbone"
        size, bank = member.geometry.size, member.bank.patches
        members[name] = (
            f"{member.name} ({', '.join(member.backbone.layers)}) at {size[0]} x {size[1]} ({member.geometry.resize}), "
            f"bank of {len(bank)} patches with {bank.shape[1]} features"
        )
    return {
        "Fitted on": f"{len(model.sources)} good images",
        **members,
        "Input": f"{model.values.depth}, values {model.values.low:g} to {model.values.high:g}, "
        f"{_exposure(model.values.exposure)}",
        **({} if model.region is None else {"Region of interest": f"{model.region.share:.0%} of the image"}),
        **({} if model.alignment is None else {"Alignment": alignment_text(model.alignment)}),
        **_gate_texts(model.gates),
        "False-alarm rate": f"{calibration.rate:.2%} (stated: {calibration.requested_rate:.2%}), "
        f"from {calibration.count} held-out good images ({calibration.method})",
        "Guarantee": promise(model),
        "Threshold": f"{calibration.threshold:.3f}",
        "Libraries": ", ".join(f"{name} {number}" for name, number in model.versions.items()),
    }


def _gate_facts(gates: Gates) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if not gates.gate.open:
        facts["gate"] = asdict(gates.gate)
    if gates.zones:
        facts["zones"] = [{"name": zone.name, "share": zone.region.share, **asdict(zone.gate)} for zone in gates.zones]
    if gates.mm_per_pixel is not None:
        facts["mm_per_pixel"] = list(gates.mm_per_pixel)
    return facts


def _gate_texts(gates: Gates) -> dict[str, str]:
    texts = {}
    if gates.mm_per_pixel is not None:
        width, height = gates.mm_per_pixel
        texts["Size of a pixel"] = f"{width:g} mm" if width == height else f"{width:g} x {height:g} mm"
    if gates.zones or not gates.gate.open:
        texts["Gate"] = str(gates.gate) + (" outside of the zones" if gates.zones else "")
    for zone in gates.zones:
        texts[f"Zone {zone.name}"] = f"{zone.region.share:.1%} of the image, {zone.gate}"
    return texts


def _alignment_facts(alignment: Alignment) -> dict[str, Any]:
    height, width = alignment.size
    facts: dict[str, Any] = {"kind": alignment.kind, "reference": alignment.name, "size": [height, width]}
    if alignment.limits is None:
        return facts
    names = ("dx", "dy", "degrees", "scale")
    units = (max(height, width), max(height, width), 1, 1)  # shifts in pixels of the reference
    limits = zip(names, alignment.limits.low, alignment.limits.high, units, strict=True)
    return {
        **facts,
        **{name: [round(low * unit, 3), round(high * unit, 3)] for name, low, high, unit in limits},
        "least_quality": round(alignment.limits.quality, 3),
        "missed": alignment.missed,
        "images": alignment.images,
    }


def alignment_text(alignment: Alignment) -> str:
    """Reference and limits of an alignment, for people."""
    facts = _alignment_facts(alignment)
    text = f"{alignment.kind}, to {alignment.name}"
    if alignment.limits is None:
        return text
    ranges = {name: f"{facts[name][0]:g} to {facts[name][1]:g}" for name in ("dx", "dy", "degrees")}
    return (
        f"{text}; found with shifts of {ranges['dx']} and {ranges['dy']} pixels, rotations of {ranges['degrees']} degrees, "
        f"and a correlation of at least {facts['least_quality']:g}"
    )


def _exposure(exposure: Exposure | None) -> str:
    return "exposure not corrected" if exposure is None else f"exposure corrected by up to {exposure.max_gain - 1:.0%}"
