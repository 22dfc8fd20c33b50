"""Versions of the libraries that affect the numbers of a model."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

#: Packages whose versions the model records, because they affect its numbers.
PACKAGES = ("offnominal", "torch", "timm", "numpy", "openvino", "faiss-cpu", "opencv-python-headless", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`.

    Examples
    --------
    >>> sorted(versions())[:2]
    ['faiss-cpu', 'numpy']
    """
    return {**{name: _version(name) for name in PACKAGES}, "python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
