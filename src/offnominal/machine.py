"""Search kernel, network runtime and cache folder of this installation, with the reason where a slow one is in use.

Imports nothing heavy, so that `--version` answers at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGE, EXTENSION = "offnominal.memory", "_screening"
#: Width in bits of the registers for int8 dot products -> instruction set.
INSTRUCTIONS = {512: "AVX-512 VNNI", 256: "AVX-VNNI"}


@dataclass(frozen=True)
class Kernel:
    """Implementation in use for one part of the work.

    Attributes
    ----------
    name
        Name to show.
    fast
        Whether it is the fastest implementation.
    reason
        Why it is not the fastest and what to do about it; None if it is.
    """

    name: str
    fast: bool = True
    reason: str | None = None


def kernels(runtime: str = "auto", device: str = "cpu") -> dict[str, Kernel]:
    """Implementations in use, by part of the work.

    Parameters
    ----------
    runtime
        The setting `runtime`.
    device
        `cpu` or `cuda`.

    Returns
    -------
    dict
        `search` (nearest-neighbour search), `network` (its runtime) and `cache` (folder for converted networks).

    Examples
    --------
    >>> kernels(device="cuda")["search"]
    Kernel(name='matrix product on CUDA', fast=True, reason=None)
    """
    if device == "cuda":
        return {"search": Kernel("matrix product on CUDA"), "network": Kernel("torch on CUDA"), "cache": _cache()}
    return {"search": _search(), "network": _network(runtime), "cache": _cache()}


def kernel_facts(used: dict[str, Kernel]) -> dict[str, dict[str, Any]]:
    """Kernels as plain dictionaries, the entry `kernels` of `info --json`.

    Examples
    --------
    >>> kernel_facts({"network": Kernel("OpenVINO")})
    {'network': {'name': 'OpenVINO', 'fast': True, 'reason': None}}
    """
    return {part: asdict(kernel) for part, kernel in used.items()}


def kernel_lines(used: dict[str, Kernel]) -> list[str]:
    """One line of text for each kernel, with the reason if it is a slow one.

    Examples
    --------
    >>> kernel_lines({"network": Kernel("torch", False, "OpenVINO is not installed")})
    ['network: torch (OpenVINO is not installed)']
    """
    return [f"{part}: {kernel.name}" + (f" ({kernel.reason})" if kernel.reason else "") for part, kernel in used.items()]


def cache_folder() -> Path | None:
    """The folder `offnominal` in the user's cache folder; None for a user without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offnominal"
    except RuntimeError:
        return None


def _search() -> Kernel:
    slow = "FAISS in float32"
    try:
        extension = _extension()
    except ImportError as error:
        return Kernel(
            slow, False, f"the C extension cannot be loaded: {_first_line(error)}; install a C compiler and reinstall"
        )
    if extension is None:
        return Kernel(slow, False, "the C extension is missing: install a C compiler and reinstall offnominal")
    for bits, instructions in INSTRUCTIONS.items():
        if extension.multiplies(bits):
            return Kernel(f"int8 dot products ({instructions}), candidate pruning")
    required = " or ".join(INSTRUCTIONS.values())
    return Kernel(slow, False, f"this processor has no {required} for int8 dot products")


def _extension() -> Any:
    """The C extension; None if it was not compiled. Loaded without its package, which would import torch.

    Raises
    ------
    ImportError
        If the extension exists but cannot be loaded.
    """
    full = f"{PACKAGE}.{EXTENSION}"
    if PACKAGE in sys.modules or full in sys.modules:
        try:
            return import_module(full)
        except ModuleNotFoundError:
            return None
    spec = PathFinder.find_spec(EXTENSION, [str(Path(__file__).parent / "memory")])
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _network(runtime: str) -> Kernel:
    if runtime == "torch":
        return Kernel("torch", False, "set by runtime = torch; OpenVINO is faster on most CPUs")
    if importlib.util.find_spec("openvino") is None:
        return Kernel("torch", False, "OpenVINO is not installed: pip install openvino")
    try:
        return Kernel(f"OpenVINO {version('openvino')}")
    except PackageNotFoundError:
        return Kernel("OpenVINO")


def _cache() -> Kernel:
    slow = "every run converts the network again"
    folder = cache_folder()
    if folder is None:
        return Kernel("none", False, f"this user has no home folder, so {slow}: set XDG_CACHE_HOME to a writable folder")
    try:
        with _temporarily_created(folder), tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        return Kernel(str(folder), False, f"{reason}, so {slow}: set XDG_CACHE_HOME to a writable folder")
    return Kernel(str(folder))


@contextlib.contextmanager
def _temporarily_created(folder: Path) -> Iterator[None]:
    """Create a folder and its missing parents; remove what was created on exit."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
