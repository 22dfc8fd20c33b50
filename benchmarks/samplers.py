"""Random and greedy banks of three sizes: covering radius, accuracy over draws, seconds of sampling.

    python benchmarks/samplers.py --data FOLDER_OF_SETS [--draws 5] [--most 50] [--threads 1] [--out benchmarks/results]

FOLDER_OF_SETS holds MVTec roots; large ones are thinned to `--most` training images. Each draw leaves out a random tenth of the
training images; the draw is also the seed of the random bank. The model has one member. The covering radius is the largest
distance of a training patch to its nearest bank patch, measured in the same way for both; for the greedy bank it must be the
radius in the model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from offnominal import Detector
from sets import ImageSet, drawn, image_sets, set_arguments
from tables import Timing, apart, machine, plus_minus, points, spread, table, use_threads, write

BANKS = (0.001, 0.01, 0.1)
SAMPLERS = ("random", "greedy")


def run(data: Path, draw: int, **settings: Any) -> dict[str, Any]:
    """Fit on nine tenths of the training images, and evaluate."""
    images = drawn(data, draw)
    detector = Detector(preset="fast", seed=draw, **settings).fit(images)
    figures = detector.evaluate(data).figures
    return {
        "bank": len(detector.model.members[0].bank.patches),
        "radius": radius(detector, images),
        "seconds": detector.seconds["coreset"],
        "image_auroc": figures["image_auroc"],
        "pixel_auroc": figures["pixel_auroc"],
    }


def radius(detector: Detector, images: list[Path]) -> float:
    found = max(float(detector.explain(path).distances[:, 0].max()) for path in images)
    known = detector.model.members[0].bank.radius
    assert known is None or np.isclose(found, known, rtol=1e-3), f"the model states a radius of {known}, measured {found}"
    return found


def measure(data: Path, draws: int) -> dict[float, dict[str, list[dict[str, Any]]]]:
    return {
        bank: {sampler: [run(data, draw, bank=bank, sampler=sampler) for draw in range(draws)] for sampler in SAMPLERS}
        for bank in BANKS
    }


def rows_of(name: str, found: dict[float, dict[str, list[dict[str, Any]]]]) -> list[list[str]]:
    return [
        [
            name,
            f"{100 * bank:g} % ({runs[0]['bank']:,})",
            sampler,
            spread(runs, "radius", 2),
            *(plus_minus([one[key] for one in runs]) for key in ("image_auroc", "pixel_auroc")),
            str(Timing.of([one["seconds"] for one in runs])),
        ]
        for bank, samplers in found.items()
        for sampler, runs in samplers.items()
    ]


def gains(name: str, found: dict[float, dict[str, list[dict[str, Any]]]]) -> list[list[str]]:
    """Gain of greedy over random in the means, a row for each bank size."""
    rows = []
    for bank, samplers in found.items():
        random, greedy = (samplers[sampler] for sampler in SAMPLERS)
        smaller = mean(one["radius"] for one in random) / mean(one["radius"] for one in greedy)
        gained = (points(greedy, random, key) for key in ("image_auroc", "pixel_auroc"))
        rows.append([name, f"{100 * bank:g} %", f"{smaller:.2f}", *gained])
    return rows


def main() -> None:
    parser = set_arguments(__doc__, most=50)
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    use_threads(given.threads)
    here = machine()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as lists:
        sets: list[ImageSet] = image_sets(given.data, given.most, Path(lists))
        for one in sets:
            print(one, file=sys.stderr, flush=True)
            found[one.name] = apart(given.threads, measure, one.data, given.draws)
    columns = ("set", "bank", "sampler", "covering radius", "image AUROC", "pixel AUROC", "sampling")
    write(
        given.out,
        "samplers",
        [
            "# Samplers: random and greedy banks",
            f"The preset fast but for bank and sampler. {given.draws} draws of nine tenths of the training images: "
            "AUROC as mean ± standard deviation, the radius as mean (least–most). " + "; ".join(map(str, sets)) + ".",
            f"{here} But seconds of sampling are wall seconds, as reported by the fit.",
            table(columns, [row for name, result in found.items() for row in rows_of(name, result)]),
            "Greedy against random, in the means: how many times smaller the radius is, and points of AUROC gained.",
            table(
                ("set", "bank", "radius", "image AUROC", "pixel AUROC"),
                [row for name, result in found.items() for row in gains(name, result)],
            ),
        ],
        {"machine": here.as_json(), "sets": [str(one) for one in sets], **found},
    )


if __name__ == "__main__":
    main()
