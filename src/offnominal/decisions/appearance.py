"""What an image looks like as a whole, in a few numbers that react to light, focus, place and product, and little to a defect.

D features of the whole image (its mean patch, and how bright it is across and down) are projected on one direction for each
disturbance. A direction is Fisher's linear discriminant (1936): `(C + ridge I + share of the other disturbances)^-1 d`, where C
is the covariance of good images and d how the disturbance moves them, both in standard deviations. It reacts to the
disturbance, and little to how good images differ anyhow or to the others.

Half of the good images, drawn at random, teach the directions; the other half are the reference that a stream is held against.
So the statistics of reference and stream are worked out alike, and a test of their exchangeability is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offnominal.types import Float, Index, require

#: Statistic that no direction belongs to: how far the features lie from the average, whatever the cause.
LIKENESS = "likeness"
#: A feature is cut off at so many standard deviations from its median.
CUT = 4.0
#: Added to the diagonal of the covariance of standardised features.
RIDGE = 0.1
#: Weight of the other disturbances beside the covariance: enough to tell them apart, and hardly a loss of sensitivity.
OTHERS = 0.1
#: A feature that hardly moves is divided by no less than this share of the median deviation.
FLOOR = 0.1
#: The fewest images that directions can be taken from, and that a stream is held against.
FEWEST = 4


@dataclass(frozen=True)
class Appearance:
    """Statistics of an image as a whole, and their values on good images.

    Attributes:
        names: S - 1 disturbances, then `LIKENESS`.
        center, scale: (D,) float32, scale > 0: median and standard deviation of the features.
        directions: (S - 1, D) float32.
        reference: (n, S) float32 of good images that taught nothing.
    """

    names: tuple[str, ...]
    center: Float
    scale: Float
    directions: Float
    reference: Float

    def __post_init__(self) -> None:
        count = len(self.names)
        require(count > 0 and self.names[-1] == LIKENESS, f"the last statistic must be {LIKENESS}: {self.names}")
        require(self.center.ndim == 1 and self.scale.shape == self.center.shape, "center and scale must both be (D,)")
        require(bool((self.scale > 0).all()), "scales must be above 0")
        require(self.directions.shape == (count - 1, len(self.center)), f"directions have the shape {self.directions.shape}")
        require(self.reference.ndim == 2 and self.reference.shape[1] == count, f"reference must be (n, {count})")
        finite = np.isfinite(self.directions).all() and np.isfinite(self.reference).all() and np.isfinite(self.center).all()
        require(bool(finite), "center, directions and reference must be finite")

    def statistics(self, means: Float) -> Float:
        """(..., D) features of whole images, not standardised -> (..., S)."""
        return _statistics(means, self.center, self.scale, self.directions)

    def p_value(self, statistics: Float) -> float:
        """(S,) statistics of one image -> the share of the reference, it counted in, that is no more like the teachers.

        In (0, 1]: with n of reference, `(1 + #{likeness >= its own}) / (n + 1)` (Vovk, Gammerman and Shafer 2005). Of a new
        good image it is at most alpha with a probability of at most alpha over all draws of the halves: the reference taught
        nothing.
        """
        at_least = int((self.reference[:, -1] >= statistics[-1]).sum())
        return (1 + at_least) / (len(self.reference) + 1)


def halves(images: int, seed: int) -> tuple[Index, Index]:
    """(teachers, reference): a random half each, rising; the reference takes the odd one."""
    order = np.random.default_rng(seed).permutation(images)
    return np.sort(order[: images // 2]), np.sort(order[images // 2 :])


def learn_appearance(teachers: Float, disturbed: dict[str, tuple[Float, Float]], reference: Float) -> Appearance:
    """`Appearance` from (a, D) features of the teachers and (n, D) of the reference.

    `disturbed` gives for each disturbance (b, D) features of some teachers before and after it.
    """
    require(min(len(teachers), len(reference)) >= FEWEST, f"at least {FEWEST} images each are needed")
    center = np.median(teachers, axis=0).astype(np.float32)
    deviation = teachers.std(axis=0)
    floor = FLOOR * float(np.median(deviation))
    scale = np.where(deviation > floor, deviation, floor if floor > 0 else 1.0).astype(np.float32)
    covariance = np.cov(_standard(teachers, center, scale), rowvar=False).reshape(len(center), len(center))
    moved = {
        name: (_standard(after, center, scale) - _standard(before, center, scale)).mean(axis=0, dtype=np.float64)
        for name, (before, after) in disturbed.items()
    }
    directions = np.array([_direction(covariance, name, moved) for name in moved], dtype=np.float32).reshape(-1, len(center))
    return Appearance(
        (*moved, LIKENESS), center, scale, directions, _statistics(reference, center, scale, directions).astype(np.float32)
    )


def _standard(means: Float, center: Float, scale: Float) -> Float:
    return np.asarray(np.clip((means - center) / scale, -CUT, CUT), dtype=np.float32)


def _statistics(means: Float, center: Float, scale: Float, directions: Float) -> Float:
    standard = _standard(means, center, scale)
    # Summed feature by feature and not as a matrix product, whose rounding depends on how many images stand together.
    projected = (
        np.stack([(standard * direction).sum(axis=-1) for direction in directions], axis=-1) if len(directions) else None
    )
    likeness = np.square(standard).mean(axis=-1, keepdims=True)
    return likeness if projected is None else np.concatenate([projected, likeness], axis=-1)


def _direction(
    covariance: npt.NDArray[np.float64], name: str, moved: dict[str, npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    own = moved[name]
    spread = covariance + RIDGE * np.eye(len(own))
    for other, shift in moved.items():
        if other != name:
            spread = spread + OTHERS * np.outer(shift, shift)
    direction = np.linalg.solve(spread, own)
    length = float(np.linalg.norm(direction))
    return np.asarray(direction / length if length > 0 else direction)
