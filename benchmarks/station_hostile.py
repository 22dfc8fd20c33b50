"""10,000 hostile requests to a station: does one succeed, does one bring it down, and how much memory does it take?

    python benchmarks/station_hostile.py [--requests 10000] [--seed 0] [--database URL] [--out benchmarks/results]

Addresses, JSON, forms, image bombs, model files of strangers, forged identities and bytes that are no HTTP are drawn at random
from the OpenAPI document and lists of hostile values, and sent by eight clients at the same time. After every fiftieth request
of a client a good part must be inspected. At the end the event log must be whole, and every row must have its files and every
file its row.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from station.calls import post
from station.hostile import CONFIG, Attacker, attacked, handles
from station.killing import broken
from station.servers import LINE, Server, free_port, image_bytes, make_station
from stations import small_model
from tables import arguments, machine, table, write, yes

WARM, BOUND = 100, 500_000_000


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", help="URL of an empty PostgreSQL database [default: SQLite]")
    given = parser.parse_args()
    here = machine()
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder))
        home = make_station(Path(folder) / "station", model, database=given.database, config=CONFIG)
        with Server(home, free_port()).start() as server, server.client() as client:
            for seed in range(WARM):
                post(client, LINE, image_bytes(seed % 10))
            open_before, started = handles(server.pid), perf_counter()
            found = attacked(Attacker(server, model, Path(folder) / "trap"), given.requests, seed=given.seed)
            seconds, open_after = perf_counter() - started, handles(server.pid)
            problems = found.problems + [line for line in server.log.splitlines() if "Traceback" in line]
        problems += broken(home)
    before, most, tenth = found.memory[0] / 1e6, max(found.memory) / 1e6, max(1, len(found.memory) // 10)
    second, last = (median(part) / 1e6 for part in (found.memory[tenth : 2 * tenth], found.memory[-tenth:]))
    rows: list[list[Any]] = [
        ["requests", sum(found.sent.values()), "", ""],
        ["problems", len(problems), "0", yes(not problems)],
        ["memory before, at most", f"{before:.0f}, {most:.0f} MB", "+500 MB", yes(most - before < BOUND / 1e6)],
        ["memory in the second and the last tenth", f"{second:.0f}, {last:.0f} MB", "", ""],
        ["open files before, after", f"{open_before}, {open_after}", "+10", yes(open_after < open_before + 10)],
        ["seconds", f"{seconds:.0f}", "", ""],
    ]
    kinds = table(("kind", "requests"), sorted(found.sent.items()))
    parts = ["# Hostile requests", str(here), table(("figure", "value", "at most", "met"), rows)]
    parts += [kinds, *problems[:20]]
    results = {"machine": here, "sent": found.sent, "problems": problems, "memory": found.memory, "seconds": seconds}
    write(given.out, "station_hostile", parts, results)


if __name__ == "__main__":
    main()
