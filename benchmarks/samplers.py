"""Random and greedy banks of three sizes: covering radius, accuracy over seeds, seconds of sampling.

    python benchmarks/samplers.py --data FOLDER_OF_SETS [--seeds 5] [--most 50] [--threads 1] [--out benchmarks/results]

FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training images only every so many-th image is used. The seed
of the greedy choice is where it starts. The covering radius is the largest distance of a training patch to its nearest in the
bank, measured the same way for both; for the greedy bank it must be the radius that the model holds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from offnominal import Detector
from offnominal.images import normal_images
from sets import ImageSet, image_sets, set_arguments
from tables import Timing, apart, machine, points, spread, table, use_threads, write

BANKS = (0.001, 0.01, 0.1)
SAMPLERS = ("random", "greedy")


def run(data: Path, **settings: Any) -> dict[str, Any]:
    """Fit and evaluate; what came out of it."""
    detector = Detector(**settings).fit(data)
    figures = detector.evaluate(data).figures
    return {
        "bank": len(detector.model.bank.patches),
        "radius": radius(detector, data),
        "seconds": detector.seconds["coreset"],
        "image_auroc": figures["image_auroc"],
        "pixel_auroc": figures["pixel_auroc"],
    }


def radius(detector: Detector, data: Path) -> float:
    found = max(float(detector.explain(item.path).distances[:, 0].max()) for item in normal_images(data))
    known = detector.model.bank.radius
    assert known is None or np.isclose(found, known, rtol=1e-3), f"the model holds a radius of {known}, measured {found}"
    return found


def measure(data: Path, seeds: int) -> dict[float, dict[str, list[dict[str, Any]]]]:
    return {
        bank: {sampler: [run(data, bank=bank, sampler=sampler, seed=seed) for seed in range(seeds)] for sampler in SAMPLERS}
        for bank in BANKS
    }


def rows_of(name: str, found: dict[float, dict[str, list[dict[str, Any]]]]) -> list[list[str]]:
    return [
        [
            name,
            f"{100 * bank:g} % ({runs[0]['bank']:,})",
            sampler,
            spread(runs, "radius", 2),
            spread(runs, "image_auroc"),
            spread(runs, "pixel_auroc"),
            str(Timing.of([one["seconds"] for one in runs])),
        ]
        for bank, samplers in found.items()
        for sampler, runs in samplers.items()
    ]


def gains(name: str, found: dict[float, dict[str, list[dict[str, Any]]]]) -> list[list[str]]:
    """What greedy gains over random in the means, a row a bank size."""
    rows = []
    for bank, samplers in found.items():
        random, greedy = (samplers[sampler] for sampler in SAMPLERS)
        smaller = mean(one["radius"] for one in random) / mean(one["radius"] for one in greedy)
        gained = (points(greedy, random, key) for key in ("image_auroc", "pixel_auroc"))
        rows.append([name, f"{100 * bank:g} %", f"{smaller:.2f}", *gained])
    return rows


def main() -> None:
    given = set_arguments(__doc__, seeds=5, most=50).parse_args()
    use_threads(given.threads)
    here = machine()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as lists:
        sets: list[ImageSet] = image_sets(given.data, given.most, Path(lists))
        for one in sets:
            print(one, file=sys.stderr, flush=True)
            found[one.name] = apart(given.threads, measure, one.data, given.seeds)
    columns = ("set", "bank", "sampler", "covering radius", "image AUROC", "pixel AUROC", "sampling")
    write(
        given.out,
        "samplers",
        [
            "# Samplers: random and greedy banks",
            f"Defaults but for bank and sampler. Mean (least–most) over {given.seeds} seeds: of the greedy choice, its starts. "
            + "; ".join(map(str, sets))
            + ".",
            f"{here} But seconds of sampling are wall seconds, as a fit tells them.",
            table(columns, [row for name, result in found.items() for row in rows_of(name, result)]),
            "Greedy against random, in the means: the radius as many times smaller, points of AUROC gained.",
            table(
                ("set", "bank", "radius", "image AUROC", "pixel AUROC"),
                [row for name, result in found.items() for row in gains(name, result)],
            ),
        ],
        {"machine": here.as_json(), "sets": [str(one) for one in sets], **found},
    )


if __name__ == "__main__":
    main()
