"""Sequential test for drift of an image stream, with a stated false-warning rate over the whole stream.

Each image has S statistics (`decisions.appearance`). For each statistic separately:

1. Online conformal p-values: the rank of the new value among the reference and **all previous values of the stream**, ties
   broken at random. If reference and stream are exchangeable, these p-values are exactly independent and uniform. Ranks in a
   fixed reference would all depend on the same sample, which raises false warnings in the long run.
2. Bets: each bet multiplies its capital by a function of p with mean 1 under uniformity: `exp(b z) / mean`, the likelihood
   ratio of a shift by b standard deviations, where z is the normal quantile of 1 - p, clipped at +-1.5. Clipping makes the
   test robust: a single unusual part has little effect, and a warning takes many images that deviate in the same direction.
3. Starts: a change may come at any time, so at every image t a new bet starts with the share
   `(1 + (t-1)/100)^-1/2 - (1 + t/100)^-1/2` of the capital. The total capital is a martingale that begins at 1.

By Ville's inequality, P(the capital ever reaches c) <= 1 / c. A warning is raised when the martingale of one of the S
statistics reaches S / alpha, so the false-warning rate is at most alpha over an infinite stream. (The average of the
martingales is not one: p-values of one statistic need not be uniform given the ranks of another.)

The test assumes that reference and stream are exchangeable without a change. If the training images are a mixture of batches, a
stream from a single batch counts as a change.

References
----------
Vovk, Nouretdinov and Gammerman, "Testing exchangeability on-line", 2003.
Vovk et al., "Retrain or not retrain: conformal test martingales for change-point detection", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from offnominal.types import Float, require

Values = npt.NDArray[np.float64]

#: Shifts of the bets, in standard deviations; positive bets gain when a statistic rises.
SHIFTS = np.array([0.5, 1.0, 2.0, -0.5, -1.0, -2.0])
#: Clipping limit of |z|.
CUT = 1.5
#: Time scale of the starts: after this number of images, 29 % of the capital has been bet.
PATIENCE = 100.0


def reserve(images: int) -> float:
    """Share of the capital that is not yet bet after `images` images: `(1 + images / 100)^-1/2`."""
    return float((1 + images / PATIENCE) ** -0.5)


def log_mean_bet(shift: Values, cut: float = CUT) -> Values:
    """log E exp(b clip(z, -cut, cut)) for a standard normal z, with b = `shift`."""
    inner = np.exp(shift**2 / 2) * (ndtr(cut - shift) - ndtr(-cut - shift))
    outer = np.exp(shift * cut) * ndtr(-cut) + np.exp(-shift * cut) * ndtr(-cut)
    log_mean: Values = np.log(inner + outer)
    return log_mean


#: Images that are ranked together, which limits the memory of their pairwise comparison.
_BLOCK = 256
_LOG_MEAN = log_mean_bet(SHIFTS)


@dataclass
class DriftTest:
    """State of the test.

    Attributes
    ----------
    reference
        (n, S) float32 statistics of good images that the statistics were not fitted on.
    seed
        Seed for breaking ties.
    stream
        (T, S) statistics of the images so far.
    capital
        (S, B) natural logarithm of the capital of each bet.
    best, began
        (S, B) log capital of the most successful start of each bet, and the image (from 1) of that start.
    peak
        (S,) largest log martingale so far.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> test = DriftTest(random.normal(size=(50, 1)).astype(np.float32))
    >>> _ = test.update(random.normal(size=(40, 1)).astype(np.float32))
    >>> test.warns(0.01)
    False
    >>> _ = test.update(random.normal(loc=2, size=(40, 1)).astype(np.float32))
    >>> test.warns(0.01)
    True
    """

    reference: Float
    seed: int = 0
    stream: Float = field(default_factory=lambda: np.empty((0, 0), np.float32))
    capital: Values = field(default_factory=lambda: np.empty(0))
    best: Values = field(default_factory=lambda: np.empty(0))
    began: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    peak: Values = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        require(
            self.reference.ndim == 2 and self.reference.shape[1] > 0, f"reference must be (n, S), got {self.reference.shape}"
        )
        count = self.reference.shape[1]
        if self.stream.size == 0:
            self.stream = np.empty((0, count), np.float32)
            self.capital = np.full((count, len(SHIFTS)), -np.inf)
            self.best = np.full((count, len(SHIFTS)), -np.inf)
            self.began = np.ones((count, len(SHIFTS)), np.int64)
            self.peak = np.zeros(count)
        require(
            self.stream.ndim == 2 and self.stream.shape[1] == count, f"stream must be (T, {count}), got {self.stream.shape}"
        )
        shapes = {self.capital.shape, self.best.shape, self.began.shape}
        require(
            shapes == {(count, len(SHIFTS))} and self.peak.shape == (count,),
            f"the state of the bets must be ({count}, {len(SHIFTS)})",
        )
        self._sorted = np.sort(np.concatenate([self.reference, self.stream]), axis=0)

    @property
    def images(self) -> int:
        """Number T of images so far."""
        return len(self.stream)

    def update(self, values: Float) -> Values:
        """Process the (T, S) statistics of the next images, in order; return (T, S) `evidence` after each of them."""
        values = np.asarray(values, dtype=np.float32)
        require(values.ndim == 2 and values.shape[1] == len(self.peak), f"expected (T, {len(self.peak)}), got {values.shape}")
        require(bool(np.isfinite(values).all()), "statistics must be finite")
        blocks = [self._block(values[first : first + _BLOCK]) for first in range(0, len(values), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.empty(values.shape)

    def _block(self, values: Float) -> Values:
        p_values = self._ranks(values)
        gains = np.clip(ndtri(1 - p_values), -CUT, CUT)[:, :, None] * SHIFTS - _LOG_MEAN
        evidence = np.empty(values.shape)
        for index, gain in enumerate(gains):
            self._bet(gain, self.images + index + 1)
            evidence[index] = self.evidence()
        self.stream = np.concatenate([self.stream, values])
        self._sorted = np.sort(np.concatenate([self._sorted, values]), axis=0, kind="stable")
        return evidence

    def _ranks(self, values: Float) -> Values:
        """(T, S) p-values: share of higher values among all previous values and the value itself, ties broken at random."""
        before = np.tri(len(values), k=-1, dtype=bool)
        higher, equal = np.empty(values.shape), np.empty(values.shape)
        for index, (previous, column) in enumerate(zip(self._sorted.T, values.T, strict=True)):
            low, high = np.searchsorted(previous, column, "left"), np.searchsorted(previous, column, "right")
            higher[:, index] = len(previous) - high + (before & (column[None] > column[:, None])).sum(axis=1)
            equal[:, index] = high - low + (before & (column[None] == column[:, None])).sum(axis=1)
        chance = np.random.Generator(np.random.PCG64(self.seed).advance(self.stream.size)).random(values.shape)
        counts = len(self._sorted) + 1 + np.arange(len(values))
        p_values: Values = (higher + chance * (equal + 1)) / counts[:, None]
        return p_values

    def _bet(self, gain: Values, number: int) -> None:
        """Update the capital with the (S, B) log gains of image `number`."""
        start = np.log(reserve(number - 1) - reserve(number))
        self.began[start > self.best] = number
        self.best = np.maximum(self.best, start) + gain
        self.capital = np.logaddexp(self.capital, start) + gain
        started = np.logaddexp.reduce(self.capital, axis=1) - np.log(len(SHIFTS))
        self.peak = np.maximum(self.peak, np.logaddexp(started, np.log(reserve(number))))

    def evidence(self) -> Values:
        """(S,) natural logarithm of the largest martingale so far, divided by S; a warning is raised at log(1 / alpha)."""
        shared: Values = self.peak - np.log(len(self.peak))
        return shared

    def warns(self, rate: float) -> bool:
        """Whether the test warns at a false-warning rate in (0, 1)."""
        return bool(self.evidence().max() >= -np.log(rate))

    def change(self, statistic: int) -> tuple[int, bool]:
        """Most likely first image (from 1) of a change in a statistic, and whether it rose, by its most successful bet."""
        bet = int(self.best[statistic].argmax())
        return int(self.began[statistic, bet]), bool(SHIFTS[bet] > 0)
