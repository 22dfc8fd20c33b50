"""Columns of a manifest: recognised names, and the meaning of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from offnominal.datasets.items import DEFECT_WORDS, GOOD, GOOD_WORDS, SPLITS, word

Role = Literal["path", "split", "label", "good", "mask", "group", "part", "view", "mm_per_pixel"]

#: Column names of each role, as normalised by `column_name`. A column of role `good` holds booleans: true means good.
_NAMES: dict[Role, str] = {
    "path": "path file filename file_name filepath file_path image imagename image_name imagepath image_path imagefile "
    "image_file image_filename img img_name img_path img_file",
    "split": "split subset set phase partition data_split dataset_split data_set image_set",
    "label": "label labels label_name class classname class_name class_label category target defect defects defective "
    "defect_type defect_class defect_name defect_label is_defect is_defective anomaly anomaly_type anomaly_class "
    "anomaly_label anomalous is_anomaly is_anomalous",
    "good": "good is_good ok is_ok normal is_normal pass passed",
    "mask": "mask maskpath mask_path maskfile mask_file mask_filename mask_name ground_truth ground_truth_path groundtruth "
    "gt gt_path gt_mask segmentation segmentation_path segmentation_mask seg_path",
    "group": "group group_id",
    "part": "part",
    "view": "view",
    "mm_per_pixel": "mm_per_pixel",
}
_ROLES: dict[str, Role] = {name: role for role, names in _NAMES.items() for name in names.split()}
#: Names that mean `group`, if no column has that name and only one of these exists.
_GROUPS = ("lot", "batch", "session")
#: Roles that are recognised and not used.
_UNUSED: tuple[Role, ...] = ("part", "view")
#: Words in the name of a column that suggest labels or splits.
_LABEL_PARTS = {*GOOD_WORDS, *DEFECT_WORDS, "label", "class", "category", "target", "verdict"}
_SPLIT_PARTS = {"split", "subset", "train", "test", "val", "validation", "partition"}
#: Texts of empty cells, in lower case.
_EMPTY = frozenset({"", "nan", "<na>", "null", "nat"})
_TRUE, _FALSE = frozenset({"true", "yes", "y", "t", "1"}), frozenset({"false", "no", "n", "f", "0"})


def column_name(text: object) -> str:
    """Normalise a header: without byte-order mark, outer blanks and quotes; lower case, words joined by `_`."""
    plain = str(text).replace("\ufeff", "").replace("\u200b", "").strip().strip("\"'").casefold()
    return re.sub(r"[\s\-.]+", "_", plain.strip())


def roles_of(columns: Iterable[str]) -> dict[str, Role]:
    """Map column names to roles; unrecognised columns are left out.

    Raises
    ------
    ValueError
        Two columns have the same role.
    """
    names = list(columns)
    roles: dict[str, Role] = {}
    for column in names:
        role = _ROLES.get(column_name(column))
        if role is None:
            continue
        other = next((name for name, its_role in roles.items() if _same(its_role, role)), None)
        if other is not None:
            shown = "label" if role == "good" else role
            raise ValueError(f"the columns '{other}' and '{column}' both mean {shown}; rename or remove one")
        roles[column] = role
    groups = [column for column in names if column_name(column) in _GROUPS]
    if "group" not in roles.values() and len(groups) == 1:
        roles[groups[0]] = "group"
    return roles


def _same(a: Role, b: Role) -> bool:
    return a == b or {a, b} == {"label", "good"}


def unused(columns: Iterable[str], roles: Mapping[str, Role]) -> list[str]:
    """List the columns that are not read."""
    return [column for column in columns if roles.get(column) in (None, *_UNUSED)]


def text_of(value: Any) -> str | None:
    """A cell as text; None if it is empty or NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text.casefold() in _EMPTY else text


def label_of(text: str, role: Role) -> str:
    """Read a cell of a `label` or `good` column: `good`, or the kind of defect.

    Raises
    ------
    ValueError
        A cell of a `good` column is neither true nor false.
    """
    plain = word(text)
    number = _number(text)
    if number is not None:
        plain = f"{number:g}"
    if role == "good":
        if plain in _TRUE or plain in GOOD_WORDS:
            return GOOD
        if plain in _FALSE or plain in DEFECT_WORDS:
            return "defect"
        raise ValueError(f"'{text}' is neither yes nor no")
    if plain in GOOD_WORDS or plain in _FALSE:
        return GOOD
    if plain in _TRUE and number is None:
        return "defect"
    return text if number is None else plain


def split_of(text: str) -> str:
    """`train` or `test`; other words are returned unchanged."""
    return next((name for name, words in SPLITS.items() if text.casefold() in words), text)


def looks_like(column: str, values: Iterable[str]) -> Role | None:
    """Guess from its name and values whether an unrecognised column holds splits or labels."""
    parts = set(column_name(column).split("_"))
    words = {word(value) for value in values}
    if not words:
        return None
    if parts & _SPLIT_PARTS or words & SPLITS["test"]:
        return "split"
    if parts & _LABEL_PARTS or words & DEFECT_WORDS or (words & GOOD_WORDS and words - GOOD_WORDS):
        return "label"
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
