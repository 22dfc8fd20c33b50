"""The page of two runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.reports.entries import embedded
from offnominal.reports.html import MEANING, render
from offnominal.reports.overlay import Picture, shrink
from offnominal.reports.plots import score_pairs

#: Longest side of a picture of a changed image.
_SIDE = 420


@dataclass(frozen=True)
class ChangedPictures:
    """An image whose verdict changed; pairs are (A, B)."""

    path: str
    label: str | None
    kind: str
    better: bool | None
    scores: tuple[float, float]
    p_values: tuple[float, float]
    pictures: tuple[Picture | None, Picture | None]


def comparison_page(
    told: Mapping[str, Any],
    scores: npt.NDArray[np.floating],
    good: npt.NDArray[np.bool_],
    changed: Sequence[ChangedPictures],
) -> str:
    """The page.

    Args:
        told: the content of `compare.json`.
        scores: (n, 2) scores of A and B.
        good: (n,) which of those images are labelled good (or have no label).
        changed: images whose verdict changed, in the order in which they are shown.
    """
    names = {**{key: name for key, (name, _) in MEANING.items()}, "flagged_rate": "Flagged"}
    return render(
        "compare.html.j2",
        ("theme.js",),
        title="Two runs compared",
        warnings=_cautions(told),
        told=told,
        names=names,
        chart=score_pairs(scores, good),
        cards=[
            {
                "path": each.path,
                "label": each.label,
                "kind": each.kind,
                "better": each.better,
                "sides": [
                    {"name": name, "score": score, "p_value": p_value, "src": None if p is None else embedded(shrink(p, _SIDE))}
                    for name, score, p_value, p in zip("AB", each.scores, each.p_values, each.pictures, strict=True)
                ],
            }
            for each in changed
        ],
    )


def _cautions(told: Mapping[str, Any]) -> list[str]:
    missing = [(told[f"only_{side}"], side.upper()) for side in "ab" if told[f"only_{side}"]]
    return [f"{count} images were judged by run {side} alone; they are left out here." for count, side in missing]
