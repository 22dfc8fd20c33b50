"""Watched folders: each image is inspected once, whatever happens to the files, the station or the database."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
from sqlalchemy import select

from offnominal.errors import SettingsError
from offnominal.station.folders import folder_events
from offnominal.station.folders.watch import LIST_WITHOUT_EVENTS
from offnominal.station.setup import Setup
from offnominal.station.station import Station
from offnominal.station.tables import Inspection
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, PATIENCE, Postgres, StationHome, image_bytes

#: A folder that disappears while watchdog begins to watch it ends a thread of watchdog with an error. Scans find its files.
LOST = "ignore:(?s).*watchdog.*(FileNotFoundError|NotADirectoryError):pytest.PytestUnhandledThreadExceptionWarning"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(LOST)]

LOT_AND_SERIAL = r"(?P<lot>[^/]+)/(?P<serial>[^/]+)\.[^.]+$"


def source(folder: Path | str, *, serial: str | None = None, settle: float = 0.1, more: str = "", line: str = LINE) -> str:
    """A section of config.toml."""
    pattern = "" if serial is None else f"serial = '{serial}'\n"
    return f'{more}\n[[lines.{line}.sources]]\nfolder = "{folder}"\nsettle_seconds = {settle}\n{pattern}'


def rows(root: Path) -> list[Inspection]:
    """All inspections of a station, oldest first."""
    with Setup(root) as opened, opened.database.read() as session:
        return list(session.scalars(select(Inspection).order_by(Inspection.id)))


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end, f"in vain: {what}"
        sleep(0.05)


def wait_for_rows(root: Path, count: int) -> list[Inspection]:
    """Wait for a number of inspections, and some more for one too many."""
    wait_for(lambda: len(rows(root)) >= count, f"{count} inspections")
    sleep(1)
    return rows(root)


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    folder = tmp_path / "camera"
    folder.mkdir()
    return folder


@contextmanager
def running(home: StationHome) -> Iterator[Station]:
    """A station in this process, once its line is ready."""
    with Station(home.root) as station:
        wait_for(lambda: station.judge.loaded(LINE), "the model")
        yield station


def put(path: Path, content: bytes) -> Path:
    """Write a file as a camera does: under another name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(content)
    return unfinished.rename(path)


def test_files_are_inspected_once_with_serial_and_lot(
    station_folder: StationFactory, camera: Path, database_url: str | None
) -> None:
    home = station_folder(database=database_url, config=source(camera, serial=LOT_AND_SERIAL))
    before = put(camera / "L1" / "A1.png", image_bytes(150))
    for ignored in ("L1/.hidden.png", "L1/A9.part.png", "L1/A9.png.tmp", ".trash/A9.png", "notes.txt"):
        (camera / ignored).parent.mkdir(exist_ok=True)
        (camera / ignored).write_bytes(image_bytes(150))
    with running(home):
        put(camera / "L2" / "A2.PNG", image_bytes(150, bad=True))
        put(camera / "top.png", b"this is no image")
        found = {row.image_name: row for row in wait_for_rows(home.root, 3)}
    assert {name: (row.serial, row.lot, row.verdict) for name, row in found.items()} == {
        "A1.png": ("A1", "L1", "ok"),
        "A2.PNG": ("A2", "L2", "ng"),
        "top.png": (None, None, "unreadable"),
    }
    assert before.read_bytes() == image_bytes(150)
    row = found["A1.png"]
    assert (row.source, row.by, row.taken_at.timestamp() if row.taken_at else 0) == (
        "folder",
        "folder",
        int(before.stat().st_mtime),
    )
    assert "not" in (found["top.png"].error or "")
    with running(home):  # a restart inspects nothing again
        sleep(1)
        assert len(rows(home.root)) == 3


def test_a_file_that_is_written_slowly_is_inspected_when_it_is_whole(station_folder: StationFactory, camera: Path) -> None:
    home = station_folder(config=source(camera, settle=1.0))
    content = image_bytes(150)
    with running(home), (camera / "slow.png").open("wb", buffering=0) as file:
        for start in range(0, len(content), len(content) // 8):
            file.write(content[start : start + len(content) // 8])
            sleep(0.25)
        assert rows(home.root) == []
        assert [row.verdict for row in wait_for_rows(home.root, 1)] == ["ok"]


def test_new_content_is_a_new_part(station_folder: StationFactory, camera: Path) -> None:
    home = station_folder(config=source(camera))
    with running(home):
        put(camera / "latest.png", image_bytes(150))
        wait_for_rows(home.root, 1)
        put(camera / "latest.png", image_bytes(151, bad=True))
        assert [row.verdict for row in wait_for_rows(home.root, 2)] == ["ok", "ng"]


def test_each_file_has_one_row_after_kill_9(
    station_folder: StationFactory, server: ServerFactory, camera: Path, database_url: str | None
) -> None:
    home = station_folder(database=database_url, config=source(camera))
    names = [f"{number:02d}.png" for number in range(30)]
    for number, name in enumerate(names[:15]):
        put(camera / name, image_bytes(300 + number))
    with server(home) as running:
        for killed_at in (3, 9):
            wait_for(lambda least=killed_at: len(rows(home.root)) >= least, f"{killed_at} inspections")  # type: ignore[misc]
            running.kill()
            running.start()
        for number, name in enumerate(names[15:]):
            put(camera / name, image_bytes(400 + number))
        found = wait_for_rows(home.root, len(names))
        assert sorted(row.image_name for row in found) == names
        assert running.stop() in (0, 130)
    assert not list((home.root / "incoming").iterdir())


def test_a_folder_that_is_missing_is_a_problem_until_it_is_there(
    station_folder: StationFactory, server: ServerFactory, camera: Path
) -> None:
    camera.rmdir()
    home = station_folder(config=source(camera))
    with server(home, ready=False) as running, running.client() as client:

        def problems() -> list[str]:
            return list(client.get("/readyz").json()["problems"])

        def lines_problem() -> str | None:
            problem: str | None = client.get(f"/api/lines/{LINE}").json()["problem"]
            return problem

        expected = f"folder {camera} does not exist; its images are inspected once it is there"
        wait_for(lambda: problems() == [f"line {LINE}: {expected}"], "the problem")
        assert lines_problem() == expected
        for _ in range(2):  # it may go and come back
            put(camera / "a.png", image_bytes(150))
            wait_for(lambda: problems() == [], "a folder without problem")
            assert lines_problem() is None
            seen = len(wait_for_rows(home.root, 1))
            shutil.rmtree(camera)
            wait_for(problems, "the problem")
        put(camera / "b.png", image_bytes(151))
        wait_for(lambda: len(rows(home.root)) > seen, "the file of the third folder")


def test_links_and_files_that_are_too_large_are_not_read(
    station_folder: StationFactory, camera: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = station_folder(config=source(camera, more="[limits]\nupload_megabytes = 0.1"))
    secret = tmp_path / "secret.png"
    secret.write_bytes(image_bytes(150))
    (camera / "link.png").symlink_to(secret)
    (camera / "folder").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(camera / "pipe.png")
    put(camera / "huge.png", bytes(200_000))
    with running(home) as station:
        put(camera / "good.png", image_bytes(151))
        assert [row.image_name for row in wait_for_rows(home.root, 1)] == ["good.png"]
        assert station.problems() == []
    assert "huge.png is not inspected: it has more than 0.1 MB" in caplog.text


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    station_folder: StationFactory, camera: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = station_folder(config=source(camera))
    denied = camera / "denied.png"
    put(denied, image_bytes(150))
    real = os.open

    def open_others(path: os.PathLike[str] | str, flags: int, *args: int, **kwargs: int) -> int:
        if Path(path) == denied:  # root may read every file, so that its mode would not do
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr("offnominal.station.folders.watched_files.os.open", open_others)
    with running(home) as station:
        put(camera / "good.png", image_bytes(151))
        assert [row.image_name for row in wait_for_rows(home.root, 1)] == ["good.png"]
        assert "denied.png" in (station.line_problem(LINE) or "")
        assert "Permission denied" in (station.line_problem(LINE) or "")
        assert station.problems() == []
        monkeypatch.undo()
        wait_for_rows(home.root, 2)
        assert station.line_problem(LINE) is None


def test_files_wait_while_the_database_is_away(
    station_folder: StationFactory, camera: Path, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    home = station_folder(database=postgres.new_database(), config=source(camera))
    with running(home) as station:
        put(camera / "a.png", image_bytes(150))
        wait_for_rows(home.root, 1)
        postgres.stop()
        try:
            for number in range(3):
                put(camera / f"away-{number}.png", image_bytes(160 + number))
            wait_for(lambda: "wait (" in caplog.text, "the log")
            assert station.problems()
        finally:
            postgres.start()
        found = wait_for_rows(home.root, 4)
        assert sorted(row.image_name for row in found) == ["a.png", "away-0.png", "away-1.png", "away-2.png"]


def test_files_wait_while_the_disk_is_full(
    station_folder: StationFactory, camera: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = "[keep]\nreserve_gigabytes = 1e9\n"  # more than there is
    home = station_folder(config=source(camera, more=full))
    put(camera / "a.png", image_bytes(150))
    with running(home) as station:
        wait_for(lambda: "wait (the disk is full" in caplog.text, "the log")
        assert rows(home.root) == []
        assert station.problems()
        assert list(station.folder.incoming.iterdir()) == []
    config = home.root / "config.toml"
    config.write_text(config.read_text("utf-8").replace(full, ""), "utf-8")
    with running(home):
        assert [row.image_name for row in wait_for_rows(home.root, 1)] == ["a.png"]


def test_many_files_leave_room_in_the_queue(station_folder: StationFactory, camera: Path) -> None:
    home = station_folder(config=source(camera, more="[limits]\nwaiting = 2\n"))
    for number in range(12):
        put(camera / f"{number:02d}.png", image_bytes(500 + number))
    most = 0
    with running(home) as station:
        while len(rows(home.root)) < 12:
            most = max(most, station.judge.pending)
        assert len(wait_for_rows(home.root, 12)) == 12
    assert most == 1


def test_files_are_found_without_events(
    station_folder: StationFactory, camera: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_more_watches() -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(folder_events, "Observer", no_more_watches)
    home = station_folder(config=source(camera))
    with running(home):
        sleep(LIST_WITHOUT_EVENTS)
        put(camera / "sub" / "a.png", image_bytes(150))
        assert len(wait_for_rows(home.root, 1)) == 1
    assert "inotify watch limit reached" in caplog.text


def test_a_line_that_does_not_exist_is_a_problem_until_it_is_added(
    station_folder: StationFactory, camera: Path, model_file: Path
) -> None:
    home = station_folder(config=source(camera, line="later"))
    put(camera / "a.png", image_bytes(150))
    with running(home) as station:
        wait_for(station.problems, "the problem")
        assert "does not exist; create it: offnominal station add-line" in station.problems()[0]
        with Setup(home.root) as opened:
            opened.add_line("later", model_file)
        wait_for_rows(home.root, 1)
        assert station.problems() == []


@pytest.mark.parametrize(
    ("folder", "serial", "message"),
    [
        ("camera", "(", "is not a regular expression"),
        ("camera", ".*", "has no group named serial or lot"),
        (".", None, "holds files of the station"),
        ("media/sub", None, "holds files of the station"),
    ],
)
def test_wrong_sources_are_refused_at_the_start(
    station_folder: StationFactory, folder: str, serial: str | None, message: str
) -> None:
    home = station_folder(config=source(folder, serial=serial))
    with pytest.raises(SettingsError, match=message):
        Station(home.root)
