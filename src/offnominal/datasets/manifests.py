"""Manifests to items, and checks against learning unlabelled defects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offnominal.datasets.columns import Role, label_of, looks_like, roles_of, split_of, text_of, unused
from offnominal.datasets.items import DEFECT_WORDS, GOOD_WORDS, SPLITS, Item, identity, word
from offnominal.datasets.tables import read_table
from offnominal.errors import InputError
from offnominal.setting_values import parse_mm_per_pixel

#: The columns that are used, for notes.
_USED = "path, split, label, mask, group, mm_per_pixel"


@dataclass(frozen=True)
class Manifest:
    """The items of a manifest, and what to report about it.

    Attributes
    ----------
    path
        The file.
    items
        One item per row; two rows may name the same image.
    roles
        The roles of its columns.
    notes
        One sentence each.
    suspect
        Unrecognised columns that seem to hold labels or splits, with the likely role.
    """

    path: Path
    items: tuple[Item, ...]
    roles: frozenset[Role]
    notes: tuple[str, ...]
    suspect: tuple[tuple[str, Role], ...]


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises
    ------
    InputError
        The file cannot be read, it is empty, a row has no path, two columns mean the same, or two rows contradict each other.
    """
    table = read_table(path)
    if not table.rows:
        raise InputError(f"{path}: the manifest has no rows")
    try:
        roles = roles_of(table.columns)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    rows: list[dict[Role, Any]] = [
        {roles[name]: text_of(value) for name, value in row.items() if name in roles} for row in table.rows
    ]
    missing = [number for number, row in enumerate(rows, 1) if row.get("path") is None]
    if missing:
        names = ", ".join(sorted(str(key) for key in table.rows[missing[0] - 1])) or "none"
        raise InputError(f"{path}: row {missing[0]} has no 'path' (columns: {names}); name the column of the files 'path'")
    rows = _with_slashes(rows, path)
    absolute = [str(Path(row["path"]).parent) for row in rows if Path(row["path"]).is_absolute()]
    shared = ""
    with suppress(ValueError):  # no absolute path, or paths on two drives
        shared = os.path.commonpath(absolute)
    items = [_item(number, row, path, shared) for number, row in enumerate(rows, 1)]
    by_name = {item.name: item.path for item in items if item.path == path.parent / item.name}  # rows with relative paths
    items = [item if by_name.get(item.name, item.path) == item.path else replace(item, name=str(item.path)) for item in items]
    _require_agreement(path, items)
    ignored = unused(table.columns, roles)
    notes = []
    if ignored:
        listed = ", ".join(f"'{name}'" for name in ignored)
        notes.append(f"{path}: unused columns: {listed} (used: {_USED})")
    present = set(roles.values())
    suspect = [
        (name, role)
        for name in ignored
        if name not in roles and (role := looks_like(name, _values(table.rows, name))) is not None and not _has(present, role)
    ]
    return Manifest(path, tuple(items), frozenset(present), tuple(notes), tuple(suspect))


def require_only_good(manifest: Manifest) -> list[str]:
    """Check that no row of unknown kind would be learned as good, and return notes to report.

    Raises
    ------
    InputError
        A column or a row suggests that defects or test images may be among the images to fit on.
    """
    path, items = manifest.path, manifest.items
    for column, role in manifest.suspect:
        raise InputError(
            f"{path}: the column '{column}' seems to hold {role}s and is not recognised; name it '{role}', or remove it"
        )
    rows = list(enumerate(items, 1))
    to_fit = [(number, item) for number, item in rows if item.split in (None, "train") and (item.good or item.label is None)]
    defects = any(item.label is not None and not item.good for item in items)
    splits = any(item.split is not None for item in items)
    notes = []
    for number, item in to_fit:
        if item.label is not None:
            continue
        if item.mask is not None:
            raise InputError(f"{path}: row {number} has a mask and no label; label it good, or with its kind of defect")
        if item.split is None and (defects or splits):
            other = "label" if defects else "split"
            raise InputError(f"{path}: row {number} has no {other}, others have one; fill it in, or remove the row")
    blank = sum(item.label is None for _, item in to_fit)
    if blank and manifest.roles & {"label", "good"}:
        notes.append(f"{path}: rows without a label, taken as good: {blank}")
    both = sum(item.split is None for _, item in to_fit)
    if both and splits:
        notes.append(f"{path}: good rows without a split, used by fit and by evaluate: {both}")
    require_no_defect_folder(path, [item for _, item in to_fit if item.label is None])
    return notes


def require_no_defect_folder(data: str | Path, items: Sequence[Item]) -> None:
    """Check that no unlabelled image lies in a folder named after a defect.

    Raises
    ------
    InputError
        One does, so it may not be good.
    """
    for item in items:
        folders = Path(item.name).parts[:-1]
        words = [word(part) for part in folders]
        wrong = next((part for part, plain in zip(folders, words, strict=True) if plain in DEFECT_WORDS), None)
        if "ground_truth" in words:
            wrong = folders[words.index("ground_truth")]
        for depth, plain in enumerate(words[:-1]):
            if plain in SPLITS["test"] and words[depth + 1] not in GOOD_WORDS and item.split != "train":
                wrong = f"{folders[depth]}/{folders[depth + 1]}"
        if wrong is not None:
            raise InputError(
                f"{data}: '{item.name}' lies in '{wrong}', so it may show a defect; give only the folder of good images, or a "
                "manifest with the columns path and label"
            )


def _values(rows: Sequence[dict[str, Any]], column: str) -> Iterator[str]:
    for row in rows:
        text = text_of(row.get(column))
        if text is not None:
            yield text


def _has(roles: set[Role], role: Role) -> bool:
    return role in roles or (role == "label" and "good" in roles)


def _with_slashes(rows: list[dict[Role, Any]], manifest: Path) -> list[dict[Role, Any]]:
    """Replace backslashes in Windows paths, except in paths that exist as written.

    Raises
    ------
    InputError
        No path with backslashes exists in either form.
    """
    cells: list[tuple[int, Role]] = []
    existing = 0
    for index, row in enumerate(rows):
        for role in ("path", "mask"):
            text = row.get(role)
            if os.sep == "/" and text is not None and "\\" in text and not os.path.lexists(manifest.parent / text):
                cells.append((index, role))
                existing += os.path.lexists(manifest.parent / text.replace("\\", "/"))
    if cells and not existing:
        index, role = cells[0]
        raise InputError(
            f"{manifest}: row {index + 1}: '{rows[index][role]}' is a Windows path that does not exist here; write paths "
            "relative to the manifest, with slashes"
        )
    changed = [dict(row) for row in rows]
    for index, role in cells:
        changed[index][role] = changed[index][role].replace("\\", "/")
    return changed


def _item(number: int, row: dict[Role, Any], manifest: Path, shared: str) -> Item:
    folder, text, split, mask = manifest.parent, row["path"], row.get("split"), row.get("mask")
    role: Role = "good" if "good" in row else "label"
    label = row.get(role)
    try:
        label = None if label is None else label_of(label, role)
    except ValueError as error:
        raise InputError(f"{manifest}: row {number}: {error}; use a column 'label' with good or the kind of defect") from None
    try:
        mm_per_pixel = parse_mm_per_pixel(row.get("mm_per_pixel"))
    except ValueError as error:
        raise InputError(f"{manifest}: row {number}: mm_per_pixel = '{row['mm_per_pixel']}': {error}") from None
    return Item(
        path=folder / text,
        name=os.path.relpath(text, shared) if shared and Path(text).is_absolute() else text,
        split=None if split is None else split_of(split),
        label=label,
        mask=None if mask is None else folder / mask,
        group=row.get("group"),
        mm_per_pixel=mm_per_pixel,
    )


def _require_agreement(path: Path, items: Sequence[Item]) -> None:
    """Raise `InputError` if two rows give one image different labels (good or defective) or splits."""
    first: dict[str, tuple[int, Item]] = {}
    for number, item in enumerate(items, 1):
        earlier, other = first.setdefault(identity(item.path), (number, item))
        labels = None not in (item.label, other.label) and item.good != other.good
        if labels or item.split != other.split:
            kind = "labels" if labels else "splits"
            raise InputError(
                f"{path}: rows {earlier} and {number} are the same image with different {kind}; remove one of them"
            )
