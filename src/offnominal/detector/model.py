"""What a fit leaves behind: all that is needed to score an image, and what to say about it."""

from __future__ import annotations

from dataclasses import dataclass

from offnominal.config import Settings
from offnominal.decisions import Calibration
from offnominal.detector.learnt import Learnt, LeftOut
from offnominal.features import ChannelStandard
from offnominal.images import Geometry, ValueRange
from offnominal.memory import MemoryBank
from offnominal.scoring import NormalSignals


@dataclass(frozen=True)
class BackboneIdentity:
    """Which network the features came from; `digest` is the SHA-256 of its weights."""

    name: str
    layers: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class UsualDistance:
    """Mean and deviation of the distance of held-out normal patches, which the proposed noise is scaled by."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Model:
    """A fitted detector without its network.

    Attributes:
        settings: as given to the fit.
        backbone: which network the patches came from.
        geometry, values: how an image becomes the network's input.
        standard: per-channel standardisation, D channels.
        bank: the memory bank, (M, D), with provenance.
        usual_distance: of held-out normal patches.
        normal: usual signals at every place.
        calibration: held-out scores of the normal images.
        learnt: what `update` needs of every image.
        left_out: images that `contamination` kept out, worst first.
        skipped: training images that could not be read, with the reason.
        versions: of the libraries that made it.
    """

    settings: Settings
    backbone: BackboneIdentity
    geometry: Geometry
    values: ValueRange
    standard: ChannelStandard
    bank: MemoryBank
    usual_distance: UsualDistance
    normal: NormalSignals
    calibration: Calibration
    learnt: Learnt
    left_out: tuple[LeftOut, ...]
    skipped: tuple[tuple[str, str], ...]
    versions: dict[str, str]

    @property
    def fusion_weights(self) -> tuple[float, float, float]:
        """Weights in the order of `scoring.SIGNALS`."""
        return self.settings.fusion.weights
