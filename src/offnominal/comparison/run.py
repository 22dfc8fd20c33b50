"""Reading the output folder of `evaluate` or `inspect`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from offnominal.errors import InputError

Value = TypeVar("Value")


@dataclass(frozen=True)
class RunImage:
    """The result of one image in a run.

    Attributes
    ----------
    label
        `good` or a defect class; None after `inspect`.
    score, p_value, anomalous
        As in `Inspection`.
    picture
        File of its heat map, None without one.

    Examples
    --------
    >>> RunImage(label="crack", score=7.5, p_value=0.01, anomalous=True, picture=None).anomalous
    True
    """

    label: str | None
    score: float
    p_value: float
    anomalous: bool
    picture: Path | None


@dataclass(frozen=True)
class Run:
    """A run: its folder, its images by path, and the content of its `metrics.json` (empty after `inspect`).

    Examples
    --------
    >>> Run(Path("inspected"), images={}, metrics={}).labelled
    False
    """

    folder: Path
    images: Mapping[str, RunImage]
    metrics: Mapping[str, Any]

    @property
    def labelled(self) -> bool:
        """Whether `evaluate` wrote it."""
        return bool(self.metrics)


def read_run(folder: Path) -> Run:
    """Read the output folder of a run.

    Parameters
    ----------
    folder
        The folder that was given with `--out`.

    Raises
    ------
    InputError
        Neither `evaluate` nor `inspect` wrote the folder, or a file in it is damaged.

    Examples
    --------
    >>> import tempfile
    >>> row = {"path": "a.png", "score": 7.5, "p_value": 0.01, "anomalous": True, "map": None, "error": None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "results.jsonl").write_text(json.dumps(row))
    ...     read_run(Path(folder)).images["a.png"].score
    7.5
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give the --out folder of evaluate or inspect")
    if (folder / "scores.csv").is_file() and (folder / "metrics.json").is_file():
        metrics = _read(folder / "metrics.json", lambda text: dict(json.loads(text)))
        images = _read(folder / "scores.csv", lambda text: _evaluated_images(text, folder))
        return Run(folder, images, metrics)
    if (folder / "results.jsonl").is_file():
        return Run(folder, _read(folder / "results.jsonl", lambda text: _inspected_images(text, folder)), {})
    raise InputError(
        f"{folder}: holds neither metrics.json and scores.csv (of evaluate) nor results.jsonl (of inspect); "
        "give the --out folder of one of them"
    )


def _evaluated_images(text: str, folder: Path) -> dict[str, RunImage]:
    images = {}
    for index, row in enumerate(csv.DictReader(io.StringIO(text))):
        if not row["score"]:  # unreadable; if only the mask is unreadable there is a score
            continue
        picture = folder / "report_files" / f"{index:05d}-heat.jpg"
        images[row["path"]] = RunImage(
            row["label"],
            float(row["score"]),
            float(row["p_value"]),
            bool(int(row["anomalous"])),
            picture if picture.is_file() else None,
        )
    return images


def _inspected_images(text: str, folder: Path) -> dict[str, RunImage]:
    rows = [json.loads(line) for line in text.splitlines()]
    return {
        row["path"]: RunImage(
            None, float(row["score"]), float(row["p_value"]), bool(row["anomalous"]), _existing(folder, row["map"])
        )
        for row in rows
        if row["error"] is None
    }


def _existing(folder: Path, name: str | None) -> Path | None:
    path = None if name is None else folder / name
    return path if path is not None and path.is_file() else None


def _read(path: Path, parse: Callable[[str], Value]) -> Value:
    """The parsed content of a file; a damaged file is an `InputError`."""
    try:
        return parse(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}); run evaluate or inspect again") from None
