"""Vision transformers of timm as feature networks, for images whose sides are multiples of the patch.

timm resamples the position embeddings in Python, so a trace is fixed to one image size. Here the resampling is a product of
matrices that are computed from the size inside the graph, so that one conversion serves every size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from offnominal.errors import BackboneError
from offnominal.features.weights import fill

#: Modules of timm with transformers of plain attention over patches and class, register or distillation tokens.
_EVA = "timm.models.eva"
_MODULES = ("timm.models.vision_transformer", "timm.models.deit", _EVA)
#: Default blocks, as shares of the depth. The last blocks describe the image rather than the patch.
_MIDDLE = (5 / 12, 2 / 3)
#: Default image size: this many patches per side, but no more than this many pixels.
PATCHES_A_SIDE, LARGEST_DEFAULT = 32, 448


class TransformerMaps(nn.Module):
    """Patch tokens of some blocks: (B, 3, H, W) normalised -> list of (B, C, H / patch, W / patch), one map per block.

    H and W are multiples of the patch. Class, register and distillation tokens take part in the attention and are not returned.

    Parameters
    ----------
    network
        A `VisionTransformer` or `Eva` of timm.
    blocks
        Indices of the blocks, ascending.
    """

    def __init__(self, network: Any, blocks: Sequence[int]) -> None:
        super().__init__()
        self.selected = tuple(blocks)
        self.patch = int(network.patch_embed.patch_size[0])
        self.channels = int(network.embed_dim)
        self.proj, self.norm = network.patch_embed.proj, network.patch_embed.norm
        self.norm_pre = network.norm_pre
        self.rope = getattr(network, "rope", None)
        self.blocks = nn.ModuleList(network.blocks[: self.selected[-1] + 1])
        prefix, positions = _tokens(network), network.pos_embed
        self.prefix_tokens = 0 if prefix is None else prefix.shape[1]
        if positions is not None and not network.no_embed_class and prefix is not None:
            prefix, positions = prefix + positions[:, : self.prefix_tokens], positions[:, self.prefix_tokens :]
        if positions is not None:
            positions = positions.reshape(*network.patch_embed.grid_size, self.channels)
        self.prefix = None if prefix is None else nn.Parameter(prefix.detach().clone())
        self.positions = None if positions is None else nn.Parameter(positions.detach().clone())

    def forward(self, images: Tensor) -> list[Tensor]:
        patches = self.proj(images)
        height, width = patches.shape[2], patches.shape[3]
        tokens = self.norm(patches.flatten(2).transpose(1, 2))
        if self.positions is not None:
            tokens = tokens + resampled(self.positions, height, width).reshape(1, -1, self.channels)
        if self.prefix is not None:
            tokens = torch.cat([self.prefix.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.norm_pre(tokens)
        rotary = {} if self.rope is None else {"rope": _rotary(self.rope, height, width)}
        maps = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, **rotary)
            if index in self.selected:
                patch_tokens = tokens[:, self.prefix_tokens :].transpose(1, 2)
                maps.append(patch_tokens.reshape(-1, self.channels, height, width))
        return maps


def _tokens(network: Any) -> Tensor | None:
    """Tokens that precede the patch tokens, (1, P, C), in the order of timm; None if there are none."""
    names = ("cls_token", "reg_token", "dist_token")
    tokens = [token for token in (getattr(network, name, None) for name in names) if token is not None]
    return torch.cat(tokens, dim=1) if tokens else None


def resampled(positions: Tensor, height: int, width: int) -> Tensor:
    """Resample position embeddings (H, W, C) to (height, width, C), which may be dynamic in a trace.

    Bicubic with antialiasing, as in `torch.nn.functional.interpolate`.

    Examples
    --------
    >>> resampled(torch.ones(14, 14, 8), 16, 20).shape
    torch.Size([16, 20, 8])
    """
    rows, columns, channels = positions.shape
    tall = _bicubic(rows, height, positions) @ positions.reshape(rows, columns * channels)
    return _bicubic(columns, width, positions) @ tall.reshape(-1, columns, channels)


def _bicubic(old: int, new: int, like: Tensor) -> Tensor:
    """Interpolation weights (new, old): Keys' cubic kernel with a = -0.5, widened when downsampling.

    References
    ----------
    Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions on Acoustics, Speech, and Signal
    Processing 29, 1981.
    """
    spacing = old / new
    spread = torch.clamp(torch.as_tensor(spacing, dtype=like.dtype, device=like.device), min=1.0)
    centres = (torch.arange(new, dtype=like.dtype, device=like.device) + 0.5) * spacing
    samples = torch.arange(old, dtype=like.dtype, device=like.device) + 0.5
    x = ((samples - centres[:, None]) / spread).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return weights / weights.sum(1, keepdim=True)


def _rotary(rope: Any, height: int, width: int) -> Tensor:
    """Sines and cosines of the rotary position embedding, (height * width, 2 D), also for dynamic sizes."""
    if type(rope).__name__ != "RotaryEmbeddingDinoV3":
        embedding: Tensor = rope.get_embed(shape=(height, width))
        return embedding
    # timm converts the size to a Python number here, which would fix a trace to one size.
    sides = [
        2 * ((torch.arange(side, dtype=torch.float32, device=rope.periods.device) + 0.5 + rope.grid_offset) / side) - 1
        for side in (height, width)
    ]
    coordinates = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat(rope._get_pos_embed_from_coords(coordinates), dim=-1)


def _has_known_rotation(network: Any) -> bool:
    """Whether `_rotary` supports the rotary embedding of the network."""
    rope: Any = getattr(network, "rope", None)
    if type(rope).__name__ == "RotaryEmbeddingDinoV3":
        return bool(rope.normalize_coords == "separate" and rope.grid_indexing == "ij")
    return rope is None or type(rope).__name__ == "RotaryEmbeddingCat"


def is_transformer(timm: Any, timm_name: str) -> bool:
    """Whether `transformer_maps` can build the network."""
    return timm.models.model_entrypoint(timm_name).__module__ in _MODULES


def transformer_maps(
    timm: Any,
    name: str,
    timm_name: str,
    layers: tuple[str, ...] | None,
    state: Mapping[str, Tensor] | None,
    what: str,
    *,
    download: bool,
) -> tuple[tuple[str, ...], TransformerMaps]:
    """Build a transformer, and return the names of its blocks in use with it.

    Parameters
    ----------
    timm
        The imported library.
    name, timm_name
        Name given by the user, and in timm.
    layers
        Names of blocks such as `blocks.4`; None for the default blocks.
    state
        Weights in the layout of timm or of the authors. Position embeddings of another size are resampled.
    what
        Description of `state` for messages.
    download
        Whether to take the weights from timm's hub.

    Raises
    ------
    BackboneError
        The architecture is not supported, a layer does not exist, or the weights do not fit.
    """
    # With a dynamic image size, Eva computes its rotary embedding for each size.
    options = {"dynamic_img_size": True} if timm.models.model_entrypoint(timm_name).__module__ == _EVA else {}
    try:
        network = timm.create_model(timm_name, pretrained=download, num_classes=0, **options)
    except Exception as error:  # noqa: BLE001 - no network, no such weights, a full disk
        if download:
            raise BackboneError(
                f"the weights of '{name}' are not available and cannot be downloaded; give them with --weights FILE"
            ) from None
        raise BackboneError(f"backbone '{name}' cannot be built ({str(error).splitlines()[0][:100]})") from None
    plain = type(network.patch_embed) is timm.layers.PatchEmbed and len(set(network.patch_embed.patch_size)) == 1
    if not (plain and _has_known_rotation(network)):
        raise BackboneError(f"backbone '{name}' is a transformer of an unsupported kind; choose another")
    available = [f"blocks.{index}" for index in range(len(network.blocks))]
    chosen = layers if layers is not None else tuple(available[index] for index in middle_blocks(len(available)))
    unknown = [layer for layer in chosen if layer not in available]
    if unknown or not chosen:
        raise BackboneError(f"{name} has no layer '{unknown[0] if unknown else ''}'; its layers are {', '.join(available)}")
    blocks = sorted({available.index(layer) for layer in chosen})
    network.blocks = network.blocks[: blocks[-1] + 1]
    for unused in ("norm", "fc_norm", "head", "head_dist", "attn_pool"):
        if isinstance(getattr(network, unused, None), nn.Module):
            setattr(network, unused, nn.Identity())
    if state is not None:
        fill(network, _in_timms_layout(timm, network, state, what), what)
    return tuple(available[index] for index in blocks), TransformerMaps(network, blocks)


def middle_blocks(depth: int) -> tuple[int, ...]:
    """Return the indices of the default blocks.

    Examples
    --------
    >>> middle_blocks(12)
    (4, 7)
    """
    return tuple(sorted({max(0, round(share * depth) - 1) for share in _MIDDLE}))


def default_side(patch: int) -> int:
    """Return the default image side in network pixels.

    Examples
    --------
    >>> default_side(14), default_side(16)
    (448, 448)
    """
    return min(PATCHES_A_SIDE, round(LARGEST_DEFAULT / patch)) * patch


def _in_timms_layout(timm: Any, network: nn.Module, state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    family = timm.models.eva if isinstance(network, timm.models.eva.Eva) else timm.models.vision_transformer
    options = {} if family is timm.models.eva else {"adapt_layer_scale": True}
    try:
        converted: dict[str, Tensor] = family.checkpoint_filter_fn(dict(state), network, **options)
    except Exception as error:  # noqa: BLE001 - missing or misshapen tensors raise many kinds of errors
        raise BackboneError(f"{what}: do not fit ({(str(error).splitlines() or [''])[0][:100]})") from None
    return converted
