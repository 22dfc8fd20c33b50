"""Stopped and killed commands: the files they leave, and how the next run handles them."""

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
#: Restores the default signal handlers: a shell lets background processes ignore Ctrl-C, and `nohup` ignores SIGHUP.
COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "from offnominal.cli import main; main()"
)


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("the condition was never met")


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
def test_signals_stop_a_run_like_ctrl_c(numbers: list[int], model_file: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start("inspect", model_file, many, "--out", out, "--no-drift") as running:
        try:
            wait_for(lambda: (out / "results.jsonl").exists() and len(rows_of(out)) > 20)
            for number in numbers:
                running.send_signal(number)
                time.sleep(0.02)
            _, stderr = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 130, stderr
    assert "offnominal: stopped" in stderr
    assert "Traceback" not in stderr
    rows = rows_of(out)
    assert 20 < len(rows) < 1500
    assert [row["path"] for row in rows] == sorted(str(row["path"]) for row in rows)
    assert all((out / str(row["map"])).is_file() for row in rows)
    assert not list(out.glob(".results*"))


def test_rows_of_finished_images_survive_a_kill(model_file: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start("inspect", model_file, many, "--out", out, "--no-drift") as running:
        try:
            wait_for(lambda: (out / "overlays").is_dir() and len(list((out / "overlays").iterdir())) > 30)
        finally:
            running.kill()
    assert len(rows_of(out)) > 25
    pictures = len(list((out / "overlays").iterdir()))
    (out / "overlays" / "00001-mine.jpg").write_bytes(b"somebody's own")
    image = sorted(many.iterdir())[0]
    with start("inspect", model_file, image, "--out", out, "--no-drift") as running:
        assert running.wait(timeout=120) == 0
    assert pictures > 30
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["00000-0000.jpg", "00001-mine.jpg"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_fit_leaves_no_partial_model(number: int, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "model" / "m.safetensors"
    with start("fit", many, "--out", out, "--image-size", "96") as running:
        try:
            wait_for(lambda: out.parent.is_dir())
            time.sleep(1)
            running.send_signal(number)
            _, stderr = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 130, stderr
    assert not list(out.parent.iterdir())


def run_killed(code: str, *words: object) -> None:
    """Run code that kills its own process."""
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
def test_the_next_write_removes_unfinished_files_of_a_killed_one(at: str, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    run_killed(WRITES.format(at=at), target)
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.name.startswith(".m.safetensors-")
    user_files = [tmp_path / name for name in (".m.safetensors-original", ".m.safetensors-backup01", "other.safetensors")]
    for path in user_files:
        path.write_text("somebody's own")
    require_writable(target)
    assert sorted(tmp_path.iterdir()) == sorted(user_files)
    run_killed(WRITES.format(at=at), target)
    write_atomically(target, b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([*user_files, target])


def test_files_being_written_by_another_process_are_kept(tmp_path: Path) -> None:
    code = WRITES.format(at="fsync").replace("os.kill(os.getpid(), 9)", "(print('here', flush=True), input())")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "m")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        write_atomically(tmp_path / "m", b"ours")
        assert len(list(tmp_path.iterdir())) == 2
        other.communicate("\n", timeout=60)
    assert (tmp_path / "m").read_bytes() == b"half of a model"  # the last writer wins
    assert len(list(tmp_path.iterdir())) == 1


def test_a_leftover_scratch_folder_is_removed_by_the_next_run(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from offnominal.storage import scratch_folder\n"
    code += "with scratch_folder(Path(sys.argv[1]), 'work') as folder: (folder / 'a').touch(); os.kill(os.getpid(), 9)"
    run_killed(code, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_folder(tmp_path, "work") as folder, scratch_folder(tmp_path, "work") as second:
        assert sorted(tmp_path.iterdir()) == sorted([folder, second])
    assert not list(tmp_path.iterdir())


def test_spilled_patches_use_an_unlinked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with PatchStore(100, 8, limit=0) as store:
        store.patches[:] = 3
        assert not list(tmp_path.iterdir())
        assert float(store.rows(100)[10:20].sum()) == 3 * 80


def test_signals_are_delayed_during_protected_work() -> None:
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_a_library_turns_into_an_error_is_a_stop(number: int) -> None:
    def work() -> None:
        with stoppable():
            try:
                os.kill(os.getpid(), number)
            except KeyboardInterrupt:
                raise ImportError("initialization failed") from None

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it for work in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, handler)
