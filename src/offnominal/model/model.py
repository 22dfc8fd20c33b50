"""The fitted model: everything needed to score an image, without the networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from offnominal.config import Settings
from offnominal.decisions import Appearance, Calibration
from offnominal.features import ChannelStandard
from offnominal.images import Alignment, Geometry, Thumbnails, ValueRange, to_image
from offnominal.memory import MemoryBank, SourceImage
from offnominal.roi import RegionOfInterest
from offnominal.scoring import NormalSignals
from offnominal.types import Float, Index, Inspection, Mask, Pose, require


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
    >>> import torch
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
    >>> import torch
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


@dataclass(frozen=True)
class LeftOut:
    """An image that the setting `contamination` kept out of bank and calibration.

    Attributes
    ----------
    name
        Name of the image.
    score
        Audit score; higher is less like the other images.
    p_value
        Audit p-value.

    Examples
    --------
    >>> LeftOut("good/017.png", score=9.2, p_value=0.001).name
    'good/017.png'
    """

    name: str
    score: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """A fitted detector without its networks. The anomaly map of an image is the mean of its members' maps.

    Attributes
    ----------
    settings
        Settings of the fit.
    members
        At least one member.
    values
        Range of pixel values that is scaled to 0 to 1.
    sources
        The training images.
    calibration
        Held-out scores of normal images, and the threshold they set.
    appearance
        Statistics of whole images for the drift monitor; None with too few images.
    left_out
        Images that `contamination` kept out, worst first.
    skipped
        Name and reason of each training image that could not be read.
    versions
        Versions of the libraries used for the fit.
    thumbnails
        One thumbnail per training image; None if the fit stored none.
    alignment
        Brings each image to the reference; None for no alignment.
    added, removed
        Number of images added and removed by updates.
    threshold_removed
        Whether an update removed an image that scored at or above the threshold at that time.

    Raises
    ------
    ValueError
        If there is no member, or the parts disagree about the number of images.

    Examples
    --------
    >>> from offnominal import load
    >>> model = load("part.safetensors").model  # doctest: +SKIP
    >>> len(model.sources), model.guaranteed  # doctest: +SKIP
    (209, True)
    """

    settings: Settings
    members: tuple[Member, ...]
    values: ValueRange
    sources: tuple[SourceImage, ...]
    calibration: Calibration
    appearance: Appearance | None
    left_out: tuple[LeftOut, ...]
    skipped: tuple[tuple[str, str], ...]
    versions: dict[str, str]
    thumbnails: Thumbnails | None = None
    alignment: Alignment | None = None
    added: int = 0
    removed: int = 0
    threshold_removed: bool = False

    def __post_init__(self) -> None:
        images = len(self.sources)
        require(len(self.members) > 0, "a model needs at least one member")
        for member in self.members:
            bank, signals = member.bank, member.held_out.signals
            known = bool(np.all((bank.image >= 0) & (bank.image < images)))
            require(known, f"{member.name}: a bank patch refers to an unknown image")
            require(len(signals) == images, f"{member.name}: held-out signals of {len(signals)} images, expected {images}")
        if self.thumbnails is not None:
            require(len(self.thumbnails) == images, f"{len(self.thumbnails)} thumbnails, expected {images}")

    def networks(self, member: Member) -> list[tuple[int, int]]:
        """(height, width) of the network input of a member, for each training image."""
        return [member.geometry.network_size(source.size) for source in self.sources]

    @property
    def guaranteed(self) -> bool:
        """Whether the false-alarm rate is guaranteed, exactly or approximately.

        No guarantee applies once the scores of the calibration images decided which of them remain: after suspects were left
        out, or after an update removed an image at or above the threshold.
        """
        return not self.left_out and self.settings.contamination == 0 and not self.threshold_removed

    @property
    def region(self) -> RegionOfInterest | None:
        """The region of interest; None if the whole image counts."""
        return self.settings.region

    def counted(self, inspection: Inspection) -> Mask | None:
        """(H, W) pixels of an inspected image that count; None if all do."""
        return self.counted_at((inspection.anomaly_map.shape[0], inspection.anomaly_map.shape[1]), inspection.pose)

    def counted_at(self, size: tuple[int, int], pose: Pose | None) -> Mask | None:
        """(H, W) pixels of an image that count, for the pose of its part; None if all do."""
        if self.region is None or self.region.whole:
            return None
        inside: Mask = to_image(self.region.at(size), pose)
        return inside

    @property
    def updatable(self) -> bool:
        """Whether the model keeps the held-out signals that an update needs."""
        return all(member.held_out.kept for member in self.members)


def as_stored(signals: Float) -> Float:
    """Round signals to float16 precision, as in the model file, so that fit and update compute with the same numbers.

    Examples
    --------
    >>> as_stored(np.array([0.1], np.float32))
    array([0.09997559], dtype=float32)
    """
    return signals.astype(np.float16).astype(np.float32)
