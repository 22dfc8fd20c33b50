"""The cost of evidence: milliseconds per image with and without evidence, in Python and on the command line.

    python benchmarks/evidence.py --data FOLDER_OF_SETS [--threads 1] [--out benchmarks/results]

FOLDER_OF_SETS holds MVTec roots. Each set is fitted with the defaults and a false-alarm rate of 10 %, so that many images are
flagged: evidence costs nothing for images without regions. `flagged` are only flagged images, the worst case; `all` are any
test images. "Python" is `Detector.inspect_many`. "command" is `offnominal inspect` with decoding, overlays and results. "with
receipts" also draws a picture of each flagged image (`--receipts`), which the limit does not include. The modes take turns.
Scores and regions must be equal with and without evidence.
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


def inspect_all(detector: Detector, items: list[Item], evidence: bool) -> dict[int, Inspection]:
    def fail(index: int, error: Exception) -> None:
        raise error

    return dict(detector.inspect_many([item.path for item in items], failed=fail, evidence=evidence))


def check(detector: Detector, items: list[Item]) -> dict[str, float]:
    """Assert that scores and regions do not depend on evidence. Returns the regions and the flagged share per image."""
    plain, full = inspect_all(detector, items, False), inspect_all(detector, items, True)
    for index, inspection in plain.items():
        assert inspection.score == full[index].score
        assert inspection.regions == tuple(replace(region, evidence=None) for region in full[index].regions)
        assert all(region.evidence is not None for region in full[index].regions)
    count = len(items)
    return {
        "regions": sum(len(inspection.regions) for inspection in plain.values()) / count,
        "flagged": sum(inspection.anomalous for inspection in plain.values()) / count,
    }


def modes(detector: Detector, items: list[Item], folder: Path) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    def command(evidence: bool, receipts: bool = False) -> Callable[[], Any]:
        return lambda: write_inspections(detector, items, folder, Extras(evidence=evidence, receipts=receipts))

    return {
        "Python": (lambda: inspect_all(detector, items, False), lambda: inspect_all(detector, items, True)),
        "command": (command(False), command(True)),
        RECEIPTS: (command(False), command(True, receipts=True)),
    }


def measure(off: Callable[[], Any], on: Callable[[], Any], images: int) -> dict[str, Any]:
    """Times per image with and without evidence, and the median relative extra over rounds that measure both in turn."""
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
    args = parser.parse_args()
    use_threads(args.threads)
    this_machine = machine()
    rows, results = [], {}
    for root in sorted(path for path in args.data.iterdir() if (path / "train" / "good").is_dir()):
        detector = Detector(false_alarm_rate=RATE).fit(root)
        all_items = labelled_images(root)
        sample = all_items[:: max(1, len(all_items) // MOST)][:MOST]
        larger_sample = all_items[:: max(1, len(all_items) // (4 * MOST))]
        flagged = [
            larger_sample[index]
            for index, inspection in sorted(inspect_all(detector, larger_sample, False).items())
            if inspection.anomalous
        ]
        groups = {"all": sample, "flagged": flagged[:: max(1, len(flagged) // MOST)][:MOST]}
        for group, items in groups.items():
            if not items:
                continue
            counts = check(detector, items)
            with tempfile.TemporaryDirectory() as folder:
                for mode, (off, on) in modes(detector, items, Path(folder)).items():
                    times = measure(off, on, len(items))
                    results[f"{root.name}, {group}, {mode}"] = {**times, **counts, "images": len(items)}
                    rows.append(
                        [
                            root.name,
                            f"{group} ({len(items)})",
                            f"{counts['regions']:.1f}",
                            mode,
                            times["off"],
                            times["on"],
                            f"{times['extra']:+.1%}",
                            "–" if mode == RECEIPTS else yes(times["extra"] <= LIMIT),
                        ]
                    )
    columns = ("set", "images", "regions an image", "way", "off", "on", "extra", f"at most {LIMIT:.0%}")
    head = f"Defaults, but a false-alarm rate of {RATE:.0%}. Times are of one image; {RUNS} rounds, off and on in turn."
    write(
        args.out,
        "evidence",
        ["# Evidence: what it costs", head, str(this_machine), table(columns, rows)],
        {"machine": this_machine, **results},
    )


if __name__ == "__main__":
    main()
