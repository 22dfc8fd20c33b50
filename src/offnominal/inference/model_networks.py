"""The networks of a loaded model."""

from __future__ import annotations

from pathlib import Path

from offnominal.errors import ModelFileError
from offnominal.inference.feature_engine import FeatureEngine, member_engines
from offnominal.model import Model


def engines_of(model: Model, weights: Path | None, name: str) -> tuple[FeatureEngine, ...]:
    """Load the networks of a model and check that they are those of the fit.

    Parameters
    ----------
    weights
        A file of weights; None for those of the backbone.
    name
        Name of the model in error messages.

    Raises
    ------
    ModelFileError
        If the members, the weights or the number of features differ.

    Examples
    --------
    >>> from offnominal.model import load_model
    >>> model = load_model(Path("part.safetensors"))  # doctest: +SKIP
    >>> [engine.name for engine in engines_of(model, None, "part.safetensors")]  # doctest: +SKIP
    ['efficientnet-lite0', 'efficientnet-lite0@1.5']
    """
    engines = member_engines(model.settings, weights)
    names = [engine.name for engine in engines]
    if names != [member.name for member in model.members]:
        raise ModelFileError(f"{name}: is inconsistent (its settings name the members {', '.join(names)}); fit again")
    for engine, member in zip(engines, model.members, strict=True):
        expected, actual = member.backbone.digest, engine.identity.digest
        if actual != expected:
            raise ModelFileError(
                f"{name}: was fitted with other weights of {member.backbone.name} (SHA-256 {expected[:12]}..., these "
                f"have {actual[:12]}...); pass the former with --weights, or fit again"
            )
        if engine.dimensions != member.bank.patches.shape[1]:
            raise ModelFileError(
                f"{name}: is inconsistent (its patches have {member.bank.patches.shape[1]} features, its backbone "
                f"computes {engine.dimensions}); fit again"
            )
    return engines
