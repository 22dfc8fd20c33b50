"""The event log: a change of any column of any event is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import delete, text, update

from offnominal.station import events, setup
from offnominal.station.database import Database
from offnominal.station.events import GENESIS, append, broken_links, canonical, hash_of, head
from offnominal.station.tables import Event
from station.conftest import StationFactory


@pytest.fixture
def log(station_folder: StationFactory, database_url: str | None) -> Iterator[Database]:
    """A log of the events of a new station and three more."""
    home = station_folder(database=database_url, model=None)
    with setup.Setup(home.root) as opened:
        with opened.database.write() as session:
            for number in range(3):
                append(session, "test", f"subject {number}", "anna", {"number": number, "score": 0.1 + number}, "parts")
        yield opened.database


def problems(log: Database) -> list[str]:
    with log.read() as session:
        return list(broken_links(session))


def test_the_log_of_a_station_is_whole(log: Database) -> None:
    assert problems(log) == []
    with log.read() as session:
        number, digest = head(session)
        assert session.scalar(text("select count(*) from event")) == number
        assert session.get_one(Event, number).hash == digest


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", "at + 1"),
        ("by", "'mallory'"),
        ("kind", "'other'"),
        ("line", "'other'"),
        ("line", "null"),
        ("subject", "'other'"),
        ("data", "'{}'"),
        ("data", "data || ' '"),
        ("hash", f"'{GENESIS}'"),
        ("id", "id + 1000"),
    ],
)
@pytest.mark.parametrize("back", [0, 1, 2])
def test_a_change_of_any_column_is_found(log: Database, column: str, value: str, back: int) -> None:
    with log.write() as session:
        number = head(session)[0] - back
        session.execute(text(f'update event set "{column}" = {value} where id = {number}'))
    found = problems(log)
    assert found
    assert any(str(number) in problem for problem in found)


def test_a_removed_event_is_found_unless_it_is_the_last(log: Database) -> None:
    with log.read() as session:
        number, digest = head(session)
    with log.write() as session:
        session.execute(delete(Event).where(Event.id == number))
    assert problems(log) == []
    with log.read() as session:
        assert head(session) != (number, digest)  # so a head that is kept elsewhere shows it
    with log.write() as session:
        session.execute(delete(Event).where(Event.id == number - 2))
    assert any(f"event {number - 2}: missing" in problem for problem in problems(log))
    with log.write() as session:
        session.execute(delete(Event).where(Event.id == 1))
    assert any("event 1: missing" in problem for problem in problems(log))


def test_a_forged_event_is_found(log: Database) -> None:
    """Whoever changes an event and its hash must change all later ones; the head then differs."""
    with log.write() as session:
        number, before = head(session)
        first = session.get_one(Event, number - 1)
        first.by = "mallory"
        first.hash = hash_of(first, session.get_one(Event, number - 2).hash)
    assert [problem.split(":")[0] for problem in problems(log)] == [f"event {number} (test subject 2)"]
    with log.write() as session:
        last = session.get_one(Event, number)
        last.hash = hash_of(last, session.get_one(Event, number - 1).hash)
    assert problems(log) == []
    with log.read() as session:
        assert head(session) != (number, before)


def test_swapped_events_are_found(log: Database) -> None:
    with log.write() as session:
        number, _ = head(session)
        values = [{"data": one.data, "hash": one.hash} for one in (session.get_one(Event, number - back) for back in (0, 1))]
        for back, taken in ((1, values[0]), (0, values[1])):
            session.execute(update(Event).where(Event.id == number - back).values(**taken))
    assert len(problems(log)) == 2


def test_an_event_of_a_change_that_failed_is_not_there(log: Database) -> None:
    with log.read() as session:
        before = head(session)

    def fail() -> None:
        with log.write() as session:
            append(session, "test", "never", "anna", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with log.read() as session:
        assert head(session) == before
    assert problems(log) == []


@pytest.mark.parametrize("data", [{"score": float("nan")}, {"score": float("inf")}])
def test_what_is_no_json_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical(data)
    assert events.digest_of({"a": 1, "b": None}) == events.digest_of({"b": None, "a": 1})
