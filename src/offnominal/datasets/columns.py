"""The columns of a manifest: which names are understood, and what their values mean."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from offnominal.datasets.items import DEFECT_WORDS, GOOD, GOOD_WORDS, SPLITS, word

Role = Literal["path", "split", "label", "good", "mask", "group", "part", "view"]

#: The names of each role, as `column_name` writes them. `good` is a label whose truth means good.
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
}
_ROLES: dict[str, Role] = {name: role for role, names in _NAMES.items() for name in names.split()}
#: Names that mean `group` where no column is called so, and only one of these is there.
_GROUPS = ("lot", "batch", "session")
#: Columns that are known and have no use in these commands.
_WITHOUT_USE: tuple[Role, ...] = ("part", "view")
#: Parts of a column's name that say that it holds labels or splits.
_LABEL_PARTS = {*GOOD_WORDS, *DEFECT_WORDS, "label", "class", "category", "target", "verdict"}
_SPLIT_PARTS = {"split", "subset", "train", "test", "val", "validation", "partition"}
_ABSENT = frozenset({"", "nan", "<na>", "null", "nat"})
_TRUE, _FALSE = frozenset({"true", "yes", "y", "t", "1"}), frozenset({"false", "no", "n", "f", "0"})


def column_name(text: object) -> str:
    """A header as it is compared: without blanks, byte-order mark and quotes around it, in lower case, words joined by `_`."""
    plain = str(text).replace("\ufeff", "").replace("\u200b", "").strip().strip("\"'").casefold()
    return re.sub(r"[\s\-.]+", "_", plain.strip())


def roles_of(columns: Iterable[str]) -> dict[str, Role]:
    """Which role each column has; columns without one are left out.

    Raises:
        ValueError: two columns have the same role.
    """
    names = list(columns)
    found: dict[str, Role] = {}
    for column in names:
        role = _ROLES.get(column_name(column))
        if role is None:
            continue
        other = next((known for known, its in found.items() if _same(its, role)), None)
        if other is not None:
            shown = "label" if role == "good" else role
            raise ValueError(f"the columns '{other}' and '{column}' both mean {shown}; rename or remove one")
        found[column] = role
    groups = [column for column in names if column_name(column) in _GROUPS]
    if "group" not in found.values() and len(groups) == 1:
        found[groups[0]] = "group"
    return found


def _same(a: Role, b: Role) -> bool:
    return a == b or {a, b} == {"label", "good"}


def unused(columns: Iterable[str], roles: Mapping[str, Role]) -> list[str]:
    """The columns that nothing is read from."""
    return [column for column in columns if roles.get(column) in (None, *_WITHOUT_USE)]


def text_of(value: Any) -> str | None:
    """A cell as text, None where it is empty or not a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text.casefold() in _ABSENT else text


def label_of(text: str, role: Role) -> str:
    """`good` or the kind of defect that a cell of a `label` or `good` column says.

    Raises:
        ValueError: a `good` column says neither yes nor no.
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
        raise ValueError(f"'{text}' says neither yes nor no")
    if plain in GOOD_WORDS or plain in _FALSE:
        return GOOD
    if plain in _TRUE and number is None:
        return "defect"
    return text if number is None else plain


def split_of(text: str) -> str:
    """`train` or `test`; another word as it is."""
    return next((name for name, known in SPLITS.items() if text.casefold() in known), text)


def looks_like(column: str, values: Iterable[str]) -> Role | None:
    """`split` or `label` where a column that is not understood seems to hold that, by its name or its values."""
    parts = set(column_name(column).split("_"))
    said = {word(value) for value in values}
    if not said:
        return None
    if parts & _SPLIT_PARTS or said & SPLITS["test"]:
        return "split"
    if parts & _LABEL_PARTS or said & DEFECT_WORDS or (said & GOOD_WORDS and said - GOOD_WORDS):
        return "label"
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
