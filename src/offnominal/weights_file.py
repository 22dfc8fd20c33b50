"""Check the header of a weights file, so that a wrong path is reported before torch is imported."""

from __future__ import annotations

from pathlib import Path

from offnominal.errors import BackboneError

#: First bytes of a PyTorch file: a zip archive, or a pickle of old versions.
_PYTORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02")


def require_weights(path: Path) -> None:
    """Check that a file looks like a safetensors or PyTorch file.

    Raises
    ------
    BackboneError
        If the file does not exist, cannot be read, or is of another kind.

    Examples
    --------
    >>> require_weights(Path("missing.pt"))
    Traceback (most recent call last):
    offnominal.errors.BackboneError: missing.pt: does not exist; check --weights
    """
    try:
        recognised = is_safetensors(path) or _head(path).startswith(_PYTORCH_MAGIC)
    except FileNotFoundError:
        raise BackboneError(f"{path}: does not exist; check --weights") from None
    except OSError as error:
        raise BackboneError(f"{path}: cannot be read ({error.strerror or error}); check --weights") from None
    if not recognised:
        raise not_weights(path)


def is_safetensors(path: Path) -> bool:
    """Whether a file starts like safetensors: 8 bytes with the length of a JSON header that fits in the file, then `{`."""
    head = _head(path)
    return head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= path.stat().st_size


def not_weights(path: Path) -> BackboneError:
    """Create the error for a file that is of another kind or damaged."""
    return BackboneError(f"{path}: is not a safetensors or PyTorch weights file (or is damaged)")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(9)
