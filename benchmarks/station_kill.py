"""kill -9 of a station at 100 random moments under load: is every answered inspection there, once, and none half?

    python benchmarks/station_kill.py [--kills 100] [--seed 0] [--out benchmarks/results]

Four clients send parts with serial numbers and idempotency keys; each sends a part until it is answered. The server is killed
while it works or while it starts, and started again. This is done with SQLite and with a PostgreSQL of the system's packages,
which runs on. At the end every serial number must have exactly one row, with the image that was sent; no row may lack a file,
no file a row, and the event log must be whole.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from time import perf_counter

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from station.killing import killed
from station.servers import Postgres, Server, free_port, make_station
from stations import small_model
from tables import arguments, machine, table, write, yes


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    here, programs = machine(), Postgres.programs()
    cluster = None if programs is None else Postgres(programs)
    rows, problems = [], {}
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder))
        urls: dict[str, str | None] = {"SQLite": None}
        try:
            if cluster is not None:
                cluster.start()
                urls["PostgreSQL"] = cluster.new_database()
            for name, url in urls.items():
                server = Server(make_station(Path(folder) / name / "station", model, database=url), free_port())
                started = perf_counter()
                try:
                    found = killed(server, given.kills, given.seed)
                finally:
                    server.kill()
                problems[name] = found.problems
                seconds = perf_counter() - started
                rows.append([name, found.kills, found.answered, len(found.problems), yes(not found.problems), f"{seconds:.0f}"])
        finally:
            if cluster is not None:
                cluster.remove()
    columns = ("database", "kills", "parts answered", "problems", "none", "seconds")
    parts = [
        "# Kills",
        str(here),
        table(columns, rows),
        *[f"{name}: {one}" for name in problems for one in problems[name][:20]],
    ]
    write(given.out, "station_kill", parts, {"machine": here, "seed": given.seed, "rows": rows, "problems": problems})


if __name__ == "__main__":
    main()
