"""Options that several commands have; options and a configuration file -> a detector that is to be fitted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offnominal.weights_file import require_weights

if TYPE_CHECKING:
    from offnominal.datasets import Pages
    from offnominal.detector import Detector


def _existing_weights(path: Path | None) -> Path | None:
    """Refuses a wrong file before anything heavy is imported."""
    if path is not None:
        require_weights(path)
    return path


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Weights = Annotated[
    Path | None, typer.Option(help="Weights file of a backbone that is not embedded.", callback=_existing_weights)
]
RuntimeOption = Annotated[str | None, typer.Option(help="auto, torch or openvino. [default: auto]")]
PrecisionOption = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16. [default: auto = float32]")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda. [default: auto]")]
BatchOption = Annotated[
    int | None,
    typer.Option(help="Images in a batch; more pay on a GPU; on a CPU, where there are many, each has a thread. [default: 4]"),
]
PagesOption = Annotated[
    str | None,
    typer.Option(help="all: read each page of a file as an image, named stack.tif#2; one: refuse such files. [default: one]"),
]
MemoryOption = Annotated[
    str | None, typer.Option(help="Memory of one image, and of maps before they go to disk. [default: that of the fit]")
]


def pages_from(value: str | None) -> Pages:
    """`one`, also where nothing is given, or `all`. Raises `SettingsError` for another word."""
    from offnominal.errors import SettingsError

    if value not in (None, "one", "all"):
        raise SettingsError(f"--pages {value}: give all or one")
    return "all" if value == "all" else "one"


def detector_from(options: Mapping[str, Any], config: Path | None, weights: Path | None) -> Detector:
    """A detector with the options that were given (not None), and with what `config` says of the others.

    Raises:
        InputError, SettingsError: the file cannot be read, or a setting is unknown or out of its range.
    """
    from offnominal.config import read_settings
    from offnominal.errors import SettingsError

    settings = read_settings(config) if config else {}
    settings |= {name: value for name, value in options.items() if value is not None}
    from_file = settings.pop("weights", None)
    if not isinstance(from_file, str | None):
        raise SettingsError(f"setting weights = {from_file!r}: give the path of a file, in quotes")
    if from_file is not None and weights is None:
        require_weights(Path(from_file))
    from offnominal.detector import Detector

    return Detector(weights=weights or from_file, **settings)
