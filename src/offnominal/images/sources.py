"""What the user points at -> a list of items: an MVTec category, a folder, a glob, one image, or a manifest."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offnominal.errors import InputError
from offnominal.images.decode import SUFFIXES

GOOD = "good"
MANIFESTS = frozenset({".csv", ".jsonl", ".parquet"})
_COLUMNS = ("path", "split", "label", "mask")
_GOOD_LABELS = frozenset({"good", "ok", "normal", "nominal", "0", "false"})
_SPLITS = {
    "train": frozenset({"train", "training", "fit"}),
    "test": frozenset({"test", "testing", "val", "valid", "validation", "eval", "evaluation"}),
}
#: Folders that a run fills with pictures, beside one of these files: they are no images of parts.
RUN_FOLDERS = ("overlays", "receipts", "maps", "masks", "report_files", "suspects")
_RUN_FILES = ("results.jsonl", "metrics.json", "audit.csv")


@dataclass(frozen=True)
class Item:
    """One image file: `name` is its path relative to the data's root, `label` is `good`, a defect class, or None."""

    path: Path
    name: str
    split: str | None = None
    label: str | None = None
    mask: Path | None = None

    @property
    def good(self) -> bool:
        return self.label == GOOD


def normal_images(data: str | Path) -> list[Item]:
    """The good images to fit on, sorted by name.

    Of an MVTec root this is `train/good`; of a manifest the rows whose split is `train` (or absent) and whose label is
    good (or absent); of a folder or a glob everything, but for pictures that a run wrote.

    Raises:
        InputError: nothing is there, no image is among it, or a row is neither to be fitted on nor to be tested on.
    """
    path = _place(data)
    if path.is_dir() and (path / "train").is_dir():
        good = path / "train" / GOOD
        if not good.is_dir():
            raise InputError(f"{path}: has a train folder but no train/good; put the good images there")
        items = _in_folder(good, root=path, split="train", label=GOOD)
    else:
        items = [item for item in _to_fit_or_test(data) if item.split in (None, "train") and item.label in (None, GOOD)]
    if not items:
        raise InputError(f"{data}: holds no good image to fit on ({_accepted()})")
    return items


def _place(data: str | Path) -> Path:
    """Raises `InputError` for what names no place; an empty name would be the folder that one happens to be in."""
    if not isinstance(data, (str, Path)) or not str(data).strip():
        raise InputError(f"data = {str(data)[:60]!r}: name a folder, an MVTec root, a manifest or a glob of images")
    return Path(data)


def labelled_images(data: str | Path) -> list[Item]:
    """The images to evaluate on: labels, and masks where there are some.

    Raises:
        InputError: the data carries no labels, or not both good and defective images.
    """
    path = _place(data)
    if path.is_dir():
        if not (path / "test").is_dir():
            raise InputError(f"{path}: evaluate needs labels: an MVTec root with test/good and test/<defect>, or a manifest")
        items = [_with_mask(item, path) for item in _mvtec_test(path)]
    else:
        items = [item for item in _to_fit_or_test(data) if item.split != "train" and item.label is not None]
    if not items:
        raise InputError(f"{data}: no labelled test image; a manifest needs the columns path and label ('good' or a defect)")
    if not any(item.good for item in items) or all(item.good for item in items):
        raise InputError(f"{data}: evaluate needs both good and defective images; found only {items[0].label}")
    return items


def count_unlabelled(data: str | Path) -> int:
    """Rows of a manifest that `labelled_images` leaves out for want of a label; 0 for an MVTec root."""
    return 0 if Path(data).is_dir() else sum(item.split != "train" and item.label is None for item in _to_fit_or_test(data))


def any_images(inputs: Iterable[str | Path], leave_out: Iterable[Path] = ()) -> list[Item]:
    """The images to inspect: files, folders, globs and manifests, in the order given, each once; of an MVTec root those of
    `test`. What lies in a folder of `leave_out` is not among them.

    Raises:
        InputError: one of the inputs is missing or holds no image, or none but in such a folder.
    """
    items: dict[Path, Item] = {}
    not_these = [folder.absolute() for folder in leave_out]
    for given in inputs:
        path = Path(given)
        root = path.is_dir() and (path / "train" / GOOD).is_dir() and (path / "test").is_dir()
        found = _mvtec_test(path) if root else _listed(given)
        if not found:
            raise InputError(f"{given}: holds no image ({_accepted()})")
        found = [item for item in found if not any(item.path.absolute().is_relative_to(folder) for folder in not_these)]
        if not found:
            raise InputError(f"{given}: all its images lie in a folder that this run writes to; give another --out")
        for item in found:
            items.setdefault(item.path, item)
    if not items:
        raise InputError("no image was given")
    return list(items.values())


def _accepted() -> str:
    return "PNG, JPEG, BMP, TIFF and WebP are read"


def _listed(data: str | Path) -> list[Item]:
    path = Path(data)
    if path.is_dir():
        return _in_folder(path, root=path)
    if path.suffix.lower() in MANIFESTS and path.is_file():
        return _in_manifest(path)
    if path.is_file():
        return [Item(path, path.name)]
    if glob.has_magic(str(data)):
        found = sorted(Path(match) for match in glob.glob(str(data), recursive=True))
        written = {
            part for part in {path.parent for path in found} if part.name != path.parent.name and _written_by_a_run(part)
        }
        seen = [path for path in found if path.is_file() and path.suffix.lower() in SUFFIXES]
        return [Item(path, str(path)) for path in seen if path.parent not in written]
    raise InputError(
        f"{data}: does not exist; give a folder, an image, a glob in quotes, or a .csv, .jsonl or .parquet manifest"
    )


def _to_fit_or_test(data: str | Path) -> list[Item]:
    """Raises `InputError` where a manifest has a split that is neither to be fitted on nor to be tested on."""
    items = _listed(data)
    for number, item in enumerate(items, 1):
        if item.split not in (None, *_SPLITS):
            raise InputError(f"{data}: row {number} has split '{item.split}', which is neither train nor test")
    return items


def _in_folder(folder: Path, root: Path, split: str | None = None, label: str | None = None) -> list[Item]:
    # A link that leads nowhere is listed, so that it is missed: it cannot be read.
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir())
    written = {part for part in {path.parent for path in found} if part != folder and _written_by_a_run(part)}
    seen = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [Item(path, path.relative_to(root).as_posix(), split, label) for path in seen if path.parent not in written]


def _written_by_a_run(folder: Path) -> bool:
    """Whether a folder is where a run put its pictures."""
    return folder.name in RUN_FOLDERS and any((folder.parent / name).is_file() for name in _RUN_FILES)


def _mvtec_test(root: Path) -> list[Item]:
    folders = sorted(folder for folder in (root / "test").iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return [item for folder in folders for item in _in_folder(folder, root, "test", folder.name)]


def _with_mask(item: Item, root: Path) -> Item:
    """MVTec's `ground_truth/<defect>/<stem>_mask.png`; other endings are taken too."""
    if item.good or item.label is None:
        return item
    folder = root / "ground_truth" / item.label
    stem = item.path.relative_to(root / "test" / item.label).with_suffix("")
    for candidate in (f"{stem}_mask", f"{stem}"):
        for suffix in (".png", ".bmp", ".tif", ".tiff", ".jpg"):
            if (folder / f"{candidate}{suffix}").is_file():
                return replace(item, mask=folder / f"{candidate}{suffix}")
    return item


def _in_manifest(path: Path) -> list[Item]:
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path}: the manifest has no row")
    missing = [number for number, row in enumerate(rows, 1) if not row.get("path")]
    if missing:
        known = ", ".join(sorted(str(key) for key in rows[missing[0] - 1])) or "none"
        raise InputError(f"{path}: row {missing[0]} has no 'path' (columns: {known}); call the column of the files path")
    absolute = [str(Path(str(row["path"])).parent) for row in rows if Path(str(row["path"])).is_absolute()]
    shared = ""
    with suppress(ValueError):  # none, or on two drives: they share nothing
        shared = os.path.commonpath(absolute)
    items = [_item(row, path.parent, shared) for row in rows]
    by_name = {item.name: item.path for item in items if item.path == path.parent / item.name}  # the relative rows
    return [item if by_name.get(item.name, item.path) == item.path else replace(item, name=str(item.path)) for item in items]


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                header = file.readline()
                file.seek(0)
                return [dict(row) for row in csv.DictReader(file, delimiter=max(",;\t", key=header.count))]
        if path.suffix.lower() == ".jsonl":
            lines = enumerate(path.read_text("utf-8").split("\n"), 1)  # no other breaks
            return [_json_row(number, line) for number, line in lines if line.strip()]
        import pyarrow.parquet

        return [dict(row) for row in pyarrow.parquet.read_table(path).to_pylist()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: is not a readable manifest ({str(error).splitlines()[0]})") from None
    except ImportError:
        raise InputError(f"{path}: Parquet manifests need pyarrow: pip install 'offnominal[parquet]'") from None


def _json_row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"line {number}: each line must be a JSON object")
    return row


def _item(row: dict[str, Any], folder: Path, shared: str) -> Item:
    text = {column: str(row[column]).strip() for column in _COLUMNS if row.get(column) not in (None, "")}
    label = text.get("label")
    split = text.get("split")
    return Item(
        path=folder / text["path"],
        name=os.path.relpath(text["path"], shared) if shared and Path(text["path"]).is_absolute() else text["path"],
        split=split and next((name for name, known in _SPLITS.items() if split.lower() in known), split),
        label=GOOD if label is not None and label.lower() in _GOOD_LABELS else label,
        mask=folder / text["mask"] if "mask" in text else None,
    )
