"""results.jsonl: a row is on disk as soon as its image is done; in the end the rows are in the order of the images."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from offnominal.errors import unwritable
from offnominal.storage import write_atomically
from offnominal.storage.owned_files import RESULTS, own

Row = dict[str, Any]


class ResultRows:
    """The rows of a run, by the number of the image. Rows may be added from several threads.

    Parameters
    ----------
    folder
        Output folder; an earlier `results.jsonl` is replaced.
    paths
        Path of each image.

    Raises
    ------
    OutputError
        The folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = ResultRows(Path(folder), ["a.png", "b.png"])
    ...     rows.add(1, {"score": 2.0})
    ...     rows.add(0, {"score": 7.5})
    ...     rows.finish()
    [{'path': 'a.png', 'score': 7.5}, {'path': 'b.png', 'score': 2.0}]
    """

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        self._path, self._paths, self._lock = own(folder, RESULTS, "inspect"), paths, Lock()
        self.rows: dict[int, Row] = {}
        write_atomically(self._path, b"")
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise unwritable(self._path, error) from None

    def add(self, index: int, row: Row) -> None:
        """Add a row; `path` is filled in. Raises `OutputError` if the disk is full; earlier rows stay complete."""
        row = {"path": self._paths[index], **row}
        content = _line(row)
        with self._lock:
            self.rows[index] = row
            try:
                end = os.fstat(self._file).st_size
                if os.write(self._file, content) < len(content):
                    os.ftruncate(self._file, end)
                    os.write(self._file, content)  # raises the reason
            except OSError as error:
                raise unwritable(self._path, error) from None

    def finish(self) -> list[Row]:
        """Rewrite the file in the order of the images and return the rows. Raises `OutputError`."""
        os.close(self._file)
        ordered = [self.rows[index] for index in sorted(self.rows)]
        write_atomically(self._path, b"".join(map(_line, ordered)))
        return ordered


def error_row(reason: str) -> Row:
    """The row of an image that cannot be read, scored or drawn.

    Examples
    --------
    >>> row = error_row("a.png: the file is empty")
    >>> row["error"], row["score"], row["regions"]
    ('a.png: the file is empty', None, [])
    """
    return {
        **dict.fromkeys(("score", "p_value", "anomalous", "threshold", "whole_p_value")),
        "regions": [],
        "pose": None,
        "zones": [],
        "map": None,
        "error": reason,
    }


def _line(row: Row) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()
