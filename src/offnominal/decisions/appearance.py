"""Global image statistics that respond to changes of lighting, focus, position or product, and hardly to defects.

D features of the whole image (its mean patch and brightness profiles) are projected onto one direction per disturbance. A
direction is Fisher's linear discriminant, `(C + RIDGE I + OTHERS sum_o d_o d_o^T)^-1 d`. C is the covariance of good images, d
the shift by the disturbance and d_o the shifts by the others, all in standard deviations. So each statistic responds to its own
disturbance, and little to the variation of good images or to other disturbances.

The directions are fitted on a random half of the good images. The other half is the reference for streams. Reference and stream
are therefore treated alike, and a test of their exchangeability is exact.

References
----------
Fisher, "The use of multiple measurements in taxonomic problems", 1936.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offnominal.types import Float, Index, require

#: Name of the last statistic, the mean squared deviation of the features from their median, whatever the cause.
#: Model files, drift states and `drift.json` call it likeness.
DEVIATION = "likeness"
#: Features are clipped at this number of standard deviations from their median, so that no single one dominates.
CUT = 4.0
#: Added to the diagonal of the covariance, which keeps it invertible with few images.
RIDGE = 0.1
#: Weight of the other disturbances against the covariance: separates disturbances at little loss of sensitivity.
OTHERS = 0.1
#: Smallest scale of a feature, as a share of the median deviation; keeps noise in constant features small.
FLOOR = 0.1
#: Fewest images for the directions, and for the reference.
FEWEST = 4


@dataclass(frozen=True)
class Appearance:
    """Global image statistics, and their values on good images.

    Attributes
    ----------
    names
        S - 1 disturbances, then `DEVIATION`.
    center, scale
        (D,) float32 median and standard deviation of the features; scale > 0.
    directions
        (S - 1, D) float32.
    reference
        (n, S) float32 statistics of good images that the directions were not fitted on.

    Examples
    --------
    >>> zeros, reference = np.zeros(2, np.float32), np.array([[0.1], [0.4], [0.2]], np.float32)
    >>> appearance = Appearance((DEVIATION,), zeros, zeros + 1, np.zeros((0, 2), np.float32), reference)
    >>> statistics = appearance.statistics(np.array([1.0, 0.0], np.float32))
    >>> statistics, appearance.p_value(statistics)
    (array([0.5], dtype=float32), 0.25)
    """

    names: tuple[str, ...]
    center: Float
    scale: Float
    directions: Float
    reference: Float

    def __post_init__(self) -> None:
        count = len(self.names)
        require(count > 0 and self.names[-1] == DEVIATION, f"the last statistic must be {DEVIATION}, got {self.names}")
        require(self.center.ndim == 1 and self.scale.shape == self.center.shape, "center and scale must both be (D,)")
        require(bool((self.scale > 0).all()), "scales must be above 0")
        require(
            self.directions.shape == (count - 1, len(self.center)),
            f"directions must be ({count - 1}, D), got {self.directions.shape}",
        )
        require(
            self.reference.ndim == 2 and self.reference.shape[1] == count,
            f"reference must be (n, {count}), got {self.reference.shape}",
        )
        finite = np.isfinite(self.directions).all() and np.isfinite(self.reference).all() and np.isfinite(self.center).all()
        require(bool(finite), "center, directions and reference must be finite")

    def statistics(self, means: Float) -> Float:
        """Compute (..., S) statistics from (..., D) raw features of whole images."""
        return _statistics(means, self.center, self.scale, self.directions)

    def p_value(self, statistics: Float) -> float:
        """Image-level conformal p-value of (S,) statistics, `(1 + #{reference deviation >= deviation}) / (n + 1)`, in (0, 1].

        For a new good image, P(p-value <= alpha) <= alpha over draws of the halves (Vovk, Gammerman and Shafer 2005).
        """
        at_least = int((self.reference[:, -1] >= statistics[-1]).sum())
        return (1 + at_least) / (len(self.reference) + 1)


def halves(images: int, seed: int) -> tuple[Index, Index]:
    """Split image indices at random into two ascending halves, for the directions and for the reference.

    The reference is the larger half of an odd number.

    Examples
    --------
    >>> [len(half) for half in halves(5, seed=0)]
    [2, 3]
    """
    order = np.random.default_rng(seed).permutation(images)
    return np.sort(order[: images // 2]), np.sort(order[images // 2 :])


def learn_appearance(fitting_features: Float, disturbed: dict[str, tuple[Float, Float]], reference: Float) -> Appearance:
    """Fit an `Appearance`.

    Parameters
    ----------
    fitting_features
        (a, D) features of the images for the directions.
    disturbed
        For each disturbance, (b, D) features of some images before and after it.
    reference
        (n, D) features of the reference images.

    Raises
    ------
    ValueError
        If there are fewer than `FEWEST` images in a half.

    Examples
    --------
    >>> images = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    >>> brighter = images[:6] + np.array([1, 0, 0], np.float32)
    >>> appearance = learn_appearance(images[:6], {"brightness": (images[:6], brighter)}, images[6:])
    >>> appearance.names, appearance.reference.shape
    (('brightness', 'likeness'), (6, 2))
    """
    fewest = min(len(fitting_features), len(reference))
    require(fewest >= FEWEST, f"each half needs at least {FEWEST} images, got {fewest}")
    center = np.median(fitting_features, axis=0).astype(np.float32)
    deviation = fitting_features.std(axis=0)
    floor = FLOOR * float(np.median(deviation))
    scale = np.where(deviation > floor, deviation, floor if floor > 0 else 1.0).astype(np.float32)
    covariance = np.cov(_standard(fitting_features, center, scale), rowvar=False).reshape(len(center), len(center))
    shifts = {
        name: (_standard(after, center, scale) - _standard(before, center, scale)).mean(axis=0, dtype=np.float64)
        for name, (before, after) in disturbed.items()
    }
    directions = np.array([_direction(covariance, name, shifts) for name in shifts], dtype=np.float32).reshape(-1, len(center))
    return Appearance(
        (*shifts, DEVIATION), center, scale, directions, _statistics(reference, center, scale, directions).astype(np.float32)
    )


def _standard(means: Float, center: Float, scale: Float) -> Float:
    return np.asarray(np.clip((means - center) / scale, -CUT, CUT), dtype=np.float32)


def _statistics(means: Float, center: Float, scale: Float, directions: Float) -> Float:
    standard = _standard(means, center, scale)
    # Sums per direction: the rounding of a matrix product depends on the number of images.
    projected = (
        np.stack([(standard * direction).sum(axis=-1) for direction in directions], axis=-1) if len(directions) else None
    )
    deviation = np.square(standard).mean(axis=-1, keepdims=True)
    return deviation if projected is None else np.concatenate([projected, deviation], axis=-1)


def _direction(
    covariance: npt.NDArray[np.float64], name: str, shifts: dict[str, npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    own = shifts[name]
    spread = covariance + RIDGE * np.eye(len(own))
    for other, shift in shifts.items():
        if other != name:
            spread = spread + OTHERS * np.outer(shift, shift)
    direction = np.linalg.solve(spread, own)
    length = float(np.linalg.norm(direction))
    return np.asarray(direction / length if length > 0 else direction)
