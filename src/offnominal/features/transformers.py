"""Vision transformers of timm as feature networks, for images of any size in whole patches.

timm resamples the position embeddings to the size of the image in Python, so a trace keeps those of one size. Here the
resampling is a product of matrices that are worked out from the size inside the graph: one conversion serves every size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from offnominal.errors import BackboneError
from offnominal.features.weights import fill

#: Where timm defines transformers of plain attention over patches and class, register or distillation tokens.
_EVA = "timm.models.eva"
_MODULES = ("timm.models.vision_transformer", "timm.models.deit", _EVA)
#: Blocks whose maps are taken by default, as shares of the depth. The last blocks describe the image more than the patch.
_MIDDLE = (5 / 12, 2 / 3)
#: The default image size: as many patches a side, within so many pixels.
PATCHES_A_SIDE, LARGEST_DEFAULT = 32, 448


class TransformerMaps(nn.Module):
    """(B, 3, H, W) normalised, sides in whole patches -> list of (B, C, H / patch, W / patch), one map a block.

    The maps of patches alone: class, register and distillation tokens take part in the attention and are left out.

    Args:
        network: a `VisionTransformer` or `Eva` of timm.
        blocks: indices of the blocks, ascending.
    """

    def __init__(self, network: Any, blocks: Sequence[int]) -> None:
        super().__init__()
        self.wanted = tuple(blocks)
        self.patch = int(network.patch_embed.patch_size[0])
        self.channels = int(network.embed_dim)
        self.proj, self.norm = network.patch_embed.proj, network.patch_embed.norm
        self.norm_pre = network.norm_pre
        self.rope = getattr(network, "rope", None)
        self.blocks = nn.ModuleList(network.blocks[: self.wanted[-1] + 1])
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
            if index in self.wanted:
                of_patches = tokens[:, self.prefix_tokens :].transpose(1, 2)
                maps.append(of_patches.reshape(-1, self.channels, height, width))
        return maps


def _tokens(network: Any) -> Tensor | None:
    """(1, P, C): the tokens before those of the patches, in timm's order; None if there are none."""
    names = ("cls_token", "reg_token", "dist_token")
    found = [token for token in (getattr(network, name, None) for name in names) if token is not None]
    return torch.cat(found, dim=1) if found else None


def resampled(positions: Tensor, height: int, width: int) -> Tensor:
    """(H, W, C) -> (height, width, C), bicubic with antialiasing as by `torch.nn.functional.interpolate`.

    `height` and `width` may be dynamic in a trace.
    """
    rows, columns, channels = positions.shape
    tall = _bicubic(rows, height, positions) @ positions.reshape(rows, columns * channels)
    return _bicubic(columns, width, positions) @ tall.reshape(-1, columns, channels)


def _bicubic(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old): weight of each old sample in each new one. Keys' cubic kernel, a = -0.5; wider where samples get fewer."""
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
    """(height * width, 2 D): sines and cosines of the rotary position embedding, also for dynamic sizes."""
    if type(rope).__name__ != "RotaryEmbeddingDinoV3":
        embedding: Tensor = rope.get_embed(shape=(height, width))
        return embedding
    # timm turns the size into a Python number here, and a trace would keep that of its example.
    sides = [
        2 * ((torch.arange(side, dtype=torch.float32, device=rope.periods.device) + 0.5 + rope.grid_offset) / side) - 1
        for side in (height, width)
    ]
    coordinates = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat(rope._get_pos_embed_from_coords(coordinates), dim=-1)


def _has_known_rotation(network: Any) -> bool:
    """Whether `_rotary` computes the rotary embedding of the network."""
    rope: Any = getattr(network, "rope", None)
    if type(rope).__name__ == "RotaryEmbeddingDinoV3":
        return bool(rope.normalize_coords == "separate" and rope.grid_indexing == "ij")
    return rope is None or type(rope).__name__ == "RotaryEmbeddingCat"


def is_transformer(timm: Any, timm_name: str) -> bool:
    """Whether `transformer_maps` builds it."""
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
    """Names of the blocks in use, and the network.

    Args:
        layers: names of blocks such as `blocks.4`; None for the middle ones.
        state: weights in timm's or the authors' layout; position embeddings of another size are resampled.
        what: what `state` is, for messages.
        download: take the weights from timm's hub.

    Raises:
        BackboneError: the family is not supported, a layer does not exist, or the weights do not fit.
    """
    # Without a fixed size the rotary embedding of Eva is computed for each size.
    options = {"dynamic_img_size": True} if timm.models.model_entrypoint(timm_name).__module__ == _EVA else {}
    try:
        network = timm.create_model(timm_name, pretrained=download, num_classes=0, **options)
    except Exception as error:  # noqa: BLE001 - no network, no such weights, a full disk
        if download:
            raise BackboneError(
                f"no weights of '{name}' at hand and none could be downloaded; give them with --weights FILE"
            ) from None
        raise BackboneError(f"backbone '{name}' cannot be built ({str(error).splitlines()[0][:100]})") from None
    plain = type(network.patch_embed) is timm.layers.PatchEmbed and len(set(network.patch_embed.patch_size)) == 1
    if not (plain and _has_known_rotation(network)):
        raise BackboneError(f"backbone '{name}' is a transformer of a kind that is not supported; choose another")
    known = [f"blocks.{index}" for index in range(len(network.blocks))]
    chosen = layers if layers is not None else tuple(known[index] for index in middle_blocks(len(known)))
    wrong = [layer for layer in chosen if layer not in known]
    if wrong or not chosen:
        raise BackboneError(f"{name} has no layer '{wrong[0] if wrong else ''}'; its layers are {', '.join(known)}")
    blocks = sorted({known.index(layer) for layer in chosen})
    network.blocks = network.blocks[: blocks[-1] + 1]
    for unused in ("norm", "fc_norm", "head", "head_dist", "attn_pool"):
        if isinstance(getattr(network, unused, None), nn.Module):
            setattr(network, unused, nn.Identity())
    if state is not None:
        fill(network, _in_timms_layout(timm, network, state, what), what)
    return tuple(known[index] for index in blocks), TransformerMaps(network, blocks)


def middle_blocks(depth: int) -> tuple[int, ...]:
    """Indices from 0 of the blocks to take by default: of 12 blocks the fifth and the eighth."""
    return tuple(sorted({max(0, round(share * depth) - 1) for share in _MIDDLE}))


def default_side(patch: int) -> int:
    """Network pixels of the short side of an image, where the user gave none."""
    return min(PATCHES_A_SIDE, round(LARGEST_DEFAULT / patch)) * patch


def _in_timms_layout(timm: Any, network: nn.Module, state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    family = timm.models.eva if isinstance(network, timm.models.eva.Eva) else timm.models.vision_transformer
    options = {} if family is timm.models.eva else {"adapt_layer_scale": True}
    try:
        converted: dict[str, Tensor] = family.checkpoint_filter_fn(dict(state), network, **options)
    except Exception as error:  # noqa: BLE001 - tensors that are missing or of another shape raise many kinds
        raise BackboneError(f"{what}: do not fit ({(str(error).splitlines() or [''])[0][:100]})") from None
    return converted
