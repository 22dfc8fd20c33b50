"""The commands `station …`: users, tokens, backup, restore, verify and prune, beside a station that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from offnominal.station.accounts import ROLES
from station.calls import post
from station.commands import run
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, PASSWORD, Server, StationHome, image_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(station_folder: StationFactory, server: ServerFactory) -> Iterator[Server]:
    with server(station_folder(config="[keep]\ndays = 1e-9\n")) as started:
        yield started


def logged_in(server: Server, name: str, password: str) -> httpx.Response:
    return httpx.post(f"{server.url}/api/login", json={"name": name, "password": password}, trust_env=False)


def role_of(server: Server, token: str) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    return str(httpx.get(f"{server.url}/api/me", headers=headers, trust_env=False).json()["role"])


@pytest.mark.parametrize("role", ROLES)
def test_users_and_tokens_are_valid_at_once(running: Server, role: str) -> None:
    root = running.home.root
    added = run("user", root, f"{role}-1", "--role", role, given=f"{PASSWORD}\n")
    assert (added.returncode, added.stdout) == (0, "")
    assert PASSWORD not in added.stderr
    assert logged_in(running, f"{role}-1", PASSWORD).json()["role"] == role
    assert logged_in(running, f"{role}-1", f"{PASSWORD}\n").status_code == 401
    printed = run("token", root, f"machine-{role}", "--role", role)
    assert printed.stdout.count("\n") == 1
    assert role_of(running, printed.stdout.strip()) == role
    shown = json.loads(run("token", root, f"json-{role}", "--role", role, "--json").stdout)
    assert (shown["name"], role_of(running, shown["token"])) == (f"json-{role}", role)


def test_a_link_creates_a_user_once(running: Server) -> None:
    printed = run("user", running.home.root, "--link", "--role", "engineer", "--port", running.port)
    address = printed.stdout.split()[-1]
    assert address.startswith(f"{running.url}/first#")
    given = {"secret": address.partition("#")[2], "name": "linked", "password": PASSWORD}
    answers = [
        httpx.post(f"{running.url}/api/first", json=given | {"name": name}, trust_env=False) for name in ("linked", "again")
    ]
    assert [answer.status_code for answer in answers] == [201, 403]
    assert answers[0].json()["role"] == "engineer"


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        (("user",), "", "give either a NAME or --link"),
        (("user", "anna", "--link"), "", "give either a NAME or --link"),
        (("user", "anna", "--role", "boss"), "", "give one of viewer, operator, engineer, admin"),
        (("user", "anna"), "short\n", "a password has"),
        (("user", "anna"), "", "a password has"),
        (("user", "an/na"), f"{PASSWORD}\n", "starting with a letter or digit"),
        (("user", "taken"), f"{PASSWORD}\n", "exists already"),
        (("token", "test-viewer"), "", "exists already"),
        (("token", "new", "--role", "boss"), "", "give one of"),
    ],
)
def test_wrong_users_and_tokens_are_refused(running: Server, words: tuple[str, ...], given: str, message: str) -> None:
    if "taken" in words and logged_in(running, "taken", PASSWORD).status_code == 401:
        running.home.add_user("taken", "viewer")
    command, *others = words
    done = run(command, running.home.root, *others, given=given)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_backup_verify_prune_and_restore_beside_a_running_station(running: Server, tmp_path: Path) -> None:
    root, archive = running.home.root, tmp_path / "backup.tar"
    with running.client() as client:
        for bad in (False, True):
            assert post(client, LINE, image_bytes(170, bad=bad)).status_code == 201
    done = run("backup", root, archive)
    head = done.stdout.removeprefix("head: ").strip()
    assert (done.returncode, len(head)) == (0, 64)
    assert str(archive) in done.stderr
    assert run("verify", root, "--head", head).returncode == 0
    pruned = json.loads(run("prune", root, "--json").stdout)
    assert (pruned["inspections"], pruned["bytes"] > 0) == (1, True)  # the anomalous part stays
    assert run("prune", root).stderr.endswith("removed the images of 0 inspections, 0.0 MB\n")
    assert run("verify", root, "--head", head).returncode == 0
    restored = run("restore", archive, tmp_path / "restored")
    assert restored.returncode == 0, restored.stderr
    assert "2 inspections, 1 models" in restored.stderr
    new_head = restored.stdout.removeprefix("head: ").strip()
    assert run("verify", tmp_path / "restored", "--head", head).stdout == f"head: {new_head}\n"
    again = run("restore", archive, tmp_path / "restored")
    assert (again.returncode, "is not an empty folder" in again.stderr) == (2, True)
    shown = json.loads(run("backup", root, archive, "--json").stdout)
    assert (shown["missing"], shown["format"]) == ([], "offnominal-station")


def test_a_restored_station_that_is_not_whole_is_kept_and_reported(copied_history: StationHome, tmp_path: Path) -> None:
    image = sorted(copied_history.root.glob("media/*/*/image.png"))[0]
    image.write_bytes(image.read_bytes() + b"more")
    assert run("backup", copied_history.root, tmp_path / "backup.tar").returncode == 0
    done = run("restore", tmp_path / "backup.tar", tmp_path / "restored")
    assert done.returncode == 1
    assert "does not match its SHA-256" in done.stdout
    assert (tmp_path / "restored" / "models").is_dir()


def test_a_restore_names_the_folders_that_its_settings_open(station_folder: StationFactory, tmp_path: Path) -> None:
    config = f'[lines.{LINE}]\nallowed_folders = ["/etc"]\nsources = [{{folder = "/var/camera"}}]\n'
    home = station_folder(config=config)
    run("backup", home.root, tmp_path / "backup.tar")
    done = run("restore", tmp_path / "backup.tar", tmp_path / "restored")
    assert "lets the station read /etc, /var/camera" in done.stderr


@pytest.mark.parametrize("command", ["user", "token", "backup", "verify", "prune"])
def test_a_folder_that_is_no_station_is_refused(command: str, tmp_path: Path) -> None:
    others: dict[str, list[object]] = {"user": ["anna"], "token": ["camera"], "backup": [tmp_path / "b"]}
    done = run(command, tmp_path, *others.get(command, []))
    assert (done.returncode, "is not a station" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_verify_as_a_process_ends_with_its_exit_code(copied_history: StationHome) -> None:
    command = [sys.executable, "-m", "offnominal.cli", "station", "verify", str(copied_history.root), "--head", "f" * 64]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(f"head {'f' * 64}: does not occur")
