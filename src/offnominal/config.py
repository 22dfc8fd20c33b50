"""Settings of a fit: frozen, strict, unknown names refused with the nearest known one."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from offnominal.errors import InputError, SettingsError, nearest
from offnominal.types import Resize

DEFAULT_BACKBONE = "efficientnet-lite0+efficientnet-lite0@1.5"
#: The bank `auto`: this share of the patches, and at least so many.
AUTO_SHARE, AUTO_FEWEST = 0.01, 1000
#: The largest weight, and the widest Gaussian, in network pixels: more has no use, and numbers stay finite.
MOST_WEIGHT, WIDEST = 1000.0, 256.0
#: What a preset sets where nothing else is given; `benchmarks/presets.py` measures them.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"backbone": "efficientnet-lite0"},
    "balanced": {},
    "accurate": {"backbone": "efficientnet-lite2+efficientnet-lite2@1.5"},
}


def _size(value: object) -> object:
    """`256`, `"256"`, `"256x640"` or `[256, 640]` -> `(height, width)`."""
    if isinstance(value, str):
        parts = re.fullmatch(r"\s*(\d+)(?:\s*[x×]\s*(\d+))?\s*", value)
        if parts is None:
            raise ValueError("give one number, or height x width such as 256x640")
        value = [int(part) for part in parts.groups() if part]
    if isinstance(value, int):
        value = [value]
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = [value[0], value[0]]
    return tuple(value) if isinstance(value, list) else value


def _bytes(value: object) -> object:
    """`"2GB"`, `"800 MB"` or a number of bytes -> int."""
    if isinstance(value, str):
        parts = re.fullmatch(r"\s*([\d.]+)\s*([kKmMgGtT]?)i?[bB]?\s*", value)
        if parts is None:
            raise ValueError("give a size such as 800MB or 2GB")
        return int(float(parts[1]) * 1000 ** " kmgt".index(parts[2].lower() or " "))
    return value


def _names(value: object) -> object:
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
        if not value:
            raise ValueError("name one layer or more, separated by commas")
    return tuple(value) if isinstance(value, list) else value


def _bank(value: object) -> object:
    """`"auto"`, a share or a number of patches (as text too)."""
    if isinstance(value, str) and value != "auto":
        try:
            value = float(value) if "." in value or "e" in value.lower() else int(value)
        except ValueError:
            raise ValueError("give auto, a share such as 0.01, or a number of patches such as 5000") from None
    return value


def _share(value: object) -> object:
    """`"auto"`, or a number from 0 to below one half (as text too) -> `"auto"` or float."""
    if value == "auto":
        return value
    message = "give auto, or a share from 0 to below 0.5 such as 0.05"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(message)
    try:
        share = float(value)
    except ValueError:
        raise ValueError(message) from None
    if not 0 <= share < 0.5:
        raise ValueError(message)
    return share


Size = Annotated[tuple[int, int], BeforeValidator(_size)]


class Fusion(BaseModel):
    """Weights of the signals in the patch score; each signal is standardised on held-out normal patches first.

    By default the distance alone counts: influence gained nothing on sets that it was not tuned on.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    distance: float = Field(1.0, ge=0, le=MOST_WEIGHT)
    influence: float = Field(0.0, ge=0, le=MOST_WEIGHT)
    response: float = Field(0.0, ge=0, le=MOST_WEIGHT)

    @model_validator(mode="after")
    def _some_weight(self) -> Fusion:
        if self.distance + self.influence + self.response <= 0:
            raise ValueError("at least one signal needs a weight above 0")
        return self

    @property
    def weights(self) -> tuple[float, float, float]:
        """Distance, influence, response: the order of `scoring.SIGNALS`."""
        return self.distance, self.influence, self.response


class Settings(BaseModel):
    """Everything that decides what `fit` makes. The same settings, data and versions give the same model file."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    preset: Literal["fast", "balanced", "accurate"] = Field("balanced", description="defaults for the other settings")
    backbone: str = Field(
        DEFAULT_BACKBONE,
        min_length=1,
        description="members of the model: a backbone each, joined by +; NAME@1.5 runs at 1.5 times the image size",
    )
    layers: Annotated[tuple[str, ...] | None, BeforeValidator(_names)] = Field(None, description="feature maps to use")
    dimensions: int | None = Field(None, ge=1, description="channels after adaptive average pooling")
    image_size: Size = Field((256, 256), description="the short side of usual images, or height x width to squash to")
    resize: Resize = Field(
        "area", description="keep the aspect and the number of pixels (area) or the short side (keep), or squash to a size"
    )
    exposure: Literal["auto", "keep"] = Field(
        "auto", description="auto: correct the exposure if the lighting of normal images varies; keep: never"
    )
    bank: Annotated[float | int | Literal["auto"], BeforeValidator(_bank)] = Field(
        "auto", description="share or number of patches, or auto: 1 %, and at least 1,000"
    )
    sampler: Literal["greedy", "random"] = Field("greedy", description="coreset sampler")
    neighbors: int = Field(9, ge=1, le=100, description="K of the influence")
    distance_neighbors: int = Field(2, ge=1, le=100, description="K of the mean distance")
    fusion: Fusion = Field(default_factory=lambda: Fusion.model_validate({}))
    noise_range: tuple[float, float] = Field((0.01, 0.5), description="smallest and largest proposed noise")
    smoothing: float = Field(4.0, ge=0, le=WIDEST, description="sigma of the Gaussian on the map, in network pixels")
    halo: float = Field(
        2.0, ge=0, le=8, description="radius in patches within which spatial leakage of a defect is suppressed; 0: none"
    )
    false_alarm_rate: float = Field(0.01, gt=0, lt=1, description="share of good images that may be flagged")
    calibration: Literal["auto", "folds", "leave-one-out", "split"] = Field(
        "auto", description="how the scores of normal images are held out"
    )
    contamination: Annotated[float | Literal["auto"], BeforeValidator(_share)] = Field(
        0.0, description="share of the training images to leave out as suspects, or auto"
    )
    memory: Annotated[int, BeforeValidator(_bytes)] = Field(2_000_000_000, gt=0, description="patches beyond it go to disk")
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: int = Field(4, ge=1, le=1024, description="images in a batch; more pay on a GPU; on a CPU each has a thread")
    seed: int = Field(0, ge=0)
    thumbnails: bool = Field(True, description="keep small pictures of the training images in the model file")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if min(self.image_size) < 64 or max(self.image_size) > 4096:
            raise ValueError("image_size must lie between 64 and 4096 pixels")
        if self.bank != "auto" and (not 0 < self.bank < math.inf or (self.bank > 1 and self.bank != int(self.bank))):
            raise ValueError("bank must be a share above 0 and up to 1, or a whole number of patches")
        if not 0 < self.noise_range[0] <= self.noise_range[1] <= MOST_WEIGHT:
            raise ValueError(f"noise_range must be two numbers, 0 < low <= high, and high at most {MOST_WEIGHT:g}")
        if self.contamination != 0 and self.calibration == "split":
            raise ValueError("contamination finds suspects among all images: use it with calibration folds or leave-one-out")
        return self

    def bank_size(self, patches: int) -> int:
        """How many of `patches` the memory bank takes: a share below or at 1 (float), else a number; at least 1.

        With `auto` a share of `AUTO_SHARE`, and at least `AUTO_FEWEST`: the few patches that a share leaves of a small set
        depend much on where the greedy choice starts.
        """
        if self.bank == "auto":
            return max(1, min(patches, max(round(AUTO_SHARE * patches), AUTO_FEWEST)))
        share = isinstance(self.bank, float) and self.bank <= 1
        return max(1, min(patches, round(self.bank * patches) if share else int(self.bank)))


def settings_from(**values: Any) -> Settings:
    """`Settings` from loose values (strings as a command line gives them are understood).

    What is given goes before what the preset says. Whoever gives height and width wants them, so `resize` is then squash where
    it is not given.

    Raises:
        SettingsError: a name is unknown (the nearest is suggested) or a value is out of its range.
    """
    for name in values:
        if name not in Settings.model_fields:
            raise SettingsError(f"unknown setting '{name}': {nearest(name, Settings.model_fields)}")
    preset = values.get("preset")
    values = {**(PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **values}
    if _height_and_width(values.get("image_size")):
        values = {"resize": "squash", **values}
    try:
        return Settings(**{name: _plain(value) for name, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        inside = () if error.title == Settings.__name__ else (error.title.lower(),)
        place = ".".join(str(part) for part in (*inside, *first["loc"])) or "settings"
        if first["type"] == "extra_forbidden":
            raise SettingsError(f"unknown setting '{place}': {nearest(place.split('.')[-1], Fusion.model_fields)}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"setting {place} = {first['input']!r}: {message}" if inside or first["loc"] else message) from None


def _height_and_width(size: object) -> bool:
    if isinstance(size, str):
        return re.search("[x×]", size) is not None
    return isinstance(size, (list, tuple)) and len(size) > 1


def _plain(value: Any) -> Any:
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()  # strict about types, pydantic would refuse a number of numpy's
    if isinstance(value, (list, tuple)):
        return tuple(_plain(part) for part in value)
    if isinstance(value, dict):
        return Fusion.model_validate(value) if set(value) <= set(Fusion.model_fields) else value
    return value


def read_settings(path: Path) -> dict[str, Any]:
    """The loose values of a TOML file, dashes in names read as underscores; checked by `settings_from`."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid TOML ({error})") from None
    return {name.replace("-", "_"): value for name, value in values.items()}
