"""Greedy k-center of patches on disk: time, memory, and equality with the coreset from memory.

    python benchmarks/coreset_disk.py [--threads 1] [--count 2000000] [--centres 20000] [--out benchmarks/results]

The synthetic patches are in a file in the format of `PatchStore`. One run reads them from the file, the other holds them in
memory, each in its own process for an independent peak memory. Float64 distances of all patches to the first centres verify the
coreset.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch

from coreset import verify_greedy
from offnominal.memory import PatchRows, PatchStore, kcenter
from patches import LIKENESS, synthetic_patches
from tables import arguments, machine, now, table, use_threads, write, yes

DIMENSIONS, START = 152, 0
LIMIT_GB, LIMIT_MINUTES = 1.5, 10
VERIFIED = 500


def resident() -> dict[str, float]:
    """Resident memory of this process in GB: anonymous (`RssAnon`), of files (`RssFile`), and the peak of both (`VmHWM`).

    Empty if the system does not report it. `ru_maxrss` would include the memory of the parent process.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Rss", "VmHWM"))}
    return {name: int(kilobytes) * 1024 / 1e9 for name, kilobytes in fields.items()}


class Peaks:
    """The largest values of `resident`, sampled 20 times a second."""

    def __init__(self) -> None:
        self.most: dict[str, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.is_set():
            for name, value in resident().items():
                self.most[name] = max(self.most.get(name, 0.0), value)
            sleep(0.05)

    def stop(self) -> dict[str, float]:
        self._done.set()
        self._thread.join()
        return self.most


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Select one coreset in this process."""
    size = args.count * DIMENSIONS * 4
    with PatchStore(args.count, DIMENSIONS, size if args.way == "memory" else 0) as store:
        target = store.patches.numpy().reshape(-1)
        step = 8_000_000
        for at in range(0, len(target), step):  # read in pieces, so that loading does not determine the peak
            target[at : at + step] = np.fromfile(args.file, np.float32, step, offset=4 * at)
            store.release()
        rows: PatchRows = store.rows(args.count)
        marks: list[tuple[int, float]] = []
        resident_before, started, wall_started = resident(), now(), perf_counter()
        peaks = Peaks()
        coreset = kcenter(rows, args.centres, START, tick=lambda done: marks.append((done, now() - started)))
        np.save(args.choice, coreset.indices)
        return {
            "radius": coreset.radius,
            "seconds": now() - started,
            "wall": perf_counter() - wall_started,
            "before": resident_before,
            "most": peaks.stop(),
            "peak": resident().get("VmHWM", float("nan")),
            "marks": marks[:: max(1, len(marks) // 20)],
        }


def in_a_process(args: argparse.Namespace, file: Path, source: str, output: Path) -> dict[str, Any]:
    print(source, file=sys.stderr)
    words = [sys.executable, __file__, "--way", source, "--file", str(file), "--choice", str(output)]
    words += ["--count", str(args.count), "--centres", str(args.centres)]
    if args.threads is not None:
        words += ["--threads", str(args.threads)]
    return dict(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=2_000_000)
    parser.add_argument("--centres", type=int, default=20_000)
    for name in ("--way", "--file", "--choice"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    use_threads(args.threads)
    if args.way:
        print(json.dumps(run(args)))
        return
    this_machine = machine()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "patches"
        synthetic_patches(args.count, DIMENSIONS).numpy().tofile(file)
        outputs = [Path(folder) / f"{at}.npy" for at in range(2)]
        runs = {
            "from disk": in_a_process(args, file, "disk", outputs[0]),
            "in memory": in_a_process(args, file, "memory", outputs[1]),
        }
        disk, memory = (np.load(output) for output in outputs)
        assert disk.tolist() == memory.tolist(), "both runs must select the same coreset"
        patches = torch.from_numpy(np.fromfile(file, np.float32).reshape(args.count, DIMENSIONS))
        ties = verify_greedy(patches, torch.from_numpy(disk[:VERIFIED]))
    rows = [
        [
            name,
            f"{result['seconds']:.0f}",
            f"{result['wall']:.0f}",
            f"{result['peak']:.2f}",
            f"{result['most'].get('RssAnon', float('nan')):.2f} ({result['before'].get('RssAnon', float('nan')):.2f})",
            f"{result['most'].get('RssFile', float('nan')):.2f} ({result['before'].get('RssFile', float('nan')):.2f})",
            f"{result['radius']:.3f}",
        ]
        for name, result in runs.items()
    ]
    first = runs["from disk"]
    product = 2 * args.count * DIMENSIONS * args.centres / this_machine.product
    write(
        args.out,
        "coreset_disk",
        [
            "# Coreset beyond memory",
            f"{args.count:,} x {DIMENSIONS} float32 ({args.count * DIMENSIONS * 4 / 1e9:.2f} GB) -> {args.centres:,} centres.",
            LIKENESS,
            str(this_machine),
            table(
                (
                    "patches",
                    f"{this_machine.clock} seconds",
                    "wall seconds",
                    "peak resident, GB",
                    "of its own (before), GB",
                    "of files (before), GB",
                    "covering radius",
                ),
                rows,
            ),
            f"Both chose the same {args.centres:,} patches; float64 distances of all patches prove the first "
            f"{VERIFIED:,} ({ties} near-ties). One float32 product of all patches with all centres would take {product:.0f} s "
            "at the machine's best rate. "
            "*Peak resident* is the most that the system counted for the process (`VmHWM`), pages of the mapped file included; "
            "its cache of the file, which it drops when memory is short, is not in it: the file was in that cache here, and a "
            "slow disk with less memory would add its reading time.",
            table(
                ("goal", "found", "met?"),
                [
                    [f"within {LIMIT_GB} GB of memory", f"{first['peak']:.2f} GB", yes(first["peak"] <= LIMIT_GB)],
                    [
                        f"minutes, not hours (at most {LIMIT_MINUTES})",
                        f"{first['wall'] / 60:.1f} min",
                        yes(first["wall"] <= 60 * LIMIT_MINUTES),
                    ],
                ],
            ),
        ],
        {"machine": this_machine.as_json(), "shape": [args.count, DIMENSIONS, args.centres], "runs": runs, "near_ties": ties},
    )


if __name__ == "__main__":
    main()
