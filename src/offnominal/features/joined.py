"""Several backbones as one, side by side: `a+b` gives the maps of both, which are aligned into one patch.

`a+b@1.5` lets b see the image enlarged by 1.5: its maps are finer by as much, and what is small in the image is larger for it.
`a+a@0.5` shows a the image a second time at half its size, so that it sees twice as far around. What one network does not see
another may, or the same one at another size.

Maps of a reduced image that are coarser than all of the others' are brought up to the coarsest of those, and their features
count less: of maps with places twice as wide a quarter. Counted like the rest they would blur the outlines of what is found.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from offnominal.errors import BackboneError
from offnominal.features.backbones import Backbone, load_backbone
from offnominal.features.local_maps import MIRRORED

JOINT, SCALED = "+", "@"
#: How much an image may be enlarged; by quarters, so that the maps have whole places. Or it is reduced to its half.
SCALES = (Fraction(1), Fraction(4))
QUARTERS = 4
REDUCED = Fraction(1, 2)


def load_backbones(
    name: str, layers: tuple[str, ...] | None = None, weights: Path | None = None, *, pretrained: bool = True
) -> Backbone:
    """The backbone `name`, or those of `a+b@1.5` joined; see `load_backbone`.

    Raises:
        BackboneError: as that does; an enlargement that cannot be; layers or a weights file for different backbones.
    """
    parts = [_part(part.strip()) for part in name.split(JOINT)]
    if not all(one for one, _ in parts):
        raise BackboneError(f"{name!r}: a name is missing; join backbones as in efficientnet-lite0+efficientnet-lite2")
    if len(parts) == 1 and parts[0][1] == 1:
        return load_backbone(parts[0][0], layers, weights, pretrained=pretrained)
    if (layers is not None or weights is not None) and len(networks_of(name)) > 1:
        raise BackboneError(f"{name}: layers and a weights file go with one backbone, not with several; leave them out")
    if len(set(parts)) < len(parts):
        raise BackboneError(f"{name}: names the same backbone twice; give different ones, or different enlargements")
    return joined([(load_backbone(one, layers, weights, pretrained=pretrained), scale) for one, scale in parts])


def networks_of(name: str) -> set[str]:
    """The backbones in `a+b@1.5`, whatever the size at which each sees the image."""
    return {part.strip().partition(SCALED)[0] for part in name.split(JOINT)}


def _part(part: str) -> tuple[str, Fraction]:
    """`a` or `a@1.5` -> name and enlargement."""
    name, _, number = part.partition(SCALED)
    try:
        scale = Fraction(number) if number else Fraction(1)
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if scale != REDUCED and (not SCALES[0] <= scale <= SCALES[1] or scale * QUARTERS % 1):
        raise BackboneError(
            f"{part}: after {SCALED} stands how much the image is enlarged, 1 to 4 in steps of 0.25, such as 1.5, or 0.5"
        )
    return name, scale


@dataclass(frozen=True)
class _Map:
    """One map of one of several networks side by side.

    Attributes:
        part: which of the networks, 0 for the first.
        at: which of its maps.
        scale: how much that network enlarges the image.
        nominal: pixels of the network's own image per place.
        coarsest: pixels per place of the coarsest map of the networks that do not reduce the image; None where all do.
    """

    part: int
    at: int
    scale: Fraction
    nominal: int | Fraction
    coarsest: Fraction | None

    @property
    def own_stride(self) -> int | Fraction:
        """Pixels per place of the image as it is given."""
        return self.nominal if self.scale == 1 else self.nominal / self.scale

    @property
    def brought_up(self) -> Fraction:
        """How many times as many places a side the map is given at."""
        if self.coarsest is None or self.scale >= 1:
            return Fraction(1)
        return max(self.own_stride / self.coarsest, Fraction(1))

    @property
    def stride(self) -> int | Fraction:
        """Pixels per place at which the map is given."""
        return self.own_stride if self.brought_up == 1 else self.own_stride / self.brought_up

    @property
    def emphasis(self) -> float:
        """How much its features count. Own rule, one of a dozen that were tried on all sets and differed little."""
        return 1 / float(self.brought_up) ** 2


def joined(parts: Sequence[tuple[Backbone, Fraction]]) -> Backbone:
    """One backbone that gives the maps of all, the finest nominal stride first; its input is normalised for the first one.

    `parts` are backbones and how much each enlarges the image. The strides are in pixels of the image as it is given.
    """
    coarsest = max((stride / scale for one, scale in parts if scale >= 1 for stride in one.strides), default=None)
    maps = [
        _Map(part, at, scale, stride, coarsest)
        for part, (one, scale) in enumerate(parts)
        for at, stride in enumerate(one.strides)
    ]
    maps.sort(key=lambda one: (one.scale > 1, one.nominal if one.scale > 1 else one.stride))
    first, sizes = parts[0][0], [f"{SCALED}{float(scale):g}" if scale != 1 else "" for _, scale in parts]
    names = [one.name + size for (one, _), size in zip(parts, sizes, strict=True)]
    if coarsest is not None and any(scale < 1 for _, scale in parts) and len({one.name for one, _ in parts}) == 1:
        of_parts = [[layer + size for layer in one.layers] for (one, _), size in zip(parts, sizes, strict=True)]
    else:  # also where one backbone sees the image larger: models are there that name its layers so
        of_parts = [[f"{name}:{layer}" for layer in one.layers] for (one, _), name in zip(parts, names, strict=True)]
    # How far an enlarged part mirrors belongs to it: it was more once, and a bank of then holds other features.
    told = hashlib.sha256(
        repr([(one.digest, str(scale) if scale == 1 else f"{scale}, {MIRRORED}") for one, scale in parts]).encode()
    )
    return Backbone(
        name=JOINT.join(names),
        layers=tuple(of_parts[one.part][one.at] for one in maps),
        strides=tuple(one.stride for one in maps),
        channels=tuple(parts[one.part][0].channels[one.at] for one in maps),
        emphasis=tuple(one.emphasis for one in maps),
        whole=math.lcm(*(one.own_stride.numerator for one in maps)),
        mean=first.mean,
        std=first.std,
        digest=told.hexdigest(),
        make=lambda: _SideBySide(parts, maps),
    )


class _SideBySide(nn.Module):
    """(B, 3, H, W), normalised for the first -> the local maps of all networks, in the order of `maps`."""

    def __init__(self, parts: Sequence[tuple[Backbone, Fraction]], maps: Sequence[_Map]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(one.network for one, _ in parts)
        self.scales = tuple(float(scale) for _, scale in parts)
        self.maps = tuple((one.part, one.at, float(one.brought_up)) for one in maps)
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
        of_parts: list[list[Tensor]] = []
        for network, scale, (factor, summand) in zip(self.networks, self.scales, self.inputs, strict=True):
            own = _enlarged(images, scale)
            if any(value != 1 for value in factor) or any(summand):
                own = own * own.new_tensor(factor).view(1, 3, 1, 1) + own.new_tensor(summand).view(1, 3, 1, 1)
            of_parts.append(list(network(own)))
        return [_enlarged(of_parts[part][at], times) for part, at, times in self.maps]


def _enlarged(images: Tensor, times: float) -> Tensor:
    """(B, C, H, W) -> (B, C, `times` H, `times` W)."""
    return images if times == 1 else F.interpolate(images, scale_factor=times, mode="bilinear", align_corners=False)
