"""10,000 inspections by one station: is its memory flat, and are no handles leaked?

    python benchmarks/station_soak.py [--inspections 10000] [--out benchmarks/results]

Small images, sent by eight clients; every hundredth part is reviewed, every fiftieth asks for its receipt, lists and events are
read along the way. The resident memory is measured after every hundredth part. The median of the last tenth may be at most 5 %
above that of the second tenth.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter

import httpx

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from station.calls import post
from station.hostile import handles, resident
from station.killing import broken
from station.servers import LINE, Server, free_port, image_bytes, make_station
from stations import small_model
from tables import arguments, machine, table, write, yes

CLIENTS, EVERY, IMAGES, GROWTH = 8, 100, 50, 0.05
CONFIG = "[limits]\nrequests_per_second = 1000000.0\n"


def use(client: httpx.Client, number: int, image: bytes) -> None:
    """Send a part, and now and then read and write as the pages do."""
    shown = post(client, LINE, image, key=f"key {number}", serial=f"S-{number}", lot=f"L-{number // 1000}")
    assert shown.status_code == 201, shown.text
    part = shown.json()
    if number % 100 == 0:
        answer = client.post(f"/api/inspections/{part['id']}/reviews", json={"verdict": "ok", "comment": "soak"})
        assert answer.status_code == 201, answer.text
    if number % 50 == 0:
        client.get(f"/api/lines/{LINE}/inspections?limit=20")
        client.get(f"/api/lines/{LINE}")
        for kind in ("thumbnail", "receipt"):
            if (address := part["files"][kind]) is not None:
                assert client.get(address).status_code == 200
    if number % 500 == 0:
        last = client.get(f"/api/lines/{LINE}").json()["last_event"] - 10
        with client.stream("GET", f"/api/lines/{LINE}/events?after={last}") as stream:
            next(stream.iter_lines())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--inspections", type=int, default=10_000)
    given = parser.parse_args()
    here = machine()
    images = [image_bytes(seed, bad=seed % 10 == 0) for seed in range(IMAGES)]
    memory: list[int] = []
    opened: list[int] = []
    numbers, lock = iter(range(given.inspections)), threading.Lock()
    with tempfile.TemporaryDirectory() as folder:
        home = make_station(Path(folder) / "station", small_model(Path(folder)), config=CONFIG)
        with Server(home, free_port()).start() as server:

            def send() -> None:
                with server.client() as client:
                    while True:
                        with lock:
                            number = next(numbers, None)
                        if number is None:
                            return
                        use(client, number, images[number % IMAGES])
                        if number % EVERY == 0:
                            memory.append(resident(server.pid))
                            opened.append(handles(server.pid))

            started = perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                for one in [pool.submit(send) for _ in range(CLIENTS)]:
                    one.result()
            seconds = perf_counter() - started
        problems = broken(home)
    tenth = max(1, len(memory) // 10)
    second, last = median(memory[tenth : 2 * tenth]), median(memory[-tenth:])
    early, late = max(opened[tenth : 2 * tenth]), max(opened[-tenth:])
    growth = last / second - 1
    rows = [
        ["inspections", given.inspections, "", ""],
        ["memory, second tenth", f"{second / 1e6:.0f} MB", "", ""],
        ["memory, last tenth", f"{last / 1e6:.0f} MB ({growth:+.1%})", f"+{GROWTH:.0%}", yes(growth <= GROWTH)],
        ["open files, second and last tenth", f"{early}, {late}", "equal, or 5 more", yes(late <= early + 5)],
        ["rows without files, files without rows", len(problems), "0", yes(not problems)],
        ["inspections per second", f"{given.inspections / seconds:.1f}", "", ""],
    ]
    parts = ["# Many inspections", str(here), table(("figure", "value", "at most", "met"), rows), *problems[:20]]
    results = {"machine": here, "memory": memory, "handles": opened, "problems": problems, "seconds": seconds}
    write(given.out, "station_soak", parts, results)


if __name__ == "__main__":
    main()
