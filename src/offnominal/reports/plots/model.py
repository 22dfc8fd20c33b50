"""Charts of a fitted model: how its bank covers the normal patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offnominal.reports.plots.chart import Chart, Dots, Line
from offnominal.types import Float, require

#: Distances that are worked out together.
_CELLS = 1 << 24


def kcenter_radii(bank: Float) -> npt.NDArray[np.float64]:
    """(M - 1,) covering radius after 1, 2, ... M - 1 greedy centres, from the (M, D) bank in its order of choice.

    Greedy k-center (Gonzalez 1985) takes as the next centre the patch that is farthest from the centres so far, so the distance
    of centre i to the nearest of those before it is the radius that they cover: exact, without the patches that were left out.
    """
    require(bank.ndim == 2 and len(bank) > 1, f"bank must be (M, D) with M > 1, got {bank.shape}")
    centred = bank.astype(np.float64) - bank.mean(0, dtype=np.float64)
    square = np.einsum("md,md->m", centred, centred)
    radii = np.empty(len(bank) - 1)
    block = max(1, _CELLS // len(bank))
    for start in range(1, len(bank), block):
        rows = np.arange(start, min(start + block, len(bank)))
        earlier = square[rows, None] + square[None, : rows[-1]] - 2 * centred[rows] @ centred[: rows[-1]].T
        earlier[np.arange(rows[-1])[None, :] >= rows[:, None]] = np.inf
        radii[rows - 1] = np.sqrt(np.maximum(earlier.min(1), 0))
    return radii


def radius_growth(bank: Float, radius: float) -> Chart:
    """Covering radius over the number of centres; `radius` is that of the whole bank."""
    radii = np.append(kcenter_radii(bank), radius)
    points = np.column_stack([np.arange(1, len(bank) + 1), radii]).astype(np.float64)
    return Chart(
        "radius",
        "Covering radius",
        f"No normal patch was farther from the bank than this. Where the line is level a larger bank gains little; "
        f"it ends at {radius:.2f} with {len(bank):,} patches.",
        "patches in the bank",
        "covering radius (standardised features)",
        (1, len(bank)),
        (0, float(radii.max()) * 1.05),
        (Line(points, "good", "covering radius"),),
    )


def bank_coverage(bank: Float, normal: Float | None = None) -> Chart:
    """The (M, D) bank, and some (N, D) `normal` patches, on the two main directions of the bank.

    Principal components by singular values of the centred bank; the share of variance that the two hold is in the labels.
    """
    require(bank.ndim == 2 and len(bank) > 1, f"bank must be (M, D) with M > 1, got {bank.shape}")
    middle = bank.mean(0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(bank - middle, full_matrices=False)
    share = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    axes = np.vstack([axes, np.zeros_like(axes[:1])])[:2]
    share = np.append(share, 0.0)
    # The sign of a component is arbitrary: fixed, so that two fits can be compared by the eye.
    axes = axes * np.where(axes[np.arange(2), np.abs(axes).argmax(1)] < 0, -1, 1)[:, None]
    flat = (bank - middle) @ axes.T
    groups = [Dots(flat, "defect", f"bank ({len(bank):,})", small=True)]
    if normal is not None:
        groups.insert(0, Dots((normal - middle) @ axes.T, "faint", f"normal patches ({len(normal):,})", small=True))
    both = np.vstack([np.asarray(group.points) for group in groups])
    low, high = both.min(0), both.max(0)
    margin = 0.04 * np.maximum(high - low, 1e-6)
    return Chart(
        "coverage",
        "Coverage of the bank",
        "Each dot is a patch, on the two directions in which the bank varies most; the bank should reach all normal patches.",
        f"first component ({share[0]:.0%} of the variance)",
        f"second component ({share[1]:.0%})",
        (float(low[0] - margin[0]), float(high[0] + margin[0])),
        (float(low[1] - margin[1]), float(high[1] + margin[1])),
        tuple(groups),
    )
