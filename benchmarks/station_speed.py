"""Throughput of a station over HTTP against `Detector.inspect_many` on the same cores.

    python benchmarks/station_speed.py --data FOLDER_OF_SETS [--images 64] [--rounds 5] [--database URL]

Eight clients, in a process of their own, send the files of magnetic_tile (training and test images); the station stores image,
heat map, thumbnail, row and event of each before it answers. `inspect_many` gets the same files and stores nothing. Both take
turns, so that what disturbs the machine disturbs them alike; while one works, the other only waits. The clients share the cores
with the station. Scores must be equal.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from offnominal import Detector, load
from offnominal.datasets import labelled_images, normal_images
from offnominal.images import raise_unreadable
from station.servers import LINE, Server, free_port, make_station
from tables import arguments, machine, table, use_threads, write, yes

SET, CLIENTS, SHARE, TAIL = "magnetic_tile", 8, 0.8, 4.0
SENDER = Path(__file__).with_name("station_sender.py")


def files_of(root: Path, most: int) -> list[Path]:
    """Files of the set, test and training images in turn."""
    found = [item.path for item in (*labelled_images(root), *normal_images(root))]
    return found[:: max(1, len(found) // most)][:most]


def directly(detector: Detector, files: Sequence[Path]) -> tuple[float, dict[str, float]]:
    """Seconds of `inspect_many`, and the scores."""
    scores = {}
    started = perf_counter()
    for index, result in detector.inspect_many(files, failed=raise_unreadable):
        scores[str(files[index])] = result.score
    return perf_counter() - started, scores


def over_http(server: Server, files: Sequence[Path]) -> dict[str, Any]:
    """Seconds, latencies and scores of eight clients."""
    command = [sys.executable, str(SENDER), server.url, LINE, server.home.tokens["operator"], str(CLIENTS)]
    done = subprocess.run(command, input=json.dumps(list(map(str, files))), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database", help="URL of an empty PostgreSQL database [default: SQLite]")
    given = parser.parse_args()
    use_threads(given.threads)
    here, root = machine(), given.data / SET
    files = files_of(root, given.images)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / f"{SET}.safetensors"
        Detector().fit(root).save(model)
        detector, home = load(model), make_station(Path(folder) / "station", model, database=given.database)
        with Server(home, free_port()).start() as server:
            _, expected = directly(detector, files)
            assert over_http(server, files)["scores"] == expected
            turns = [(directly(detector, files)[0], over_http(server, files)) for _ in range(given.rounds)]
    plain = median(len(files) / seconds for seconds, _ in turns)
    served = median(len(files) / sent["seconds"] for _, sent in turns)
    share = median(seconds / sent["seconds"] for seconds, sent in turns)
    latencies = [value for _, sent in turns for value in sent["latencies"]]
    cuts = quantiles(latencies, n=100)
    middle, tail = cuts[49], cuts[98]
    rows = [
        ["inspect_many", f"{plain:.1f} images/s", "", ""],
        [f"HTTP, {CLIENTS} clients", f"{served:.1f} images/s", "", ""],
        ["HTTP against inspect_many, median of rounds", f"{share:.2f}", f"at least {SHARE:g}", yes(share >= SHARE)],
        ["latency, median", f"{middle * 1000:.0f} ms", "", ""],
        [
            "latency, 99 % of requests",
            f"{tail * 1000:.0f} ms ({tail / middle:.1f} times)",
            f"under {TAIL:g} times",
            yes(tail < TAIL * middle),
        ],
    ]
    database = "SQLite" if given.database is None else "PostgreSQL"
    head = f"{SET}, defaults, {len(files)} files, {given.rounds} rounds in turn, {database}."
    parts = ["# Throughput of a station", head, str(here), table(("figure", "value", "goal", "met"), rows)]
    results = {
        "machine": here,
        "images": len(files),
        "rounds": [[seconds, sent["seconds"]] for seconds, sent in turns],
        "share": share,
    }
    write(given.out, "station_speed", parts, results | {"median": middle, "tail": tail})


if __name__ == "__main__":
    main()
