"""A long choice of the memory bank, kept in a file while it goes on, so that a fit that was stopped goes on from there.

The file holds what `memory.Unfinished` does, the SHA-256 of the patches that it is of, and one of itself. Features are not
kept: they are worked out anew, and only where they come out the same to the last bit is the choice gone on with. It is the
choice of an undisturbed run then, patch by patch.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from offnominal.detector.model_file import write_whole
from offnominal.errors import OutputError
from offnominal.memory import Coreset, PatchRows, Unfinished, kcenter

FORMAT = "offnominal partial bank 1"
_FIELDS = ("indices", "bound", "seen")


class PartialBank:
    """Chooses patches as `memory.kcenter` does, and remembers how far it came.

    Args:
        path: the file, None to keep nothing. A second choice in a fit, after suspects left, has its own beside it.
        tell: is given a line when a run goes on from the file, when the file is of no use, or when it cannot be written.
    """

    def __init__(self, path: Path | None, tell: Callable[[str], None] = lambda line: None) -> None:
        self._first, self._tell = path, tell
        self._paths: list[Path] = []
        self._writable = True

    def kcenter(self, patches: PatchRows, n: int, start: int, tick: Callable[[int], None]) -> Coreset:
        """See `memory.kcenter`; Ctrl-C leaves the file."""
        if self._first is None:
            return kcenter(patches, n, start, tick=tick)
        path = self._first if not self._paths else self._first.with_name(f"{self._first.name}{len(self._paths) + 1}")
        self._paths.append(path)
        resume = self._read(path, patches, start, n)
        key: list[str] = []
        kept = False

        def keep(state: Unfinished) -> None:
            nonlocal kept
            if not self._writable:
                return
            key.extend([] if key else [key_of(patches, start)])  # a pass over all patches: only where it is needed
            try:
                write_whole(path, packed(state, key[0]))
                kept = True
            except OutputError as error:
                self._writable = False
                self._tell(f"{error}; the fit goes on, but could not be resumed")

        try:
            return kcenter(patches, n, start, tick=tick, resume=resume, keep=keep)
        except KeyboardInterrupt:
            if kept:
                self._tell(f"{path}: keeps the bank as far as it came; the same command goes on from there")
            raise

    def remove(self) -> None:
        """The model is kept, so that no fit need go on from here."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _read(self, path: Path, patches: PatchRows, start: int, n: int) -> Unfinished | None:
        if not path.is_file():
            return None
        anew = "the choice of the bank begins anew"
        try:
            state, key = unpacked(path)
        except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            self._tell(f"{path}: is not a readable part of a bank ({str(error).splitlines()[0][:90]}); {anew}")
            return None
        if key != key_of(patches, start):
            self._tell(f"{path}: is of other images, settings or versions; {anew}")
            return None
        self._tell(f"{path}: the choice of the bank goes on from {len(state.indices):,} of {n:,} patches")
        return state


def key_of(patches: PatchRows, start: int) -> str:
    """SHA-256 of all that decides the choice but how many: the patches, and the first of them."""
    digest = hashlib.sha256(f"{patches.shape} {patches.dtype} {start}".encode())
    for block in patches.blocks(4096):
        digest.update(np.ascontiguousarray(block.numpy()).data)
    return digest.hexdigest()


def packed(state: Unfinished, key: str) -> bytes:
    """The file's content."""
    tensors = {name: getattr(state, name) for name in _FIELDS}
    content: bytes = save(tensors, {"format": FORMAT, "key": key, "digest": _digest(tensors, key)})
    return content


def unpacked(path: Path) -> tuple[Unfinished, str]:
    """State and key of a file. Raises `ValueError` and others where it is damaged or of another kind."""
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError("another format")
        tensors = {name: file.get_tensor(name) for name in _FIELDS}
    if metadata["digest"] != _digest(tensors, metadata["key"]):
        raise ValueError("its digest does not match")
    return Unfinished(**tensors), metadata["key"]


def _digest(tensors: dict[str, npt.NDArray[Any]], key: str) -> str:
    digest = hashlib.sha256(key.encode())
    for name in _FIELDS:
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()
