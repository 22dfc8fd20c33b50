"""A manifest -> items: what its columns say of each image, and what a fit must not learn in silence."""

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

_USE = "path, split, label, mask, group"


@dataclass(frozen=True)
class Manifest:
    """The items of a manifest, one a row, and what to report of it.

    Attributes:
        path: the file.
        items: one for each row; two rows may name one image.
        roles: the roles that some column has.
        notes: a sentence each.
        suspect: a column that is not understood and seems to hold labels or splits, with the role that it seems to have.
    """

    path: Path
    items: tuple[Item, ...]
    roles: frozenset[Role]
    notes: tuple[str, ...]
    suspect: tuple[tuple[str, Role], ...]


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        InputError: it cannot be read, a row has no path, two columns mean the same, or two rows contradict each other.
    """
    table = read_table(path)
    if not table.rows:
        raise InputError(f"{path}: the manifest has no row")
    try:
        roles = roles_of(table.columns)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    rows: list[dict[Role, Any]] = [
        {roles[name]: text_of(value) for name, value in row.items() if name in roles} for row in table.rows
    ]
    missing = [number for number, row in enumerate(rows, 1) if row.get("path") is None]
    if missing:
        known = ", ".join(sorted(str(key) for key in table.rows[missing[0] - 1])) or "none"
        raise InputError(f"{path}: row {missing[0]} has no 'path' (columns: {known}); call the column of the files path")
    rows = _with_slashes(rows, path)
    absolute = [str(Path(row["path"]).parent) for row in rows if Path(row["path"]).is_absolute()]
    shared = ""
    with suppress(ValueError):  # none, or on two drives: they share nothing
        shared = os.path.commonpath(absolute)
    items = [_item(number, row, path, shared) for number, row in enumerate(rows, 1)]
    by_name = {item.name: item.path for item in items if item.path == path.parent / item.name}  # the relative rows
    items = [item if by_name.get(item.name, item.path) == item.path else replace(item, name=str(item.path)) for item in items]
    _require_agreement(path, items)
    left = unused(table.columns, roles)
    notes = []
    if left:
        listed = ", ".join(f"'{name}'" for name in left)
        notes.append(f"{path}: columns without use: {listed} (used: {_USE})")
    held = set(roles.values())
    suspect = [
        (name, seems)
        for name in left
        if name not in roles and (seems := looks_like(name, _values(table.rows, name))) is not None and not _has(held, seems)
    ]
    return Manifest(path, tuple(items), frozenset(held), tuple(notes), tuple(suspect))


def require_only_good(manifest: Manifest) -> list[str]:
    """Check that no row of unknown kind would be learned as good; returns what to report.

    Raises:
        InputError: a column or a row says that defects or test images may be among those to fit on.
    """
    path, items = manifest.path, manifest.items
    for column, role in manifest.suspect:
        raise InputError(
            f"{path}: the column '{column}' seems to hold {role}s and is not understood; call it {role}, or remove it"
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
            raise InputError(f"{path}: row {number} has a mask and no label; label it good or by its defect")
        if item.split is None and (defects or splits):
            other = "label" if defects else "split"
            raise InputError(f"{path}: row {number} has no {other}, others have one; fill it in, or remove the row")
    blank = sum(item.label is None for _, item in to_fit)
    if blank and manifest.roles & {"label", "good"}:
        notes.append(f"{path}: rows without a label that are taken as good: {blank}")
    both = sum(item.split is None for _, item in to_fit)
    if both and splits:
        notes.append(f"{path}: good rows without a split, which serve fit and evaluate: {both}")
    require_no_defect_folder(path, [item for _, item in to_fit if item.label is None])
    return notes


def require_no_defect_folder(data: str | Path, items: Sequence[Item]) -> None:
    """Check that no image that is taken as good for want of a label lies in a folder whose name says otherwise.

    Raises:
        InputError: one does.
    """
    for item in items:
        folders = Path(item.name).parts[:-1]
        said = [word(part) for part in folders]
        wrong = next((part for part, plain in zip(folders, said, strict=True) if plain in DEFECT_WORDS), None)
        if "ground_truth" in said:
            wrong = folders[said.index("ground_truth")]
        for at, plain in enumerate(said[:-1]):
            if plain in SPLITS["test"] and said[at + 1] not in GOOD_WORDS and item.split != "train":
                wrong = f"{folders[at]}/{folders[at + 1]}"
        if wrong is not None:
            raise InputError(
                f"{data}: '{item.name}' lies in '{wrong}', so it may show a defect; point at the good images alone, or give a "
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
    """Paths of Windows with slashes, unless a file has that very name.

    Raises:
        InputError: none of them is found in either form.
    """
    wanted: list[tuple[int, Role]] = []
    found = 0
    for at, row in enumerate(rows):
        for role in ("path", "mask"):
            text = row.get(role)
            if os.sep == "/" and text is not None and "\\" in text and not os.path.lexists(manifest.parent / text):
                wanted.append((at, role))
                found += os.path.lexists(manifest.parent / text.replace("\\", "/"))
    if wanted and not found:
        at, role = wanted[0]
        raise InputError(
            f"{manifest}: row {at + 1}: '{rows[at][role]}' is a Windows path that leads nowhere here; write paths relative to "
            "the manifest, with slashes"
        )
    changed = [dict(row) for row in rows]
    for at, role in wanted:
        changed[at][role] = changed[at][role].replace("\\", "/")
    return changed


def _item(number: int, row: dict[Role, Any], manifest: Path, shared: str) -> Item:
    folder, text, split, mask = manifest.parent, row["path"], row.get("split"), row.get("mask")
    role: Role = "good" if "good" in row else "label"
    label = row.get(role)
    try:
        label = None if label is None else label_of(label, role)
    except ValueError as error:
        raise InputError(f"{manifest}: row {number}: {error}; call the column label, with good or the kind of defect") from None
    return Item(
        path=folder / text,
        name=os.path.relpath(text, shared) if shared and Path(text).is_absolute() else text,
        split=None if split is None else split_of(split),
        label=label,
        mask=None if mask is None else folder / mask,
        group=row.get("group"),
    )


def _require_agreement(path: Path, items: Sequence[Item]) -> None:
    """Raises `InputError` where two rows call one image good and defective, or put it into two splits."""
    first: dict[str, tuple[int, Item]] = {}
    for number, item in enumerate(items, 1):
        before, other = first.setdefault(identity(item.path), (number, item))
        labels = None not in (item.label, other.label) and item.good != other.good
        if labels or item.split != other.split:
            kind = "labels" if labels else "splits"
            raise InputError(f"{path}: rows {before} and {number} are the same image with different {kind}; remove one of them")
