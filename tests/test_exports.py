"""The public names of the package and of its parts."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import offnominal

PACKAGES = ["offnominal", *(f"offnominal.{info.name}" for info in pkgutil.iter_modules(offnominal.__path__) if info.ispkg)]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_exported_name_is_there_and_sorted(name: str) -> None:
    package = importlib.import_module(name)
    exported = getattr(package, "__all__", [])
    assert len(set(exported)) == len(exported)
    classes = [one for one in exported if one[0].isupper() and one != one.upper()]
    assert classes == sorted(classes)
    for one in exported:
        assert getattr(package, one) is not None
        assert one in dir(package)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        _ = offnominal.Detektor
