"""No data leaves the machine, and no process is forked. A separate process checks this with Python's audit events."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from offnominal.features.telemetry import without

PROGRAM = """
import sys, threading
events = []
watched = ("os.fork", "os.forkpty", "os.system", "socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
sys.addaudithook(lambda event, args: events.append(f"{event} {args}") if event in watched else None)
import numpy as np
from offnominal import Detector
rng = np.random.default_rng(0)
images = [rng.integers(90, 160, (96, 96, 3), dtype=np.uint8) for _ in range(12)]
detector = Detector(image_size=96).fit(images)  # imports and converts: the cache of converted models is empty
assert 0 < detector.inspect(images[0]).p_value <= 1
others = [thread.name for thread in threading.enumerate() if not thread.name.startswith(("MainThread", "offnominal"))]
print(*events, *others, sep="\\n")
"""


def test_fit_and_inspect_open_no_connection_and_fork_no_process(tmp_path: Path) -> None:
    # With CI set, libraries send nothing anyway.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["offnominal"]


@pytest.mark.parametrize("package", ["json", "no_such_package"])
def test_blocked_modules_are_restored_afterwards(package: str) -> None:
    before = dict(sys.modules)
    with pytest.raises(ImportError), without(package):
        importlib.import_module(package)
    assert sys.modules == before
