"""The cost of evidence: milliseconds per image with and without it, in Python and in the command, pictures included.

    python benchmarks/evidence.py --data FOLDER_OF_SETS [--threads 1] [--out benchmarks/results]

FOLDER_OF_SETS holds MVTec roots. Every set is fitted with the defaults but a false-alarm rate of 10 %, so that many images are
flagged: evidence costs nothing on an image without regions. `flagged` are only flagged images, the worst case; `all` are any
test images. "Python" is `Detector.inspect_many`; "command" is what `offnominal inspect` does, with decoding, overlays and
results; "with receipts" also draws a picture of each flagged image (`--receipts`), which is no part of the limit. The ways take
turns; scores and regions must be the same with and without.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from offnominal import Detector
from offnominal.datasets import Item, labelled_images
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.optional_outputs import Extras
from offnominal.types import Inspection
from tables import Timing, arguments, machine, seconds, table, use_threads, write, yes

RATE, MOST, RUNS = 0.1, 16, 11
LIMIT = 0.20
RECEIPTS = "with receipts"


def inspected(detector: Detector, items: list[Item], evidence: bool) -> dict[int, Inspection]:
    def fail(index: int, error: Exception) -> None:
        raise error

    return dict(detector.inspect_many([item.path for item in items], failed=fail, evidence=evidence))


def check(detector: Detector, items: list[Item]) -> dict[str, float]:
    """Assert that scores and regions do not depend on evidence; returns regions and flagged images per image."""
    plain, full = inspected(detector, items, False), inspected(detector, items, True)
    for index, found in plain.items():
        assert found.score == full[index].score
        assert found.regions == tuple(replace(region, evidence=None) for region in full[index].regions)
        assert all(region.evidence is not None for region in full[index].regions)
    count = len(items)
    return {
        "regions": sum(len(found.regions) for found in plain.values()) / count,
        "flagged": sum(found.anomalous for found in plain.values()) / count,
    }


def ways(detector: Detector, items: list[Item], folder: Path) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    def command(evidence: bool, receipts: bool = False) -> Callable[[], Any]:
        return lambda: write_inspections(detector, items, folder, Extras(evidence=evidence, receipts=receipts))

    return {
        "Python": (lambda: inspected(detector, items, False), lambda: inspected(detector, items, True)),
        "command": (command(False), command(True)),
        RECEIPTS: (command(False), command(True, receipts=True)),
    }


def measure(off: Callable[[], Any], on: Callable[[], Any], images: int) -> dict[str, Any]:
    """Times of both an image, and the extra as the median over rounds of on / off, each round measured back to back."""
    off()
    on()
    rounds = [(seconds(off), seconds(on)) for _ in range(RUNS)]
    return {
        "off": Timing.of([a / images for a, _ in rounds]),
        "on": Timing.of([b / images for _, b in rounds]),
        "extra": median(b / a - 1 for a, b in rounds),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    use_threads(given.threads)
    here = machine()
    rows, found = [], {}
    for root in sorted(path for path in given.data.iterdir() if (path / "train" / "good").is_dir()):
        detector = Detector(false_alarm_rate=RATE).fit(root)
        everything = labelled_images(root)
        some = everything[:: max(1, len(everything) // MOST)][:MOST]
        more = everything[:: max(1, len(everything) // (4 * MOST))]
        flagged = [more[index] for index, seen in sorted(inspected(detector, more, False).items()) if seen.anomalous]
        groups = {"all": some, "flagged": flagged[:: max(1, len(flagged) // MOST)][:MOST]}
        for group, items in groups.items():
            if not items:
                continue
            counts = check(detector, items)
            with tempfile.TemporaryDirectory() as folder:
                for way, (off, on) in ways(detector, items, Path(folder)).items():
                    times = measure(off, on, len(items))
                    found[f"{root.name}, {group}, {way}"] = {**times, **counts, "images": len(items)}
                    rows.append(
                        [
                            root.name,
                            f"{group} ({len(items)})",
                            f"{counts['regions']:.1f}",
                            way,
                            times["off"],
                            times["on"],
                            f"{times['extra']:+.1%}",
                            "–" if way == RECEIPTS else yes(times["extra"] <= LIMIT),
                        ]
                    )
    columns = ("set", "images", "regions an image", "way", "off", "on", "extra", f"at most {LIMIT:.0%}")
    head = f"Defaults, but a false-alarm rate of {RATE:.0%}. Times are of one image; {RUNS} rounds, off and on in turn."
    write(
        given.out, "evidence", ["# Evidence: what it costs", head, str(here), table(columns, rows)], {"machine": here, **found}
    )


if __name__ == "__main__":
    main()
