"""The fitted model: everything needed to score an image, without the networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offnominal.config import Settings
from offnominal.decisions import Appearance, Calibration
from offnominal.gates import Gates
from offnominal.images import Alignment, Thumbnails, ValueRange, to_image
from offnominal.memory import SourceImage
from offnominal.model.member import Member
from offnominal.roi import RegionOfInterest
from offnominal.types import Float, Inspection, Mask, Pose, require


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
    def gates(self) -> Gates:
        """Gates of the image and its zones."""
        return self.settings.gates

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
