"""The files in `deploy/`: what they start exists, and systemd accepts the unit."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from offnominal.cli import app
from offnominal.cli.serve import serve
from offnominal.station.web.guard import PUBLIC

ROOT = Path(__file__).parents[2]
UNIT, CONTAINERFILE = ROOT / "deploy/offnominal.service", ROOT / "deploy/Containerfile"


def instructions(name: str) -> list[str]:
    """Arguments of an instruction of the Containerfile, with continued lines joined."""
    text = CONTAINERFILE.read_text("utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name} +(.+)$", text, re.MULTILINE)


def is_accepted(words: list[str]) -> bool:
    """Whether the program accepts a command with its options."""
    command, *options = words
    assert app.commands[command] is serve
    serve.make_context("serve", options)
    return True


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("offnominal")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/offnominal/bin/offnominal", str(program)), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    broken = tmp_path / "broken.service"
    broken.write_text(unit.read_text("utf-8").replace("ProtectSystem=strict", "ProtectSystem=sometimes"), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(broken)], capture_output=True, text=True, check=False)
    assert "protect system" in done.stderr  # the check above can fail


def test_the_unit_starts_a_command_that_exists_and_knows_its_exit_code() -> None:
    settings = dict(line.split("=", 1) for line in UNIT.read_text("utf-8").splitlines() if re.match(r"[A-Za-z]+=", line))
    assert is_accepted(shlex.split(settings["ExecStart"])[1:])
    assert settings["SuccessExitStatus"] == "130"
    assert settings["User"] not in ("", "root")
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID"):
        assert settings[name] == "yes"
    assert (settings["ProtectSystem"], settings["CapabilityBoundingSet"]) == ("strict", "")


def test_the_container_starts_a_command_that_exists_without_root() -> None:
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry) == ["offnominal"]
    assert is_accepted(json.loads(command))
    assert instructions("USER") == ["10001"]
    (health,) = instructions("HEALTHCHECK")
    path = re.search(r"http://127\.0\.0\.1:8000(/[a-z]+)", health)
    assert path is not None
    assert path[1] in PUBLIC
    for copied in instructions("COPY"):
        sources = [word for word in copied.split()[:-1] if not copied.startswith("--from")]
        assert all((ROOT / source).exists() for source in sources)


def test_no_address_but_the_base_image_is_named() -> None:
    text = re.sub(r"https?://127\.0\.0\.1\S*", "", CONTAINERFILE.read_text("utf-8"))
    assert re.findall(r"[\w.-]+\.(?:io|com|org|net)\b\S*", text) == ["docker.io/library/python:3.11-slim-bookworm"]
