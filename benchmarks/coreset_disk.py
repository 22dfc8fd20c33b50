"""Greedy k-center of patches on disk: time, memory, and the same choice as in memory.

    python benchmarks/coreset_disk.py [--threads 1] [--count 2000000] [--centres 20000] [--out benchmarks/results]

The synthetic patches are in a file in the format of `PatchStore`. One run reads them from the file, one holds them in memory,
each in a process of its own, so that its peak memory is its own. Float64 distances of all patches to the first centres then
prove the choice.
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

from coreset import proved
from offnominal.memory import PatchRows, PatchStore, kcenter
from patches import LIKENESS, made_patches
from tables import arguments, machine, now, table, use_threads, write, yes

DIMENSIONS, START = 152, 0
LIMIT_GB, LIMIT_MINUTES = 1.5, 10
PROVED = 500


def resident() -> dict[str, float]:
    """GB of this process in memory: its own (`RssAnon`), of files (`RssFile`), and the peak of both so far (`VmHWM`).

    Empty if the system does not report them. `ru_maxrss` would count what the process that started this one had in memory.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    named = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Rss", "VmHWM"))}
    return {name: int(kilobytes) * 1024 / 1e9 for name, kilobytes in named.items()}


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


def run(given: argparse.Namespace) -> dict[str, Any]:
    """One choice in this process."""
    size = given.count * DIMENSIONS * 4
    with PatchStore(given.count, DIMENSIONS, size if given.way == "memory" else 0) as store:
        target = store.patches.numpy().reshape(-1)
        step = 8_000_000
        for at in range(0, len(target), step):  # read in pieces, so that loading does not set the peak
            target[at : at + step] = np.fromfile(given.file, np.float32, step, offset=4 * at)
            store.release()
        rows: PatchRows = store.rows(given.count)
        marks: list[tuple[int, float]] = []
        before, started, began = resident(), now(), perf_counter()
        peaks = Peaks()
        coreset = kcenter(rows, given.centres, START, tick=lambda done: marks.append((done, now() - started)))
        np.save(given.choice, coreset.indices)
        return {
            "radius": coreset.radius,
            "seconds": now() - started,
            "wall": perf_counter() - began,
            "before": before,
            "most": peaks.stop(),
            "peak": resident().get("VmHWM", float("nan")),
            "marks": marks[:: max(1, len(marks) // 20)],
        }


def in_a_process(given: argparse.Namespace, file: Path, way: str, choice: Path) -> dict[str, Any]:
    print(way, file=sys.stderr)
    words = [sys.executable, __file__, "--way", way, "--file", str(file), "--choice", str(choice)]
    words += ["--count", str(given.count), "--centres", str(given.centres)]
    if given.threads is not None:
        words += ["--threads", str(given.threads)]
    return dict(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=2_000_000)
    parser.add_argument("--centres", type=int, default=20_000)
    for name in ("--way", "--file", "--choice"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    use_threads(given.threads)
    if given.way:
        print(json.dumps(run(given)))
        return
    here = machine()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "patches"
        made_patches(given.count, DIMENSIONS).numpy().tofile(file)
        choices = [Path(folder) / f"{at}.npy" for at in range(2)]
        runs = {
            "from disk": in_a_process(given, file, "disk", choices[0]),
            "in memory": in_a_process(given, file, "memory", choices[1]),
        }
        disk, memory = (np.load(choice) for choice in choices)
        assert disk.tolist() == memory.tolist(), "both ways must choose the same"
        patches = torch.from_numpy(np.fromfile(file, np.float32).reshape(given.count, DIMENSIONS))
        ties = proved(patches, torch.from_numpy(disk[:PROVED]))
    rows = [
        [
            name,
            f"{found['seconds']:.0f}",
            f"{found['wall']:.0f}",
            f"{found['peak']:.2f}",
            f"{found['most'].get('RssAnon', float('nan')):.2f} ({found['before'].get('RssAnon', float('nan')):.2f})",
            f"{found['most'].get('RssFile', float('nan')):.2f} ({found['before'].get('RssFile', float('nan')):.2f})",
            f"{found['radius']:.3f}",
        ]
        for name, found in runs.items()
    ]
    first = runs["from disk"]
    product = 2 * given.count * DIMENSIONS * given.centres / here.product
    write(
        given.out,
        "coreset_disk",
        [
            "# Coreset beyond memory",
            f"{given.count:,} x {DIMENSIONS} float32 ({given.count * DIMENSIONS * 4 / 1e9:.2f} GB) "
            f"-> {given.centres:,} centres.",
            LIKENESS,
            str(here),
            table(
                (
                    "patches",
                    f"{here.clock} seconds",
                    "wall seconds",
                    "peak resident, GB",
                    "of its own (before), GB",
                    "of files (before), GB",
                    "covering radius",
                ),
                rows,
            ),
            f"Both chose the same {given.centres:,} patches; float64 distances of all patches prove the first "
            f"{PROVED:,} ({ties} near-ties). One float32 product of all patches with all centres would take {product:.0f} s "
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
        {"machine": here.as_json(), "shape": [given.count, DIMENSIONS, given.centres], "runs": runs, "near_ties": ties},
    )


if __name__ == "__main__":
    main()
