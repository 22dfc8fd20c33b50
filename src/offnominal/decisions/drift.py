"""A sequential test of whether a stream of images still looks like those fitted on, at a stated false-warning rate.

Every image gives S statistics (`decisions.appearance`). For each of them, on its own:

1. *Conformal p-values online* (Vovk, Nouretdinov and Gammerman 2003, *Testing exchangeability on-line*): the rank of the new
   value among the reference values **and all values of the stream so far**, ties broken at random. If reference and stream are
   exchangeable these are independent and uniform, exactly. Ranks against a fixed reference would not be independent, since they
   all share its luck, and with n = 31 to 400 that luck would raise false warnings in the long run.
2. *Bets* (Vovk et al. 2021, *Retrain or not retrain: conformal test martingales for change-point detection*): a bet multiplies
   its capital by a function of p whose mean is 1 under uniformity; here `exp(b z) / mean`, z the normal quantile of 1 - p cut
   off at +-1.5, the likelihood ratio of a shift by b standard deviations. The cut-off makes it robust: an odd part counts no
   more than one at the edge of the usual, so that it takes many images that lean the same way.
3. *Starts*: a change may come at any time, so a bet starts anew at every image t with a share of the capital that was put
   aside, `(1 + (t-1)/100)^-1/2 - (1 + t/100)^-1/2`. All capital together is a martingale that begins at 1.

Ville's inequality: P(the capital ever reaches c) <= 1 / c. There is a martingale for each of S statistics, and a warning when
one of them reaches S / alpha, so the false-warning rate over the whole, endless stream is at most alpha. (Their average would
need one common filtration: the p-value of one statistic need not be uniform given past ranks of another.)

What it rests on is that without a change reference and stream are exchangeable. A stream whose neighbours are alike (parts of
one batch, one shift) when the images fitted on were a mixture is a change, too, and will be noticed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from offnominal.types import Float, require

Values = npt.NDArray[np.float64]

#: Shifts that are bet on, in standard deviations: positive bets win when a statistic rises.
SHIFTS = np.array([0.5, 1.0, 2.0, -0.5, -1.0, -2.0])
#: |z| beyond this counts as this.
CUT = 1.5
#: Images in which a quarter or so of the capital is put into starts.
PATIENCE = 100.0


def kept_aside(images: int) -> float:
    """Share of the capital that no bet has started with after so many images: `(1 + images / 100)^-1/2`."""
    return float((1 + images / PATIENCE) ** -0.5)


def log_mean_bet(shift: Values, cut: float = CUT) -> Values:
    """log E exp(b clip(z, -cut, cut)) for a standard normal z, b = `shift`."""
    inner = np.exp(shift**2 / 2) * (ndtr(cut - shift) - ndtr(-cut - shift))
    outer = np.exp(shift * cut) * ndtr(-cut) + np.exp(-shift * cut) * ndtr(-cut)
    log_mean: Values = np.log(inner + outer)
    return log_mean


#: Images that are ranked together.
_BLOCK = 256
_LOG_MEAN = log_mean_bet(SHIFTS)


@dataclass
class DriftTest:
    """The state of the test; `update` takes the next images.

    Attributes:
        reference: (n, S) float32 statistics of good images that had no part in how the statistics are worked out.
        seed: of the random breaking of ties, and of nothing else.
        stream: (T, S) statistics of the images so far.
        capital: (S, B) natural logarithm of the capital of each bet that has started.
        best, began: (S, B) of the most successful start of each bet its log capital, and the image (from 1) that it began at.
        peak: (S,) largest log martingale so far.
    """

    reference: Float
    seed: int = 0
    stream: Float = field(default_factory=lambda: np.empty((0, 0), np.float32))
    capital: Values = field(default_factory=lambda: np.empty(0))
    best: Values = field(default_factory=lambda: np.empty(0))
    began: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    peak: Values = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        require(self.reference.ndim == 2 and self.reference.shape[1] > 0, f"reference must be (n, S): {self.reference.shape}")
        count = self.reference.shape[1]
        if self.stream.size == 0:
            self.stream = np.empty((0, count), np.float32)
            self.capital = np.full((count, len(SHIFTS)), -np.inf)
            self.best = np.full((count, len(SHIFTS)), -np.inf)
            self.began = np.ones((count, len(SHIFTS)), np.int64)
            self.peak = np.zeros(count)
        require(self.stream.ndim == 2 and self.stream.shape[1] == count, f"stream must be (T, {count}): {self.stream.shape}")
        shapes = {self.capital.shape, self.best.shape, self.began.shape}
        require(shapes == {(count, len(SHIFTS))} and self.peak.shape == (count,), "the state of the bets has another shape")
        self._sorted = np.sort(np.concatenate([self.reference, self.stream]), axis=0)

    @property
    def images(self) -> int:
        """T, how many images were taken."""
        return len(self.stream)

    def update(self, values: Float) -> Values:
        """Take the (T, S) statistics of the next images, in order.

        Returns (T, S): `evidence` as it was after each of them.
        """
        values = np.asarray(values, dtype=np.float32)
        require(values.ndim == 2 and values.shape[1] == len(self.peak), f"expected (T, {len(self.peak)}), got {values.shape}")
        require(bool(np.isfinite(values).all()), "statistics must be finite")
        told = [self._block(values[first : first + _BLOCK]) for first in range(0, len(values), _BLOCK)]
        return np.concatenate(told) if told else np.empty(values.shape)

    def _block(self, values: Float) -> Values:
        p_values = self._ranks(values)
        gains = np.clip(ndtri(1 - p_values), -CUT, CUT)[:, :, None] * SHIFTS - _LOG_MEAN
        told = np.empty(values.shape)
        for place, gain in enumerate(gains):
            self._bet(gain, self.images + place + 1)
            told[place] = self.evidence()
        self.stream = np.concatenate([self.stream, values])
        self._sorted = np.sort(np.concatenate([self._sorted, values]), axis=0, kind="stable")
        return told

    def _ranks(self, values: Float) -> Values:
        """(T, S) p-values: the share that is higher, of all values before and this one, ties counted by chance."""
        before = np.tri(len(values), k=-1, dtype=bool)
        higher, equal = np.empty(values.shape), np.empty(values.shape)
        for at, (known, column) in enumerate(zip(self._sorted.T, values.T, strict=True)):
            low, high = np.searchsorted(known, column, "left"), np.searchsorted(known, column, "right")
            higher[:, at] = len(known) - high + (before & (column[None] > column[:, None])).sum(axis=1)
            equal[:, at] = high - low + (before & (column[None] == column[:, None])).sum(axis=1)
        chance = np.random.Generator(np.random.PCG64(self.seed).advance(self.stream.size)).random(values.shape)
        counts = len(self._sorted) + 1 + np.arange(len(values))
        p_values: Values = (higher + chance * (equal + 1)) / counts[:, None]
        return p_values

    def _bet(self, gain: Values, number: int) -> None:
        """(S, B) logarithms by which image `number` multiplies the capital of the bets."""
        start = np.log(kept_aside(number - 1) - kept_aside(number))
        self.began[start > self.best] = number
        self.best = np.maximum(self.best, start) + gain
        self.capital = np.logaddexp(self.capital, start) + gain
        started = np.logaddexp.reduce(self.capital, axis=1) - np.log(len(SHIFTS))
        self.peak = np.maximum(self.peak, np.logaddexp(started, np.log(kept_aside(number))))

    def evidence(self) -> Values:
        """(S,) natural logarithm of the largest martingale over S: a warning where it reaches log(1 / alpha)."""
        shared: Values = self.peak - np.log(len(self.peak))
        return shared

    def warns(self, rate: float) -> bool:
        """Whether there is a warning at a false-warning rate in (0, 1)."""
        return bool(self.evidence().max() >= -np.log(rate))

    def change(self, statistic: int) -> tuple[int, bool]:
        """(image from 1 at which the change most probably began, whether the statistic rose), by its most successful bet."""
        bet = int(self.best[statistic].argmax())
        return int(self.began[statistic, bet]), bool(SHIFTS[bet] > 0)
