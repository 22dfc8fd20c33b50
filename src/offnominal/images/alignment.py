"""Alignment: each image is brought to a reference before a network sees it, and its maps are brought back.

The pose is estimated from small grey images, coarse to fine: the correlation of edges over all shifts and some rotations and
scales gives starting points, and the enhanced correlation coefficient refines the best ones.

References
----------
Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation coefficient maximization", IEEE TPAMI 2008.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from offnominal.errors import ImageError
from offnominal.images.arrays import Pixels
from offnominal.images.geometry import resize
from offnominal.images.value_range import ValueRange
from offnominal.roi import RegionOfInterest, same_aspect
from offnominal.types import Float, Mask, Pose, require

Kind = Literal["shift", "rigid", "similarity"]
#: Longest sides of the images that are compared: for the starting points, and for their refinement.
COARSE, FINE = 64, 128
#: Rotations of the starting points reach this far, in steps of `STEP` degrees, and scales are `SCALES`.
MOST_DEGREES, STEP, SCALES = 45.0, 7.5, (0.85, 0.92, 1.0, 1.08, 1.18)
#: Starting points that are refined.
STARTS = 4
#: Iterations of each refinement.
ITERATIONS = 25
#: Displacements up to this are not corrected, in pixels of the refined image: an eighth of a patch at the default size.
STILL = 0.5
#: Width of the Gaussian that smooths before a refinement, in pixels.
BLUR = 5

#: Sigma of the smoothing of edges in pixels: in the search, and to compare parts that differ a little.
SMOOTH_COARSE, SMOOTH_FINE = 2.0, 3.0
#: Least energy of the edges under the reference, as a share of their mean energy: flat places match nothing.
LEAST_ENERGY = 1.0
#: Share of the reference that an image must show.
LEAST_OVERLAP = 0.5
#: Motions of OpenCV; it has no similarity, so an affine map is made one.
MOTIONS = {"shift": cv2.MOTION_TRANSLATION, "rigid": cv2.MOTION_EUCLIDEAN, "similarity": cv2.MOTION_AFFINE}

Matrix = npt.NDArray[np.float64]
Spectrum = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class PoseLimits:
    """Poses that count as found.

    Attributes
    ----------
    low, high
        Smallest and largest shift to the right and downwards (as shares of the longest side), rotation (degrees) and scale.
    quality
        Smallest correlation with the reference.

    Examples
    --------
    >>> limits = PoseLimits((-0.1, -0.1, -5.0, 0.95), (0.1, 0.1, 5.0, 1.05), quality=0.6)
    >>> limits.problem(Pose(0.0, 0.0, 9.0, 1.0, quality=0.9), longest=640)
    'rotated by 9.0 degrees, normal images by -5.0 to 5.0'
    """

    low: tuple[float, float, float, float]
    high: tuple[float, float, float, float]
    quality: float

    def __post_init__(self) -> None:
        require(all(low <= high for low, high in zip(self.low, self.high, strict=True)), "limits of poses are reversed")
        require(bool(np.isfinite([*self.low, *self.high, self.quality]).all()), "limits of poses must be finite")

    def problem(self, pose: Pose, longest: int) -> str | None:
        """Why a pose counts as not found; None if it was found. `longest` is the longest side of the image in pixels."""
        if pose.quality < self.quality:
            return f"its correlation with the reference is {pose.quality:.2f}, normal images have at least {self.quality:.2f}"
        shares = (pose.dx / longest, pose.dy / longest, pose.degrees, pose.scale)
        texts = (
            ("shifted horizontally by {:.0f} pixels, normal images by {:.0f} to {:.0f}", longest),
            ("shifted vertically by {:.0f} pixels, normal images by {:.0f} to {:.0f}", longest),
            ("rotated by {:.1f} degrees, normal images by {:.1f} to {:.1f}", 1),
            ("scaled by {:.3f}, normal images by {:.3f} to {:.3f}", 1),
        )
        for value, low, high, (text, unit) in zip(shares, self.low, self.high, texts, strict=True):
            if not low <= value <= high:
                return text.format(value * unit, low * unit, high * unit)
        return None


@dataclass(frozen=True, eq=False)
class Alignment:
    """The reference image, and how others are brought to it.

    Attributes
    ----------
    kind
        `shift`, `rigid` (shift and rotation) or `similarity` (also scale).
    reference
        (h, w) uint8 grey, at most `FINE` pixels a side.
    size
        (H, W) of the original reference image.
    name
        Its name.
    region
        Region of interest, in pixels of the reference: only its pixels are compared. None: all pixels.
    limits
        Poses that count as found; None: all.
    missed, images
        In how many of the normal images the part is not found, by limits learned without each image.

    Examples
    --------
    >>> from offnominal.images import EIGHT_BIT
    >>> part = np.zeros((200, 200, 1), np.uint8)
    >>> part[60:120, 70:150] = 200
    >>> part[80:100, 90:110] = 90
    >>> alignment = Alignment.of(part, EIGHT_BIT, "shift")
    >>> pose = alignment.locate(np.roll(part, (8, -12), (0, 1)), EIGHT_BIT, "part.png")
    >>> round(pose.dx), round(pose.dy)
    (-12, 8)
    """

    kind: Kind
    reference: npt.NDArray[np.uint8]
    size: tuple[int, int]
    name: str = ""
    region: RegionOfInterest | None = None
    limits: PoseLimits | None = None
    missed: int = 0
    images: int = 0

    def __post_init__(self) -> None:
        require(
            0 <= self.missed <= self.images or self.images == 0, f"the part is missed in {self.missed} of {self.images} images"
        )
        require(self.kind in ("shift", "rigid", "similarity"), f"unknown alignment {self.kind!r}")
        sides = self.reference.shape
        require(self.reference.dtype == np.uint8 and self.reference.ndim == 2, "a reference must be (h, w) uint8")
        require(min(sides) >= 8 and max(sides) <= FINE, f"a reference of {sides} pixels is too small or too large")

    @classmethod
    def of(
        cls, pixels: Pixels, values: ValueRange, kind: Kind, *, name: str = "", region: RegionOfInterest | None = None
    ) -> Alignment:
        """The alignment to an image of (H, W, C) clipped stored values."""
        size = int(pixels.shape[0]), int(pixels.shape[1])
        factor = min(1.0, FINE / max(size))
        small = max(8, round(size[0] * factor)), max(8, round(size[1] * factor))
        grey = np.rint(np.clip(_grey(pixels, values, name or "reference", small), 0, 1) * 255).astype(np.uint8)
        return cls(kind, grey, size, name, region)

    def locate(self, pixels: Pixels, values: ValueRange, name: str) -> Pose:
        """Pose of the part in an image of (H, W, C) clipped stored values.

        Raises
        ------
        ImageError
            The aspect ratio or the depth differs from that of the reference.
        """
        size = int(pixels.shape[0]), int(pixels.shape[1])
        if not same_aspect(self.size, size):
            raise ImageError(
                f"{name}: is {size[1]} x {size[0]}, and the reference image is {self.size[1]} x {self.size[0]}; an alignment "
                "needs images of one shape"
            )
        small = self.reference.shape
        return self.pose(_grey(pixels, values, name, (small[0], small[1])), size)

    def pose(self, grey: Float, size: tuple[int, int]) -> Pose:
        """Pose of the part in an image of (H, W) pixels, from its (h, w) grey values at the size of `reference`.

        An image that does not match the reference is not moved.
        """
        estimate = self._estimate(grey)
        if estimate is None:
            return Pose(0.0, 0.0, 0.0, 1.0, 0.0, "nothing in the image matches the reference")
        pose = self._pose(*estimate, size)
        if self.limits is None:
            return pose
        problem = self.limits.problem(pose, max(size))
        if pose.quality < self.limits.quality:
            return Pose(0.0, 0.0, 0.0, 1.0, pose.quality, problem)
        return replace(pose, problem=problem)

    def _pose(self, matrix: Matrix, quality: float, size: tuple[int, ...]) -> Pose:
        """The pose in an image of (H, W) pixels of a map from pixels of the reference to those of a grey image of its size.

        A part that lies within `STILL` pixels of the reference counts as lying there.
        """
        small = self.reference.shape
        corners = np.array([(0, 0), (small[1], 0), (0, small[0]), (small[1], small[0])])
        if np.abs(corners @ matrix[:, :2].T + matrix[:, 2] - corners).max() < STILL:
            return Pose(0.0, 0.0, 0.0, 1.0, quality)
        centre = np.array([(small[1] - 1) / 2, (small[0] - 1) / 2])
        shift = matrix[:, :2] @ centre + matrix[:, 2] - centre
        return Pose(
            dx=float(shift[0] * size[1] / small[1]),
            dy=float(shift[1] * size[0] / small[0]),
            degrees=float(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))),
            scale=float(np.hypot(matrix[0, 0], matrix[1, 0])),
            quality=quality,
        )

    def _estimate(self, image: Float) -> tuple[Matrix, float] | None:
        """(2, 3) map from pixels of the reference to those of a grey image of its size, and the correlation; None: no match."""
        edges = _edges(image, SMOOTH_FINE)
        if self.limits is not None:  # most parts lie like the reference, where no search is needed
            estimate = self._refined(image, edges, np.eye(2, 3))
            if estimate is not None and self.limits.problem(self._pose(*estimate, image.shape), max(image.shape)) is None:
                return estimate
        candidates = []
        for start in self._starts(_shrunk(image, COARSE)):
            candidates.append((start, self._quality(edges, start)))
            refined = self._refined(image, edges, start)
            if refined is not None:
                candidates.append(refined)
        return max(candidates, key=lambda candidate: candidate[1]) if candidates else None

    def _starts(self, image: Float) -> list[Matrix]:
        """Starting points, from an image of `COARSE` pixels: the best shift of the best rotations and scales."""
        height, width = image.shape
        padded = (2 * height, 2 * width)
        edges = _edges(image, SMOOTH_COARSE)
        spectra = [fft.rfft2(values, padded) for values in (edges, edges**2)]
        least = LEAST_ENERGY * float((edges**2).mean())
        if least == 0:
            return []
        candidates = []
        for turned, template, mask, count in self._turned:
            product, total, energy = (
                fft.irfft2(spectrum * of, padded)
                for spectrum, of in ((spectra[0], template), (spectra[0], mask), (spectra[1], mask))
            )
            correlation = product / np.sqrt(np.maximum(energy / count - (total / count) ** 2, least))
            correlation[height // 2 + 1 : -(height // 2)] = -np.inf  # shifts by more than half of the image
            correlation[:, width // 2 + 1 : -(width // 2)] = -np.inf
            row, column = np.unravel_index(int(correlation.argmax()), correlation.shape)
            shift = (column - 2 * width if column > width else column, row - 2 * height if row > height else row)
            matrix = turned.copy()
            matrix[:, 2] += shift
            candidates.append((float(correlation[row, column]), matrix))
        best = sorted(candidates, key=lambda candidate: -candidate[0])[:STARTS]
        return [_rescaled(matrix, self.reference.shape, image.shape) for _, matrix in best]

    @cached_property
    def _shown(self) -> Float:
        """The reference as float32, 0 to 1; outside of the region, the mean of the region."""
        grey = self.reference.astype(np.float32) / np.float32(255)
        if self.region is None or self.region.whole:
            return grey
        inside = self.region.at((grey.shape[0], grey.shape[1]))
        return np.where(inside, grey, grey[inside].mean()) if inside.any() else grey

    @cached_property
    def _turned(self) -> list[tuple[Matrix, Spectrum, Spectrum, float]]:
        """Rotations and scales of the reference: map, conjugate spectra of edges and of the pixels that count, their number.

        The edges have the mean 0 and the length 1.
        """
        angles = np.arange(-MOST_DEGREES, MOST_DEGREES + STEP / 2, STEP) if self.kind != "shift" else [0.0]
        scales = SCALES if self.kind == "similarity" else (1.0,)
        coarse = _shrunk(self._shown, COARSE)
        height, width = coarse.shape
        inside = np.ones((height, width), np.float32)
        if self.region is not None:
            inside = self.region.at((height, width)).astype(np.float32)
        turned = []
        for scale in scales:
            for angle in angles:
                matrix = Pose(0.0, 0.0, float(angle), scale, 0.0).matrix((height, width))
                moved = cv2.warpAffine(coarse, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
                counted = np.asarray(cv2.warpAffine(inside, matrix, (width, height)) > 0.5, np.float32)
                count = max(1.0, float(counted.sum()))
                edges = _edges(np.asarray(moved, np.float32), SMOOTH_COARSE) * counted
                edges -= counted * (edges.sum() / count)
                edges /= float(np.linalg.norm(edges)) or 1.0
                spectra = [np.conj(fft.rfft2(values, (2 * height, 2 * width))) for values in (edges, counted)]
                turned.append((matrix, spectra[0], spectra[1], count))
        return turned

    @cached_property
    def _template(self) -> tuple[Float, tuple[int, int]]:
        """The reference, cropped to the region, and the position (x, y) of the crop."""
        if self.region is None or self.region.whole:
            return self._shown, (0, 0)
        inside = self.region.at((self._shown.shape[0], self._shown.shape[1])).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(inside)
        return np.ascontiguousarray(self._shown[top : top + height, left : left + width]), (left, top)

    def _refined(self, image: Float, edges: Float, matrix: Matrix) -> tuple[Matrix, float] | None:
        """The refined map, and the correlation of the edges under it; None if the refinement fails."""
        shown, corner = self._template
        start = matrix.astype(np.float32)
        start[:, 2] += (matrix[:, :2] @ np.array(corner)).astype(np.float32)
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, ITERATIONS, 1e-4)
        try:
            _, found = cv2.findTransformECC(shown, image, start, MOTIONS[self.kind], criteria, None, BLUR)
        except cv2.error:  # no overlap, or no contrast
            return None
        refined: Matrix = found.astype(np.float64)
        if self.kind == "similarity":
            refined = _nearest_similarity(refined, shown.shape)
        if not np.isfinite(refined).all() or _degrees(refined) > MOST_DEGREES + STEP:
            return None
        refined[:, 2] -= refined[:, :2] @ np.array(corner)
        return refined, self._quality(edges, refined)

    def _quality(self, edges: Float, matrix: Matrix) -> float:
        """Correlation of the edges of the reference with those of the moved image, where both are known; 0 without overlap."""
        expected, inside = self._outline
        size, flags = expected.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        # NaN marks what lies outside of the image.
        moved = cv2.warpAffine(edges, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))
        both = inside & np.isfinite(moved)
        if both.sum() < LEAST_OVERLAP * inside.sum():
            return 0.0
        one, other = expected[both], np.asarray(moved)[both]
        one, other = one - one.mean(), other - other.mean()
        norm = float(np.linalg.norm(one) * np.linalg.norm(other))
        return float(one @ other) / norm if norm > 0 else 0.0

    @cached_property
    def _outline(self) -> tuple[Float, Mask]:
        """Edges of the reference, and where they count."""
        size = (self.reference.shape[0], self.reference.shape[1])
        inside = np.ones(size, np.bool_) if self.region is None else self.region.at(size)
        return _edges(self.reference.astype(np.float32) / np.float32(255), SMOOTH_FINE), inside


def _grey(pixels: Pixels, values: ValueRange, name: str, size: tuple[int, int]) -> Float:
    """(H, W, C) stored values -> (h, w) float32, about 0 to 1."""
    small = values.scale(resize(pixels, size), name).reshape(*size, -1)
    return np.ascontiguousarray(small.mean(axis=2, dtype=np.float32))


def _shrunk(image: Float, longest: int) -> Float:
    height, width = image.shape
    factor = longest / max(height, width)
    if factor >= 1:
        return image
    return np.asarray(resize(image, (max(4, round(height * factor)), max(4, round(width * factor)))), np.float32)


def _edges(image: Float, smooth: float) -> Float:
    """Length of the gradient without its mean, which brightness does not change."""
    smooth = cv2.GaussianBlur(image, (0, 0), smooth, borderType=cv2.BORDER_REPLICATE)
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, *order, borderType=cv2.BORDER_REPLICATE) for order in ((1, 0), (0, 1)))
    length = np.hypot(x, y)
    return np.asarray(length - length.mean(), np.float32)


def _rescaled(matrix: Matrix, size: tuple[int, ...], before: tuple[int, ...]) -> Matrix:
    """A map between images of the size `before`, for images of another size; pixel centres stay aligned."""
    ratio = np.array([size[1] / before[1], size[0] / before[0]])
    half = matrix[:, :2] @ np.full(2, 0.5) - 0.5
    return np.column_stack([matrix[:, :2], ratio * (matrix[:, 2] - half) + half])


def _degrees(matrix: Matrix) -> float:
    """Absolute rotation of a map."""
    return float(abs(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))))


def _nearest_similarity(matrix: Matrix, size: tuple[int, ...]) -> Matrix:
    """The similarity nearest to an affine map, which moves the centre of an image of (h, w) alike."""
    cosine, sine = (matrix[0, 0] + matrix[1, 1]) / 2, (matrix[1, 0] - matrix[0, 1]) / 2
    turn = np.array([[cosine, -sine], [sine, cosine]])
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.column_stack([turn, matrix[:, :2] @ centre + matrix[:, 2] - turn @ centre])


def aligned(pixels: Pixels, pose: Pose) -> Pixels:
    """Bring an image (H, W, C) to the reference; what lies outside of the image repeats its border.

    Examples
    --------
    >>> aligned(np.array([[[1], [2], [3], [4]]], np.uint8), Pose(1.0, 0.0, 0.0, 1.0, quality=0.9))[0, :, 0].tolist()
    [2, 3, 4, 4]
    """
    if pose.still:
        return pixels
    size = int(pixels.shape[0]), int(pixels.shape[1])
    moved = cv2.warpAffine(
        pixels,
        pose.matrix(size),
        size[::-1],
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,  # mirroring never ends on an image of a single row
    )
    return np.asarray(moved).reshape(pixels.shape)


def to_image(values: npt.NDArray[Any], pose: Pose | None) -> npt.NDArray[Any]:
    """Bring an (H, W) map of the aligned image back to the image; what the reference does not show has the lowest value.

    Examples
    --------
    >>> to_image(np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), Pose(1.0, 0.0, 0.0, 1.0, quality=0.9)).tolist()
    [[1.0, 1.0, 2.0, 3.0]]
    """
    if pose is None or pose.still:
        return values
    size = int(values.shape[0]), int(values.shape[1])
    source = values.astype(np.uint8) if values.dtype == np.bool_ else values
    moved = cv2.warpAffine(
        source,
        pose.matrix(size),
        size[::-1],
        flags=cv2.INTER_NEAREST if values.dtype == np.bool_ else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float(source.min()),
    )
    return np.asarray(moved).astype(values.dtype, copy=False)


def moved(points: npt.NDArray[Any], pose: Pose, size: tuple[int, int]) -> Matrix:
    """Move (n, 2) points (x, y) of the aligned image to the image; both have (H, W) pixels.

    Points are positions between pixels, as in boxes: the top left corner is (0, 0).

    Examples
    --------
    >>> moved(np.array([[10, 20]]), Pose(4.0, -5.0, 0.0, 1.0, quality=0.9), (100, 100)).tolist()
    [[14.0, 15.0]]
    """
    matrix = pose.matrix(size)
    return (np.asarray(points, np.float64) - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5


def covered(grid: tuple[int, int], pose: Pose | None, size: tuple[int, int]) -> Mask | None:
    """(h, w) positions of the aligned image whose 3 x 3 neighbourhood lies in the image; None if all do.

    Examples
    --------
    >>> covered((4, 4), Pose(10.0, 0.0, 0.0, 1.0, quality=0.9), (40, 40)).astype(int).tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    """
    if pose is None or pose.still:
        return None
    height, width = grid
    rows, columns = (
        np.clip(np.arange(side)[:, None] + np.array([-1, 2]), 0, side) * length / side
        for side, length in zip(grid, size, strict=True)
    )
    inside = np.ones(grid, np.bool_)
    for row in (0, 1):
        for column in (0, 1):
            y, x = np.meshgrid(rows[:, row], columns[:, column], indexing="ij")
            at = moved(np.stack([x.ravel(), y.ravel()], axis=1), pose, size)
            within = (at >= -0.5) & (at <= np.array(size[::-1]) + 0.5)
            inside &= within.all(axis=1).reshape(height, width)
    return None if inside.all() else inside
