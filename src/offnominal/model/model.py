"""What a fit leaves behind: all that is needed to score an image, and what to report about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from offnominal.config import Settings
from offnominal.decisions import Appearance, Calibration
from offnominal.features import ChannelStandard
from offnominal.images import Geometry, Thumbnails, ValueRange
from offnominal.memory import MemoryBank, SourceImage
from offnominal.scoring import NormalSignals
from offnominal.types import Float, Index, require


@dataclass(frozen=True)
class BackboneIdentity:
    """The network that the features come from; `digest` is the SHA-256 of its weights."""

    name: str
    layers: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class DistanceScale:
    """Mean and standard deviation of the distance of held-out normal patches, which scale the proposed noise."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Replacements:
    """Patches that enter the bank when an image is removed: the patches that replaced its own when it was held out.

    Attributes:
        patches: (s, D) float32, standardised.
        replaces: (s,) the image whose patches each replaces; of images that are held out together the first.
        image: (s,) the image that each comes from.
        position: (s, 2) row and column there.
    """

    patches: Tensor
    replaces: Index
    image: Index
    position: Index

    def __post_init__(self) -> None:
        count = len(self.patches)
        require(self.patches.ndim == 2, f"replacement patches must be (s, D), got {tuple(self.patches.shape)}")
        require(self.replaces.shape == self.image.shape == (count,), f"{count} replacement patches, their images differ")
        require(self.position.shape == (count, 2), f"position must be ({count}, 2), got {self.position.shape}")


@dataclass(frozen=True)
class HeldOut:
    """What an update needs of a member beyond its bank.

    Attributes:
        signals: (h, w, S) held-out signals of every training image; see `as_stored`.
        replacements: for when an image is removed.
        radius: the covering radius of the fit, which also covers added patches; None for a random bank.
    """

    signals: tuple[Float, ...]
    replacements: Replacements
    radius: float | None


@dataclass(frozen=True, kw_only=True)
class Member:
    """One backbone at one scale, with its own bank and statistics.

    Attributes:
        name: as in the setting `backbone`, such as `efficientnet-lite0@1.5`.
        backbone: the network that the patches come from.
        geometry: how an image is resized for it.
        standard: per-channel standardisation, D channels.
        bank: the memory bank, (M, D), with provenance.
        distance_scale: of held-out normal patches.
        normal: statistics of the signals of held-out normal patches.
        held_out: what an update needs.
    """

    name: str
    backbone: BackboneIdentity
    geometry: Geometry
    standard: ChannelStandard
    bank: MemoryBank
    distance_scale: DistanceScale
    normal: NormalSignals
    held_out: HeldOut


@dataclass(frozen=True)
class LeftOut:
    """An image that `contamination` kept out of bank and calibration: its name, its audit score and p-value."""

    name: str
    score: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """A fitted detector without its networks. The anomaly map of an image is the mean of its members' maps.

    Attributes:
        settings: as given to the fit.
        members: at least one.
        values: how stored pixel values become the network's 0 to 1.
        sources: the images fitted on.
        calibration: held-out scores of the normal images.
        appearance: statistics of whole images for the drift monitor; None with too few images.
        left_out: images that `contamination` kept out, worst first.
        skipped: training images that could not be read, with the reason.
        versions: of the libraries that made it.
        thumbnails: small pictures of `sources`, as many; None if the fit was told to keep none.
        added, removed: how many images were added and removed since the fit.
        threshold_removed: whether an image at or above the threshold of its time was removed by an update.
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
    added: int = 0
    removed: int = 0
    threshold_removed: bool = False

    def __post_init__(self) -> None:
        images = len(self.sources)
        require(len(self.members) > 0, "a model needs at least one member")
        for member in self.members:
            bank, held_out = member.bank, member.held_out
            require(bool(np.all((bank.image >= 0) & (bank.image < images))), f"{member.name}: a bank patch of an unknown image")
            require(len(held_out.signals) == images, f"{images} images, held-out signals of {len(held_out.signals)}")
        if self.thumbnails is not None:
            require(len(self.thumbnails) == images, f"{len(self.thumbnails)} thumbnails for {images} images")

    def networks(self, member: Member) -> list[tuple[int, int]]:
        """The (height, width) at which a member saw each training image."""
        return [member.geometry.network_size(source.size) for source in self.sources]

    @property
    def guaranteed(self) -> bool:
        """Whether the false-alarm rate is guaranteed, exactly or approximately.

        It is not after suspects were left out or after an image that the threshold rested on was removed: the calibration
        images were then chosen by their scores.
        """
        return not self.left_out and self.settings.contamination == 0 and not self.threshold_removed


def as_stored(signals: Float) -> Float:
    """The signals rounded to float16, as the model file stores them, so that fit and update compute with the same numbers."""
    return signals.astype(np.float16).astype(np.float32)
