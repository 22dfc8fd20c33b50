"""A model file -> a model with its networks, checked against each other."""

from __future__ import annotations

from pathlib import Path

from offnominal.errors import ModelFileError
from offnominal.inference.patches import FeatureEngine, member_engines
from offnominal.model import Model


def engines_of(model: Model, weights: Path | None, name: str) -> tuple[FeatureEngine, ...]:
    """The networks of a model; messages call it `name`.

    Raises
    ------
    ModelFileError
        The networks are not those of the fit.
    """
    engines = member_engines(model.settings, weights)
    names = [engine.name for engine in engines]
    if names != [member.name for member in model.members]:
        raise ModelFileError(f"{name}: is inconsistent (its settings name the members {', '.join(names)}); fit again")
    for engine, member in zip(engines, model.members, strict=True):
        expected, actual = member.backbone.digest, engine.identity.digest
        if actual != expected:
            raise ModelFileError(
                f"{name}: was fitted with other weights of {member.backbone.name} (SHA-256 {expected[:12]}..., here "
                f"{actual[:12]}...); give the same with --weights, or fit again"
            )
        if engine.dimensions != member.bank.patches.shape[1]:
            raise ModelFileError(
                f"{name}: is inconsistent (its patches have {member.bank.patches.shape[1]} features, those of its backbone "
                f"{engine.dimensions}); fit again"
            )
    return engines
