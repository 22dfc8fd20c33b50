"""Several backbones as one, side by side: `a+b` gives the maps of both, which are aligned into one patch.

`a+b@1.5` lets b see the image enlarged by 1.5: its maps are finer by as much, and what is small in the image is larger for it.
What one network does not see another may, or the same one at another size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from offnominal.errors import BackboneError
from offnominal.features.backbones import Backbone, load_backbone
from offnominal.features.local_maps import MIRRORED

JOINT, SCALED = "+", "@"
#: How much an image may be enlarged; by quarters, so that the maps have whole places.
SCALES = (Fraction(1), Fraction(4))
QUARTERS = 4


def load_backbones(
    name: str, layers: tuple[str, ...] | None = None, weights: Path | None = None, *, pretrained: bool = True
) -> Backbone:
    """The backbone `name`, or those of `a+b@1.5` joined; see `load_backbone`.

    Raises:
        BackboneError: as that does; an enlargement that cannot be; layers or a weights file for several backbones.
    """
    parts = [_part(part.strip()) for part in name.split(JOINT)]
    if not all(one for one, _ in parts):
        raise BackboneError(f"{name!r}: a name is missing; join backbones as in efficientnet-lite0+efficientnet-lite2")
    if len(parts) == 1 and parts[0][1] == 1:
        return load_backbone(parts[0][0], layers, weights, pretrained=pretrained)
    if layers is not None or weights is not None:
        raise BackboneError(f"{name}: layers and a weights file go with a backbone by itself; leave them out")
    if len(set(parts)) < len(parts):
        raise BackboneError(f"{name}: names the same backbone twice; give different ones, or different enlargements")
    return joined([(load_backbone(one, pretrained=pretrained), scale) for one, scale in parts])


def _part(part: str) -> tuple[str, Fraction]:
    """`a` or `a@1.5` -> name and enlargement."""
    name, _, number = part.partition(SCALED)
    try:
        scale = Fraction(number) if number else Fraction(1)
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if not SCALES[0] <= scale <= SCALES[1] or scale * QUARTERS % 1:
        raise BackboneError(
            f"{part}: after {SCALED} stands how much the image is enlarged, 1 to 4 in steps of 0.25, such as 1.5"
        )
    return name, scale


def joined(parts: Sequence[tuple[Backbone, Fraction]]) -> Backbone:
    """One backbone that gives the maps of all, the finest nominal stride first; its input is normalised for the first one.

    `parts` are backbones and how much each enlarges the image. The strides are in pixels of the image as it is given.
    """
    maps = [(one, scale, at) for one, scale in parts for at in range(len(one.layers))]
    order = sorted(range(len(maps)), key=lambda at: (maps[at][1] > 1, maps[at][0].strides[maps[at][2]]))
    ordered = [maps[at] for at in order]
    first, names = parts[0][0], [one.name + (f"{SCALED}{float(scale):g}" if scale != 1 else "") for one, scale in parts]
    name_of = dict(zip(((one.name, scale) for one, scale in parts), names, strict=True))
    # How far an enlarged part mirrors belongs to it: it was more once, and a bank of then holds other features.
    told = hashlib.sha256(
        repr([(one.digest, str(scale) if scale == 1 else f"{scale}, {MIRRORED}") for one, scale in parts]).encode()
    )
    return Backbone(
        name=JOINT.join(names),
        layers=tuple(f"{name_of[one.name, scale]}:{one.layers[at]}" for one, scale, at in ordered),
        strides=tuple(one.strides[at] / scale if scale != 1 else one.strides[at] for one, scale, at in ordered),
        channels=tuple(one.channels[at] for one, _, at in ordered),
        mean=first.mean,
        std=first.std,
        digest=told.hexdigest(),
        make=lambda: _SideBySide(parts, order),
    )


class _SideBySide(nn.Module):
    """(B, 3, H, W), normalised for the first -> the local maps of all networks, in `order`."""

    def __init__(self, parts: Sequence[tuple[Backbone, Fraction]], order: Sequence[int]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(one.network for one, _ in parts)
        self.scales = tuple(float(scale) for _, scale in parts)
        self.order = tuple(order)
        first = parts[0][0]
        #: Of every network the factor and the summand that turn the first one's normalised input into its own.
        self.inputs = tuple(
            (
                tuple(a / b for a, b in zip(first.std, one.std, strict=True)),
                tuple((a - b) / c for a, b, c in zip(first.mean, one.mean, one.std, strict=True)),
            )
            for one, _ in parts
        )
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for network, scale, (factor, summand) in zip(self.networks, self.scales, self.inputs, strict=True):
            own = images
            if scale != 1:
                own = F.interpolate(own, scale_factor=scale, mode="bilinear", align_corners=False)
            if any(value != 1 for value in factor) or any(summand):
                own = own * own.new_tensor(factor).view(1, 3, 1, 1) + own.new_tensor(summand).view(1, 3, 1, 1)
            maps += list(network(own))
        return [maps[at] for at in self.order]
