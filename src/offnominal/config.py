"""Settings of a fit: frozen and strict. An unknown name is an error that suggests the nearest known name."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from offnominal.errors import SettingsError, suggest
from offnominal.gates import Gate, Gates, MmPerPixel, Zone
from offnominal.roi import RegionOfInterest
from offnominal.setting_values import (
    parse_area,
    parse_bank,
    parse_bytes,
    parse_length,
    parse_mm_per_pixel,
    parse_names,
    parse_path,
    parse_region,
    parse_share,
    parse_size,
)
from offnominal.types import Resize

DEFAULT_BACKBONE = "efficientnet-lite0+efficientnet-lite0@1.5"
#: `bank="auto"` takes this share of the patches within these limits. A very small coreset depends on its starting point. A very
#: large one costs time with each image, and a fit in shards holds one of each shard.
AUTO_BANK_SHARE, AUTO_BANK_LIMITS = 0.01, (1000, 50_000)
#: Upper limit of weights and noise; keeps all scores finite in float32.
MAX_WEIGHT = 1000.0
#: Upper limit of the smoothing sigma in network pixels, the size of a default image.
MAX_SMOOTHING = 256.0
#: Defaults that each preset changes; `benchmarks/presets.py` measures them.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"backbone": "efficientnet-lite0"},
    "balanced": {},
    "accurate": {"backbone": "efficientnet-lite2+efficientnet-lite2@1.5"},
}


Size = Annotated[tuple[int, int], BeforeValidator(parse_size)]


class Fusion(BaseModel):
    """Weights of the signals in the patch score.

    Each signal is first standardised on held-out normal patches. By default only the distance counts: influence did not
    improve the score on data sets it was not tuned on.

    Examples
    --------
    >>> Fusion(influence=0.5).weights
    (1.0, 0.5, 0.0)
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    distance: float = Field(1.0, ge=0, le=MAX_WEIGHT, description="Weight of the mean distance to the nearest bank patches.")
    influence: float = Field(0.0, ge=0, le=MAX_WEIGHT, description="Weight of the length of the influence.")
    response: float = Field(0.0, ge=0, le=MAX_WEIGHT, description="Weight of the response to the proposed noise.")

    @model_validator(mode="after")
    def _has_weight(self) -> Fusion:
        if self.distance + self.influence + self.response <= 0:
            raise ValueError("at least one signal needs a weight above 0")
        return self

    @property
    def weights(self) -> tuple[float, float, float]:
        """Weights in the order of `scoring.SIGNALS`: distance, influence, response."""
        return self.distance, self.influence, self.response


class Settings(BaseModel):
    """All settings of a fit. The same settings, data and versions give the same model file.

    The description of each field is the help text of the command-line option of that name.

    Examples
    --------
    >>> settings = Settings(image_size=256, false_alarm_rate=0.005)
    >>> settings.image_size, settings.false_alarm_rate, settings.neighbors
    ((256, 256), 0.005, 9)
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    preset: Literal["fast", "balanced", "accurate"] = Field(
        "balanced", description="Defaults for the other settings: fast, balanced or accurate."
    )
    backbone: str = Field(
        DEFAULT_BACKBONE,
        min_length=1,
        description="Members of the model, joined by +, each with its own memory bank: efficientnet-lite0, efficientnet-lite2 "
        "(efficientnet-lite1 if installed) or a timm name. NAME@1.5 runs at 1.5 times the image size.",
    )
    layers: Annotated[tuple[str, ...] | None, BeforeValidator(parse_names)] = Field(
        None,
        description="Feature maps, comma-separated. Unset: strides 8 and 16, or two middle blocks of a vision transformer.",
    )
    dimensions: int | None = Field(
        None, ge=1, description="Number of channels after adaptive average pooling. Unset: all channels."
    )
    image_size: Size = Field(
        (256, 256),
        description="Network input in pixels: the short side, or height x width. Vision transformers default to up to 448.",
    )
    resize: Resize = Field(
        "area",
        description="area: keep the aspect ratio, with the same number of pixels for all images; keep: keep the aspect ratio, "
        "with the same short side; squash: resize to height x width.",
    )
    roi: Annotated[RegionOfInterest | Path | None, BeforeValidator(parse_region)] = Field(
        None,
        exclude=True,
        description="Region of interest: an image whose white pixels count, or polygons in JSON. Other pixels are ignored.",
    )
    ignore: Annotated[RegionOfInterest | Path | None, BeforeValidator(parse_region)] = Field(
        None, exclude=True, description="Pixels to ignore: an image whose white pixels are ignored, or polygons in JSON."
    )
    align: Literal["off", "shift", "rigid", "similarity"] = Field(
        "off",
        description="Bring each image to a reference image: by shift, rigid (shift and rotation), similarity (also scale), or "
        "off.",
    )
    reference: Annotated[Path | None, BeforeValidator(parse_path)] = Field(
        None,
        exclude=True,
        description="Reference image of the alignment, on which a region of interest is drawn. Unset: a typical normal image.",
    )
    mm_per_pixel: Annotated[MmPerPixel | None, BeforeValidator(parse_mm_per_pixel)] = Field(
        None, description="Size of a pixel of the original image in mm: one number, or width,height."
    )
    min_area: Annotated[str | None, BeforeValidator(parse_area)] = Field(
        None, description="Smallest area of a region that counts, such as 0.3mm2 or 40px2."
    )
    min_length: Annotated[str | None, BeforeValidator(parse_length)] = Field(
        None, description="Smallest length of a region that counts, such as 1mm or 20px."
    )
    zones: Annotated[tuple[Zone, ...] | Path | None, BeforeValidator(parse_path)] = Field(
        None, exclude=True, description="Zones with limits of their own: a JSON file with name, polygon and gate of each."
    )
    tile: int | None = Field(
        None, description="Inspect large images in tiles of this side in network pixels, such as 512, at full resolution."
    )
    pixels_per_mm: float | None = Field(
        None, gt=0, description="With tile: network pixels for each mm, in place of full resolution. Needs mm_per_pixel."
    )
    smallest_defect: Annotated[str | None, BeforeValidator(parse_length)] = Field(
        None, description="Smallest defect to find, such as 0.2mm or 10px: fit says which image size or tile it needs."
    )
    exposure: Literal["auto", "keep"] = Field(
        "auto", description="auto: correct the exposure if the lighting of the normal images varies; keep: never correct it."
    )
    bank: Annotated[float | int | Literal["auto"], BeforeValidator(parse_bank)] = Field(
        "auto",
        description="Patches in each memory bank: a share such as 0.01, a number such as 5000, or auto: 1 %, 1000 to 50000.",
    )
    sampler: Literal["greedy", "random"] = Field("greedy", description="Coreset sampler: greedy (k-center) or random.")
    neighbors: int = Field(9, ge=1, le=100, description="Number of neighbours for the influence.")
    distance_neighbors: int = Field(2, ge=1, le=100, description="Number of neighbours for the mean distance.")
    fusion: Fusion = Field(
        default_factory=lambda: Fusion.model_validate({}),
        description="Weights of the signals distance, influence and response in the patch score.",
    )
    noise_range: tuple[float, float] = Field(
        (0.01, 0.5),
        description="Smallest and largest standard deviation of the proposed noise, in units of the standardised features.",
    )
    smoothing: float = Field(
        4.0, ge=0, le=MAX_SMOOTHING, description="Sigma of the Gaussian that smooths the anomaly map, in network pixels."
    )
    halo: float = Field(
        2.0, ge=0, le=8, description="Radius, in patches, within which spatial leakage of a defect is suppressed; 0: off."
    )
    false_alarm_rate: float = Field(0.01, gt=0, lt=1, description="Share of good images that may be flagged.")
    calibration: Literal["auto", "folds", "leave-one-out", "split"] = Field(
        "auto",
        description="How normal images are held out: folds (each fifth is scored by a bank built without it), leave-one-out "
        "(faster, approximate), split (exact; one fifth is used for calibration only), or auto (by the number of images).",
    )
    contamination: Annotated[float | Literal["auto"], BeforeValidator(parse_share)] = Field(
        0.0, description="Share of suspect training images to leave out, such as 0.05, or auto."
    )
    memory: Annotated[int, BeforeValidator(parse_bytes)] = Field(
        2_000_000_000,
        gt=0,
        description="Memory limit, such as 800MB: patches and maps beyond it spill to disk, larger images are refused.",
    )
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="Network runtime: auto, torch or openvino. auto uses OpenVINO on a CPU if it is installed."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Numeric precision of the network: auto (float32), float32, bfloat16 or float16."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device: auto, cpu or cuda. auto uses CUDA if it is available."
    )
    batch_size: int = Field(
        4,
        ge=1,
        le=1024,
        description="Images in a batch. A GPU is faster with more; a CPU with many cores gives each image a thread.",
    )
    seed: int = Field(0, ge=0, description="Seed of the coreset sampler.")
    thumbnails: bool = Field(
        True, description="Keep thumbnails of the training images in the model file, to show them as evidence."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Settings:
        if min(self.image_size) < 64 or max(self.image_size) > 4096:
            raise ValueError("image_size must lie between 64 and 4096 pixels")
        if self.bank != "auto" and (not 0 < self.bank < math.inf or (self.bank > 1 and self.bank != int(self.bank))):
            raise ValueError("bank must be a share above 0 and up to 1, or a whole number of patches")
        if not 0 < self.noise_range[0] <= self.noise_range[1] <= MAX_WEIGHT:
            raise ValueError(f"noise_range must be two numbers, 0 < low <= high <= {MAX_WEIGHT:g}")
        if self.contamination != 0 and self.calibration == "split":
            raise ValueError("contamination needs scores of all images: use it with calibration folds or leave-one-out")
        if self.reference is not None and self.align == "off":
            raise ValueError("reference needs an alignment: set align to shift, rigid or similarity")
        if self.align != "off" and (self.roi is not None or self.ignore is not None) and self.reference is None:
            raise ValueError("a region of interest with an alignment needs reference: the image that the region was drawn on")
        if self.tile is not None and (self.tile % 32 or not 256 <= self.tile <= 4096):
            raise ValueError("tile must be a multiple of 32 from 256 to 4096 network pixels")
        if self.tile is not None and self.resize != "area":
            raise ValueError("tile keeps the aspect ratio; leave resize out")
        if self.pixels_per_mm is not None and (self.tile is None or self.mm_per_pixel is None):
            raise ValueError("pixels_per_mm needs tile and mm_per_pixel")
        if self.align != "off" and self.zones and self.reference is None:
            raise ValueError("zones with an alignment need reference: the image that the zones were drawn on")
        return self

    @property
    def region(self) -> RegionOfInterest | None:
        """The region of interest; None if the whole image counts. Raises `ValueError` before its files were read."""
        if isinstance(self.roi, Path) or self.ignore is not None:
            raise ValueError("the files of roi and ignore were not read; see images.with_region")
        return self.roi

    @property
    def density(self) -> float:
        """With tiles, network pixels for each pixel of the original, at least."""
        if self.pixels_per_mm is None or self.mm_per_pixel is None:
            return 1.0
        return self.pixels_per_mm * max(self.mm_per_pixel)

    @property
    def gates(self) -> Gates:
        """Gates of the image and its zones. Raises `ValueError` before their files were read."""
        if isinstance(self.zones, Path):
            raise ValueError("the file of zones was not read; see images.with_region")
        return Gates(Gate(self.min_area, self.min_length), self.zones or (), self.mm_per_pixel, self.region)

    def bank_size(self, patches: int) -> int:
        """Number of bank patches to select from `patches` patches; at least 1.

        Examples
        --------
        >>> Settings(bank=0.01).bank_size(50_000), Settings(bank=5000).bank_size(50_000), Settings().bank_size(50_000)
        (500, 5000, 1000)
        """
        if self.bank == "auto":
            least, most = AUTO_BANK_LIMITS
            return max(1, min(patches, max(round(AUTO_BANK_SHARE * patches), least), most))
        share = isinstance(self.bank, float) and self.bank <= 1
        return max(1, min(patches, round(self.bank * patches) if share else int(self.bank)))


def settings_from(**values: Any) -> Settings:
    """Create `Settings` from loosely typed values, such as strings from a command line.

    Explicit values take precedence over the preset. An `image_size` of height and width implies `resize="squash"`.

    Parameters
    ----------
    **values
        Settings by name.

    Returns
    -------
    Settings

    Raises
    ------
    SettingsError
        If a name is unknown (the message suggests the nearest one) or a value is out of range.

    Examples
    --------
    >>> settings = settings_from(image_size="256x640", memory="800MB", bank="5000")
    >>> settings.image_size, settings.resize, settings.memory, settings.bank
    ((256, 640), 'squash', 800000000, 5000)
    >>> settings_from(neighbours=5)
    Traceback (most recent call last):
    offnominal.errors.SettingsError: unknown setting 'neighbours': did you mean 'neighbors'?
    """
    for name in values:
        if name not in Settings.model_fields:
            raise SettingsError(f"unknown setting '{name}': {suggest(name, Settings.model_fields)}")
    preset = values.get("preset")
    values = {**(PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **values}
    if _has_two_sides(values.get("image_size")):
        values = {"resize": "squash", **values}
    try:
        return Settings(**{name: _plain(value) for name, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        parents = () if error.title == Settings.__name__ else (error.title.lower(),)
        path = ".".join(str(part) for part in (*parents, *first["loc"])) or "settings"
        if first["type"] == "extra_forbidden":
            raise SettingsError(f"unknown setting '{path}': {suggest(path.split('.')[-1], Fusion.model_fields)}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"setting {path} = {first['input']!r}: {message}" if parents or first["loc"] else message) from None


def _has_two_sides(size: object) -> bool:
    if isinstance(size, str):
        return re.search("[x×]", size) is not None
    return isinstance(size, (list, tuple)) and len(size) > 1


def _plain(value: Any) -> Any:
    """Plain Python values, which strict pydantic accepts."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    if isinstance(value, (list, tuple)):
        return tuple(_plain(part) for part in value)
    if isinstance(value, dict):
        return Fusion.model_validate(value) if set(value) <= set(Fusion.model_fields) else value
    return value
