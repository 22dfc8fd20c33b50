"""A small fit on some of the good images, judged by others and by defects made on them: evidence without a real defect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from offnominal.config import Settings
from offnominal.detector.engine import FeatureEngine
from offnominal.detector.inspector import Inspector
from offnominal.detector.learning.fit import Fitting
from offnominal.detector.model import NO_HEAD, HeadVerdict
from offnominal.errors import ImageError, InputError
from offnominal.images import PSEUDO_ANOMALIES, Source, depth_of, pixels_of, pseudo_anomaly, raise_unreadable, resize
from offnominal.images.decode import Pixels
from offnominal.metrics import auroc, average_precision, rank
from offnominal.types import Float, Mask, Progress, silent

#: Most images that a trial learns from, and that it judges by; of few images a third judges.
MOST_LEARNT, MOST_JUDGED = 60, 20
#: Fewer held-out images than this say nothing.
FEWEST_JUDGED = 4
#: Judging images are no larger than this on the shorter side; the network sees less of them.
MOST_PIXELS = 768
#: With `head = auto` fewer good images are not worth a trial.
ENOUGH_FOR_HEAD = 50
#: A gain on average may cost a kind of made defect this much image AUROC.
MOST_LOST = 0.02


@dataclass(frozen=True)
class Verdict:
    """How well made defects were found in held-out good images.

    Attributes:
        detection: (kinds, images) share of the held-out good images that score below the made defect, ties counted half;
            the mean of a row is the image AUROC of that kind.
        localisation: (kinds, images) pixel average precision in the image of the made defect.
    """

    detection: Float
    localisation: Float

    @property
    def merits(self) -> Float:
        """(images,) mean over kinds of detection and localisation: what settings are compared by."""
        return np.asarray((self.detection.mean(0) + self.localisation.mean(0)) / 2, dtype=np.float32)


class Trial:
    """The same images and the same made defects for every candidate; `clean` are the images that judge.

    Args:
        sources: readable and other good images; those that cannot be read are passed over.
        seed: which of them learn, which judge, and what is made of these.
        progress: told of the fit and of the judging.

    Raises:
        InputError: too few of them can be read.
    """

    def __init__(self, sources: Sequence[Source], seed: int, progress: Progress = silent) -> None:
        self._progress = progress
        rng = np.random.default_rng([seed, len(sources)])
        order = rng.permutation(len(sources))
        judged = min(MOST_JUDGED, len(sources) // 3)
        self.clean = _alike(_decoded([sources[at] for at in order[:judged]]))
        self._learn: list[Source] = [sources[at] for at in order[judged : judged + MOST_LEARNT]]
        if len(sources) < 3 * FEWEST_JUDGED:
            raise InputError(f"{len(sources)} good images are too few for a trial: {3 * FEWEST_JUDGED} or more are needed")
        if len(self.clean) < FEWEST_JUDGED:
            raise InputError(f"of {judged} good images to judge by {len(self.clean)} can be read: {FEWEST_JUDGED} are needed")
        self._made: list[tuple[Pixels, Mask]] = []
        for kind in PSEUDO_ANOMALIES:
            for at, pixels in enumerate(self.clean):
                others = [other for i, other in enumerate(self.clean) if i != at]
                other = others[int(rng.integers(len(others)))] if others else pixels
                self._made.append(pseudo_anomaly(pixels, other, kind, rng))

    def fit(self, settings: Settings, engine: FeatureEngine, head: HeadVerdict = NO_HEAD) -> Inspector:
        """Fit with the settings on the images that learn, with heads where `head` is kept.

        Raises:
            InputError: fewer than two images can be learnt from.
        """
        small = settings.model_copy(update={"thumbnails": False, "contamination": 0.0, "calibration": "leave-one-out"})
        names = [str(at) for at in range(len(self._learn))]
        fitting = Fitting(self._learn, names, small, engine, self._progress, lambda rest: None)
        return Inspector(fitting.run(head), engine)

    def judge(self, inspector: Inspector) -> Verdict:
        """How well a fitted model finds what was made, held against the clean images."""
        none = np.zeros(0, bool)
        clean = np.array([score for score, _ in self._found(inspector, [(pixels, none) for pixels in self.clean])])
        found = self._found(inspector, self._made)
        grid = (len(PSEUDO_ANOMALIES), len(self.clean))
        detection = [auroc(np.append(clean, score), np.arange(len(clean) + 1) == len(clean)) for score, _ in found]
        return Verdict(
            np.array(detection, dtype=np.float32).reshape(grid),
            np.array([precision for _, precision in found], dtype=np.float32).reshape(grid),
        )

    def _found(self, inspector: Inspector, images: Sequence[tuple[Pixels, Mask]]) -> list[tuple[float, float]]:
        """Score and pixel average precision of every image; 0 where nothing is masked."""
        found = {}
        for at, inspection, _ in inspector.inspect([pixels for pixels, _ in images], raise_unreadable):
            mask = images[at][1]
            precision = (
                average_precision(rank(inspection.anomaly_map[mask], inspection.anomaly_map[~mask])) if mask.any() else 0.0
            )
            found[at] = inspection.score, precision
            self._progress("trial", len(found), len(images))
        return [found[at] for at in range(len(images))]


def judged_head(
    sources: Sequence[Source], settings: Settings, engine: FeatureEngine, progress: Progress = silent
) -> HeadVerdict:
    """Whether heads trained on noise help, told by a trial on good images and made defects alone.

    They are kept where `sure_gain` says so. One fit serves both sides: heads change none of the other signals.
    """
    if settings.head == "none":
        return NO_HEAD
    if settings.head == "auto" and len(sources) < ENOUGH_FOR_HEAD:
        return HeadVerdict(False, f"not tried: {len(sources)} good images, from {ENOUGH_FOR_HEAD} on it is worth a trial", None)
    try:
        trial = Trial(sources, settings.seed, progress)
        inspector = trial.fit(settings, engine, HeadVerdict(True, "on trial", None))
        with_head, without = trial.judge(inspector), trial.judge(Inspector(replace(inspector.model, heads=()), engine))
    except InputError as error:
        return HeadVerdict(False, f"not tried: {error}", None)
    gain = sure_gain(without, with_head)
    return HeadVerdict(gain.sure, gain.told, gain.mean)


@dataclass(frozen=True)
class Gain:
    """What one side finds better than another: mean over the judging images, its standard error, whether that is sure, and all
    this told to a person."""

    mean: float
    error: float
    sure: bool
    told: str


def sure_gain(before: Verdict, after: Verdict) -> Gain:
    """Sure is a mean gain that exceeds twice its standard error (about 2.5 % of useless changes would pass) where no kind of
    defect is detected worse by more than `MOST_LOST`."""
    gains = after.merits - before.merits
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
    by_kind = (after.detection - before.detection).mean(1)
    worst = int(by_kind.argmin())
    said = f"with it made defects are found {gain:+.3f} (standard error {error:.3f}) better"
    if gain <= 2 * error:
        return Gain(gain, error, False, f"no sure gain: {said}")
    if by_kind[worst] < -MOST_LOST:
        kind = list(PSEUDO_ANOMALIES)[worst]
        return Gain(gain, error, False, f"{kind} ones detected {by_kind[worst]:+.3f}, though on average {said}")
    return Gain(gain, error, True, said)


def _alike(images: Sequence[Pixels]) -> list[Pixels]:
    """Those of the most common depth: a fit passes over the others too."""
    depths = Counter(depth_of(pixels) for pixels in images).most_common(1)
    return [pixels for pixels in images if depth_of(pixels) == depths[0][0]]


def _decoded(sources: Sequence[Source]) -> list[Pixels]:
    """Those that can be read, made smaller where the shorter side exceeds `MOST_PIXELS`."""
    found = []
    for source in sources:
        try:
            pixels = pixels_of(source)
        except ImageError:
            continue
        height, width = pixels.shape[:2]
        scale = min(1.0, MOST_PIXELS / min(height, width))
        found.append(resize(pixels, (max(1, round(height * scale)), max(1, round(width * scale)))))
    return found
