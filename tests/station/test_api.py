"""The contract of the HTTP API, over real HTTP: verdicts, lists, keys, reviews, errors."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from conftest import damaged, texture
from offnominal import Detector, load
from station.calls import is_problem, post
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, PATIENCE, Server, image_bytes

WIDE, EMPTY, OTHER = "wide", "empty", "other"


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 16-bit images."""
    root = tmp_path_factory.mktemp("wide")
    for seed in range(8):
        cv2.imwrite(str(root / f"{seed}.tif"), texture(seed).astype(np.uint16) * 200)
    path = root / "model" / "wide.safetensors"
    path.parent.mkdir()
    Detector(image_size=128, bank=200, false_alarm_rate=0.2).fit(root).save(path)
    return path


@pytest.fixture(scope="module")
def api(
    station_folder: StationFactory,
    server: ServerFactory,
    wide_model: Path,
    model_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A server with lines of 8-bit and 16-bit models, one without a model, and a folder whose paths may be named."""
    allowed = tmp_path_factory.mktemp("allowed")
    home = station_folder(lines=(LINE, OTHER), config=f'[lines.{LINE}]\nallowed_folders = ["{allowed}"]\n')
    with server(home) as running:
        with running.client("engineer") as client:
            for name in (WIDE, EMPTY):
                assert client.post("/api/lines", json={"name": name}).status_code == 201
            added = client.post(f"/api/lines/{WIDE}/models", files={"model": wide_model.read_bytes()})
            assert client.post(f"/api/lines/{WIDE}/models/{added.json()['digest']}/activate").status_code == 200
        yield running


@pytest.fixture
def client(api: Server) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def pictures(folder: Path) -> dict[str, list[Path]]:
    """Images of many kinds, by line."""
    good, bad = texture(160), damaged(161)[0]
    upright = Image.fromarray(bad)
    upright.save(folder / "bad.png")
    Image.fromarray(good).save(folder / "good.bmp")
    Image.fromarray(good).save(folder / "good.webp", lossless=True)
    Image.fromarray(bad).convert("L").save(folder / "grey.png")
    Image.fromarray(bad).convert("P").save(folder / "palette.png")
    Image.fromarray(bad).convert("RGBA").save(folder / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    upright.rotate(90, expand=True).save(folder / "turned.jpg", quality=95, exif=exif)
    Image.fromarray(bad).save(folder / "8-bit.tif")
    cv2.imwrite(str(folder / "wide-bad.tif"), bad.astype(np.uint16) * 200)
    cv2.imwrite(str(folder / "wide-good.png"), good.astype(np.uint16) * 200)
    found = sorted(folder.iterdir())
    return {LINE: [path for path in found if "wide" not in path.name], WIDE: [path for path in found if "wide" in path.name]}


def commanded(model: Path, images: list[Path], out: Path) -> dict[str, dict[str, Any]]:
    """Results of the command `inspect` by path."""
    command = [
        sys.executable,
        "-m",
        "offnominal.cli",
        "inspect",
        str(model),
        *map(str, images),
        "--out",
        str(out),
        "--no-drift",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return {Path(line["path"]).name: line for line in lines}


def test_service_command_and_python_agree_bit_for_bit(
    client: httpx.Client, model_file: Path, wide_model: Path, tmp_path: Path
) -> None:
    (images := tmp_path / "images").mkdir()
    compared = ("score", "p_value", "whole_p_value", "threshold", "anomalous", "regions")
    seen = set()
    for line, paths in pictures(images).items():
        model = {LINE: model_file, WIDE: wide_model}[line]
        detector, lines = load(model), commanded(model, paths, tmp_path / line)
        for path in paths:
            shown = post(client, line, path.read_bytes(), name=path.name).json()
            result = detector.inspect(path)
            assert {key: shown[key] for key in compared} == {key: lines[path.name][key] for key in compared}, path.name
            assert (shown["score"], shown["p_value"], shown["anomalous"]) == (result.score, result.p_value, result.anomalous)
            assert (shown["height"], shown["width"]) == result.anomaly_map.shape
            assert shown["model"] == hashlib.sha256(model.read_bytes()).hexdigest()
            stored = client.get(f"/api/inspections/{shown['id']}").json()
            assert {key: stored[key] for key in shown} == shown
            assert client.get(shown["files"]["image"]).content == path.read_bytes()
            seen.add(shown["verdict"])
    assert seen == {"ok", "ng"}


def test_a_path_in_an_allowed_folder_is_inspected(api: Server, client: httpx.Client) -> None:
    allowed = Path(api.home.root, "config.toml").read_text().split('"')[1]
    path = Path(allowed) / "bad.png"
    path.write_bytes(image_bytes(161, bad=True))
    by_path = client.post(f"/api/lines/{LINE}/inspections", data={"path": str(path)})
    assert by_path.status_code == 201, by_path.text
    by_file = post(client, LINE, path.read_bytes()).json()
    assert by_path.json()["score"] == by_file["score"]
    assert path.exists()  # the file of others stays


def test_files_of_an_inspection(client: httpx.Client) -> None:
    shown = post(client, LINE, image_bytes(170, bad=True), name="x.png").json()
    types = {kind: client.get(address).headers["content-type"] for kind, address in shown["files"].items()}
    expected = dict.fromkeys(("heat", "thumbnail", "receipt"), "image/jpeg") | {"image": "image/png", "picture": "image/png"}
    assert types == expected
    for kind in ("heat", "receipt"):
        assert Image.open(io.BytesIO(client.get(shown["files"][kind]).content)).size[0] >= 100
    good = post(client, LINE, image_bytes(171)).json()
    assert good["files"]["receipt"] is None
    assert is_problem(client.get(f"/api/inspections/{good['id']}/receipt"), 404)


def pages(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    """All items of a list, page by page."""
    items: list[dict[str, Any]] = []
    after = None
    while True:
        page = client.get("/api/inspections", params={**query, **({} if after is None else {"after": after})}).json()
        assert len(page["items"]) <= query.get("limit", 100)
        items += page["items"]
        if (after := page["next"]) is None:
            return items


def test_lists_have_no_duplicates_and_no_gaps_while_parts_come_in(api: Server, client: httpx.Client) -> None:
    before = [post(client, OTHER, image_bytes(seed)).json()["id"] for seed in range(12)]
    stop, added = threading.Event(), list[str]()

    def insert() -> None:
        with api.client() as other:
            while not stop.is_set():
                added.append(post(other, OTHER, image_bytes(172)).json()["id"])

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(insert) for _ in range(2)]
        try:
            while len(added) < 3:
                pass
            newest = [pages(client, line=OTHER, limit=2) for _ in range(3)]
            oldest = [pages(client, line=OTHER, limit=2, order="oldest") for _ in range(3)]
        finally:
            stop.set()
        for one in running:
            one.result(PATIENCE)
    for items, backward in [(items, True) for items in newest] + [(items, False) for items in oldest]:
        ids = [item["id"] for item in items]
        assert ids == sorted(set(ids), reverse=backward)
        assert set(before) <= set(ids)
    following = [item["id"] for item in pages(client, line=OTHER, limit=5, order="oldest", after=before[-1])]
    assert following == sorted(added)  # whoever follows from the last identifier on misses nothing


def test_filters(client: httpx.Client) -> None:
    started = datetime.now(UTC)
    lot = f"filters % _ {started.timestamp()}"
    good = post(client, LINE, image_bytes(150), serial="A-1", lot=lot).json()
    bad = post(client, LINE, image_bytes(150, bad=True), serial="A-2", lot=lot).json()
    client.post(f"/api/inspections/{bad['id']}/reviews", json={"verdict": "ok"})

    def found(**query: Any) -> list[str]:
        return [item["serial"] for item in pages(client, lot=lot, **query)]

    assert found() == ["A-2", "A-1"]
    assert found(order="oldest", limit=1) == ["A-1", "A-2"]
    assert found(verdict="ng") == ["A-2"]
    assert found(verdict="unreadable") == []
    assert found(serial="A-1") == ["A-1"]
    assert found(serial="A-%") == found(serial="A-_") == found(serial="a-1") == []
    assert found(review="ok") == found(review="any") == ["A-2"]
    assert found(review="none") == ["A-1"]
    assert found(review="ng") == found(line=OTHER) == found(line="nowhere") == []
    assert found(since=started.isoformat()) == ["A-2", "A-1"]
    assert found(since=bad["judged_at"]) == ["A-2"]
    assert found(until=bad["judged_at"]) == ["A-1"]
    east = datetime.fromisoformat(bad["judged_at"]).astimezone(timezone(timedelta(hours=5.5)))
    assert found(since=east.isoformat()) == ["A-2"]
    assert pages(client, lot=lot.replace("%", "x")) == pages(client, lot=lot.replace("_", "x")) == []
    own = client.get(f"/api/lines/{LINE}/inspections", params={"lot": lot, "line": OTHER}).json()["items"]
    assert [item["id"] for item in own] == [bad["id"], good["id"]]  # the line of the address counts


def test_the_same_key_gives_one_row_and_one_answer(api: Server, client: httpx.Client) -> None:
    image, key = image_bytes(173), "order 66/β"
    fields = {"serial": "K-1", "lot": "K", "taken_at": "2026-11-30T14:05:00+01:00"}

    def send(_: int) -> httpx.Response:
        with api.client() as own:
            return post(own, LINE, image, key=key, **fields)

    with ThreadPoolExecutor(8) as pool:
        answers = [answer.json() for answer in pool.map(send, range(8))]
    answers.append(post(client, LINE, image, key=key, **fields).json())
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["taken_at"].startswith("2026-11-30T13:05:00")
    assert len(pages(client, lot="K")) == 1
    for changed in ({"serial": "K-2"}, {"lot": "L"}, {"taken_at": "2026-11-30T14:05:01+01:00"}):
        assert is_problem(post(client, LINE, image, key=key, **{**fields, **changed}), 422)
    assert is_problem(post(client, LINE, image_bytes(174), key=key, **fields), 422)
    assert post(client, OTHER, image, key=key, **fields).json()["id"] != answers[0]["id"]  # each line has its own keys
    assert len(pages(client, lot="K")) == 2


@pytest.mark.slow
def test_a_key_holds_after_a_restart(station_folder: StationFactory, server: ServerFactory, database_url: str | None) -> None:
    home = station_folder(database=database_url)
    answers = []
    for _ in range(2):
        with server(home) as running, running.client() as own:
            answers.append(post(own, LINE, image_bytes(150), key="k").json())
            assert is_problem(post(own, LINE, image_bytes(151), key="k"), 422)
            assert len(own.get("/api/inspections").json()["items"]) == 1
    assert answers[0] == answers[1]


def test_reviews(api: Server, client: httpx.Client) -> None:
    part = post(client, LINE, image_bytes(150, bad=True)).json()
    address = f"/api/inspections/{part['id']}/reviews"
    first = client.post(address, json={"verdict": "ok", "comment": "a hair\nnot a scratch"})
    second = client.post(address, json={"verdict": "ng", "class": "scratch"})
    assert (first.status_code, second.status_code) == (201, 201)
    shown = client.get(f"/api/inspections/{part['id']}").json()
    assert shown["reviews"] == [first.json(), second.json()]
    assert [(one["by"], one["verdict"], one["class"]) for one in shown["reviews"]] == [
        ("test-operator", "ok", None),
        ("test-operator", "ng", "scratch"),
    ]
    assert (shown["review"], shown["verdict"]) == ("ng", "ng")
    for wrong in ({}, {"verdict": "maybe"}, {"verdict": "ok", "comment": "x" * 2001}, {"verdict": "ok", "class": "x" * 65}):
        assert is_problem(client.post(address, json=wrong), 422)
    assert is_problem(client.post(address, json={"verdict": "ok", "by": "mallory"}), 422)
    assert is_problem(client.post("/api/inspections/0/reviews", json={"verdict": "ok"}), 404)
    with api.client("viewer") as viewer:
        assert is_problem(viewer.post(address, json={"verdict": "ok"}), 403)


ERRORS: list[tuple[str, str, int, dict[str, Any]]] = [
    ("GET", "/api/nothing", 404, {}),
    ("GET", "/api/lines/nowhere", 404, {}),
    ("GET", "/api/lines/nowhere/models", 404, {}),
    ("GET", "/api/lines/nowhere/events", 404, {}),
    ("GET", f"/api/lines/{LINE}/events?after=-1", 422, {}),
    ("GET", f"/api/lines/{LINE}/events?after={10**30}", 422, {}),
    ("GET", "/api/inspections/0", 404, {}),
    ("GET", "/api/inspections/0/image", 404, {}),
    ("GET", "/api/inspections/0/passwords", 422, {}),
    ("GET", "/api/inspections?limit=0", 422, {}),
    ("GET", "/api/inspections?limit=501", 422, {}),
    ("GET", "/api/inspections?verdict=bad", 422, {}),
    ("GET", "/api/inspections?since=yesterday", 422, {}),
    ("GET", "/api/inspections?until=9999-12-31T23:59:59-23:59", 422, {}),
    ("GET", f"/api/inspections?after={'f' * 65}", 422, {}),
    ("DELETE", "/api/inspections/0", 405, {}),
    ("POST", f"/api/lines/{LINE}/inspections", 422, {}),
    ("POST", f"/api/lines/{LINE}/inspections", 422, {"files": {"image": b"no image"}}),
    ("POST", f"/api/lines/{LINE}/inspections", 422, {"files": {"image": b""}}),
    ("POST", f"/api/lines/{LINE}/inspections", 403, {"data": {"path": "/etc/passwd"}}),
    ("POST", f"/api/lines/{LINE}/inspections", 422, {"files": {"image": b"x"}, "data": {"path": "/etc/passwd"}}),
    ("POST", f"/api/lines/{LINE}/inspections", 422, {"files": {"image": image_bytes()}, "data": {"taken_at": "noon"}}),
    ("POST", f"/api/lines/{LINE}/inspections", 422, {"files": {"image": image_bytes()}, "data": {"serial": "x" * 257}}),
    ("POST", f"/api/lines/{LINE}/inspections", 422, {"files": {"image": image_bytes()}, "data": {"serial": "a\nb"}}),
    ("POST", "/api/lines/nowhere/inspections", 404, {"files": {"image": image_bytes()}}),
    ("POST", f"/api/lines/{EMPTY}/inspections", 503, {"files": {"image": image_bytes()}}),
    ("POST", f"/api/lines/{LINE}/models", 403, {"files": {"model": b"x"}}),
    ("POST", "/api/lines", 403, {"json": {"name": "new"}}),
]


@pytest.mark.parametrize(("method", "path", "status", "sent"), ERRORS)
def test_errors_are_problems(client: httpx.Client, method: str, path: str, status: int, sent: dict[str, Any]) -> None:
    assert is_problem(client.request(method, path, **sent), status)


def test_conflicts_and_unknown_callers(api: Server, client: httpx.Client) -> None:
    with api.client("engineer") as engineer:
        assert is_problem(engineer.post("/api/lines", json={"name": LINE}), 409)
        assert is_problem(engineer.post("/api/lines", json={"name": "../x"}), 422)
        assert is_problem(engineer.post(f"/api/lines/{EMPTY}/rollback"), 409)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dGVzdDp0ZXN0"}):
        answer = httpx.get(api.url + "/api/lines", headers=headers, trust_env=False)
        assert is_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
