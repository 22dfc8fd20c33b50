"""Options that several commands share. Settings become options with the help text of `offnominal.config.Settings`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offnominal.errors import SettingsError
from offnominal.weights_file import require_weights

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from offnominal.detector import Detector

#: Settings of `fit` that are options; the others are read from a settings file.
FIT_SETTINGS = (
    "preset",
    "backbone",
    "layers",
    "dimensions",
    "image_size",
    "resize",
    "roi",
    "ignore",
    "align",
    "reference",
    "mm_per_pixel",
    "min_area",
    "min_length",
    "zones",
    "tile",
    "pixels_per_mm",
    "smallest_defect",
    "exposure",
    "bank",
    "sampler",
    "neighbors",
    "false_alarm_rate",
    "calibration",
    "contamination",
    "memory",
    "runtime",
    "precision",
    "device",
    "batch_size",
    "seed",
    "thumbnails",
)
#: Settings that have an effect on an audit.
AUDIT_SETTINGS = tuple(name for name in FIT_SETTINGS if name not in ("false_alarm_rate", "calibration", "thumbnails"))
#: Settings that say how a fitted model is run.
RUN_SETTINGS = ("runtime", "precision", "device", "batch_size", "memory", "mm_per_pixel")

_GIVEN = "offnominal.settings"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Command(click.Command):
    """A command that takes settings as options.

    Parameters
    ----------
    settings
        Names of the settings. `given_settings` returns the values that the user gave.
    defaults_from_model
        Whether the defaults of the settings are those that the model was fitted with.
    """

    def __init__(self, *args: Any, settings: tuple[str, ...] = (), defaults_from_model: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings, self._defaults_from_model = settings, defaults_from_model

    @cached_property
    def _options(self) -> list[click.Option]:
        if not self._settings:
            return []
        from offnominal.config import Settings

        return [_option(name, Settings.model_fields[name], self._defaults_from_model) for name in self._settings]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters, the settings, and `--help`."""
        *own, help_option = super().get_params(ctx)
        return [*own, *self._options, help_option]


def path_option(flag: str, help: str, **attributes: Any) -> Decorator:
    """An option that takes a path."""
    return click.option(flag, type=click.Path(path_type=Path), help=help, **attributes)


def _check_weights(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a wrong file before anything heavy is imported."""
    if path is not None:
        require_weights(path)
    return path


def _check_pages(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value not in ("one", "all"):
        raise SettingsError(f"--pages {value}: give all or one")
    return value


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
config_option = path_option("--config", "TOML file with any settings; options take precedence.")
weights_option = path_option("--weights", "Weights file of a backbone that is not embedded.", callback=_check_weights)
pages_option = click.option(
    "--pages",
    default="one",
    callback=_check_pages,
    help="all: each page of a file is an image, named stack.tif#2; one: refuse such files. [default: one]",
)
data_argument = click.argument("data", help="MVTec root, folder of good images, glob in quotes, or manifest.")
model_argument = click.argument("model", help="Model file that fit wrote.", type=click.Path(path_type=Path))


def given_settings(context: click.Context) -> dict[str, Any]:
    """The settings that were given as options, by name."""
    return dict(context.meta.get(_GIVEN, {}))


def detector_from(options: dict[str, Any], config: Path | None, weights: Path | None) -> Detector:
    """A detector with the given options, and with the settings of the file `config` for the others.

    Raises
    ------
    InputError, SettingsError
        The file cannot be read, or a setting is unknown or out of range.
    """
    from offnominal.settings_file import read_settings

    settings = (read_settings(config) if config else {}) | options
    from_file = settings.pop("weights", None)
    if not isinstance(from_file, str | None):
        raise SettingsError(f"setting weights = {from_file!r}: give the path of a file, in quotes")
    if from_file is not None and weights is None:
        require_weights(Path(from_file))
    from offnominal.detector import Detector

    return Detector(weights=weights or from_file, **settings)


def _option(name: str, field: FieldInfo, defaults_from_model: bool) -> click.Option:
    def store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            context.meta.setdefault(_GIVEN, {})[name] = value

    flag = name.replace("_", "-")
    default = "as fitted" if defaults_from_model else _default(name, field)
    help = f"{field.description} [default: {default}]" if default else field.description
    if field.annotation is bool:
        return click.Option([f"--{flag}/--no-{flag}"], default=None, help=help, expose_value=False, callback=store)
    return click.Option([f"--{flag}"], type=_type(field), help=help, expose_value=False, callback=store)


def _type(field: FieldInfo) -> type:
    """Numbers are converted by the command line, everything else by the setting itself."""
    from pydantic import BeforeValidator

    if not any(isinstance(part, BeforeValidator) for part in field.metadata):
        for number in (int, float):
            if field.annotation in (number, number | None):
                return number
    return str


def _default(name: str, field: FieldInfo) -> str | None:
    """The default as a user would write it; None if the setting is unset by default."""
    if name == "memory":
        return f"{field.default / 1e9:g}GB"
    if isinstance(field.default, tuple):
        return "x".join(map(str, dict.fromkeys(field.default)))
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    return None if field.default is None else str(field.default)
