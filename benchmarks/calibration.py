"""Whether the stated false-alarm rate holds in the worst case: images of independent Gaussian patches.

    python benchmarks/calibration.py [--draws 200] [--images 59] [--out benchmarks/results]

All patches of all images are independent, so the only near neighbours of an image in the bank are its own patches, and holding
it out matters most. Each draw calibrates with each method and scores 400 new images with the whole bank. A flagged share above
the stated rate shows an optimistic calibration. The score is the largest patch distance; no other part of the pipeline is used.
"""

from __future__ import annotations

from statistics import mean, stdev

import numpy as np
import torch

from offnominal.config import settings_from
from offnominal.decisions import SPLIT, Method, calibrate, split_size
from offnominal.fitting.held_out_signals import distance_scale, distances_to_bank, folds_of, held_out_signals
from offnominal.fitting.member_patches import choose_coreset
from offnominal.inference import SignalEngine
from offnominal.memory import HeldOutBanks, PatchRows, RemainingRows
from offnominal.scoring import DISTANCE
from offnominal.types import Float
from tables import arguments, machine, table, use_threads, write

FEATURES, PATCHES, NEW, SHARE = 32, 40, 400, 0.02
RATES = (0.05, 0.10, 0.20)
METHODS: tuple[Method, ...] = ("folds", "leave-one-out", "split")
CPU = torch.device("cpu")


def scores_of(signals: list[Float]) -> Float:
    """The largest distance of each image's patches."""
    return np.array([values[:, DISTANCE].max() for values in signals], dtype=np.float32)


def flagged_shares(images: int, method: Method, seed: int) -> dict[float, float]:
    """Share of new images that are flagged after a calibration with `images` images, for each stated rate."""
    random = torch.Generator().manual_seed(seed)
    patches = torch.randn((images * PATCHES, FEATURES), generator=random)
    new = torch.randn((NEW * PATCHES, FEATURES), generator=random)
    held_out = split_size(images) if method == SPLIT else 0
    rows = PatchRows(patches[: (images - held_out) * PATCHES])
    size, settings = round(SHARE * len(rows)), settings_from()
    slices = [slice(at * PATCHES, (at + 1) * PATCHES) for at in range(images - held_out)]
    units = [slice(at, at + 1) for at in range(images - held_out)]
    coreset = choose_coreset(rows, size, settings.sampler, settings.seed)
    banks = HeldOutBanks(
        rows, np.array([rows_of_image.start for rows_of_image in slices]), coreset.indices, coreset.radius, CPU
    )
    scale = distance_scale(distances_to_bank(banks, len(units), settings))
    if method == "folds":
        signals = []
        for fold in folds_of(len(units)):
            remaining = RemainingRows(rows, fold.start * PATCHES, fold.stop * PATCHES)
            of_fold = choose_coreset(remaining, min(size, len(remaining)), settings.sampler, settings.seed)
            engine = SignalEngine(remaining[torch.from_numpy(of_fold.indices)], settings, scale, CPU)
            signals += [engine(rows[part]).values for part in slices[fold]]
        calibration_scores = scores_of(signals)
    elif method == SPLIT:
        outside_signals = SignalEngine(banks.bank, settings, scale, CPU)(patches[len(rows) :]).values
        calibration_scores = scores_of(np.split(outside_signals, held_out))
    else:
        calibration_scores = scores_of(held_out_signals(banks, len(units), settings, scale))
    scores = scores_of(np.split(SignalEngine(banks.bank, settings, scale, CPU)(new).values, NEW))
    shares = {}
    for rate in RATES:
        calibration = calibrate(calibration_scores, rate, method)
        shares[rate] = float(np.mean([calibration.anomalous(score) for score in scores]))
    return shares


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=59)
    args = parser.parse_args()
    use_threads(args.threads)
    rows, results = [], {}
    for method in METHODS:
        runs = [flagged_shares(args.images, method, seed) for seed in range(args.draws)]
        for rate in RATES:
            shares = [run[rate] for run in runs]
            error = stdev(shares) / len(shares) ** 0.5
            results[f"{method} {rate}"] = {"mean": mean(shares), "standard error": error}
            rows.append((method, f"{rate:.0%}", f"{mean(shares):.1%}", f"{error:.1%}", f"{mean(shares) / rate:.2f}"))
    text = (
        f"# Calibration in the worst case\n\n{args.images} images of {PATCHES} independent Gaussian patches with {FEATURES} "
        f"features, a bank of {SHARE:.0%}; {args.draws} draws, {NEW} new images each."
    )
    columns = ("held out by", "stated", "flagged", "standard error", "flagged / stated")
    write(args.out, "calibration", [text, str(machine()), table(columns, rows)], results)


if __name__ == "__main__":
    main()
