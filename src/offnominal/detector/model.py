"""What a fit leaves behind: all that is needed to score an image, and what to say about it."""

from __future__ import annotations

from dataclasses import dataclass

from offnominal.config import Settings
from offnominal.decisions import Appearance, Calibration
from offnominal.detector.learnt import Learnt, LeftOut
from offnominal.features import ChannelStandard
from offnominal.images import Geometry, Thumbnails, ValueRange
from offnominal.memory import MemoryBank
from offnominal.noising import Head
from offnominal.scoring import NormalSignals
from offnominal.types import require


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
class HeadVerdict:
    """Whether the heads trained on noise are used.

    Attributes:
        kept: they are.
        reason: why, or why not, for a person.
        gain: how much better made defects were found with them, mean of detection and localisation; None where none was tried.
    """

    kept: bool
    reason: str
    gain: float | None


NO_HEAD = HeadVerdict(False, "not asked for", None)


@dataclass(frozen=True)
class PresetTried:
    """A preset in the trial: milliseconds an image, how much better than what stood before it found made defects, and the
    standard error of that."""

    name: str
    milliseconds: float
    gain: float
    error: float


@dataclass(frozen=True)
class PresetChoice:
    """Which preset `auto` chose, why, and all that it tried."""

    chosen: str
    reason: str
    tried: tuple[PresetTried, ...]


@dataclass(frozen=True)
class SearchError:
    """What an index that is not exact costs: the relative change of the mean distance to the neighbours of held-out patches,
    by it against the exact search. It is never negative: a neighbour that is missed gives way to one farther away.

    An index can be right on normal patches and miss on odd ones, so it is measured on both: on the patches as they are, and
    with Gaussian noise of one usual deviation a feature. Defects may still differ from that noise.

    Attributes:
        images, patches: that it was measured on, at the fit.
        mean, odd_mean: over all these patches.
        most, odd_most: of the patch that it changes most.
        peak, odd_peak: of the largest distance in an image, which decides its score; the most over the images.
    """

    images: int
    patches: int
    mean: float
    most: float
    peak: float
    odd_mean: float
    odd_most: float
    odd_peak: float


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
        head: whether a head is used, and `heads`, which: their mean counts; none where it is not.
        appearance: what a stream of images is watched by; None where there were too few images.
        learnt: what `update` needs of every image.
        left_out: images that `contamination` kept out, worst first.
        skipped: training images that could not be read, with the reason.
        versions: of the libraries that made it.
        thumbnails: small pictures of the bank's sources, as many; None where the fit was to keep none.
        choice: which preset was chosen; None where it was given.
        search_error: what the setting `index` costs; None where the search is exact.
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
    head: HeadVerdict
    heads: tuple[Head, ...]
    appearance: Appearance | None
    learnt: Learnt
    left_out: tuple[LeftOut, ...]
    skipped: tuple[tuple[str, str], ...]
    versions: dict[str, str]
    thumbnails: Thumbnails | None = None
    search_error: SearchError | None = None
    choice: PresetChoice | None = None

    def __post_init__(self) -> None:
        if self.thumbnails is not None:
            given, wanted = len(self.thumbnails), len(self.bank.sources)
            require(given == wanted, f"{given} thumbnails for {wanted} images")

    @property
    def fusion_weights(self) -> tuple[float, float, float, float]:
        """Weights in the order of `scoring.SIGNALS`."""
        return self.settings.fusion.weights(head=bool(self.heads))
