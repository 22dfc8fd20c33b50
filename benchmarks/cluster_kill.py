"""Kill workers, nodes and drivers of a cluster at random; check that the results are complete, and hold nothing twice.

    python benchmarks/cluster_kill.py [--kills 20] [--images 3000] [--seed 0] [--out benchmarks/results]

A cluster of three local nodes runs `inspect --cluster`, again and again in the same folder, until it has finished. At a random
moment a worker, a node or the driver is killed; a node comes back. At the end the rows must equal those of one machine, each
once, and `fit --cluster` after such kills must write the same bytes as without.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import cv2

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal.cluster.inspecting import PARTS
from offnominal.cluster.rows import rows_of
from offnominal.datasets import any_images
from offnominal.outputs.inspections import write_inspections
from tables import arguments, machine, table, write, yes

NODES, LIMIT = 3, 900.0


def images(folder: Path, count: int) -> Path:
    """Links to 60 generated images, many times; one in 60 is no image."""
    (folder / "originals").mkdir()
    (folder / "links").mkdir()
    for seed in range(60):
        image = damaged(seed)[0] if seed % 10 == 0 else texture(seed)
        cv2.imwrite(str(folder / "originals" / f"{seed}.png"), image)
    (folder / "originals" / "7.png").write_bytes(b"no image")
    for number in range(count):
        (folder / "links" / f"{number:06d}.png").symlink_to(folder / "originals" / f"{number % 60}.png")
    return folder / "links"


def workers_of() -> list[int]:
    """Processes of actors that inspect or hold shards."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if command.startswith(("ray::MapWorker", "ray::ShardHost")):
            found.append(int(process.name))
    return found


class Nodes:
    """A local Ray cluster whose nodes can be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self._others = [self._cluster.add_node(num_cpus=1) for _ in range(NODES - 1)]
        self.address = str(self._cluster.address)

    def kill(self, rng: random.Random) -> None:
        """Kill one node, not the head, and start another."""
        at = rng.randrange(len(self._others))
        self._cluster.remove_node(self._others[at], allow_graceful=False)
        self._others[at] = self._cluster.add_node(num_cpus=1)

    def stop(self) -> None:
        """Stop all nodes."""
        self._cluster.shutdown()


def disturbed(command: list[str], nodes: Nodes, rng: random.Random, kills: int) -> dict[str, int]:
    """Run a command until it succeeds, and kill workers, nodes and drivers in turns; returns the number of kills of each."""
    done = {"worker": 0, "node": 0, "driver": 0}
    end = monotonic() + LIMIT
    while monotonic() < end:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while driver.poll() is None and sum(done.values()) < kills:
            sleep(rng.uniform(2, 12))
            kind = rng.choice([kind for kind, count in done.items() if count == min(done.values())])
            if driver.poll() is not None:
                break
            if kind == "worker":
                running = workers_of()
                if not running:
                    continue  # they have not started yet
                os.kill(rng.choice(running), signal.SIGKILL)
            elif kind == "node":
                nodes.kill(rng)
            else:
                driver.kill()
            done[kind] += 1
        _, errors = driver.communicate()
        if driver.returncode in (0, 4):
            return done
        if driver.returncode != -signal.SIGKILL:
            print(driver.returncode, errors[-500:], file=sys.stderr)
    raise SystemExit(f"{command} did not finish within {LIMIT:.0f} s")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    here, rng = machine(), random.Random(args.seed)
    lines: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links, model = images(folder, args.images), folder / "model.safetensors"
        Detector(image_size=96, bank=200, false_alarm_rate=0.05).fit([texture(seed) for seed in range(100, 130)]).save(model)
        _, rows = write_inspections(load(model), any_images([links]), folder / "alone")
        expected = [{**row, "map": None} for row in json.loads(json.dumps(rows))]
        nodes = Nodes()
        try:
            run = [sys.executable, "-m", "offnominal.cli"]
            out, kinds, total, same = folder / "out", {"worker": 0, "node": 0, "driver": 0}, 0, True
            while total < args.kills:
                command = [*run, "inspect", str(model), str(links), "--out", str(out), "--cluster", nodes.address]
                for kind, count in disturbed(command, nodes, rng, args.kills - total).items():
                    kinds[kind] += count
                total = sum(kinds.values())
                found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
                parts = [row for path in sorted((out / PARTS).iterdir()) for row in rows_of(path.read_bytes())]
                same &= found == expected and [row["index"] for row in parts] == list(range(args.images))
                if total < args.kills:
                    subprocess.run(["rm", "-rf", str(out)], check=True)
            lines.append(["inspect", args.images, *kinds.values(), yes(same)])
            good = str(folder / "originals" / "[1-9][1-9].png")
            fit = [
                *run,
                "fit",
                good,
                "--image-size",
                "96",
                "--bank",
                "200",
                "--shards",
                "4",
                "--cluster",
                nodes.address,
                "--out",
            ]
            disturbed([*fit, str(folder / "whole.safetensors")], nodes, rng, 0)
            fitted = disturbed([*fit, str(folder / "lost.safetensors")], nodes, rng, args.kills)
            equal = (folder / "whole.safetensors").read_bytes() == (folder / "lost.safetensors").read_bytes()
            lines.append(["fit", 45, *fitted.values(), yes(equal)])
        finally:
            nodes.stop()
    columns = ("command", "images", "workers killed", "nodes killed", "drivers killed", "the same result")
    text = f"{NODES} local nodes; a killed driver is started again."
    write(args.out, "cluster_kill", ["# Kills on a cluster", text, str(here), table(columns, lines)], {"rows": lines})


if __name__ == "__main__":
    main()
