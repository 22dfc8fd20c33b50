"""The watch over a stream of inspected images: its state beside the model, and what is said of it.

The state `MODEL.drift.json` lives as long as the model: every `inspect` goes on where the one before stopped, in the order of
its images. It holds the statistics of every image so far (the ranks of the next ones need them), the capital of every bet, and
the names of the images at which the most successful bets began. A state of another model is not used.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from offnominal.decisions import LIKENESS, Appearance, DriftTest
from offnominal.errors import InputError, OutputError
from offnominal.model.model import Model
from offnominal.storage import write_whole
from offnominal.storage.owned_files import own
from offnominal.types import Float

FORMAT, VERSION = "offnominal-drift", 1
#: Statistic -> what its rise and what its fall looks like.
CHANGES = {
    "brightness": ("brighter", "darker"),
    "haze": ("lifted by stray light or black level", "lowered in black level"),
    "colour": ("warmer in colour", "colder in colour"),
    "blur": ("blurrier", "sharper or noisier"),
    "sideways": ("shifted sideways", "shifted sideways"),
    "upward": ("shifted up or down", "shifted up or down"),
    LIKENESS: ("different", "more alike"),
}
REMEDY = (
    "what is said of false alarms no longer holds; look at light, lens, camera and product, put it right and start over with "
    "--reset-drift, or fit anew on images as they are now"
)


@dataclass(frozen=True)
class _Place:
    """Which image of the stream, and when it was inspected."""

    number: int
    path: str
    when: str

    def as_json(self) -> dict[str, Any]:
        return {"image": self.number, "path": self.path, "inspected": self.when}


def state_path(model: Path) -> Path:
    """Where the state of a model file is kept."""
    return model.with_name(model.name + ".drift.json")


class DriftMonitor:
    """Takes the statistics of inspected images in order, and says whether they still look like those fitted on.

    Args:
        model: a model with an appearance; others cannot be watched.
        path: file of the state, or None to keep it in memory only.
        rate: probability of ever warning, as long as nothing changes.
        reset: forget what was there; the file goes at once, so that it is gone also where no image of this run can be read.

    Raises:
        InputError: the state cannot be read, or `rate` is not within 0 and 1.
    """

    def __init__(self, model: Model, path: Path | None, rate: float = 0.01, *, reset: bool = False) -> None:
        if not 0 < rate < 1:
            raise InputError(f"the false-warning rate must lie between 0 and 1, got {rate}")
        assert model.appearance is not None
        self._names, self._key, self._path, self.rate = model.appearance.names, _key(model.appearance), path, rate
        self.test = DriftTest(model.appearance.reference, model.settings.seed)
        self._places: dict[int, _Place] = {}
        self._noticed: _Place | None = None
        self.notes: list[str] = []
        self._reference, self._seed, self._kept = model.appearance.reference, model.settings.seed, True
        if path is not None and reset:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self._resume()

    def take(self, paths: Sequence[str], appearances: Float) -> None:
        """The next T images of the stream: their paths and their (T, S) statistics."""
        if self._kept:
            self._resume()  # another run may have gone on meanwhile
        self._kept = False
        first, when = self.test.images + 1, datetime.now(UTC).isoformat(timespec="seconds")
        evidence = self.test.update(appearances)
        for number in set(self.test.began.ravel().tolist()):
            if number >= first:
                self._places[number] = _Place(number, paths[number - first], when)
        over = np.flatnonzero(evidence.max(axis=1, initial=-np.inf) >= -np.log(self.rate))
        if self._noticed is None and len(over):
            self._noticed = _Place(first + int(over[0]), paths[int(over[0])], when)

    def keep(self) -> None:
        """Write the state; where that cannot be, a note says so and the inspection stands."""
        if self._path is None or self.test.images == 0:
            return
        try:
            write_whole(self._path, (json.dumps(self._state(), allow_nan=False) + "\n").encode())
            self._kept = True
        except OutputError as error:
            self.notes.append(f"drift is not remembered: {error}; or leave it out with --no-drift")

    def result(self) -> dict[str, Any]:
        """The content of `drift.json`: evidence is a natural logarithm, a warning begins at `needed`."""
        evidence = self.test.evidence()
        found: dict[str, Any] = {
            "watched": True,
            "images": self.test.images,
            "reference": len(self.test.reference),
            "false_warning_rate": self.rate,
            "warning": self.test.warns(self.rate),
            "evidence": float(evidence.max()),
            "needed": float(-np.log(self.rate)),
            "statistics": {name: float(value) for name, value in zip(self._names, evidence, strict=True)},
        }
        if not found["warning"]:
            return {**found, "statistic": None, "change": None, "since": None, "noticed": None, "message": None}
        at = self._leading(evidence)
        began, rose = self.test.change(at)
        since, change = self._places[began], CHANGES[self._names[at]][0 if rose else 1]
        if self._noticed is not None and self._noticed.number < since.number:
            since = self._noticed  # by another statistic, which said less in the end
        return {
            **found,
            "statistic": self._names[at],
            "change": change,
            "since": since.as_json(),
            "noticed": None if self._noticed is None else self._noticed.as_json(),
            "message": f"since about image {since.number} of the stream ({since.path}, inspected {since.when}) images are "
            f"{change}, held against those fitted on: {REMEDY}",
        }

    def _leading(self, evidence: np.ndarray[Any, np.dtype[np.float64]]) -> int:
        """The statistic that says most; `likeness`, which names no cause, only where no other suffices."""
        named = evidence[:-1]
        return int(named.argmax()) if len(named) and named.max() >= -np.log(self.rate) else int(evidence.argmax())

    def _state(self) -> dict[str, Any]:
        began = set(self.test.began.ravel().tolist())
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self._key,
            "statistics": list(self._names),
            "images": self.test.images,
            "stream": base64.b64encode(self.test.stream.astype("<f4").tobytes()).decode(),
            "capital": self.test.capital.tolist(),
            "best": self.test.best.tolist(),
            "began": self.test.began.tolist(),
            "peak": self.test.peak.tolist(),
            "places": [place.as_json() for number, place in sorted(self._places.items()) if number in began],
            "noticed": None if self._noticed is None else self._noticed.as_json(),
        }

    def _resume(self) -> None:
        """Go on from the file, where there is one."""
        path, reference = self._path, self._reference
        if path is None or not path.exists():
            return
        try:
            stored = json.loads(path.read_text("utf-8"))
            if stored["format"] != FORMAT or stored["version"] != VERSION:
                raise ValueError("another format or version")
            if stored["model"] != self._key:
                self.notes = [f"{path}: belongs to another model; the watch over the stream starts over"]
                return
            values = np.frombuffer(base64.b64decode(stored["stream"], validate=True), "<f4").astype(np.float32)
            test = DriftTest(
                reference,
                self._seed,
                values.reshape(stored["images"], reference.shape[1]),
                np.array(stored["capital"], dtype=np.float64),
                np.array(stored["best"], dtype=np.float64),
                np.array(stored["began"], dtype=np.int64),
                np.array(stored["peak"], dtype=np.float64),
            )
            places = {place["image"]: _place(place) for place in stored["places"]}
            if not set(test.began.ravel().tolist()) <= set(places):
                raise ValueError("it does not name the images that its bets began at")
            noticed = None if stored["noticed"] is None else _place(stored["noticed"])
        except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
            raise InputError(
                f"{path}: is not a readable drift state ({str(error).splitlines()[0][:80]}); start over with --reset-drift"
            ) from None
        self.test, self._places, self._noticed = test, places, noticed


def report_drift(watch: DriftMonitor | None, folder: Path) -> list[str]:
    """Keep the state, write `drift.json` into `folder`, and return the lines that a person must read; None: not watched.

    Raises:
        OutputError: `drift.json` cannot be written.
    """
    if watch is None:
        found: dict[str, Any] = {"watched": False, "warning": False, "message": None}
        lines = []
    else:
        watch.keep()
        found = watch.result()
        lines = [f"note: {note}" for note in watch.notes]
        if found["warning"]:
            lines.append(f"warning: {found['message']}")
    write_whole(own(folder, "drift.json", "inspect"), (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    return lines


def _place(stored: dict[str, Any]) -> _Place:
    return _Place(int(stored["image"]), str(stored["path"]), str(stored["inspected"]))


def _key(appearance: Appearance) -> str:
    digest = hashlib.sha256(json.dumps(appearance.names).encode())
    for values in (appearance.center, appearance.scale, appearance.directions, appearance.reference):
        digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return digest.hexdigest()
