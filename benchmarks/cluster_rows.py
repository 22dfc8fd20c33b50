"""Throughput of a cluster, compared with threads and with separate processes.

    python benchmarks/cluster_rows.py --data FOLDER_OF_SETS [--images 2000] [--rows 200000] [--out benchmarks/results]

Two questions:

1. Overhead on one machine: `inspect --cluster` against `inspect`, the same images and all cores. A run with few images is
   subtracted from one with many, so start-up does not count.
2. Rate and memory on two local nodes of one CPU each: `--rows` images at a small network size, against two processes that
   inspect a part of them with one thread each. Memory is the resident memory of all processes of a node, without shared pages
   counted twice.

The images are links to those of one set, repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import Any

from offnominal import Detector
from offnominal.cluster.connection import connected
from offnominal.cluster.inspecting import PARTS, inspect_on_cluster
from offnominal.datasets import labelled_images, normal_images
from tables import arguments, machine, table, write, yes

FEW, NODES, OVERHEAD, RATE, GROWTH = 500, 2, 1.15, 0.85, 1.1
SMALL: dict[str, Any] = {"preset": "fast", "image_size": 64, "bank": 1000}
#: A plain process: prints the seconds of all images but the first `FEW`.
PLAIN = f"""
import sys
from pathlib import Path
from time import perf_counter
from offnominal import load
from offnominal.datasets import any_images
from offnominal.outputs.inspections import write_inspections
model, folder, out = map(Path, sys.argv[1:])
items = any_images([folder])
detector = load(model)
write_inspections(detector, items[:{FEW}], out / "few")
started = perf_counter()
write_inspections(detector, items[{FEW}:], out / "many")
print(perf_counter() - started)
"""


def links(images: list[Path], folder: Path, count: int) -> Path:
    """A folder of links to the images, repeated."""
    folder.mkdir(parents=True)
    for number in range(count):
        original = images[number % len(images)].resolve()
        (folder / f"{number:07d}{original.suffix}").symlink_to(original)
    return folder


def overhead(images: list[Path], folder: Path, count: int) -> tuple[float, float]:
    """Seconds of `count` images on a cluster of this machine, and with threads in one process."""
    model = folder / "whole.safetensors"
    Detector(false_alarm_rate=0.05).fit(images[:200]).save(model)
    few, many = links(images, folder / "few", FEW), links(images, folder / "many", FEW + count)
    times: dict[str, list[float]] = {"cluster": [], "threads": []}
    with connected("auto") as cluster:
        for part in (few, many):
            started = perf_counter()
            inspect_on_cluster(cluster, model, [str(part)], str(folder / f"cluster-{part.name}"))
            times["cluster"].append(perf_counter() - started)
    for part in (few, many):
        command = [sys.executable, "-m", "offnominal.cli", "inspect", str(model), str(part)]
        started = perf_counter()
        done = subprocess.run(
            [*command, "--out", str(folder / f"threads-{part.name}")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 4):
            raise SystemExit(done.stderr)
        times["threads"].append(perf_counter() - started)
    (cluster_few, cluster_many), (threads_few, threads_many) = times.values()
    return cluster_many - cluster_few, threads_many - threads_few


def plain(model: Path, images: list[Path], folder: Path, count: int) -> float:
    """Images a second of one process for each node, with one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = []
    for node in range(NODES):
        part = links(images, folder / f"plain-{node}", FEW + count)
        command = [sys.executable, "-c", PLAIN, str(model), str(part), str(folder / f"plain-out-{node}")]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    seconds = [float(process.communicate()[0].splitlines()[-1]) for process in processes]
    return sum(count / of_process for of_process in seconds)


class Memory:
    """Memory of the processes of each node, every ten seconds."""

    def __init__(self) -> None:
        self.samples: list[dict[int, float]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sample while the block runs."""
        ended = Event()

        def sample() -> None:
            while not ended.wait(10.0):
                self.samples.append(self._now())

        thread = Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def tenth(self, number: int) -> float:
        """Largest memory of a node in bytes, in this tenth of the run."""
        share = len(self.samples) / 10
        of_tenth = self.samples[int(number * share) : int((number + 1) * share)]
        return max(value for sample in of_tenth for value in sample.values())

    @property
    def most(self) -> float:
        """Largest memory of a node in bytes."""
        return max(value for sample in self.samples for value in sample.values())

    @staticmethod
    def _now() -> dict[int, float]:
        """Bytes by the process of the raylet of each node, with its children."""
        parents: dict[int, int] = {}
        raylets = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if (folder / "comm").read_text().strip() == "raylet":
                    raylets.append(int(folder.name))
            except OSError:
                continue
        sizes = dict.fromkeys(raylets, 0.0)
        for process in parents:
            above = process
            while above not in sizes and above in parents:
                above = parents[above]
            if above in sizes:
                try:
                    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
                except OSError:
                    continue
                sizes[above] += sum(float(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return sizes


def on_nodes(model: Path, images: list[Path], folder: Path, rows: int) -> tuple[float, Memory]:
    """Images a second on a cluster of local nodes, between the first and the last part, and its memory."""
    from ray.cluster_utils import Cluster

    many, out, memory = links(images, folder / "rows", rows), folder / "rows-out", Memory()
    nodes: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(NODES - 1):
        nodes.add_node(num_cpus=1)
    try:
        with connected(str(nodes.address), worker_cpus=1) as cluster, memory.watched():
            run = inspect_on_cluster(cluster, model, [str(many)], str(out))
    finally:
        nodes.shutdown()
    if run.done + run.unreadable != rows:
        raise SystemExit(f"{run} of {rows} rows")
    finished = sorted(path.stat().st_mtime for path in (out / PARTS).iterdir())
    first = NODES  # the first part of each worker includes its start
    return (rows - 256 * first) / (finished[-1] - finished[first - 1]), memory


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="magnetic_tile")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=200_000)
    args = parser.parse_args()
    here, data = machine(), args.data / args.set
    good = [item.path for item in normal_images(data)]
    images = [item.path for item in labelled_images(data)]
    lines: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.images:
            cluster, threads = overhead(images if len(images) > FEW else good + images, folder, args.images)
            ratio = cluster / threads
            what = f"{args.images:,} images: seconds on a cluster, with threads"
            lines.append([what, f"{cluster:.1f}, {threads:.1f} ({ratio:.2f} times)", OVERHEAD, yes(ratio <= OVERHEAD)])
        if args.rows:
            model = folder / "small.safetensors"
            Detector(false_alarm_rate=0.05, **SMALL).fit(good[:200]).save(model)
            count = max(FEW, args.rows // 20)
            before = plain(model, images, folder, count)
            rate, memory = on_nodes(model, images, folder, args.rows)
            after = plain(model, images, folder / "again", count)
            processes = (before + after) / 2
            what = f"{args.rows:,} rows: images a second on {NODES} nodes, in {NODES} processes before and after"
            figures = f"{rate:.0f}, {before:.0f} and {after:.0f} ({rate / processes:.2f} times)"
            lines.append([what, figures, RATE, yes(rate >= RATE * processes)])
            second, last = memory.tenth(1), memory.tenth(9)
            what = "memory of a node in the second and the last tenth, at most"
            figures = f"{second / 1e6:.0f}, {last / 1e6:.0f}, {memory.most / 1e6:.0f} MB"
            lines.append([what, figures, f"{GROWTH} times", yes(last <= GROWTH * second)])
    text = f"Images of {args.set}, repeated."
    content = ["# Inspection on a cluster", text, str(here), table(("what", "measured", "goal", "reached"), lines)]
    write(args.out, "cluster_rows", content, {"machine": here, "rows": lines})


if __name__ == "__main__":
    main()
