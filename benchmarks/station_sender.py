"""Send files to a station from several clients; used by `station_speed.py`.

    python benchmarks/station_sender.py URL LINE TOKEN CLIENTS < FILES.json

Imports nothing of offnominal, as a camera's program would not. Prints seconds, latencies and the score of each file as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from time import perf_counter

import httpx


def main() -> None:
    url, line, token, clients = sys.argv[1:]
    files = [(path, Path(path).read_bytes()) for path in json.load(sys.stdin)]
    waiting, lock = iter(files), threading.Lock()
    latencies: list[float] = []
    scores: dict[str, float] = {}

    def send(barrier: threading.Barrier) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=300, trust_env=False) as client:
            client.get("/healthz")
            barrier.wait()
            while True:
                with lock:
                    path, content = next(waiting, (None, b""))
                if path is None:
                    return
                started = perf_counter()
                answer = client.post(f"/api/lines/{line}/inspections", files={"image": (path, content)})
                latencies.append(perf_counter() - started)
                assert answer.status_code == 201, answer.text
                scores[path] = answer.json()["score"]

    barrier = threading.Barrier(int(clients) + 1)
    threads = [threading.Thread(target=send, args=(barrier,)) for _ in range(int(clients))]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = perf_counter()
    for thread in threads:
        thread.join()
    json.dump({"seconds": perf_counter() - started, "latencies": latencies, "scores": scores}, sys.stdout)


if __name__ == "__main__":
    main()
