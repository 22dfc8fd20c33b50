"""One image of a data set, and the words that say good, defect, train and test."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GOOD = "good"
#: Labels and folder names that mean good, in lower case.
GOOD_WORDS = frozenset({GOOD, "ok", "okay", "normal", "nominal", "pass", "passed", "no_defect", "defect_free"})
#: Labels and folder names that mean a defect, whatever its kind, in lower case.
DEFECT_WORDS = (
    frozenset({"defect", "defective", "defects", "fault", "faults", "faulty", "bad", "broken", "damaged", "scrap"})
    | frozenset({"anomaly", "anomalies", "anomalous", "abnormal", "fail", "failed", "reject", "rejected", "rejects"})
    | frozenset({"ng", "ko", "nok", "nio", "not_good", "not_ok"})
)
SPLITS = {
    "train": frozenset({"train", "training", "fit"}),
    "test": frozenset({"test", "testing", "val", "valid", "validation", "eval", "evaluation"}),
}


@dataclass(frozen=True)
class Item:
    """One image file.

    Attributes:
        path: the file; `stack.tif#2` is the second page of `stack.tif`.
        name: its path relative to the root of the data.
        split: `train`, `test`, another word of a manifest, or None.
        label: `good`, a defect class, or None.
        mask: the ground-truth mask, if there is one.
        group: images of one group (a part, a lot, a camera session) are held out together.
    """

    path: Path
    name: str
    split: str | None = None
    label: str | None = None
    mask: Path | None = None
    group: str | None = None

    @property
    def good(self) -> bool:
        """Whether the image is labelled good."""
        return self.label == GOOD


def word(text: str) -> str:
    """A label or a folder name in lower case, with `_` between its words."""
    return "_".join(text.casefold().replace("-", " ").replace("_", " ").split())


def once(items: Iterable[Item]) -> tuple[list[Item], int]:
    """Each image once, however many inputs or linked folders lead to it, and the number of items left out.

    A link to a file is an image of its own, by its own name.
    """
    kept: dict[str, Item] = {}
    count = 0
    for item in items:
        count += 1
        kept.setdefault(identity(item.path), item)
    return list(kept.values()), count - len(kept)


def identity(path: Path) -> str:
    """The real folder of a file, and its name there."""
    return os.path.join(real_path(path.parent), path.name)


def real_path(path: Path) -> str:
    """Where a path leads; the path itself where it holds what no path may hold."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)
