"""A folder that `evaluate` or `inspect` left -> what it says of each image."""

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
    """What a run says of one image; `label` is None after `inspect`; `picture` is the heat map's file where there is one."""

    label: str | None
    score: float
    p_value: float
    anomalous: bool
    picture: Path | None


@dataclass(frozen=True)
class Run:
    """A run: its folder, its images by path, and the figures of its `metrics.json` (empty after `inspect`)."""

    folder: Path
    images: Mapping[str, RunImage]
    metrics: Mapping[str, Any]

    @property
    def labelled(self) -> bool:
        """Whether it was made by `evaluate`."""
        return bool(self.metrics)


def read_run(folder: Path) -> Run:
    """Read the folder of a run.

    Raises:
        InputError: it is no folder that `evaluate` or `inspect` wrote, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give what evaluate or inspect wrote with --out")
    if (folder / "scores.csv").is_file() and (folder / "metrics.json").is_file():
        metrics = _guarded(folder / "metrics.json", lambda text: dict(json.loads(text)))
        images = _guarded(folder / "scores.csv", lambda text: _of_scores(text, folder))
        return Run(folder, images, metrics)
    if (folder / "results.jsonl").is_file():
        return Run(folder, _guarded(folder / "results.jsonl", lambda text: _of_results(text, folder)), {})
    raise InputError(
        f"{folder}: holds neither metrics.json with scores.csv (of evaluate) nor results.jsonl (of inspect); "
        "give the folder that was named with --out"
    )


def _of_scores(text: str, folder: Path) -> dict[str, RunImage]:
    images = {}
    for index, row in enumerate(csv.DictReader(io.StringIO(text))):
        if not row["score"]:  # of one whose mask alone could not be read there is a score, and a picture
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


def _of_results(text: str, folder: Path) -> dict[str, RunImage]:
    rows = [json.loads(line) for line in text.splitlines()]
    return {
        row["path"]: RunImage(
            None, float(row["score"]), float(row["p_value"]), bool(row["anomalous"]), _inside(folder, row["map"])
        )
        for row in rows
        if row["error"] is None
    }


def _inside(folder: Path, name: str | None) -> Path | None:
    path = None if name is None else folder / name
    return path if path is not None and path.is_file() else None


def _guarded(path: Path, read: Callable[[str], Value]) -> Value:
    try:
        return read(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}); run evaluate or inspect again") from None
