"""Whether the stated false-alarm rate holds in the worst case: images of independent Gaussian patches.

    python benchmarks/calibration.py [--draws 200] [--images 59] [--out benchmarks/results]

Every patch of every image is independent, so an image's own patches are its only neighbours in the bank, and holding it out
matters most. Each draw fits on normal images in each way and scores 400 new ones by the whole bank. A share flagged above the
stated rate is optimism of the calibration. Scores are the largest distance of an image's patches; nothing else of the pipeline
takes part.
"""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
import torch

from offnominal.config import settings_from
from offnominal.decisions import SPLIT, Method, calibrate, split_size
from offnominal.fitting.held_out_signals import distance_scale, fold_signals, held_out_signals
from offnominal.fitting.member_patches import choose_coreset
from offnominal.inference import SignalEngine
from offnominal.memory import HeldOutBanks, PatchRows
from offnominal.scoring import DISTANCE
from offnominal.types import Float
from tables import arguments, machine, table, use_threads, write

FEATURES, PATCHES, NEW, SHARE = 32, 40, 400, 0.02
RATES = (0.05, 0.10, 0.20)
WAYS: tuple[Method, ...] = ("folds", "leave-one-image-out", "split")
CPU = torch.device("cpu")


def scores_of(signals: list[Float]) -> Float:
    """The largest distance of each image's patches."""
    return np.array([values[:, DISTANCE].max() for values in signals], dtype=np.float32)


def flagged(images: int, way: Method, seed: int) -> dict[float, float]:
    """Share of new images that a calibration on so many images flags, for each stated rate."""
    random = torch.Generator().manual_seed(seed)
    patches = torch.randn((images * PATCHES, FEATURES), generator=random)
    new = torch.randn((NEW * PATCHES, FEATURES), generator=random)
    held = split_size(images) if way == SPLIT else 0
    rows = PatchRows(patches[: (images - held) * PATCHES])
    size, settings = round(SHARE * len(rows)), settings_from()
    slices = [slice(at * PATCHES, (at + 1) * PATCHES) for at in range(images - held)]
    units = [slice(at, at + 1) for at in range(images - held)]
    coreset = choose_coreset(rows, size, settings)
    banks = HeldOutBanks(rows, np.array([one.start for one in slices]), coreset.indices, coreset.radius, CPU)
    scale = distance_scale(banks, len(units), settings)
    if way == "folds":
        own = scores_of(
            fold_signals(
                rows, slices, units, size=size, settings=settings, scale=scale, device=CPU, upsamplings=[None] * len(units)
            )
        )
    elif way == SPLIT:
        outside = SignalEngine(banks.bank, settings, scale, CPU)(patches[len(rows) :]).values
        own = scores_of(np.split(outside, held))
    else:
        own = scores_of(held_out_signals(banks, len(units), settings, scale))
    scores = scores_of(np.split(SignalEngine(banks.bank, settings, scale, CPU)(new).values, NEW))
    found = {}
    for rate in RATES:
        calibration = calibrate(own, rate, way)
        found[rate] = float(np.mean([calibration.anomalous(score) for score in scores]))
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=59)
    given = parser.parse_args()
    use_threads(given.threads)
    rows, kept = [], {}
    for way in WAYS:
        runs = [flagged(given.images, way, seed) for seed in range(given.draws)]
        for rate in RATES:
            shares = [run[rate] for run in runs]
            error = stdev(shares) / len(shares) ** 0.5
            kept[f"{way} {rate}"] = {"mean": mean(shares), "standard error": error}
            rows.append((way, f"{rate:.0%}", f"{mean(shares):.1%}", f"{error:.1%}", f"{mean(shares) / rate:.2f}"))
    text = (
        f"# Calibration in the worst case\n\n{given.images} images of {PATCHES} independent Gaussian patches with {FEATURES} "
        f"features, a bank of {SHARE:.0%}; {given.draws} draws, {NEW} new images each."
    )
    columns = ("held out by", "stated", "flagged", "standard error", "flagged / stated")
    write(given.out, "calibration", [text, str(machine()), table(columns, rows)], kept)


if __name__ == "__main__":
    main()
