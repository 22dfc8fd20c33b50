"""Names of the members of a model: `a+b@1.5` is backbone `a` at the image size and backbone `b` at 1.5 times that size.

Each member has its own memory bank. Features of several networks in one patch measured worse than the average of the members'
standardised anomaly maps (`docs/explanation/members.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

from offnominal.errors import BackboneError

JOINT, SCALED = "+", "@"
#: Smallest and largest scale of a member.
SCALES = (0.25, 4.0)


@dataclass(frozen=True)
class MemberName:
    """A backbone and its image scale.

    Attributes
    ----------
    backbone
        Name of the backbone.
    scale
        Image size of the member relative to the setting `image_size`, 0.25 to 4.

    Examples
    --------
    >>> str(MemberName("efficientnet-lite0", 1.5))
    'efficientnet-lite0@1.5'
    >>> str(MemberName("efficientnet-lite0"))
    'efficientnet-lite0'
    """

    backbone: str
    scale: float = 1.0

    def __str__(self) -> str:
        return self.backbone if self.scale == 1 else f"{self.backbone}{SCALED}{self.scale:g}"


def parse_members(text: str) -> tuple[MemberName, ...]:
    """Parse the setting `backbone`.

    Parameters
    ----------
    text
        Names of backbones joined by `+`, each optionally with `@` and a scale.

    Raises
    ------
    BackboneError
        A name is missing or given twice, or a scale is not a number from 0.25 to 4.

    Examples
    --------
    >>> [str(member) for member in parse_members("efficientnet-lite0 + efficientnet-lite2@1.50")]
    ['efficientnet-lite0', 'efficientnet-lite2@1.5']
    """
    members = tuple(_member(part.strip()) for part in text.split(JOINT))
    if not all(member.backbone for member in members):
        raise BackboneError(f"{text!r}: a name is missing; write members as in efficientnet-lite0+efficientnet-lite0@1.5")
    duplicate = next((member for member in members if members.count(member) > 1), None)
    if duplicate is not None:
        raise BackboneError(f"{text}: names the member {duplicate} twice; use different backbones or scales")
    return members


def _member(part: str) -> MemberName:
    name, separator, number = part.partition(SCALED)
    try:
        scale = float(number) if separator else 1.0
    except ValueError:
        scale = 0.0
    if not SCALES[0] <= scale <= SCALES[1]:
        raise BackboneError(f"{part}: after {SCALED} comes the scale, a number from {SCALES[0]:g} to {SCALES[1]:g} such as 1.5")
    return MemberName(name.strip(), scale)
