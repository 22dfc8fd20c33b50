"""The head trained on noise: what it gains and loses by the kind of its noise, and what a trial without defects says of it.

    python benchmarks/head.py --data FOLDER_OF_SETS [--seeds 5] [--most 100] [--cells] [--threads 1] [--out benchmarks/results]

FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training images only every so many-th image is used. `--cells`
adds the solar cells of `elpv-dataset`. Here every head is used, whatever the trial says; `fit --head noise` keeps it only where
the trial says so. The heads of a seed share its bank, so what differs between rows is the head alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from offnominal import Detector
from offnominal.config import Fusion
from offnominal.decisions import calibrate
from offnominal.detector.engine import FeatureEngine
from offnominal.detector.inspector import Inspector
from offnominal.detector.learning import hold_out
from offnominal.detector.learning.trial import judged_head
from offnominal.detector.learnt import as_kept, usual_and_scores
from offnominal.detector.model import HeadVerdict, Model
from offnominal.images import Item, normal_images
from offnominal.memory import HeldOutBanks
from offnominal.noising import head as noise_head
from offnominal.scoring import grid_of
from offnominal.types import whole, whole_grid
from sets import set_arguments, sets_asked_for
from tables import apart, machine, points, spread, table, use_threads, write, yes

FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.05")
FORCED = HeadVerdict(True, "forced by the benchmark", None)
NONE, DEFAULT = "none", "influence, 0.7"
RATE = 0.05

PLAIN_NOISED, BY_INFLUENCE = noise_head.noised, noise_head.spread
Spread = Callable[[Tensor, float], Tensor]


def inverse(gradient: Tensor, share: float) -> Tensor:
    """(N, D): the energy that `share` states goes where the influence is small."""
    squared = gradient.square()
    return BY_INFLUENCE((squared + 1e-2 * squared.mean(1, keepdim=True)).clamp(min=1e-20).rsqrt(), share)


def diagonal(deviation: Tensor, gradient: Tensor, share: float) -> Tensor:
    """(N, D): spread as the (D,) deviations of the normal patches, for all patches alike."""
    return (deviation / deviation.square().mean().sqrt()).expand_as(gradient)


class Noise(NamedTuple):
    """Share of the energy that follows the influence, K of the influence, and the spread where it is not the method's."""

    share: float
    neighbors: int = 9
    spread: str = ""


NOISES = {
    "isotropic": Noise(0.0),
    "influence, 0.4": Noise(0.4),
    DEFAULT: Noise(0.7),
    "influence, 1": Noise(1.0),
    "influence, 0.7, K = 1": Noise(0.7, 1),
    "inverse, 0.7": Noise(0.7, 9, "inverse"),
    "diagonal covariance": Noise(0.0, 9, "diagonal"),
}


class Fitted:
    """A fit without a head, and what it takes to train heads for its bank."""

    def __init__(self, data: Path, seed: int) -> None:
        self.data = data
        self.detector = Detector(seed=seed, false_alarm_rate=RATE).fit(data)
        self.model = self.detector.model
        self.engine = FeatureEngine(self.model.settings)
        found = Inspector(self.model, self.engine).patches([item.path for item in normal_images(data)], _fail)
        self._patches = [patches for _, _, patches, _ in found]
        self.networks = [self.model.geometry.network_size(source.size) for source in self.model.bank.sources]
        starts = np.cumsum([0, *map(len, self._patches[:-1])])
        grids = [self.engine.grids(network)[0] for network in self.networks]
        widths = np.array([whole_grid(grid)[1] for grid in grids])
        firsts = np.array([[part.start for part in whole(grid)] for grid in grids])
        bank = self.model.bank
        rows, columns = (bank.place[:, 1:] - firsts[bank.image]).T
        centres = starts[bank.image] + rows * widths[bank.image] + columns
        everything = torch.cat(self._patches)
        assert torch.allclose(everything[torch.from_numpy(centres)], bank.patches, atol=1e-3), "images in another order"
        radius = float("nan") if bank.radius is None else bank.radius
        self.banks = HeldOutBanks(everything, starts, centres, radius, self.engine.device)
        self._deviation = everything.std(0)

    def figures(self, detector: Detector) -> dict[str, Any]:
        found = detector.evaluate(self.data).figures
        calibration = detector.model.calibration
        return {name: found[name] for name in (*FIGURES, "false_alarm_rate")} | {"promised": calibration.rate}

    def with_head(self, noise: Noise) -> Model:
        """The model with heads trained on this noise, its normal signals and calibration those of held-out scores by them."""
        settings = self.model.settings.model_copy(update={"neighbors": noise.neighbors})
        kinds: dict[str, Spread] = {"inverse": inverse, "diagonal": partial(diagonal, self._deviation)}
        with (
            mock.patch.object(hold_out, "train_head", partial(noise_head.train_head, share=noise.share)),
            mock.patch.object(noise_head, "noised", partial(noised, kinds.get(noise.spread, BY_INFLUENCE))),
        ):
            heads = hold_out.cross_fitted_heads(self.banks, len(self._patches), settings)
        model = self.model
        values = hold_out.held_out_signals(
            self.banks, len(self._patches), model.settings, model.usual_distance, self.engine.device, heads=heads
        )
        signals = [
            as_kept(grid_of(one, self.engine.grids(network))) for one, network in zip(values, self.networks, strict=True)
        ]
        normal, scores = usual_and_scores(signals, self.networks, model.settings, head=True)
        return replace(model, heads=heads, head=FORCED, normal=normal, calibration=calibrate(scores, RATE))

    def detector_of(self, model: Model) -> Detector:
        detector = Detector(**model.settings.model_dump())
        detector._inspector = Inspector(model, self.engine)
        return detector


def noised(kind: Spread, patches: Tensor, gradient: Tensor, usual: float, random: torch.Generator, share: float) -> Tensor:
    """`offnominal.noising.head.noised` with a spread of this kind."""
    with mock.patch.object(noise_head, "spread", kind):
        return PLAIN_NOISED(patches, gradient, usual, random, share)


def _fail(index: int, error: Exception) -> None:
    raise error


def measure(data: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Figures without a head and with one of each noise; what a head alone says, for the method's noise."""
    fitted = Fitted(data, seed)
    found = {NONE: fitted.figures(fitted.detector)}
    for name, noise in NOISES.items():
        started = perf_counter()
        model = fitted.with_head(noise)
        found[name] = {"seconds": perf_counter() - started, **fitted.figures(fitted.detector_of(model))}
        if name == DEFAULT:
            fusion = Fusion(distance=1e-6, influence=0, response=0, head=1)
            alone = replace(model, settings=model.settings.model_copy(update={"fusion": fusion}))
            found[f"{name}, head alone"] = fitted.figures(fitted.detector_of(alone))
    return found


def verdict(data: Path) -> HeadVerdict:
    """What the trial says, which sees no defect."""
    settings = Detector(head="noise").settings
    sources: list[Item] = normal_images(data)
    return judged_head([item.path for item in sources], settings, FeatureEngine(settings))


def main() -> None:
    given = set_arguments(__doc__, seeds=5, most=100, cells=True).parse_args()
    use_threads(given.threads)
    here = machine()
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    said: dict[str, HeadVerdict] = {}
    with tempfile.TemporaryDirectory() as lists:
        sets = sets_asked_for(given, Path(lists))
        for one in sets:
            runs = []
            for seed in range(given.seeds):
                runs.append(apart(given.threads, measure, one.data, seed))
                print(f"{one.name}, seed {seed}", file=sys.stderr)
            found[one.name] = {noise: [run[noise] for run in runs] for noise in runs[0]}
            said[one.name] = apart(given.threads, verdict, one.data)
    columns = ("set", "noise", "image AUROC", "pixel AUROC", "pixel AP", "AUPRO 0.05", "false alarms (promised)", "seconds")
    write(
        given.out,
        "head",
        [
            "# The head trained on noise",
            "; ".join(map(str, sets)) + f". {given.seeds} seeds: mean (least–most); the first row of a set is without a head.",
            "The number is the share of the noise's energy that follows the squared influence (the method's: 0.7) or its "
            "inverse. Seconds are those of training, held-out scores and calibration.",
            str(here),
            table(columns, [row(name, noise, runs) for name, ways in found.items() for noise, runs in ways.items()]),
            "Points gained over no head, set by set (image AUROC / pixel AP), and the mean over the sets with the figure:",
            gains(found),
            "What the trial says, which sees no defect:",
            table(("set", "kept", "because"), [(name, yes(one.kept), one.reason) for name, one in said.items()]),
        ],
        {
            "machine": here,
            "sets": list(map(str, sets)),
            "runs": found,
            "verdicts": {name: list(_told(one)) for name, one in said.items()},
        },
    )


def row(name: str, noise: str, runs: list[dict[str, Any]]) -> list[str]:
    seconds = [run["seconds"] for run in runs if "seconds" in run]
    promised = f"{mean(run['false_alarm_rate'] for run in runs):.3f} ({mean(run['promised'] for run in runs):.3f})"
    return [
        name,
        noise,
        *(spread(runs, figure) for figure in FIGURES),
        "–" if "alone" in noise else promised,
        f"{mean(seconds):.0f}" if seconds else "–",
    ]


def gains(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """A row a noise: what it gains over no head on every set, and in the mean of all figures."""
    rows = []
    for noise in next(iter(found.values())):
        if noise == NONE:
            continue
        pairs = [(ways[noise], ways[NONE]) for ways in found.values()]
        by_set = [" / ".join(points(*pair, figure) for figure in ("image_auroc", "pixel_ap")) for pair in pairs]
        rows.append([noise, *by_set, *(_overall(pairs, figure) for figure in FIGURES)])
    return table(("noise", *found, *(f"mean, {figure.replace('_', ' ')}" for figure in FIGURES)), rows)


def _overall(pairs: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]], figure: str) -> str:
    there = [points(*pair, figure) for pair in pairs]
    return f"{mean(float(one) for one in there if one != '–'):+.2f}"


def _told(one: HeadVerdict) -> tuple[bool, str, float | None]:
    return one.kept, one.reason, one.gain


if __name__ == "__main__":
    main()
