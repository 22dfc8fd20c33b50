"""One image of a data set, and the words for good, defect, train and test."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: The label of good images.
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
    """One image of a data set.

    Attributes
    ----------
    path
        The file; `stack.tif#2` is the second page of `stack.tif`.
    name
        Its path relative to the root of the data.
    split
        `train`, `test`, another word of a manifest, or None.
    label
        `good`, a defect class, or None.
    mask
        The ground-truth mask, or None.
    group
        Images of one group (a part, a lot, a camera session) are held out together.
    mm_per_pixel
        Width and height of a pixel in mm, or None.

    Examples
    --------
    >>> Item(Path("bottle/test/crack/000.png"), "test/crack/000.png", split="test", label="crack").good
    False
    """

    path: Path
    name: str
    split: str | None = None
    label: str | None = None
    mask: Path | None = None
    group: str | None = None
    mm_per_pixel: tuple[float, float] | None = None

    @property
    def good(self) -> bool:
        """Whether the image is labelled good."""
        return self.label == GOOD


def word(text: str) -> str:
    """Normalise a label or a folder name: lower case, words joined by `_`."""
    return "_".join(text.casefold().replace("-", " ").replace("_", " ").split())


def unique(items: Iterable[Item]) -> tuple[list[Item], int]:
    """Remove duplicates, from overlapping inputs or linked folders, and count them.

    A link to a file counts as an image of its own.
    """
    kept: dict[str, Item] = {}
    count = 0
    for item in items:
        count += 1
        kept.setdefault(identity(item.path), item)
    return list(kept.values()), count - len(kept)


def identity(path: Path) -> str:
    """The resolved folder of a file, joined with its name."""
    return os.path.join(real_path(path.parent), path.name)


def real_path(path: Path) -> str:
    """Resolve the links of a path; an invalid path is returned unchanged."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)
