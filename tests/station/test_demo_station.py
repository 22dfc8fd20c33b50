"""The station of the demo: cells arrive as if from a camera, Ctrl-C stops all, and the next start goes on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest
from sqlalchemy import select

from offnominal.station.demo import LINE, Camera, cells
from offnominal.station.setup import Setup
from offnominal.station.tables import Inspection
from station.commands import problems
from station.servers import PASSWORD, PATIENCE, free_port

pytestmark = pytest.mark.slow

pytest.importorskip("elpv_dataset")


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end, f"in vain: {what}"
        sleep(0.1)


def rows(root: Path) -> list[Inspection]:
    with Setup(root) as opened, opened.database.read() as session:
        return list(session.scalars(select(Inspection).order_by(Inspection.id)))


def test_cells_are_inspected_until_ctrl_c(tmp_path: Path, model_file: Path) -> None:
    root, log, seen = tmp_path / "demo", tmp_path / "log", 0
    for start in range(2):
        port = free_port()
        words = [root, "--port", port, "--model", model_file, "--every", "0.2"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "offnominal.station.demo", *map(str, words)], stdout=output, stderr=output
            )
        try:
            wait_for(lambda: process.poll() is not None or "Uvicorn running" in log.read_text(), "the server")  # noqa: B023
            wait_for(lambda: process.poll() is not None or len(rows(root)) >= seen + 3, "three cells")  # noqa: B023
            text, url = log.read_text("utf-8"), f"http://127.0.0.1:{port}"
            assert f"{url}/line/{LINE}" in text
            link = re.search(rf"{url}/first#(\S+)", text)
            assert (link is not None) == (start == 0)
            if link is not None:  # it creates the first user
                given = {"secret": link[1], "name": "anna", "password": PASSWORD}
                assert httpx.post(f"{url}/api/first", json=given, trust_env=False).json()["role"] == "admin"
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE)
        assert (code, "Traceback" in log.read_text("utf-8")) == (0, False)
        found = rows(root)
        assert len(found) > seen
        seen = len(found)
    assert problems(root) == []
    assert {row.source for row in found} == {"folder"}
    assert all(re.fullmatch(r"C\d+", row.serial or "") and re.fullmatch(r"\d{4}-\d{6}-\d\d", row.lot or "") for row in found)
    assert len({(row.lot, row.serial) for row in found}) == len(found)


def test_the_camera_takes_good_and_defective_cells_in_turn_and_keeps_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offnominal.station.demo.KEPT", 5)
    images = cells(0)
    assert len({next(images) for _ in range(50)}) > 30
    with Camera(tmp_path, every=0.001):
        wait_for(lambda: any(tmp_path.glob("*-02")), "a second lot")
    assert 1 <= len(list(tmp_path.rglob("*.png"))) <= 6
