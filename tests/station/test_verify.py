"""`verify` finds whatever was changed, added or removed behind the station's back, and nothing in a whole station."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from offnominal.station import events, inspections
from offnominal.station.database import Database
from offnominal.station.events import GENESIS
from offnominal.station.folder import StationFolder, file_digest
from offnominal.station.setup import Setup
from offnominal.station.tables import Base, Event, Inspection, Line, ModelVersion
from offnominal.station.upkeep.verify import Verified, verify
from station.commands import run
from station.servers import LINE, StationHome

pytestmark = pytest.mark.slow


def verified(root: Path, head: str | None = None) -> tuple[Verified, list[str]]:
    problems: list[str] = []
    with Setup(root) as opened:
        return verify(opened.database, opened.folder, problems.append, head), problems


def changed(root: Path, *statements: str, **values: object) -> None:
    """Change the database as somebody does who has its password."""
    with Setup(root) as opened, opened.database.write() as session:
        for statement in statements:
            assert session.execute(text(statement), values).rowcount, statement  # type: ignore[attr-defined]


def test_a_whole_station_has_no_problems(history: StationHome) -> None:
    done, problems = verified(history.root)
    assert problems == []
    assert (done.problems, done.inspections, done.images, done.models) == (0, 5, 3, 2)
    assert verified(history.root, done.head)[1] == []
    assert verified(history.root, GENESIS)[1] == []
    assert verified(history.root, "0" * 63 + "1")[1] == [
        f"head {'0' * 63}1: does not occur in the event log; events were cut off or replaced"
    ]


LAST_REVIEW = "(select max(id) from review)"
SQL: dict[str, tuple[str, str]] = {
    "a verdict that was turned": ("update inspection set verdict = 'ok' where verdict = 'ng'", "does not match event"),
    "a serial": ("update inspection set serial = 'B9' where serial = 'A1'", "does not match event"),
    "a score": ("update inspection set score = score + 1e-9 where verdict = 'ng'", "does not match event"),
    "a time": ("update inspection set judged_at = judged_at + 1 where verdict = 'ng'", "does not match event"),
    "a comment": (f"update review set comment = 'x' where id = {LAST_REVIEW}", "does not match event"),
    "a reviewer": (f"update review set by = 'bert' where id = {LAST_REVIEW}", "does not match event"),
    "a review that was removed": (f"delete from review where id = {LAST_REVIEW}", "tells of it, but its row is missing"),
    "a latest review": ("update inspection set review = null where serial = 'A1'", "is not that of its latest review"),
    "an event": ("update event set by = 'bert' where kind = 'review'", "does not match its hash or the event before it"),
    "a gap": ("delete from event where id = 7", "missing, the next one is 8"),
    "a promise": ("update model_version set promise = 'none' where number = 2", "does not match event"),
    "an activation": ("update activation set by = 'bert' where id = 2", "activation 2 does not match event"),
    "a rollback target": ("update activation set previous = 1 where id = 3", "activation 3 does not match event"),
    "an active model": ("update line set activation = 2", "is not that of its last activation"),
    "a role": ("update user_account set role = 'admin'", "user anna: its row does not match the events"),
    "a token": ("update token set role = 'admin' where name = 'test-viewer'", "token test-viewer: its row does not match"),
    "an image that is said to be removed": (
        "update inspection set media_kept = false where serial = 'A1'",
        "1 images are not kept, although no event says",
    ),
    "an image that is said to be kept": (
        "update inspection set media_kept = true where id = (select min(id) from inspection)",
        "says that its image was removed",
    ),
}


@pytest.mark.parametrize("what", SQL)
def test_a_changed_row_is_found(copied_history: StationHome, what: str) -> None:
    statement, expected = SQL[what]
    changed(copied_history.root, statement)
    done, problems = verified(copied_history.root)
    assert done.problems == len(problems)
    assert any(expected in problem for problem in problems), problems


def test_an_inspection_that_was_removed_or_added_is_found(copied_history: StationHome) -> None:
    with Setup(copied_history.root) as opened, opened.database.write() as session:
        row = session.query(Inspection).filter_by(verdict="unreadable").one()
        session.delete(row)
        session.flush()
        made = {column.name: getattr(row, column.name) for column in Inspection.__table__.columns}
        session.add(Inspection(**made | {"id": "0" * 32}))
        id = row.id
    problems = verified(copied_history.root)[1]
    assert f"inspection {'0' * 32}: has no event" in problems
    assert any(problem.startswith(f"inspection {id}: event ") and "missing" in problem for problem in problems)


def test_events_cut_off_at_the_end_are_found_with_a_head(copied_history: StationHome) -> None:
    before = verified(copied_history.root)[0]
    changed(copied_history.root, "delete from event where kind = 'user.created'", "delete from user_account")
    after, problems = verified(copied_history.root)
    assert (problems, after.events) == ([], before.events - 1)  # the chain itself is whole
    assert "does not occur in the event log" in verified(copied_history.root, before.head)[1][0]
    assert verified(copied_history.root, after.head)[1] == []


def test_a_rewritten_chain_is_found_with_a_head(copied_history: StationHome) -> None:
    """Who may write the database can hash everything anew; only a head that was kept elsewhere shows it."""
    head = verified(copied_history.root)[0].head
    with Setup(copied_history.root) as opened, opened.database.write() as session:
        row = session.query(Inspection).filter_by(verdict="ng").one()
        row.verdict, before = "ok", GENESIS
        for event in session.query(Event).order_by(Event.id):
            if event.subject == row.id and event.kind == "inspection":
                data = json.loads(event.data) | {"row": events.digest_of(inspections.facts(row)), "verdict": "ok"}
                event.data = events.canonical(data)
            event.hash = before = events.hash_of(event, before)
    assert verified(copied_history.root)[1] == []
    assert "does not occur" in verified(copied_history.root, head)[1][0]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "expected"), [(_flip, "does not match its SHA-256"), (Path.unlink, "cannot be read")])
@pytest.mark.parametrize("pattern", ["models/*.safetensors", "media/*/*/image.*"])
def test_a_damaged_or_missing_file_is_found(
    copied_history: StationHome, damage: Callable[[Path], None], expected: str, pattern: str
) -> None:
    file = sorted(copied_history.root.glob(pattern))[0]
    damage(file)
    problems = verified(copied_history.root)[1]
    assert len(problems) == 1
    assert str(file) in problems[0]
    assert expected in problems[0]


def test_the_command_prints_one_line_per_problem(copied_history: StationHome) -> None:
    def verify_command(*arguments: str) -> tuple[int, str]:
        done = run("verify", copied_history.root, *arguments)
        return done.returncode, done.stdout

    code, output = verify_command()
    assert (code, output.count("\n")) == (0, 1)
    head = output.removeprefix("head: ").strip()
    assert verify_command("--head", head)[0] == 0
    changed(
        copied_history.root,
        "update inspection set serial = 'B9' where serial = 'A1'",
        "update event set by = 'b' where kind = 'media.pruned'",
    )
    code, output = verify_command("--head", "f" * 64)
    assert code == 1
    problems = output.splitlines()
    assert len(problems) == 4
    assert problems[-1] == f"head: {head}"
    code, output = verify_command("--json")
    shown = json.loads(output)
    assert (code, shown["ok"], shown["head"], len(shown["problems"])) == (1, False, head, 2)


def _many(session: Session, folder: StationFolder, count: int) -> None:
    """Inspections without images, with their events, as the station would write them."""
    digest = "ab" * 32
    folder.model(digest).write_bytes(b"model")
    digest = file_digest(folder.model(digest))
    folder.model("ab" * 32).rename(folder.model(digest))
    now = datetime(2026, 11, 30, tzinfo=UTC)
    session.add(Line(id=1, name=LINE, created_at=now, activation=None))
    known = {"size": 5, "source": "upload", "parent": None, "promise": ""}
    version = ModelVersion(
        id=1,
        line_id=1,
        number=1,
        digest=digest,
        threshold=1.0,
        false_alarm_rate=0.1,
        images=1,
        added_at=now,
        added_by="test",
        **known,
    )
    session.add(version)
    session.flush()
    events.append(session, "line.created", LINE, "test", {}, LINE)
    event = events.append(session, "model.added", digest, "test", {"number": 1, **known}, LINE)
    number, before, rows, told = event.id, event.hash, [], []
    for index in range(count):
        row = Inspection(
            id=f"{index:032x}", line_id=1, model_version_id=1, serial=f"A{index}", judged_at=now + timedelta(seconds=index),
            verdict="ok", score=1.0, p_value=0.5, threshold=1.0, regions=[], duration_ms=1.0, source="http", by="test",
            appearance=[0.5] * 400, image_name="a.png", image_file="image.png", image_sha256="0" * 64,
            media_bytes=0, media_kept=False,
        )  # fmt: skip
        number += 1
        data = events.canonical({"row": events.digest_of(inspections.facts(row)), "image": row.image_sha256, "verdict": "ok"})
        made = Event(id=number, at=now, by="test", kind="inspection", line=LINE, subject=row.id, data=data, hash="")
        made.hash = before = events.hash_of(made, before)
        rows.append({column.name: getattr(row, column.name) for column in Inspection.__table__.columns})
        told.append({column.name: getattr(made, column.name) for column in Event.__table__.columns})
        if len(rows) == 1000 or index == count - 1:
            session.execute(Inspection.__table__.insert(), rows)  # type: ignore[attr-defined]
            session.execute(Event.__table__.insert(), told)  # type: ignore[attr-defined]
            rows, told = [], []
    for start in range(0, count, 200):
        ids = [f"{index:032x}" for index in range(start, min(start + 200, count))]
        events.append(session, "media.pruned", ids[-1], "station", {"inspections": ids})


def test_memory_does_not_grow_with_the_history(tmp_path: Path) -> None:
    peaks = []
    for count in (1_500, 6_000):
        folder = StationFolder(tmp_path / str(count))
        folder.create()
        database = Database(f"sqlite:///{folder.root}/station.sqlite")
        Base.metadata.create_all(database.engine)
        with database.write() as session:
            _many(session, folder, count)
        problems: list[str] = []
        tracemalloc.start()
        try:
            done = verify(database, folder, problems.append)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        database.close()
        assert (problems, done.inspections) == ([], count)
    assert peaks[1] < 1.3 * peaks[0] + 1e6, peaks
