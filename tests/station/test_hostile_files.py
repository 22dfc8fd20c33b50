"""Hostile images and models over real HTTP: refused, without a program started or a file left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from station.bombs import bombs, hostile_models
from station.calls import is_problem, post
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, Server, image_bytes

pytestmark = pytest.mark.slow

CONFIG = "[limits]\nmegapixels = 4.0\nrequests_per_second = 100000.0\n"


@pytest.fixture(scope="module")
def running(
    station_folder: StationFactory, server: ServerFactory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that would start programs of ours, if its decoders started any."""
    home, programs = station_folder(config=CONFIG), tmp_path_factory.mktemp("programs")
    for program in ("gs", "convert", "magick", "djpeg", "rsvg-convert"):
        (programs / program).write_text(f'#!/bin/sh\ntouch "{programs}/started-{program}"\n')
        (programs / program).chmod(0o755)
    with server(home, environment={"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}) as started:
        yield started
        assert not list(programs.glob("started-*"))
        assert "Warning" not in started.log
        assert "Traceback" not in started.log
        with started.client() as client:
            assert post(client, LINE, image_bytes(7)).status_code == 201
        assert list((home.root / "incoming").iterdir()) == []


@pytest.mark.parametrize("bomb", bombs())
def test_hostile_images_are_refused(running: Server, bomb: str) -> None:
    with running.client() as client:
        for name in ("part.png", "part.eps", "part.tif"):
            answer = post(client, LINE, bombs()[bomb], name=name)
            assert answer.status_code in (413, 422), answer.text
            assert is_problem(answer, answer.status_code)
            assert str(running.home.root) not in answer.text
        assert client.get("/api/inspections").json()["items"] == []


def test_hostile_models_are_refused(running: Server, model_file: Path, tmp_path: Path) -> None:
    good, target = model_file.read_bytes(), tmp_path / "executed"
    with running.client("engineer") as engineer:
        before = engineer.get(f"/api/lines/{LINE}/models").json()
        for kind, content in hostile_models(good, target).items():
            for name in ("model.safetensors", "../../model.pt", "model.png"):
                answer = engineer.post(f"/api/lines/{LINE}/models", files={"model": (name, content)})
                assert answer.status_code == 422, (kind, answer.text)
                assert is_problem(answer, 422)
                assert str(running.home.root) not in answer.text
        assert engineer.get(f"/api/lines/{LINE}/models").json() == before
        assert engineer.post(f"/api/lines/{LINE}/models", files={"model": ("x.exe", good)}).status_code == 201
    assert not target.exists()
    kept = [path.name for path in (running.home.root / "models").iterdir()]
    assert kept == [f"{before[0]['digest']}.safetensors"]
