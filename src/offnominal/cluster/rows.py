"""Rows of results as Parquet: those of `results.jsonl`, with the number of each image."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from offnominal.outputs.result_rows import Row

#: Columns that hold JSON, because their entries depend on the options.
_JSON = ("maps",)


def schema() -> Any:
    """Columns of a part."""
    import pyarrow as pa

    box, point = pa.list_(pa.int64()), pa.list_(pa.int64())
    region = pa.struct(
        [
            ("box", box),
            ("area", pa.int64()),
            ("peak", pa.float64()),
            ("peak_at", point),
            ("p_value", pa.float64()),
            *((name, pa.float64()) for name in ("length", "width", "area_mm2", "length_mm", "width_mm")),
            ("zone", pa.string()),
        ]
    )
    zone = pa.struct([("name", pa.string()), ("score", pa.float64()), ("p_value", pa.float64())])
    numbers = [(name, pa.float64()) for name in ("dx", "dy", "degrees", "scale", "quality")]
    pose = pa.struct([*numbers, ("problem", pa.string())])
    return pa.schema(
        [
            ("index", pa.int64()),
            ("path", pa.string()),
            ("score", pa.float64()),
            ("p_value", pa.float64()),
            ("anomalous", pa.bool_()),
            ("threshold", pa.float64()),
            ("whole_p_value", pa.float64()),
            ("regions", pa.list_(region)),
            ("pose", pose),
            ("zones", pa.list_(zone)),
            ("map", pa.string()),
            ("maps", pa.string()),
            ("error", pa.string()),
        ]
    )


def as_parquet(rows: Sequence[Row]) -> bytes:
    """A Parquet file of rows; each has `index` besides the entries of `results.jsonl`.

    Examples
    --------
    >>> from offnominal.outputs.result_rows import error_row
    >>> content = as_parquet([{"index": 3, "path": "a.png", **error_row("a.png: is empty")}])
    >>> [(row["index"], row["error"]) for row in rows_of(content)]
    [(3, 'a.png: is empty')]
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = [
        {
            **row,
            **{name: json.dumps(row[name]) for name in _JSON if row.get(name) is not None},
            **{name: _text(row[name]) for name in ("path", "error")},
        }
        for row in rows
    ]
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table, schema()), target)
    return target.getvalue()


def _text(text: str | None) -> str | None:
    """Text for Parquet; bytes of file names that are no text become escapes."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def rows_of(content: bytes) -> list[Row]:
    """The rows of a Parquet file that `as_parquet` wrote."""
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(io.BytesIO(content)).to_pylist()
    for row in rows:
        for name in _JSON:
            if row[name] is None:
                del row[name]
            else:
                row[name] = json.loads(row[name])
    return rows
