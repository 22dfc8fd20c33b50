"""Kill a server at random moments under load, and check what it has kept."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, sleep

import httpx
from sqlalchemy import select

from offnominal.station import events
from offnominal.station.media import HEAT, THUMB
from offnominal.station.setup import Setup
from offnominal.station.tables import UNREADABLE, Event, Inspection
from station.calls import post
from station.servers import LINE, PATIENCE, Server, StationHome, image_bytes


def broken(home: StationHome, answered: Sequence[str] = ()) -> list[str]:
    """What is wrong with a stopped station: rows without files, files without rows, a broken chain, answers without a row."""
    found = []
    with Setup(home.root) as opened, opened.database.read() as session:
        rows = session.scalars(select(Inspection)).all()
        found += list(events.broken_links(session))
        kinds = session.scalars(select(Event.subject).where(Event.kind == "inspection")).all()
    if Counter(kinds) != Counter(row.id for row in rows):
        found.append("the events do not describe the rows")
    for row in rows:
        folder = opened.folder.inspection(row.id, row.judged_at)
        names = {row.image_file, *(() if row.verdict == UNREADABLE else (HEAT, THUMB))}
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if not names <= there:
            found.append(f"{row.id}: lacks {sorted(names - there)}")
        elif hashlib.sha256((folder / row.image_file).read_bytes()).hexdigest() != row.image_sha256:
            found.append(f"{row.id}: its image is not what was sent")
    kept, ids = {path.name for path in opened.folder.media.glob("*/*")}, {row.id for row in rows}
    found += [f"{id}: files without a row" for id in kept - ids]
    found += [f"{id}: was answered, and has no row" for id in set(answered) - ids]
    keys = Counter(row.idempotency_key for row in rows if row.idempotency_key)
    found += [f"key {key}: {count} rows" for key, count in keys.items() if count > 1]
    return found


@dataclass
class Senders:
    """Clients that send parts, each until it is answered: with the same key after an error, as a camera would.

    Attributes
    ----------
    answered
        Serial number -> the answer.
    """

    server: Server
    clients: int = 4
    images: Sequence[bytes] = field(default_factory=lambda: [image_bytes(seed, bad=seed % 3 == 0) for seed in range(8)])
    answered: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stop, self._given_up = threading.Event(), threading.Event()
        self._sent, self._lock = 0, threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(self.clients)]

    def _send(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number, self._sent = self._sent, self._sent + 1
            image, serial = self.images[number % len(self.images)], f"S-{number}"
            while serial not in self.answered and not self._given_up.is_set():
                with suppress(httpx.TransportError), self.server.client() as client:
                    answer = post(client, LINE, image, key=f"key {number}", serial=serial)
                    if answer.status_code == 201:
                        shown = answer.json()
                        assert shown["image_sha256"] == hashlib.sha256(image).hexdigest()
                        self.answered[serial] = shown
                        continue
                    assert answer.status_code == 503, answer.text
                sleep(0.1)

    def wait(self) -> None:
        """Wait for the next answer."""
        before, end = len(self.answered), monotonic() + PATIENCE
        while len(self.answered) == before:
            assert monotonic() < end, f"nothing is answered:\n{self.server.log[-4000:]}"
            sleep(0.001)

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Let every client have its last answer, unless the test has failed."""
        self._stop.set()
        if kind is not None:
            self._given_up.set()
        for thread in self._threads:
            thread.join()


@dataclass(frozen=True)
class Kills:
    """What a station that was killed often has kept: parts answered, and what is wrong."""

    kills: int
    answered: int
    problems: list[str]


def killed(server: Server, kills: int, seed: int = 0) -> Kills:
    """Kill a server under load, at random moments while it works or starts, and start it again; check it after the last start.

    Every part is sent until it is answered, so in the end each has exactly one row.
    """
    rng = random.Random(seed)
    server.start()
    with Senders(server) as senders:
        for _ in range(kills):
            if rng.random() < 0.2:  # while it starts
                server.kill()
                server.launch()
                sleep(rng.uniform(0, 5))
            else:  # while it works: at some moment after the first answer
                senders.wait()
                sleep(rng.uniform(0, 1.5))
            server.kill()
            server.start()
    server.stop()
    problems = broken(server.home, [str(shown["id"]) for shown in senders.answered.values()])
    with Setup(server.home.root) as opened, opened.database.read() as session:
        serials = Counter(str(serial) for serial in session.scalars(select(Inspection.serial)))
    problems += [f"{serial}: {count} rows" for serial, count in serials.items() if count != 1]
    if set(serials) != set(senders.answered):
        problems.append(f"rows and answers differ: {sorted(set(serials) ^ set(senders.answered))[:5]}")
    return Kills(kills, len(senders.answered), problems)
