"""A station to look at: `python -m offnominal.station.demo` inspects the solar cells of the demo as if a camera took them.

The folder becomes a station with the line `cells`, whose model is fitted on good cells. A thread then copies the other cells
into the folder `camera` of the station, one every second or two, and the line watches that folder. Ctrl-C stops all; the next
call goes on with the same station.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from offnominal.demo import TRAINING_CELLS, write_manifest
from offnominal.detector import Detector
from offnominal.errors import STOPPED, WRONG_INPUT, OffnominalError
from offnominal.observer import Observer
from offnominal.station import setup
from offnominal.station.folder import StationFolder
from offnominal.station.serve import run
from offnominal.stopping import stoppable

LINE = "cells"
CONFIG = f"""
# The demo copies cells into this folder.
[[lines.{LINE}.sources]]
folder = "camera"
serial = '(?P<lot>[^/]+)/(?P<serial>[^/]+)\\.png$'
settle_seconds = 0.2
"""
#: Share of defective cells, cells of a lot, and files that stay in the folder of the camera.
DEFECTIVE, LOT, KEPT = 0.12, 40, 200


def prepare(root: Path, observer: Observer, model: Path | None = None) -> None:
    """Create the station, unless it is there.

    Parameters
    ----------
    root
        Its folder.
    observer
        Told what is done.
    model
        Model file; by default one is fitted on good cells.
    """
    if setup.exists(root):
        return
    with tempfile.TemporaryDirectory() as scratch:
        manifest = Path(scratch) / "cells.csv"
        write_manifest(manifest)
        if model is None:
            observer.on_note(f"fit: {TRAINING_CELLS} good cells")
            model = Path(scratch) / "cells.safetensors"
            Detector().fit(manifest, observer=observer).save(model)
        setup.create(root)
        folder = StationFolder(root)
        with folder.config.open("a", encoding="utf-8") as config:
            config.write(CONFIG)
        (folder.root / "camera").mkdir()
        with setup.Setup(root) as opened:
            opened.add_line(LINE, model)


def cells(seed: int) -> Iterator[Path]:
    """Images that the model has not seen, without end: mostly good cells, some defective ones."""
    with tempfile.TemporaryDirectory() as scratch:
        manifest = Path(scratch) / "cells.csv"
        write_manifest(manifest)
        with manifest.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    by_label = {
        defective: [Path(row["path"]) for row in rows if (row["label"] == "defective") == defective]
        for defective in (False, True)
    }
    rng = np.random.default_rng(seed)
    while True:
        images = by_label[bool(rng.random() < DEFECTIVE)]
        yield images[int(rng.integers(len(images)))]


class Camera:
    """Copies cells into a folder until it is stopped. Use as a context manager.

    Parameters
    ----------
    folder
        The folder that the line watches.
    every
        Mean seconds between two cells.
    """

    def __init__(self, folder: Path, every: float = 1.5) -> None:
        self._folder, self._every = folder, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera")

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        started = datetime.now(UTC)
        rng, taken = np.random.default_rng(), list[Path]()
        for number, image in enumerate(cells(int(started.timestamp()))):
            if self._stop.wait(self._every * rng.uniform(2 / 3, 4 / 3)):
                return
            lot = self._folder / f"{started:%m%d-%H%M%S}-{number // LOT + 1:02d}"
            lot.mkdir(parents=True, exist_ok=True)
            target = lot / f"C{started:%H%M%S}{number:05d}.png"
            unfinished = target.with_name(f".{target.name}")
            shutil.copyfile(image, unfinished)
            taken.append(unfinished.rename(target))
            if len(taken) > KEPT:  # these were inspected long ago
                taken.pop(0).unlink(missing_ok=True)


class _Notes(Observer):
    """Prints the notes of a fit."""

    def on_note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the station of the demo until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m offnominal.station.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("station-demo"), help="folder of the station")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--model", type=Path, help="model file to use instead of fitting one")
    parser.add_argument("--every", type=float, default=1.5, help="mean seconds between two cells")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with stoppable():
            _serve(given.folder, given.port, given.model, given.every)
    except OffnominalError as error:
        print(f"offnominal: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except KeyboardInterrupt:
        print("offnominal: stopped", file=sys.stderr)
        sys.exit(STOPPED)


def _serve(root: Path, port: int, model: Path | None, every: float) -> None:
    notes = _Notes()
    prepare(root, notes, model)
    notes.on_note(f"the line: http://127.0.0.1:{port}/line/{LINE}")
    link = setup.first_link(root, "127.0.0.1", port)
    notes.on_note("log in with the user that you created" if link is None else f"create the first user, once: {link}")
    notes.on_note("Ctrl-C stops the station and the camera")
    with Camera(StationFolder(root).root / "camera", every), contextlib.suppress(KeyboardInterrupt):
        run(root, "127.0.0.1", port)


if __name__ == "__main__":
    main()
