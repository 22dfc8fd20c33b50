"""Read the columns and rows of a manifest file, in any common encoding and with any common delimiter."""

from __future__ import annotations

import codecs
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offnominal.errors import InputError

#: Suffixes of manifests, in lower case.
MANIFESTS = frozenset({".csv", ".jsonl", ".parquet"})
_DELIMITERS = ",;\t|"
#: Byte-order marks and their encodings. The mark of UTF-32 starts with that of UTF-16, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Size limit of a manifest in bytes.
_MAX_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Table:
    """Column names as written, and one mapping per row."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


def read_table(path: Path) -> Table:
    """Read a `.csv`, `.jsonl` or `.parquet` file.

    Raises
    ------
    InputError
        The file cannot be read or is not a table.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES // 1_000_000} MB")
        if path.suffix.lower() == ".csv":
            return _csv(_text(path.read_bytes()))
        if path.suffix.lower() == ".jsonl":
            lines = enumerate(_text(path.read_bytes()).split("\n"), 1)  # JSON strings may contain other line breaks
            return _table_of([_json_row(number, line) for number, line in lines if line.strip()])
        import pyarrow.parquet

        return _table_of(pyarrow.parquet.read_table(path).to_pylist())
    except ImportError:
        raise InputError(f"{path}: Parquet manifests need pyarrow: pip install 'offnominal[parquet]'") from None
    except (OSError, ValueError, csv.Error) as error:  # pyarrow raises subclasses of these
        raise InputError(f"{path}: is not a readable manifest ({(str(error) or 'damaged').splitlines()[0]})") from None


def _text(content: bytes) -> str:
    """Decode UTF-8, UTF-16 or UTF-32 with a byte-order mark, or UTF-8 or Windows-1252 without one."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content:
        raise ValueError("contains NUL bytes; save it as UTF-8 text")
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        if encoding is not None:
            raise ValueError(f"is damaged {encoding.upper()} text; save it as UTF-8") from None
        text = content.decode("cp1252", "replace")
    if any(ord(letter) < 32 and letter not in "\t\n\r\v\f\x1a" for letter in set(text)):
        raise ValueError("contains control characters, so it is not text; save it as UTF-8 text")
    return text.rstrip("\x1a")


def _csv(text: str) -> Table:
    first, _, rest = text.partition("\n")
    delimiter = None
    if first.strip().strip('"').lower().startswith("sep=") and len(first.rstrip("\r\n").strip('"')) == 5:  # written by Excel
        delimiter, text = first.rstrip("\r\n").strip('"')[4], rest
        first = rest.partition("\n")[0]
    delimiter = delimiter or max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    lines = [line for line in reader if any(map(str.strip, line))]
    if not lines:
        return Table((), ())
    columns = [name.strip().strip("\ufeff") for name in lines[0]]
    while columns and not columns[-1]:  # a delimiter at the end of each line
        columns.pop()
    duplicates = [name for name in columns if name and columns.count(name) > 1]
    if duplicates:
        raise ValueError(f"has two columns '{duplicates[0]}'; rename or remove one")
    for number, line in enumerate(lines[1:], 1):
        if any(map(str.strip, line[len(columns) :])):
            counts = f"row {number} has {len(line)} fields, the header {len(columns)}"
            raise ValueError(f"{counts}; put quotes around a value that contains '{delimiter}'")
    return Table(tuple(columns), tuple(dict(zip(columns, line, strict=False)) for line in lines[1:]))


def _table_of(rows: list[dict[str, Any]]) -> Table:
    return Table(tuple(dict.fromkeys(str(column) for row in rows for column in row)), tuple(rows))


def _json_row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"line {number}: each line must be a JSON object")
    return row
