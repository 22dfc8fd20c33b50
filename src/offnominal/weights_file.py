"""A quick look at a weights file: a wrong path is reported before torch is imported."""

from __future__ import annotations

from pathlib import Path

from offnominal.errors import BackboneError

#: First bytes of a PyTorch file: a zip archive, or a pickle as old versions wrote it.
_PYTORCH = (b"PK\x03\x04", b"\x80\x02")


def require_weights(path: Path) -> None:
    """Check the first bytes.

    Raises:
        BackboneError: the file does not exist, cannot be read, or is neither a safetensors nor a PyTorch file.
    """
    try:
        recognised = is_safetensors(path) or _head(path).startswith(_PYTORCH)
    except FileNotFoundError:
        raise BackboneError(f"{path}: does not exist; check --weights") from None
    except OSError as error:
        raise BackboneError(f"{path}: cannot be read ({error.strerror or error}); check --weights") from None
    if not recognised:
        raise not_weights(path)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins with the length of a table (8 bytes, little-endian) that fits in it, and a JSON table."""
    head = _head(path)
    return head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= path.stat().st_size


def not_weights(path: Path) -> BackboneError:
    """The error of a file of another kind, or a damaged one."""
    return BackboneError(f"{path}: is not a safetensors or PyTorch weights file (or is damaged)")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(9)
