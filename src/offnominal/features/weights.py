"""Weights files: read, checked, and put into a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offnominal.errors import BackboneError

#: First bytes of a PyTorch file: a zip archive, or a pickle as old versions wrote it.
_PYTORCH = (b"PK\x03\x04", b"\x80\x02")


def require_weights(path: Path) -> None:
    """A quick look at the first bytes, so that a wrong path is reported before any work.

    Raises:
        BackboneError: the file does not exist, cannot be read, or is neither a safetensors nor a PyTorch file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise BackboneError(f"{path}: does not exist; check --weights") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BackboneError(f"{path}: cannot be read ({reason}); check --weights") from None
    if not (_is_safetensors(head) or head.startswith(_PYTORCH)):
        raise _not_weights(path)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor. Of a training checkpoint, the weights of the model.

    Raises:
        BackboneError: as `require_weights`, or the file is damaged or holds no weights.
    """
    require_weights(path)
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if _is_safetensors(head):
            from safetensors.torch import load_file

            loaded: dict[str, torch.Tensor] = load_file(path)
            return loaded
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - damaged files raise many kinds
        raise _not_weights(path) from None
    if not isinstance(state, dict):
        raise BackboneError(f"{path}: holds no table of weights")
    state = state.get("state_dict", state.get("model", state))
    found = {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise BackboneError(f"{path}: holds no table of weights")
    return found


def _is_safetensors(head: bytes) -> bool:
    """The length of a JSON table (8 bytes), and the table's first byte."""
    return head[8:9] == b"{" and not head.startswith(_PYTORCH)


def _not_weights(path: Path) -> BackboneError:
    return BackboneError(f"{path}: is not a safetensors or PyTorch weights file (or is damaged)")


def fill(network: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Put the tensors of `state` that the network has into it; others are ignored.

    Raises:
        BackboneError: a tensor is missing or has another shape; the message begins with `what`.
    """
    wanted = tensors(network.state_dict())
    given = _match_names(wanted, state)
    missing = sorted(set(wanted) - set(given))
    if missing:
        raise BackboneError(f"{what}: {len(missing)} of {len(wanted)} tensors are missing, the first is '{missing[0]}'")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise BackboneError(f"{what}: '{name}' is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}")
    network.load_state_dict({name: given[name] for name in wanted}, strict=False)


def _match_names(wanted: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's feature networks rename `layer2.0` to `layer2_0` or prefix `model.`; undo both."""
    plain = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    found = {name: plain.get(name.removeprefix("model.").replace(".", "_")) for name in wanted}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


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
