"""A station with a history of everything that the event log tells of, and copies of it to damage."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from offnominal.station import inspections, lines, media
from offnominal.station.settings import Keep
from offnominal.station.setup import Setup
from offnominal.station.station import Station
from station.parts import inspected
from station.servers import LINE, Postgres, StationHome


def fill(home: StationHome, other_model: Path) -> None:
    """Inspect good, anomalous and unreadable parts; review, activate, roll back, prune and add a user."""
    with Station(home.root) as station:
        old = [inspected(station, seed)["id"] for seed in (150, 151)]
        station.activate(LINE, _added(station, other_model), "test")
        station.roll_back(LINE, "test")
        pruned = media.prune(station.database, station.folder, Keep(days=1e-9))
        assert pruned.inspections == len(old)
        good = inspected(station, 152, serial="A1", lot="L1", idempotency_key="k1", taken_at=datetime(2026, 11, 30, tzinfo=UTC))
        bad = inspected(station, 153, bad=True, serial="Ä2\u2028")
        inspected(station, content=b"no image", source="folder")
        for verdict in ("ok", "ng"):
            inspections.review(station.database, good["id"], "anna", verdict, "scratch", f"it is {verdict}")
        inspections.review(station.database, bad["id"], "anna", "ok")
    home.add_user("anna", "engineer")


def _added(station: Station, model: Path) -> str:
    copy = station.folder.new_upload()
    shutil.copyfile(model, copy)
    return lines.add_version(station.database, station.folder, LINE, copy, "test").digest


def copy_of(home: StationHome, target: Path, postgres: Postgres | None) -> StationHome:
    """A copy of a station that does not run."""
    shutil.copytree(home.root, target)
    if home.database_url is None:
        return replace(home, root=target)
    assert postgres is not None
    url = postgres.copy_database(home.database_url)
    config = target / "config.toml"
    config.write_text(config.read_text("utf-8").replace(home.database_url, url), "utf-8")
    with Setup(target) as opened:
        assert opened.database.url == url
    return StationHome(target, url, home.tokens)
