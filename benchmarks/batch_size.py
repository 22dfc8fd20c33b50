"""Images per second and memory of `inspect` in batches of 1 to 64; asserts that the scores do not depend on the batch.

    python benchmarks/batch_size.py --data MVTEC_ROOT [--images 128] [--threads 1] [--out benchmarks/results]

The set is fitted once with the defaults. Every batch size inspects the same files, from the file to score and map, in a process
of its own; a set with fewer test images than `--images` repeats them.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from offnominal import load
from offnominal.datasets import labelled_images
from sets import fitted
from tables import Timing, apart, arguments, machine, peak_memory, table, timed, use_threads, write

BATCHES = (1, 2, 4, 8, 16, 32, 64)
RUNS = 5
#: Relative difference of scores that rounding may make: sums in another order.
ROUNDING = 1e-4


def inspected(model: Path, paths: list[Path], batch: int) -> dict[str, Any]:
    """Seconds an image, scores, and the peak memory of this process; results are let go as they come."""
    detector = load(model, batch_size=batch)

    def fail(index: int, error: Exception) -> None:
        raise error

    def scores() -> dict[int, float]:
        return {index: found.score for index, found in detector.inspect_many(paths, failed=fail)}

    (time,) = timed(scores, runs=RUNS)
    found = scores()
    return {
        "time": time.times(1 / len(paths)),
        "scores": [found[index] for index in range(len(paths))],
        "peak_mb": peak_memory() / 1e6,
    }


def draw(found: dict[int, dict[str, Any]], place: Path) -> None:
    """Images a second, with their spread, and peak memory over the batch size."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasSVG(figure)
    speed, memory = figure.subplots(1, 2)
    times: list[Timing] = [one["time"] for one in found.values()]
    middle = np.array([1 / time.middle for time in times])
    errors = [middle - [1 / time.most for time in times], [1 / time.least for time in times] - middle]
    speed.errorbar(list(found), middle, errors, marker="o", capsize=3)
    speed.set_ylabel("images a second")
    memory.plot(list(found), [one["peak_mb"] for one in found.values()], marker="o")
    memory.set_ylabel("peak memory, MB")
    for axes in (speed, memory):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(found), [str(batch) for batch in found])
        axes.set_xlabel("images a batch")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "offnominal"}):
        figure.savefig(place, metadata={"Date": None})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=128)
    given = parser.parse_args()
    use_threads(given.threads)
    here = machine()
    paths = list(itertools.islice(itertools.cycle(item.path for item in labelled_images(given.data)), given.images))
    found: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        apart(given.threads, fitted, given.data, model)
        for batch in BATCHES:
            print(batch, file=sys.stderr, flush=True)
            found[batch] = apart(given.threads, inspected, model, paths, batch)
    one = found[1]
    for batch, result in found.items():
        result["differs"] = float(np.max(np.abs(np.array(result["scores"]) / one["scores"] - 1)))
        assert result["differs"] < ROUNDING, f"batches of {batch} differ by {result['differs']:.1e}"
    rows = [
        [
            batch,
            f"{1 / result['time'].middle:.1f}",
            result["time"],
            f"{one['time'].middle / result['time'].middle:.2f}",
            f"{result['peak_mb']:,.0f}",
            f"{result['differs']:.0e}",
        ]
        for batch, result in found.items()
    ]
    columns = ("images a batch", "images a second", "an image", "times one at a time", "peak MB", "scores differ by")
    write(
        given.out,
        "batch_size",
        [
            "# Batch size",
            f"{given.data.name}, fitted with the defaults; {len(paths)} images inspected ({len(set(paths))} different ones), "
            f"from the file to score and map, {RUNS} times.",
            str(here),
            table(columns, rows),
            "*Differ*: largest relative difference from one image at a time.",
            "![Images a second and peak memory over the batch size](batch_size.svg)",
        ],
        {"machine": here.as_json(), "batches": found},
    )
    draw(found, given.out / "batch_size.svg")


if __name__ == "__main__":
    main()
