"""Weights: read from a file, check, and load into a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offnominal.errors import BackboneError
from offnominal.weights_file import is_safetensors, not_weights, require_weights


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name; of a training checkpoint, those of the model.

    Raises
    ------
    BackboneError
        As `require_weights`, or the file is damaged or contains no weights.
    """
    require_weights(path)
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            loaded: dict[str, torch.Tensor] = load_file(path)
            return loaded
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - damaged files raise many kinds
        raise not_weights(path) from None
    if not isinstance(state, dict):
        raise BackboneError(f"{path}: contains no table of weights")
    state = state.get("state_dict", state.get("model", state))
    weights = {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not weights:
        raise BackboneError(f"{path}: contains no table of weights")
    return weights


def fill(network: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Load weights into a network; tensors that it does not have are ignored.

    Raises
    ------
    BackboneError
        A tensor is missing or has another shape. The message starts with `what`.
    """
    expected = tensors(network.state_dict())
    weights = _match_names(expected, state)
    missing = sorted(set(expected) - set(weights))
    if missing:
        raise BackboneError(f"{what}: {len(missing)} of {len(expected)} tensors are missing, the first is '{missing[0]}'")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise BackboneError(f"{what}: '{name}' is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}")
    network.load_state_dict({name: weights[name] for name in expected}, strict=False)


def _match_names(expected: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Find tensors by name. timm's feature networks rename `layer2.0` to `layer2_0` or add the prefix `model.`."""
    plain = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    matches = {name: plain.get(name.removeprefix("model.").replace(".", "_")) for name in expected}
    return {name: tensor for name, tensor in matches.items() if tensor is not None}


def tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` without the counters of batch normalisation."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors(state).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
