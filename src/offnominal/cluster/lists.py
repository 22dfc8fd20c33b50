"""The list of images of a run: written once as a Parquet file, and read in parts.

Manifests in Parquet and folders in buckets are streamed. Other inputs are listed as for one machine.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from offnominal.cluster.places import BucketImage, Place, is_remote, require_one_page
from offnominal.datasets import RUN_FOLDERS, Pages, find_any, in_pages
from offnominal.datasets.columns import roles_of, text_of
from offnominal.errors import InputError
from offnominal.gates import MmPerPixel
from offnominal.images import Source, measured
from offnominal.images.decode import SUFFIXES
from offnominal.setting_values import parse_mm_per_pixel

#: Images of a part, which is inspected and recorded as a whole.
PART = 256
#: Rows of a manifest that are read at a time.
ROWS = 8192


@dataclass(frozen=True)
class Entry:
    """An image of a list.

    Attributes
    ----------
    address
        Path, or address in a store.
    mm_per_pixel
        Size of its pixels in mm; None if the manifest does not say.
    """

    address: str
    mm_per_pixel: MmPerPixel | None = None

    @property
    def source(self) -> Source:
        """The image."""
        image = BucketImage(self.address) if is_remote(self.address) else Path(self.address)
        return measured(image, self.mm_per_pixel)


@dataclass(frozen=True)
class Listed:
    """Number of images in a list, and notes to report."""

    images: int
    notes: tuple[str, ...]


def write_list(inputs: Iterable[str], out: Place, target: BinaryIO, pages: Pages = "one") -> Listed:
    """List the images of all inputs; images that occur twice are listed once.

    Raises
    ------
    InputError
        An input does not exist or has no image.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes: list[str] = []
    seen, duplicates, count = _Seen(), 0, 0
    # Names of files need not be text.
    schema = pa.schema([("address", pa.binary()), ("mm_per_pixel", pa.list_(pa.float64()))])
    with pq.ParquetWriter(target, schema) as writer:
        waiting: list[dict[str, object]] = []
        for given in inputs:
            empty = True
            for entry in entries_of(given, out, notes, pages):
                empty, address = False, os.fsencode(entry.address)
                if seen.add(address):
                    waiting.append({"address": address, "mm_per_pixel": entry.mm_per_pixel})
                else:
                    duplicates += 1
                if len(waiting) == PART:
                    writer.write_table(pa.Table.from_pylist(waiting, schema), row_group_size=PART)
                    count, waiting = count + PART, []
            if empty:
                raise InputError(f"{Place(given).shown}: contains no image")
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, schema), row_group_size=PART)
            count += len(waiting)
    if duplicates:
        notes.append(f"duplicates left out: {duplicates}")
    return Listed(count, tuple(notes))


def parts_of(place: Place) -> tuple[int, int]:
    """Number of parts and of images of a list."""
    import pyarrow.parquet as pq

    with place.open() as file:
        metadata = pq.read_metadata(file)
        return metadata.num_row_groups, metadata.num_rows


def part_of(place: Place, part: int) -> tuple[int, list[Source]]:
    """Number of the first image of a part, and its images."""
    import pyarrow.parquet as pq

    with place.open() as file:
        rows = pq.ParquetFile(file).read_row_group(part).to_pylist()
    entries = [
        Entry(os.fsdecode(row["address"]), None if row["mm_per_pixel"] is None else tuple(row["mm_per_pixel"])) for row in rows
    ]
    return part * PART, [entry.source for entry in entries]


class _Seen:
    """A set of addresses in 8 bytes each. Two of ten million different ones collide with a probability of 3 in a million."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def add(self, address: bytes) -> bool:
        """Add an address; false if it was there."""
        key = int.from_bytes(blake2b(address, digest_size=8).digest(), "little")
        at = int(np.searchsorted(self._sorted, np.uint64(key)))
        if key in self._recent or (at < len(self._sorted) and int(self._sorted[at]) == key):
            return False
        self._recent.add(key)
        if len(self._recent) > max(100_000, len(self._sorted) // 10):
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._recent, np.uint64, len(self._recent))]))
            self._recent.clear()
        return True


def entries_of(given: str, out: Place | None, notes: list[str], pages: Pages) -> Iterator[Entry]:
    """The images of one input, without the pictures in the folder `out`."""
    require_one_page(given, pages)
    place = Place(given)
    suffix = Path(place.name).suffix.lower()
    if suffix == ".parquet" and (is_remote(given) or Path(given).is_file()):
        yield from _of_manifest(place, notes)
    elif not is_remote(given):
        listing = find_any(
            [given], leave_out=[] if out is None or out.local is None else [out.local / name for name in RUN_FOLDERS]
        )
        notes += listing.notes
        yield from (Entry(str(item.path), item.mm_per_pixel) for item in in_pages(listing.items, pages))
    elif any(sign in place.shown for sign in "*["):
        yield from map(Entry, _of_glob(place))
    elif suffix in SUFFIXES:
        yield Entry(place.address)
    elif suffix in (".csv", ".jsonl"):
        raise InputError(f"{place.shown}: a manifest in a bucket must be a Parquet file; convert it")
    else:
        yield from (Entry(file.address) for file in place.walk() if Path(file.name).suffix.lower() in SUFFIXES)


def _of_glob(place: Place) -> Iterator[str]:
    """Images that match a pattern; `*` also matches slashes, and a question mark begins the options of the store."""
    pattern = place.shown
    head = pattern[: min(at for sign in "*[" if (at := pattern.find(sign)) >= 0)]
    options = place.address[len(place.shown) :]
    folder = Place(head.rpartition("/")[0] + options)
    for file in folder.walk():
        if fnmatch.fnmatchcase(file.shown, pattern) and Path(file.name).suffix.lower() in SUFFIXES:
            yield file.address


def _of_manifest(place: Place, notes: list[str]) -> Iterator[Entry]:
    """Images of the rows of a Parquet manifest, relative to its folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    base, mark, options = place.address.partition("?") if is_remote(place.address) else (place.address, "", "")
    folder = Place((base.rpartition("/")[0] or ".") + mark + options)
    with place.open() as file:
        try:
            table = pq.ParquetFile(file)
            roles = roles_of(table.schema_arrow.names)
        except (pa.ArrowException, ValueError) as error:
            raise InputError(f"{place.shown}: is no readable manifest ({str(error).splitlines()[0][:200]})") from None
        ignored = [name for name in table.schema_arrow.names if roles.get(name) not in ("path", "mm_per_pixel")]
        if ignored:
            listed = ", ".join(f"'{name}'" for name in ignored)
            notes.append(f"{place.shown}: unused columns: {listed} (used: path, mm_per_pixel)")
        column = next((name for name, role in roles.items() if role == "path"), None)
        if column is None:
            names = ", ".join(table.schema_arrow.names)
            raise InputError(f"{place.shown}: has no column 'path' (columns: {names}); name the column of the files 'path'")
        sizes = next((name for name, role in roles.items() if role == "mm_per_pixel"), None)
        row = 0
        for batch in table.iter_batches(ROWS, columns=[column] if sizes is None else [column, sizes]):
            for cells in batch.to_pylist():
                row += 1
                text, size = text_of(cells[column]), None if sizes is None else text_of(cells[sizes])
                if text is None:
                    raise InputError(f"{place.shown}: row {row} has no path; fill it in, or remove the row")
                if is_remote(place.address) and not is_remote(text) and Path(text).is_absolute():
                    raise InputError(f"{place.shown}: row {row} names a file of a machine; in a bucket, name images in buckets")
                try:
                    mm_per_pixel = parse_mm_per_pixel(size)
                except ValueError as error:
                    raise InputError(f"{place.shown}: row {row}: mm_per_pixel = '{size}': {error}") from None
                yield Entry(_joined(folder, text), mm_per_pixel)


def _joined(folder: Place, text: str) -> str:
    if is_remote(text) or Path(text).is_absolute():
        return text
    return str(folder.local / text) if folder.local is not None else (folder / text).address
