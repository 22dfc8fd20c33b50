"""A selection as CSV and as a report that needs no network."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile

import pytest

from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, Server, image_bytes


@pytest.fixture(scope="module")
def ids(shared_server: Server) -> list[str]:
    """Two good parts, one bad one, in a lot whose name a spreadsheet would run."""
    with shared_server.client() as client:
        answers = [
            client.post(
                f"/api/lines/{LINE}/inspections",
                files={"image": ("part.png", image_bytes(700 + number, bad=number == 2))},
                data={"serial": f"<b>{number}</b>", "lot": "=1+1"},
            )
            for number in range(3)
        ]
    return [answer.json()["id"] for answer in answers]


def test_csv_holds_every_row_of_the_selection(shared_server: Server, ids: list[str]) -> None:
    with shared_server.client("viewer") as client:
        text = client.get("/api/export.csv", params={"line": LINE, "lot": "=1+1", "order": "oldest"}).text
        flagged = client.get("/api/export.csv", params={"line": LINE, "lot": "=1+1", "verdict": "ng"}).text
        shown = client.get(f"/api/inspections/{ids[2]}").json()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["id"] for row in rows] == ids
    assert {row["lot"] for row in rows} == {"'=1+1"}
    assert float(rows[2]["score"]) == shown["score"]
    selected = [row["id"] for row in csv.DictReader(io.StringIO(flagged, newline=""))]
    assert selected == [row["id"] for row in reversed(rows) if row["verdict"] == "ng"]
    assert ids[2] in selected


def test_a_report_holds_the_pictures_of_the_selection(shared_server: Server, ids: list[str]) -> None:
    with shared_server.client("viewer") as client:
        content = client.get("/api/report.zip", params={"line": LINE, "lot": "=1+1"}).content
        image = client.get(f"/api/inspections/{ids[2]}/image").content
        assert client.get("/api/report.zip", params={"lot": "none"}).status_code == 404
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        page = archive.read("report.html").decode()
        data = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.DOTALL)
        assert data is not None
        images = json.loads(data.group(1))["images"]
        names = {file for shown in images for file in shown["files"].values()}
        assert names == set(archive.namelist()) - {"report.html"}
        assert archive.read(f"report_files/{ids[2]}-image.png") == image
    assert len(images) == 3
    assert "<b>0</b>" not in page  # a serial number is text
    assert not list(shared_server.home.root.joinpath("incoming").iterdir())


def test_a_report_leaves_the_reserved_space_free(station_folder: StationFactory, server: ServerFactory) -> None:
    home = station_folder()
    with server(home) as running:
        with running.client() as client:
            image = {"image": ("part.png", image_bytes(710))}
            assert client.post(f"/api/lines/{LINE}/inspections", files=image).status_code == 201
        running.stop()
        with (home.root / "config.toml").open("a", encoding="utf-8") as file:
            file.write("[keep]\nreserve_gigabytes = 1e9\n")  # more than any disk has
        running.start(ready=False)
        with running.client("viewer") as client:
            answer = client.get("/api/report.zip", params={"line": LINE})
    assert answer.status_code == 503
    assert "0.00 GB are free; select fewer parts" in answer.json()["detail"]
    assert not list((home.root / "incoming").iterdir())
