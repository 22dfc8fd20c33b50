"""A member of a model: one backbone with its bank and statistics."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offnominal.features import ChannelStandard
from offnominal.images import Geometry
from offnominal.memory import MemoryBank
from offnominal.scoring import NormalSignals
from offnominal.types import Float, Index, require


@dataclass(frozen=True)
class BackboneIdentity:
    """The network that computes the features.

    Attributes
    ----------
    name
        Name of the backbone.
    layers
        Layers whose maps become features.
    digest
        SHA-256 of the weights, hexadecimal.

    Examples
    --------
    >>> BackboneIdentity("resnet18", ("layer2", "layer3"), digest="f37072fd").layers
    ('layer2', 'layer3')
    """

    name: str
    layers: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class DistanceScale:
    """Mean and standard deviation of the distance of held-out normal patches. They scale the proposed noise.

    Examples
    --------
    >>> scale = DistanceScale(mean=3.0, deviation=0.5)
    >>> (4.5 - scale.mean) / scale.deviation
    3.0
    """

    mean: float
    deviation: float


@dataclass(frozen=True)
class Replacements:
    """Replacement patches: they enter the bank when an update removes an image.

    Attributes
    ----------
    patches
        (s, D) float32 standardised patches.
    replaces
        (s,) index of the image whose patches each one replaces; of images held out together, the first.
    image
        (s,) index of the image that each one comes from.
    position
        (s, 2) row and column on the grid of that image.

    Raises
    ------
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import numpy as np, torch
    >>> replacements = Replacements(torch.zeros(1, 4), np.array([0]), np.array([2]), np.array([[5, 7]]))
    >>> len(replacements.patches)
    1
    """

    patches: Tensor
    replaces: Index
    image: Index
    position: Index

    def __post_init__(self) -> None:
        count = len(self.patches)
        require(self.patches.ndim == 2, f"replacement patches must be (s, D), got {tuple(self.patches.shape)}")
        shapes = self.replaces.shape, self.image.shape
        require(shapes == ((count,), (count,)), f"{count} replacement patches need ({count},) images, got {shapes}")
        require(self.position.shape == (count, 2), f"position must be ({count}, 2), got {self.position.shape}")


@dataclass(frozen=True)
class HeldOut:
    """Held-out signals and replacement patches, for updates and warnings.

    Attributes
    ----------
    signals
        (h, w, S) float32 held-out signals of each training image, rounded by `as_stored`. After a fit on very many images, S is
        0: the model keeps none, and cannot be updated.
    replacements
        Patches that enter the bank when an image is removed.
    radius
        Covering radius of the fit, which also selects added patches; None for a random bank.

    Examples
    --------
    >>> import numpy as np, torch
    >>> none = np.empty(0, np.int64)
    >>> replacements = Replacements(torch.empty(0, 4), none, none, none.reshape(0, 2))
    >>> HeldOut((np.zeros((8, 8, 3), np.float32),), replacements, radius=1.5).radius
    1.5
    """

    signals: tuple[Float, ...]
    replacements: Replacements
    radius: float | None

    @property
    def kept(self) -> bool:
        """Whether the model keeps the signals."""
        return all(image.shape[2] > 0 for image in self.signals)


@dataclass(frozen=True)
class Merge:
    """How the bank was merged from the coresets of several shards; see `memory.merge`.

    Attributes
    ----------
    shards
        Number of shards.
    merge_radius
        Covering radius of the bank over the union of their coresets.
    shard_radius
        Largest covering radius of a shard's coreset.
    ratio
        Upper bound of the covering radius of the bank, as a multiple of the smallest possible one.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> Merge(shards=4, merge_radius=2.0, shard_radius=1.0, ratio=3.0).ratio
    3.0
    """

    shards: int
    merge_radius: float
    shard_radius: float
    ratio: float

    def __post_init__(self) -> None:
        require(self.shards > 1, f"a merge needs at least 2 shards, got {self.shards}")
        numbers = (self.merge_radius, self.shard_radius, self.ratio)
        require(all(0 <= number < float("inf") for number in numbers), f"radii and ratio must be finite, got {numbers}")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One backbone at one scale, with its own bank and statistics.

    Attributes
    ----------
    name
        Name in the setting `backbone`, such as `efficientnet-lite0@1.5`.
    backbone
        The network that computes the patches.
    geometry
        How images are resized for the network.
    standard
        Standardisation of the D channels.
    bank
        (M, D) memory bank, with the image and position of each patch.
    distance_scale
        Scale of the distance of held-out normal patches.
    normal
        Statistics of the signals of held-out normal patches.
    held_out
        Data for updates.
    merge
        How the bank was merged from several shards; None for a fit in one shard.

    Examples
    --------
    >>> from offnominal import load
    >>> for member in load("part.safetensors").model.members:  # doctest: +SKIP
    ...     print(member.name, tuple(member.bank.patches.shape))
    efficientnet-lite0 (1000, 152)
    """

    name: str
    backbone: BackboneIdentity
    geometry: Geometry
    standard: ChannelStandard
    bank: MemoryBank
    distance_scale: DistanceScale
    normal: NormalSignals
    held_out: HeldOut
    merge: Merge | None = None
