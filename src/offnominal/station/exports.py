"""A selection of inspections as CSV, and as a report that needs no network."""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from offnominal.model import Model, load_model
from offnominal.outputs.model_facts import readable_facts, warnings_of
from offnominal.reports import Entry, embedded, report
from offnominal.station.database import Database
from offnominal.station.errors import NotFoundError, UnavailableError
from offnominal.station.folder import StationFolder
from offnominal.station.inspections import MOST, Filter, joined, media_file
from offnominal.station.media import THUMB
from offnominal.station.pictures import SHOWN
from offnominal.station.settings import Keep
from offnominal.station.tables import NG, UNREADABLE, Inspection
from offnominal.types import Region, SizeInMm, ZoneScore

COLUMNS = (
    "id", "line", "serial", "lot", "taken_at", "judged_at", "verdict", "review", "score", "threshold", "p_value",
    "whole_p_value", "regions", "error", "model", "image_name", "image_sha256", "source", "by", "duration_ms",
)  # fmt: skip
#: Most parts in a report: their pictures are in it.
MOST_IN_REPORT = 1000


def csv_lines(database: Database, filter: Filter) -> Iterator[str]:
    """The selection as CSV with a header, in pieces. Cells that a spreadsheet would run as a formula are escaped."""
    yield _csv([COLUMNS])
    while True:
        with database.read() as session:
            rows = session.execute(filter.applied(joined()).limit(MOST)).all()
        if not rows:
            return
        yield _csv([_cells(row, line, digest) for row, line, digest in rows])
        filter = filter.following(rows[-1][0].id)


def write_report(database: Database, folder: StationFolder, keep: Keep, filter: Filter, target: Path) -> None:
    """Write a zip with `report.html` and its pictures.

    A report has one threshold, so it shows the parts that the newest model version in the selection judged, at most
    `MOST_IN_REPORT`; the page says how many others the selection has.

    Raises
    ------
    NotFoundError
        The selection has no part.
    UnavailableError
        The pictures do not fit beside the space that the station keeps free.
    """
    with database.read() as session:
        found = session.execute(filter.applied(joined()).limit(MOST_IN_REPORT + 1)).all()
    if not found:
        raise NotFoundError("the selection has no inspection")
    shown = [(row, line) for row, line, digest in found[:MOST_IN_REPORT] if digest == found[0].digest]
    free = shutil.disk_usage(target.parent).free - keep.reserve_gigabytes * 1e9
    if (size := sum(row.media_bytes for row, _ in shown)) > free:
        raise UnavailableError(
            f"the report needs {size / 1e9:.2f} GB, {max(free, 0) / 1e9:.2f} GB are free; select fewer parts"
        )
    model = load_model(folder.model(found[0].digest))
    warnings = warnings_of(model)
    if len(found) > MOST_IN_REPORT:
        warnings.append(f"The selection has more than {MOST_IN_REPORT} parts; the first {MOST_IN_REPORT} are shown.")
    if others := min(len(found), MOST_IN_REPORT) - len(shown):
        warnings.append(f"{others} parts of the selection were judged by other model versions and are left out.")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        page = _page(folder, archive, shown, model, warnings)
        archive.writestr("report.html", page.encode("utf-8", "backslashreplace"))


@dataclass(frozen=True)
class _Files:
    """Pictures of a part in the archive, and its thumbnail."""

    files: dict[str, str]
    thumb: str | None
    thumb_size: tuple[int, int]


def _page(
    folder: StationFolder,
    archive: zipfile.ZipFile,
    shown: Sequence[tuple[Inspection, str]],
    model: Model,
    warnings: Sequence[str],
) -> str:
    entries, unreadable = [], []
    for row, _ in shown:
        name = f"{row.serial or row.image_name}" + ("" if row.review is None else f" (reviewed {row.review.upper()})")
        if row.verdict == UNREADABLE:
            unreadable.append((name, row.error or ""))
            continue
        pictures = _add_pictures(folder, archive, row)
        entries.append(
            Entry(
                name=name,
                label=None,
                good=None,
                score=row.score or 0.0,
                p_value=row.p_value or 1.0,
                anomalous=row.verdict == NG,
                regions=tuple(_region(region) for region in row.regions),
                size=(row.height or 0, row.width or 0),
                thumb=pictures.thumb,
                thumb_size=pictures.thumb_size,
                files=pictures.files,
                receipts={},
                whole_p_value=row.whole_p_value,
                not_found=None if row.pose is None else row.pose["problem"],
                zones=tuple(ZoneScore(**zone) for zone in row.zones or ()),
            )
        )
    line, first, last = shown[0][1], shown[-1][0].judged_at, shown[0][0].judged_at
    return report(
        f"Line {line}, {min(first, last):%Y-%m-%d %H:%M} to {max(first, last):%Y-%m-%d %H:%M} UTC",
        entries,
        threshold=model.calibration.threshold,
        calibration=model.calibration.scores,
        facts=readable_facts(model),
        warnings=warnings,
        unreadable=unreadable,
    )


def _add_pictures(folder: StationFolder, archive: zipfile.ZipFile, row: Inspection) -> _Files:
    try:
        heat, image = (media_file(folder, row, kind) for kind in ("heat", "image"))
    except NotFoundError:
        return _Files({}, None, (0, 0))
    files = {"heat": heat}
    if image.suffix in SHOWN:
        files["image"] = image
    names = {kind: f"report_files/{row.id}-{kind}{path.suffix}" for kind, path in files.items()}
    for kind, path in files.items():
        archive.write(path, names[kind])
    small = cv2.imread(str(heat.with_name(THUMB)), cv2.IMREAD_COLOR)
    if small is None:
        return _Files({}, None, (0, 0))
    return _Files(names, embedded(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)), (small.shape[0], small.shape[1]))


def _region(row: dict[str, object]) -> Region:
    box, peak_at = row["box"], row["peak_at"]
    assert isinstance(box, list)
    assert isinstance(peak_at, list)
    left, top, right, bottom = box
    sizes: list[Any] = [row.get(name) for name in ("area_mm2", "length_mm", "width_mm")]
    rest: dict[str, Any] = {name: row[name] for name in ("area", "peak", "p_value", "length", "width", "zone") if name in row}
    return Region(
        box=(left, top, right, bottom),
        peak_at=(peak_at[0], peak_at[1]),
        mm=None if sizes[0] is None else SizeInMm(*sizes),
        **rest,
    )


def _cells(row: Inspection, line: str, digest: str) -> list[str]:
    values = {name: getattr(row, name) for name in COLUMNS if name not in ("line", "model", "regions")}
    values |= {"line": line, "model": digest, "regions": len(row.regions)}
    return [_cell(values[name]) for name in COLUMNS]


def _cell(value: object) -> str:
    """A cell; a text that begins as a formula gets an apostrophe, as spreadsheets expect.

    Examples
    --------
    >>> _cell("=1+1"), _cell(-1.5), _cell(None)
    ("'=1+1", '-1.5', '')
    """
    if value is None:
        return ""
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _csv(rows: Sequence[Sequence[str]]) -> str:
    target = io.StringIO()
    csv.writer(target, lineterminator="\r\n").writerows(rows)
    return target.getvalue()
