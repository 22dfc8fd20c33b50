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
_MODULES = ("timm.models.vision_transformer", "timm.models.deit")
#: Blocks whose maps are taken by default, as shares of the depth. The last blocks describe the image more than the patch.
_MIDDLE = (5 / 12, 2 / 3)
#: The default image size: as many patches a side, within so many pixels.
PATCHES_A_SIDE, LARGEST_DEFAULT = 32, 448


class TransformerMaps(nn.Module):
    """(B, 3, H, W) normalised, sides in whole patches -> list of (B, C, H / patch, W / patch), one map a block.

    The maps of patches alone: class, register and distillation tokens take part in the attention and are left out.

    Args:
        network: a `VisionTransformer` of timm.
        blocks: indices of the blocks, ascending.
    """

    def __init__(self, network: Any, blocks: Sequence[int]) -> None:
        super().__init__()
        self.wanted = tuple(blocks)
        self.patch = int(network.patch_embed.patch_size[0])
        self.channels = int(network.embed_dim)
        self.proj, self.norm = network.patch_embed.proj, network.patch_embed.norm
        self.norm_pre = network.norm_pre
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
        maps = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
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
    try:
        network = timm.create_model(timm_name, pretrained=download, num_classes=0)
    except Exception as error:  # noqa: BLE001 - no network, no such weights, a full disk
        if download:
            raise BackboneError(
                f"no weights of '{name}' at hand and none could be downloaded; give them with --weights FILE"
            ) from None
        raise BackboneError(f"backbone '{name}' cannot be built ({str(error).splitlines()[0][:100]})") from None
    square = timm.layers.PatchEmbed
    if type(network.patch_embed) is not square or len(set(network.patch_embed.patch_size)) > 1:
        raise BackboneError(f"backbone '{name}' does not cut the image into plain square patches; choose another")
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
    try:
        converted: dict[str, Tensor] = timm.models.vision_transformer.checkpoint_filter_fn(
            dict(state), network, adapt_layer_scale=True
        )
    except Exception as error:  # noqa: BLE001 - tensors that are missing or of another shape raise many kinds
        raise BackboneError(f"{what}: do not fit ({(str(error).splitlines() or [''])[0][:100]})") from None
    return converted
