"""The threads that inspect: bounded, and every accepted part is answered whatever happens to others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from offnominal import Detector
from offnominal.errors import ImageError, InputError
from offnominal.station import database, events, inspections
from offnominal.station.database import Database, sqlite_url
from offnominal.station.errors import NotFoundError, UnavailableError
from offnominal.station.folder import new_id
from offnominal.station.judge import Judge, Judged, LoadedVersion, Part
from offnominal.station.station import Station
from station.conftest import StationFactory
from station.parts import files_of, inspected, received, waiting_files
from station.servers import LINE, PATIENCE, image_bytes


class Store:
    """Answers each part with its serial number, in groups; waits while `closed`, and raises `error`."""

    def __init__(self) -> None:
        self.open, self.groups = threading.Event(), list[int]()
        self.error: Exception | None = None
        self.open.set()

    def __call__(self, group: Sequence[Judged]) -> Sequence[Any]:
        self.open.wait(PATIENCE)
        self.groups.append(len(group))
        if self.error is not None:
            raise self.error
        return [judged.error or judged.part.serial for judged in group]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def judge(store: Store, detector: Detector) -> Iterator[Judge]:
    running = Judge(store, waiting=6)
    running.use(LINE, LoadedVersion(1, 1, "0" * 64, detector, None))
    yield running
    store.open.set()
    running.close()


@pytest.fixture
def part(tmp_path: Path) -> Any:
    def make(serial: str, line: str = LINE, content: bytes | None = None) -> Part:
        path = tmp_path / f"{serial}.png"
        path.write_bytes(image_bytes(int(serial)) if content is None else content)
        return Part(line, path, path.name, "0" * 64, "test", serial=serial)

    return make


def test_all_that_is_accepted_is_answered_and_no_more_is_accepted_than_may_wait(judge: Judge, store: Store, part: Any) -> None:
    store.open.clear()
    futures = [judge.submit(part(str(serial))) for serial in range(6)]
    for refused in (lambda: judge.submit(part("6")), lambda: judge.call(LINE, lambda detector: None), judge.require_space):
        with pytest.raises(UnavailableError) as error:
            refused()
        assert error.value.retry_after >= 1
    assert judge.pending == 6
    store.open.set()
    assert [future.result(PATIENCE) for future in futures] == [str(serial) for serial in range(6)]
    assert judge.pending == 0
    assert judge.submit(part("7")).result(PATIENCE) == "7"


def test_what_waits_for_the_store_is_stored_together(judge: Judge, store: Store, part: Any) -> None:
    store.open.clear()
    futures = [judge.submit(part(str(serial))) for serial in range(2 + judge.workers)]
    judge.call(LINE, lambda detector: None).result(PATIENCE)  # by now the workers have inspected some
    store.open.set()
    assert [future.result(PATIENCE) for future in futures] == [str(serial) for serial in range(2 + judge.workers)]
    assert max(store.groups) > 1


def test_a_client_that_goes_away_cancels_nothing(judge: Judge, store: Store, part: Any) -> None:
    store.open.clear()
    futures = [judge.submit(part(str(serial))) for serial in range(4)]
    assert not any(future.cancel() for future in futures)
    store.open.set()
    assert [future.result(PATIENCE) for future in futures] == ["0", "1", "2", "3"]
    assert judge.submit(part("4")).result(PATIENCE) == "4"


def test_an_error_belongs_to_its_client_alone(judge: Judge, store: Store, part: Any) -> None:
    def broken(detector: Detector) -> None:
        raise RuntimeError("this work fails")

    with pytest.raises(RuntimeError, match="this work fails"):
        judge.call(LINE, broken).result(PATIENCE)
    unready = part("1", line="other")
    with pytest.raises(UnavailableError, match="no model"):
        judge.submit(unready).result(PATIENCE)
    assert not unready.image.exists()  # nobody will ask for it again
    futures = [judge.submit(part("2", content=b"no image")), judge.submit(part("3"))]
    with pytest.raises(ImageError, match="not a readable image"):
        futures[0].result(PATIENCE)
    assert futures[1].result(PATIENCE) == "3"
    store.error = UnavailableError("the disk is full")
    with pytest.raises(UnavailableError, match="the disk is full"):
        judge.submit(part("4")).result(PATIENCE)
    store.error = None
    assert judge.submit(part("5")).result(PATIENCE) == "5"
    assert judge.pending == 0


def test_closing_finishes_what_was_accepted(store: Store, detector: Detector, part: Any) -> None:
    judge = Judge(store, waiting=10)
    judge.use(LINE, LoadedVersion(1, 1, "0" * 64, detector, None))
    store.open.clear()
    futures: list[Future[Any]] = [judge.submit(part(str(serial))) for serial in range(8)]
    closing = threading.Thread(target=judge.close)
    closing.start()
    closing.join(0.5)
    with pytest.raises(UnavailableError, match="stopping"):
        judge.require_space()
    assert closing.is_alive()  # it waits for what was accepted
    store.open.set()
    closing.join(PATIENCE)
    assert [future.result(0) for future in futures] == [str(serial) for serial in range(8)]
    with pytest.raises(UnavailableError, match="stopping"):
        judge.submit(part("9"))


def test_a_new_version_is_used_from_the_next_image_on(judge: Judge, store: Store, part: Any, detector: Detector) -> None:
    used: list[str] = []

    def note(group: Sequence[Judged]) -> Sequence[Any]:
        used.extend(judged.loaded.digest for judged in group)
        return [None] * len(group)

    other = Judge(note, waiting=100)
    try:
        for digest in ("a", "b"):
            other.use(LINE, LoadedVersion(1, 1, digest, detector, None))
            for future in [other.submit(part(str(serial))) for serial in range(3)]:
                future.result(PATIENCE)
        other.use(LINE, None)
        with pytest.raises(UnavailableError):
            other.submit(part("4")).result(PATIENCE)
    finally:
        other.close()
    assert used == ["a"] * 3 + ["b"] * 3


def test_an_answer_is_on_disk_and_equals_python(station_folder: StationFactory, detector: Detector) -> None:
    with Station(station_folder().root) as station:
        shown = inspected(station, 150, bad=True, serial="S", lot="L")
        with station.database.read() as session:
            row, line, _ = inspections.one(session, shown["id"])
            assert list(events.broken_links(session)) == []
        folder = station.folder.inspection(row.id, row.judged_at)
        assert sorted(path.name for path in folder.iterdir()) == ["heat.jpg", "image.png", "thumb.jpg"]
        assert (folder / "image.png").read_bytes() == image_bytes(150, bad=True)
        expected = detector.inspect(folder / "image.png")
        assert (row.score, row.p_value, row.serial, row.lot, line) == (expected.score, expected.p_value, "S", "L", LINE)
        assert waiting_files(station) == []


def test_the_same_key_gives_the_same_answer(station_folder: StationFactory) -> None:
    with Station(station_folder().root) as station:
        futures = [station.inspect(received(station, 150, idempotency_key="k")) for _ in range(5)]
        answers = [future.result(PATIENCE) for future in futures] + [inspected(station, 150, idempotency_key="k")]
        assert all(answer == answers[0] for answer in answers)
        with pytest.raises(InputError, match="another request"):
            station.inspect(received(station, 151, idempotency_key="k"))
        with pytest.raises(NotFoundError):
            station.inspect(received(station, 150, line="nowhere", idempotency_key="k"))
        with pytest.raises(InputError):  # an image that cannot be read has no row
            inspected(station, content=b"no image", idempotency_key="broken")
        assert waiting_files(station) == []
        assert len(files_of(station)) == 1


def test_files_come_first_and_leave_with_their_row(station_folder: StationFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 1)
    home = station_folder()
    blocking = Database(sqlite_url(home.root))
    with Station(home.root) as station:
        with blocking.write() as session:  # as another program would
            session.execute(text("select 1"))
            future = station.inspect(received(station, 150))
            while not files_of(station):
                assert not future.done()
            with pytest.raises(UnavailableError, match="locked"):
                future.result(PATIENCE)
        assert inspected(station, 151)["verdict"] == "ok"
        while len(files_of(station)) > 1:  # the keeper looks every two seconds
            pass
    blocking.close()


def test_a_commit_whose_answer_was_lost_keeps_its_files(station_folder: StationFactory, database_url: str | None) -> None:
    """The database has committed, but its answer never came: the part may be there, so its files must be."""
    lost = threading.Event()

    def lose(connection: Any) -> None:
        if lost.is_set():
            lost.clear()
            connection.connection.commit()
            raise OperationalError("commit", None, RuntimeError("the connection was lost"))

    with Station(station_folder(database=database_url).root) as station:
        inspected(station, 149)
        event.listen(station.database.engine, "commit", lose)
        lost.set()
        with pytest.raises(UnavailableError, match="the connection was lost"):
            inspected(station, 150, idempotency_key="k")
        again = inspected(station, 150, idempotency_key="k")
        with station.database.read() as session:
            row, _, _ = inspections.one(session, again["id"])
            shown, _ = inspections.listed(session, inspections.Filter(line=LINE), 10)
        assert len(shown) == 2
        assert inspections.media_file(station.folder, row, "image").read_bytes() == image_bytes(150)
    with Station(station.folder.root) as station:  # nor does the next start remove them
        assert files_of(station) == {one["id"] for one in shown}


def test_identifiers_grow_even_if_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows a list from the last identifier on would miss what sorts before it."""
    ids = [new_id() for _ in range(100)]
    monkeypatch.setattr(time, "time", lambda: 1.0)
    ids += [new_id() for _ in range(100)]
    assert ids == sorted(set(ids))
    assert {len(id) for id in ids} == {32}
