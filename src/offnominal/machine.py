"""What this installation runs on: search kernel, network runtime, cache folder; and why the fast ones are not in use.

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
#: Bits of the registers that int8 dot products are computed in -> the instructions.
INSTRUCTIONS = {512: "AVX-512 VNNI", 256: "AVX-VNNI"}


@dataclass(frozen=True)
class Kernel:
    """What does a part of the work.

    Attributes:
        name: as a person reads it.
        fast: whether it is the fast one.
        reason: why it is not, and what to do about it; None where it is.
    """

    name: str
    fast: bool = True
    reason: str | None = None


def kernels(runtime: str = "auto", device: str = "cpu") -> dict[str, Kernel]:
    """What does the `search`, what runs the `network`, and the `cache` folder for converted networks.

    `runtime` is the setting of this name, `device` `cpu` or `cuda`.
    """
    if device == "cuda":
        return {"search": Kernel("matrix product on CUDA"), "network": Kernel("torch on CUDA"), "cache": _cache()}
    return {"search": _search(), "network": _network(runtime), "cache": _cache()}


def kernel_facts(found: dict[str, Kernel]) -> dict[str, dict[str, Any]]:
    """The entry `kernels` of `info --json`."""
    return {part: asdict(kernel) for part, kernel in found.items()}


def kernel_lines(found: dict[str, Kernel]) -> list[str]:
    """One line for each part, with the reason where it is a slow one."""
    return [f"{part}: {kernel.name}" + (f" ({kernel.reason})" if kernel.reason else "") for part, kernel in found.items()]


def cache_folder() -> Path | None:
    """`offnominal` in the user's cache folder; None for a user who has no home."""
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
    wanted = " or ".join(INSTRUCTIONS.values())
    return Kernel(slow, False, f"this processor has no int8 dot products, {wanted}")


def _extension() -> Any:
    """The C extension, without the package that it belongs to, which imports torch; None where it was not compiled.

    Raises:
        ImportError: it is there and cannot be loaded.
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
        return Kernel("torch", False, "as asked by runtime = torch; OpenVINO is faster on most CPUs")
    if importlib.util.find_spec("openvino") is None:
        return Kernel("torch", False, "OpenVINO is not installed: pip install openvino")
    try:
        return Kernel(f"OpenVINO {version('openvino')}")
    except PackageNotFoundError:
        return Kernel("OpenVINO")


def _cache() -> Kernel:
    slow = "every run converts the network anew"
    folder = cache_folder()
    if folder is None:
        return Kernel("none", False, f"this user has no home folder, so {slow}: set XDG_CACHE_HOME to a writable folder")
    try:
        with _made(folder), tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = f"cannot be written: {error.strerror or error}"
        return Kernel(str(folder), False, f"{why}, so {slow}: set XDG_CACHE_HOME to a writable folder")
    return Kernel(str(folder))


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder exists inside; those that were made for this are removed again."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for one in missing:
            with contextlib.suppress(OSError):
                one.rmdir()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
