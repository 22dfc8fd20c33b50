"""What an inspection returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from offnominal.errors import InputError
from offnominal.types.arrays import Float, require


@dataclass(frozen=True)
class Neighbour:
    """A normal patch close to the peak of a region.

    Attributes
    ----------
    image
        Name of the training image.
    box
        `(left, top, right, bottom)` in pixels of that original image, right and bottom exclusive.
    distance
        Euclidean distance of the standardised features.
    distance_in_sd
        `(distance - mean) / deviation`, with mean and deviation of held-out normal patches.
    """

    image: str
    box: tuple[int, int, int, int]
    distance: float
    distance_in_sd: float


@dataclass(frozen=True)
class Evidence:
    """Evidence for a region, measured at the patch of its peak; computed in `offnominal.inference.evidence`.

    Attributes
    ----------
    member
        Member of the model with the highest map at the peak. All other attributes refer to this member.
    box
        Patch of the peak, `(left, top, right, bottom)` in pixels of the inspected image, right and bottom exclusive.
    nearest
        Nearest normal patches, nearest first.
    layer_shares
        Share of each backbone layer in the squared distance to the nearest patch; sums to 1. Empty if that distance is 0.
    channel_shares
        `(channel, share)` of the leading channels in the same distance, largest first. Empty if that distance is 0.
    influence
        `(channel, signed value)` of the channels with the largest absolute influence, largest first.
    noise_std
        Root mean square over features of the standard deviation of the proposed noise.
    response
        Expected change of the mean distance under that noise.
    p_value
        Conformal p-value of the peak: share of calibration images, this one included, with a score at least as high.
    curve
        `(t, distance)`: mean distance of the patch moved by t along the influence. t = 0 is the patch itself; t < 0 moves it
        towards normal.
    typical_box
        Reference patch of the same image, the one with the median distance.
    typical_curve
        The curve of the reference patch, with its own influence and noise.
    """

    member: str
    box: tuple[int, int, int, int]
    nearest: tuple[Neighbour, ...]
    layer_shares: dict[str, float]
    channel_shares: tuple[tuple[int, float], ...]
    influence: tuple[tuple[int, float], ...]
    noise_std: float
    response: float
    p_value: float
    curve: tuple[tuple[float, float], ...]
    typical_box: tuple[int, int, int, int] | None = None
    typical_curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class SizeInMm:
    """Size of a region on the part; for aligned images, as in the reference image.

    Attributes
    ----------
    area
        Area in mm².
    length, width
        Largest and smallest diameter in mm, as in `Region`.

    Examples
    --------
    >>> SizeInMm(area=0.3, length=1.0, width=0.4).length
    1.0
    """

    area: float
    length: float
    width: float


@dataclass(frozen=True)
class Region:
    """A connected area of an image whose anomaly map exceeds the threshold.

    Box and area are measured on the map in network pixels, so they may differ by a few pixels from a mask in original pixels.

    Attributes
    ----------
    box
        `(left, top, right, bottom)` in pixels of the original image, right and bottom exclusive.
    area
        Area in pixels of the original image.
    peak
        Largest map value in the region.
    peak_at
        Position `(x, y)` of the peak in pixels of the original image.
    p_value
        Conformal p-value: share of calibration images, this one included, with a score at least as high as the peak. With a
        gate, the highest level at which the region is large enough replaces the peak.
    evidence
        Evidence for the region; None unless it was requested.
    length
        Largest distance between two points of the region, in pixels of the original image.
    width
        Smallest distance between two parallel lines that enclose the region, in pixels of the original image.
    mm
        Area, length and width in mm; None if the size of a pixel is not known.
    zone
        Name of the zone in which the region lies; None outside of all zones.

    Examples
    --------
    >>> region = Region(box=(40, 8, 56, 20), area=120, peak=7.5, peak_at=(47, 13), p_value=0.01)
    >>> left, top, right, bottom = region.box
    >>> right - left, bottom - top
    (16, 12)
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    peak_at: tuple[int, int]
    p_value: float
    evidence: Evidence | None = None
    length: float = 0.0
    width: float = 0.0
    mm: SizeInMm | None = None
    zone: str | None = None


@dataclass(frozen=True)
class ZoneScore:
    """Result for a zone.

    Attributes
    ----------
    name
        Name of the zone.
    score
        Score of the zone; the score of the image is the highest of its zones and of the rest.
    p_value
        Share of calibration images, this one included, with an image score at least as high. It is adjusted for the number of
        zones.

    Examples
    --------
    >>> ZoneScore("sealing face", score=4.2, p_value=0.03).name
    'sealing face'
    """

    name: str
    score: float
    p_value: float


@dataclass(frozen=True)
class Pose:
    """Where the part lies in an image, relative to the reference image of a model with alignment.

    Attributes
    ----------
    dx, dy
        Shift of the centre of the reference to the right and downwards, in pixels of the image.
    degrees
        Rotation about this centre, clockwise.
    scale
        Size relative to the reference.
    quality
        Correlation of the aligned image with the reference, from -1 to 1.
    problem
        Why the part counts as not found; None if it was found.

    Examples
    --------
    >>> Pose(dx=4.0, dy=-2.5, degrees=0.5, scale=1.0, quality=0.93).found
    True
    """

    dx: float
    dy: float
    degrees: float
    scale: float
    quality: float
    problem: str | None = None

    def __post_init__(self) -> None:
        numbers = (self.dx, self.dy, self.degrees, self.scale, self.quality)
        require(bool(np.isfinite(numbers).all()), f"a pose must be finite, got {numbers}")
        require(self.scale > 0, f"the scale of a pose must be positive, got {self.scale}")

    @property
    def found(self) -> bool:
        """Whether the part was found."""
        return self.problem is None

    @property
    def still(self) -> bool:
        """Whether the part lies exactly as in the reference, so that nothing has to be moved."""
        return (self.dx, self.dy, self.degrees, self.scale) == (0, 0, 0, 1)

    def matrix(self, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """(2, 3) affine map from pixels (x, y) of the reference to pixels of an image of (H, W), both of that size."""
        radians = np.deg2rad(self.degrees)
        turn = self.scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        centre, shift = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2]), np.array([self.dx, self.dy])
        return np.column_stack([turn, centre + shift - turn @ centre])


@dataclass(frozen=True)
class Inspection:
    """Result for one image. Higher scores are more anomalous; scores are neither clamped nor rescaled.

    Attributes
    ----------
    path
        Path of the image; None for an array.
    score
        Maximum of the smoothed anomaly map, in standard deviations of held-out normal patches. With a gate, the highest level
        at which the map has a region that is large enough.
    p_value
        Conformal p-value in (0, 1]: share of calibration images, this one included, with a score at least as high.
    anomalous
        Whether `score > threshold`, or the part was not found.
    threshold
        Calibrated decision threshold.
    anomaly_map
        (H, W) float32 in pixels of the original image. Its maximum may be a few percent below `score`, because the map is
        interpolated to this size.
    influence_map
        (H, W) float32 in [0, 1]: length of the influence, averaged over members. Near 1 for patches outside the cloud of
        their neighbours.
    regions
        Regions above the threshold, smallest p-value first. Empty exactly if the score does not exceed the threshold.
    noise_map
        (H, W) float32: root mean square over features of the proposed noise. None unless maps were requested.
    layer_maps
        (H, W) float32 for each layer: its share in the squared distance to the nearest normal patch, in [0, 1]. The layers of
        all members sum to 1, or to less where that distance is 0. None unless maps were requested.
    appearance
        (S,) float32 global image statistics for the drift monitor; empty if the model has no monitor.
    whole_p_value
        Image-level p-value in (0, 1] of the global appearance: share of normal images, this one included, that differ from
        the others at least as much. None if the model was fitted on fewer than eight images.
    pose
        Pose of the part; None if the model does not align images.
    zones
        Score of each zone; empty if the model has none.

    Examples
    --------
    >>> anomaly_map = np.zeros((4, 6), np.float32)
    >>> result = Inspection("part.png", 1.2, 0.4, False, 3.0, anomaly_map, anomaly_map, regions=())
    >>> result.anomalous, result.regions
    (False, ())
    """

    path: str | None
    score: float
    p_value: float
    anomalous: bool
    threshold: float
    anomaly_map: Float
    influence_map: Float
    regions: tuple[Region, ...]
    noise_map: Float | None = None
    layer_maps: dict[str, Float] | None = None
    appearance: Float = field(default_factory=lambda: np.empty(0, np.float32))
    whole_p_value: float | None = None
    pose: Pose | None = None
    zones: tuple[ZoneScore, ...] = ()

    def __post_init__(self) -> None:
        require(self.anomaly_map.ndim == 2, f"anomaly_map must be (H, W), got {self.anomaly_map.shape}")
        require(self.influence_map.shape == self.anomaly_map.shape, "influence_map and anomaly_map differ in shape")
        require(bool(np.isfinite(self.score)), f"score must be a number, got {self.score}")
        require(0 < self.p_value <= 1, f"p_value must lie in (0, 1], got {self.p_value}")
        require(self.found or self.anomalous, "an image whose part was not found is anomalous")
        if self.found:
            require(bool(self.regions) == self.anomalous, "an anomalous image has regions, a good one has none")

    @property
    def found(self) -> bool:
        """Whether the part was found; always true without alignment."""
        return self.pose is None or self.pose.found

    def evidence(self, region: Region) -> Evidence:
        """Evidence for one of `regions`.

        Raises
        ------
        InputError
            If the region is not in `regions`, or the image was inspected without `evidence=True`.
        """
        if region not in self.regions:
            raise InputError("this region is not one of inspection.regions; pass one of them")
        if region.evidence is None:
            raise InputError("this inspection has no evidence; call inspect with evidence=True")
        return region.evidence
