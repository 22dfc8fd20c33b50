"""The drift monitor of a stream of inspected images, and its state file beside the model.

The state `MODEL.drift.json` belongs to a model: every `inspect` continues where the previous one stopped, in the order of its
images. It holds the statistics of every image so far (the next images are ranked among them), the capital of every bet, and the
images at which the most successful bets began. The state of another model is ignored.
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

from offnominal.decisions import DEVIATION, Appearance, DriftTest
from offnominal.errors import InputError, OutputError
from offnominal.model import Model
from offnominal.storage import write_atomically
from offnominal.storage.owned_files import own
from offnominal.types import Float

FORMAT, VERSION = "offnominal-drift", 1
#: Statistic -> how images look if it rises, and if it falls.
CHANGES = {
    "brightness": ("brighter", "darker"),
    "haze": ("brighter in the shadows (stray light or black level)", "darker in the shadows (black level)"),
    "colour": ("warmer in colour", "colder in colour"),
    "blur": ("blurrier", "sharper or noisier"),
    "sideways": ("shifted sideways", "shifted sideways"),
    "upward": ("shifted up or down", "shifted up or down"),
    DEVIATION: ("different as a whole", "closer to the average image"),
}
REMEDY = (
    "The false-alarm rate is no longer guaranteed. Check light, lens, camera and product; correct the cause and run with "
    "--reset-drift, or fit again on current images."
)


@dataclass(frozen=True)
class _StreamImage:
    """An image of the stream: its number from 1, its path, and when it was inspected."""

    number: int
    path: str
    when: str

    def as_json(self) -> dict[str, Any]:
        return {"image": self.number, "path": self.path, "inspected": self.when}


def state_path(model: Path) -> Path:
    """Path of the drift state of a model file.

    Examples
    --------
    >>> state_path(Path("part.safetensors")).name
    'part.safetensors.drift.json'
    """
    return model.with_name(model.name + ".drift.json")


class DriftMonitor:
    """Tests whether inspected images, in their order, still look like the training images.

    Parameters
    ----------
    model
        A model with an `appearance` (at least 8 training images).
    path
        State file; None keeps the state in memory only.
    rate
        Probability of ever warning if nothing changes.
    reset
        Start anew. The state file is deleted at once, even if no image of this run can be read.

    Raises
    ------
    InputError
        The state cannot be read, or `rate` does not lie between 0 and 1.
    """

    def __init__(self, model: Model, path: Path | None, rate: float = 0.01, *, reset: bool = False) -> None:
        if not 0 < rate < 1:
            raise InputError(f"the false-warning rate must lie between 0 and 1, got {rate}")
        assert model.appearance is not None
        self._names, self._model_key = model.appearance.names, _key(model.appearance)
        self._path, self.rate = path, rate
        self.test = DriftTest(model.appearance.reference, model.settings.seed)
        self._bet_starts: dict[int, _StreamImage] = {}
        self._noticed: _StreamImage | None = None
        self.notes: list[str] = []
        self._reference, self._seed, self._saved = model.appearance.reference, model.settings.seed, True
        if path is not None and reset:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self._resume()

    def update(self, paths: Sequence[str], appearances: Float) -> None:
        """Add the next T images of the stream: their paths and their (T, S) statistics."""
        if self._saved:
            self._resume()  # another run may have continued the stream meanwhile
        self._saved = False
        first, when = self.test.images + 1, datetime.now(UTC).isoformat(timespec="seconds")
        evidence = self.test.update(appearances)
        for number in set(self.test.began.ravel().tolist()):
            if number >= first:
                self._bet_starts[number] = _StreamImage(number, paths[number - first], when)
        warned = np.flatnonzero(evidence.max(axis=1, initial=-np.inf) >= -np.log(self.rate))
        if self._noticed is None and len(warned):
            self._noticed = _StreamImage(first + int(warned[0]), paths[int(warned[0])], when)

    def save(self) -> None:
        """Write the state file. If that fails, `notes` says so and the inspection remains valid."""
        if self._path is None or self.test.images == 0:
            return
        try:
            write_atomically(self._path, (json.dumps(self._state(), allow_nan=False) + "\n").encode())
            self._saved = True
        except OutputError as error:
            self.notes.append(f"the drift state is not saved: {error}, or switch the drift monitor off with --no-drift")

    def result(self) -> dict[str, Any]:
        """Content of `drift.json`. Evidence is a natural logarithm; the monitor warns from `needed` on."""
        evidence = self.test.evidence()
        result: dict[str, Any] = {
            "watched": True,
            "images": self.test.images,
            "reference": len(self.test.reference),
            "false_warning_rate": self.rate,
            "warning": self.test.warns(self.rate),
            "evidence": float(evidence.max()),
            "needed": float(-np.log(self.rate)),
            "statistics": {name: float(value) for name, value in zip(self._names, evidence, strict=True)},
        }
        if not result["warning"]:
            return {**result, "statistic": None, "change": None, "since": None, "noticed": None, "message": None}
        leading = self._leading(evidence)
        began, rose = self.test.change(leading)
        since, change = self._bet_starts[began], CHANGES[self._names[leading]][0 if rose else 1]
        if self._noticed is not None and self._noticed.number < since.number:
            since = self._noticed  # by a statistic that no longer leads
        return {
            **result,
            "statistic": self._names[leading],
            "change": change,
            "since": since.as_json(),
            "noticed": None if self._noticed is None else self._noticed.as_json(),
            "message": f"since about image {since.number} of the stream ({since.path}, inspected {since.when}), images differ "
            f"from the training images: {change}. {REMEDY}",
        }

    def _leading(self, evidence: np.ndarray[Any, np.dtype[np.float64]]) -> int:
        """The statistic with the most evidence; `DEVIATION`, which names no cause, only if no other suffices."""
        named = evidence[:-1]
        return int(named.argmax()) if len(named) and named.max() >= -np.log(self.rate) else int(evidence.argmax())

    def _state(self) -> dict[str, Any]:
        began = set(self.test.began.ravel().tolist())
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self._model_key,
            "statistics": list(self._names),
            "images": self.test.images,
            "stream": base64.b64encode(self.test.stream.astype("<f4").tobytes()).decode(),
            "capital": self.test.capital.tolist(),
            "best": self.test.best.tolist(),
            "began": self.test.began.tolist(),
            "peak": self.test.peak.tolist(),
            "places": [image.as_json() for number, image in sorted(self._bet_starts.items()) if number in began],
            "noticed": None if self._noticed is None else self._noticed.as_json(),
        }

    def _resume(self) -> None:
        """Continue from the state file if there is one."""
        path, reference = self._path, self._reference
        if path is None or not path.exists():
            return
        try:
            stored = json.loads(path.read_text("utf-8"))
            if stored["format"] != FORMAT or stored["version"] != VERSION:
                raise ValueError("another format or version")
            if stored["model"] != self._model_key:
                self.notes = [f"{path}: belongs to another model; the drift monitor starts anew"]
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
            bet_starts = {entry["image"]: _stream_image(entry) for entry in stored["places"]}
            if not set(test.began.ravel().tolist()) <= set(bet_starts):
                raise ValueError("the images at which the bets began are missing")
            noticed = None if stored["noticed"] is None else _stream_image(stored["noticed"])
        except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
            raise InputError(
                f"{path}: is not a readable drift state ({str(error).splitlines()[0][:80]}); start anew with --reset-drift"
            ) from None
        self.test, self._bet_starts, self._noticed = test, bet_starts, noticed


def report_drift(monitor: DriftMonitor | None, folder: Path) -> list[str]:
    """Save the state of a monitor and write `drift.json`.

    Parameters
    ----------
    monitor
        The monitor of the run; None if the model has too few training images for one.
    folder
        Output folder of the run.

    Returns
    -------
    list of str
        Notes and warnings for the terminal.

    Raises
    ------
    OutputError
        `drift.json` cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lines = report_drift(None, Path(folder))
    ...     json.loads((Path(folder) / "drift.json").read_text())["watched"]
    False
    """
    if monitor is None:
        result: dict[str, Any] = {"watched": False, "warning": False, "message": None}
        lines = []
    else:
        monitor.save()
        result = monitor.result()
        lines = [f"note: {note}" for note in monitor.notes]
        if result["warning"]:
            lines.append(f"warning: {result['message']}")
    write_atomically(own(folder, "drift.json", "inspect"), (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
    return lines


def _stream_image(stored: dict[str, Any]) -> _StreamImage:
    return _StreamImage(int(stored["image"]), str(stored["path"]), str(stored["inspected"]))


def _key(appearance: Appearance) -> str:
    """Digest of what the statistics of a model depend on."""
    digest = hashlib.sha256(json.dumps(appearance.names).encode())
    for values in (appearance.center, appearance.scale, appearance.directions, appearance.reference):
        digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return digest.hexdigest()
