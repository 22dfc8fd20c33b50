"""The page that compares two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.reports.entries import embedded
from offnominal.reports.overlay import Picture, shrink
from offnominal.reports.plots import score_pairs
from offnominal.reports.report_page import MEANING, render

#: Longest side of a heat map in the page, in pixels.
_SIDE = 420


@dataclass(frozen=True)
class ChangedPictures:
    """An image whose verdict changed; pairs are (A, B).

    Attributes
    ----------
    path, label
        Path of the image, and its label or None.
    kind
        The change in a few words.
    better
        Whether run B is right and run A wrong; None without a label.
    scores, p_values
        Scores and p-values in both runs.
    pictures
        (H, W, 3) heat maps of both runs, None without one.

    Examples
    --------
    >>> ChangedPictures("a.png", "crack", "now found", True, (3.0, 7.5), (0.2, 0.01), (None, None)).better
    True
    """

    path: str
    label: str | None
    kind: str
    better: bool | None
    scores: tuple[float, float]
    p_values: tuple[float, float]
    pictures: tuple[Picture | None, Picture | None]


def comparison_page(
    comparison: Mapping[str, Any],
    scores: npt.NDArray[np.floating],
    good: npt.NDArray[np.bool_],
    changed: Sequence[ChangedPictures],
) -> str:
    """HTML page of a comparison.

    Parameters
    ----------
    comparison
        Content of `compare.json`.
    scores
        (n, 2) scores of A and B.
    good
        (n,) whether an image is labelled good or has no label.
    changed
        Images whose verdict changed, in the order in which they are shown.

    Examples
    --------
    >>> comparison = {"a": "old", "b": "new", "images": 1, "only_a": 0, "only_b": 2, "changed": []}
    >>> comparison |= {"figures": {}, "classes": {}, "pixel_figures": {}, "bootstrap": {"confidence": 0.95, "resamples": 1000}}
    >>> page = comparison_page(comparison, np.array([[3.0, 4.0]]), np.array([True]), changed=[])
    >>> "2 images are in run B only" in page
    True
    """
    names = {**{key: name for key, (name, _) in MEANING.items()}, "flagged_rate": "Flagged"}
    return render(
        "compare.html.j2",
        ("theme.js",),
        title="Two runs compared",
        warnings=_warnings(comparison),
        comparison=comparison,
        names=names,
        chart=score_pairs(scores, good),
        cards=[
            {
                "path": image.path,
                "label": image.label,
                "kind": image.kind,
                "better": image.better,
                "sides": [
                    {
                        "name": name,
                        "score": score,
                        "p_value": p_value,
                        "src": None if picture is None else embedded(shrink(picture, _SIDE)),
                    }
                    for name, score, p_value, picture in zip("AB", image.scores, image.p_values, image.pictures, strict=True)
                ],
            }
            for image in changed
        ],
    )


def _warnings(comparison: Mapping[str, Any]) -> list[str]:
    missing = [(comparison[f"only_{side}"], side.upper()) for side in "ab" if comparison[f"only_{side}"]]
    return [f"{count} images are in run {side} only and are left out." for count, side in missing]
