"""Images side by side, a thread each, against one after another on all threads: milliseconds per image of `inspect`.

    python benchmarks/side_by_side.py --data FOLDER_OF_SETS [--most 100] [--cells] [--out benchmarks/results]

Every set is fitted once with the defaults; then both ways, taking turns, inspect the same test images, from the files to the
scores. The scores must be the same but for rounding. FOLDER_OF_SETS holds MVTec roots; of one with more than `--most` training
images only every so many-th image is used. Sets with fewer than 64 test images repeat them.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from offnominal import Detector
from offnominal.datasets import labelled_images
from offnominal.inference import parallel as threads
from sets import set_arguments, sets_asked_for
from tables import apart, machine, table, timed, use_threads, write

IMAGES, RUNS = 64, 5
#: Relative difference of scores that rounding may make: sums in another order.
ROUNDING = 1e-4


def measure(data: Path) -> dict[str, Any]:
    detector = Detector().fit(data)
    paths = [item.path for item in labelled_images(data)]
    paths = list(itertools.islice(itertools.cycle(paths), max(IMAGES, len(paths))))

    def fail(index: int, error: Exception) -> None:
        raise error

    def scores() -> dict[int, float]:
        return {index: found.score for index, found in detector.inspect_many(paths, failed=fail)}

    def one_after_another() -> dict[int, float]:
        with patch.object(threads, "FEWEST", len(paths) + 1):
            return scores()

    beside, after = scores(), one_after_another()
    assert beside.keys() == after.keys()
    assert np.allclose([beside[at] for at in beside], [after[at] for at in beside], rtol=ROUNDING), "the scores differ"
    before, now = timed(one_after_another, scores, runs=RUNS)
    return {"images": len(paths), "before": before.times(1 / len(paths)), "now": now.times(1 / len(paths))}


def main() -> None:
    given = set_arguments(__doc__, most=100, cells=True).parse_args()
    use_threads(given.threads)
    here = machine()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as lists:
        sets = sets_asked_for(given, Path(lists))
        for one in sets:
            print(one, file=sys.stderr, flush=True)
            found[one.name] = apart(given.threads, measure, one.data)
    rows = [
        [name, one["images"], one["before"], one["now"], f"{one['before'].middle / one['now'].middle:.2f}"]
        for name, one in found.items()
    ]
    write(
        given.out,
        "side_by_side",
        [
            "# Images side by side",
            "; ".join(map(str, sets)) + ".",
            str(here),
            table(("set", "images", "one after another, an image", "side by side, an image", "times faster"), rows),
        ],
        {"machine": here, "sets": [str(one) for one in sets], **found},
    )


if __name__ == "__main__":
    main()
