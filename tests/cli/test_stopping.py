"""Commands that are stopped or killed: what is on disk then, and what the next run finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from offnominal.memory import PatchStore
from offnominal.model import require_writable
from offnominal.stopping import delay_stop, stoppable
from offnominal.storage import scratch_folder, write_atomically

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of POSIX")
#: A shell lets what it runs in the background ignore Ctrl-C, these tests too.
#: The signals have their defaults, whatever the process that runs the tests was told to ignore (`nohup`).
COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "from offnominal.cli import main; main()"
)


def started(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True)


def wait_for(done: Callable[[], object]) -> None:
    for _ in range(1200):
        if done():
            return
        time.sleep(0.1)
    raise AssertionError("it never came so far")


@pytest.fixture
def many(parts: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1500):
        (folder / f"{number:04d}.png").hardlink_to(parts / "test" / "good" / f"{100 + number % 5}.png")
    return folder


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]])
def test_signals_end_as_ctrl_c_does(numbers: list[int], model_file: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started("inspect", model_file, many, "--out", out, "--no-drift") as running:
        try:
            wait_for(lambda: (out / "results.jsonl").exists() and len(rows_of(out)) > 20)
            for number in numbers:
                running.send_signal(number)
                time.sleep(0.02)
            _, said = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 130, said
    assert "offnominal: stopped" in said
    assert "Traceback" not in said
    rows = rows_of(out)
    assert 20 < len(rows) < 1500
    assert [row["path"] for row in rows] == sorted(str(row["path"]) for row in rows)
    assert all((out / str(row["map"])).is_file() for row in rows)
    assert not list(out.glob(".results*"))


def test_rows_of_images_that_are_done_outlive_a_kill(model_file: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started("inspect", model_file, many, "--out", out, "--no-drift") as running:
        try:
            wait_for(lambda: (out / "overlays").is_dir() and len(list((out / "overlays").iterdir())) > 30)
        finally:
            running.kill()
    assert len(rows_of(out)) > 25
    left = len(list((out / "overlays").iterdir()))
    (out / "overlays" / "00001-mine.jpg").write_bytes(b"somebody's own")
    one = sorted(many.iterdir())[0]
    with started("inspect", model_file, one, "--out", out, "--no-drift") as running:
        assert running.wait(timeout=120) == 0
    assert left > 30
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["00000-0000.jpg", "00001-mine.jpg"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_fit_that_is_stopped_leaves_no_part_of_a_model(number: int, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "model" / "m.safetensors"
    with started("fit", many, "--out", out, "--image-size", "96") as running:
        try:
            wait_for(lambda: out.parent.is_dir())
            time.sleep(1)
            running.send_signal(number)
            _, said = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 130, said
    assert not list(out.parent.iterdir())


def killed(code: str, *words: object) -> None:
    """Run code that kills itself."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


WRITES = """
import os, sys
from pathlib import Path
import offnominal.storage.atomic as storage
storage.os.{at} = lambda *_: os.kill(os.getpid(), 9)
storage.write_atomically(Path(sys.argv[1]), b"half of a model")
"""


@pytest.mark.parametrize("at", ["fsync", "replace", "chmod"])
def test_the_next_run_removes_what_a_killed_one_left_unfinished(at: str, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    killed(WRITES.format(at=at), target)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".m.safetensors-")
    mine = [tmp_path / name for name in (".m.safetensors-original", ".m.safetensors-backup01", "other.safetensors")]
    for path in mine:
        path.write_text("somebody's own")
    require_writable(target)
    assert sorted(tmp_path.iterdir()) == sorted(mine)
    killed(WRITES.format(at=at), target)
    write_atomically(target, b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([*mine, target])


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    code = WRITES.format(at="fsync").replace("os.kill(os.getpid(), 9)", "(print('here', flush=True), input())")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "m")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        write_atomically(tmp_path / "m", b"ours")
        assert len(list(tmp_path.iterdir())) == 2
        other.communicate("\n", timeout=60)
    assert (tmp_path / "m").read_bytes() == b"half of a model"  # who is last wins, whole
    assert len(list(tmp_path.iterdir())) == 1


def test_a_scratch_folder_that_was_left_goes_with_the_next(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from offnominal.storage import scratch_folder\n"
    code += "with scratch_folder(Path(sys.argv[1]), 'made') as folder: (folder / 'a').touch(); os.kill(os.getpid(), 9)"
    killed(code, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_folder(tmp_path, "made") as folder, scratch_folder(tmp_path, "made") as second:
        assert sorted(tmp_path.iterdir()) == sorted([folder, second])
    assert not list(tmp_path.iterdir())


def test_patches_on_disk_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with PatchStore(100, 8, limit=0) as store:
        store.patches[:] = 3
        assert not list(tmp_path.iterdir())
        assert float(store.rows(100)[10:20].sum()) == 3 * 80


def test_a_signal_waits_for_what_must_be_done() -> None:
    done = []

    def work() -> None:
        with stoppable(), delay_stop():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
