"""The public names of the package and its subpackages."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import offnominal

PACKAGES = ["offnominal", *(f"offnominal.{info.name}" for info in pkgutil.iter_modules(offnominal.__path__) if info.ispkg)]


@pytest.mark.parametrize("package_name", PACKAGES)
def test_exported_names_exist_and_are_sorted(package_name: str) -> None:
    package = importlib.import_module(package_name)
    exported = getattr(package, "__all__", [])
    assert len(set(exported)) == len(exported)
    classes = [name for name in exported if name[0].isupper() and name != name.upper()]
    assert classes == sorted(classes)
    for name in exported:
        assert getattr(package, name) is not None
        assert name in dir(package)


def test_unknown_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        _ = offnominal.Detektor
