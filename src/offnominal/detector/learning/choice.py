"""Which preset suits the parts at hand: each is tried on some of the good images and judged by defects made on others.

No image size beyond the presets is tried. Made defects are found better the larger the image is seen, small ones above all,
also on parts whose real defects are found worse then; so they are no evidence for a larger size (`benchmarks/presets.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from offnominal.config import PRESETS, Settings, settings_from
from offnominal.detector.engine import FeatureEngine
from offnominal.detector.inspector import Inspector
from offnominal.detector.learning.trial import Trial, Verdict, sure_gain
from offnominal.detector.model import PresetChoice, PresetTried
from offnominal.errors import InputError
from offnominal.features import networks_of
from offnominal.images import Source, raise_unreadable
from offnominal.types import Progress, silent

BASE = "balanced"


def chosen_preset(
    sources: Sequence[Source], settings: Settings, weights: Path | None = None, progress: Progress = silent
) -> tuple[Settings, PresetChoice]:
    """The settings with the preset that made defects on good images speak for, and why.

    `balanced` stands, or what is fastest where it takes longer than `settings.image_milliseconds`, unless another preset within
    that time shows a sure gain over it (`trial.sure_gain`); then the one that gains most. What was set by hand stays.
    """
    candidates = _candidates(settings, weights)
    try:
        trial = Trial(sources, settings.seed, progress)
        verdicts, took = {}, {}
        for name, candidate in candidates.items():
            engine = FeatureEngine(candidate, weights)
            inspector = trial.fit(candidate, engine)
            took[name] = _milliseconds(inspector, trial.clean)
            verdicts[name] = trial.judge(inspector)
    except InputError as error:
        return candidates[BASE], PresetChoice(BASE, f"not tried: {error}", ())
    return _decided(candidates, verdicts, took, settings.image_milliseconds)


def _candidates(settings: Settings, weights: Path | None) -> dict[str, Settings]:
    """Preset -> settings; `balanced` first, and none that comes to the same as one before it."""
    by_hand = settings.model_dump(include=(settings.model_fields_set | {"resize"}) - {"preset", "image_milliseconds"})
    of_one = weights is not None or settings.layers is not None  # what is given belongs to the network of the defaults
    found: dict[str, Settings] = {}
    for name in (BASE, *PRESETS):
        if not (of_one and networks_of(PRESETS[name].get("backbone", settings.backbone)) != networks_of(settings.backbone)):
            asked = {"preset": "auto", "image_milliseconds": settings.image_milliseconds}
            candidate = settings_from(**by_hand, preset=name).model_copy(update=asked)
            if candidate not in found.values():
                found[name] = candidate
    return found


def _decided(
    candidates: dict[str, Settings], verdicts: dict[str, Verdict], took: dict[str, float], most: float | None
) -> tuple[Settings, PresetChoice]:
    within = [name for name in candidates if most is None or took[name] <= most]
    base = BASE if BASE in within or not within else min(within, key=lambda name: took[name])
    if not within:
        base = min(candidates, key=lambda name: took[name])
    gains = {name: sure_gain(verdicts[base], verdicts[name]) for name in candidates if name != base}
    sure = [name for name in gains if name in within and gains[name].sure]
    chosen = max(sure, key=lambda name: gains[name].mean, default=base)
    reason = gains[chosen].told if sure else f"no other shows a sure gain over {base}"
    if most is not None and BASE not in within:
        reason += f"; {BASE} takes {took[BASE]:.0f} ms an image, {most:g} are allowed"
    if not within:
        reason += f"; none keeps to that, {base} is the fastest"
    tried = tuple(
        PresetTried(name, took[name], 0.0 if name == base else gains[name].mean, 0.0 if name == base else gains[name].error)
        for name in candidates
    )
    return candidates[chosen], PresetChoice(chosen, reason, tried)


def _milliseconds(inspector: Inspector, images: Sequence[Source]) -> float:
    """Median over the images, one at a time, from decoded pixels to map and verdict; the first is start-up."""
    times = []
    for pixels in images:
        started = perf_counter()
        list(inspector.inspect([pixels], raise_unreadable))
        times.append(1000 * (perf_counter() - started))
    return float(median(np.array(times[1:])))
