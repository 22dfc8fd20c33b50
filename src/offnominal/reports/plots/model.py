"""Charts of a fitted model: how its memory bank covers the training patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offnominal.reports.plots.chart import Chart, Dots, Line
from offnominal.types import Float, require

#: Distances computed at once, to bound the memory.
_CELLS = 1 << 24


def kcenter_radii(bank: Float) -> npt.NDArray[np.float64]:
    """Covering radius after 1, 2, ..., M - 1 centres of a greedy k-center selection.

    The next centre is the patch farthest from the previous centres, so its distance to the nearest of them is their covering
    radius. This is exact and needs only the bank itself.

    Parameters
    ----------
    bank
        (M, D) patches in the order of their selection.

    Returns
    -------
    array
        (M - 1,) radii.

    References
    ----------
    Gonzalez (1985), *Clustering to minimize the maximum intercluster distance*.

    Examples
    --------
    >>> kcenter_radii(np.array([[0.0], [8.0], [3.0]], np.float32))
    array([8., 3.])
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
    """Covering radius over the size of the bank.

    Parameters
    ----------
    bank
        (M, D) patches in the order of their selection.
    radius
        Covering radius of the whole bank.

    Examples
    --------
    >>> chart = radius_growth(np.array([[0.0], [8.0], [3.0]], np.float32), radius=2.0)
    >>> chart.marks[0].points[:, 1]
    array([8., 3., 2.])
    """
    radii = np.append(kcenter_radii(bank), radius)
    points = np.column_stack([np.arange(1, len(bank) + 1), radii]).astype(np.float64)
    return Chart(
        "radius",
        "Covering radius",
        f"Largest distance of a training patch to the bank. Where the curve is flat, a larger bank gains little. "
        f"It ends at {radius:.2f} with {len(bank):,} patches.",
        "patches in the bank",
        "covering radius (standardised features)",
        (1, len(bank)),
        (0, float(radii.max()) * 1.05),
        (Line(points, "good", "covering radius"),),
    )


def bank_coverage(bank: Float) -> Chart:
    """The bank on its first two principal components, with their share of the variance in the labels.

    Parameters
    ----------
    bank
        (M, D) patches.

    Examples
    --------
    >>> bank_coverage(np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)).x_label
    'first component (100% of the variance)'
    """
    require(bank.ndim == 2 and len(bank) > 1, f"bank must be (M, D) with M > 1, got {bank.shape}")
    center = bank.mean(0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(bank - center, full_matrices=False)
    share = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    axes = np.vstack([axes, np.zeros_like(axes[:1])])[:2]
    share = np.append(share, 0.0)
    # The sign of a component is arbitrary; a fixed sign makes two fits comparable.
    axes = axes * np.where(axes[np.arange(2), np.abs(axes).argmax(1)] < 0, -1, 1)[:, None]
    flat = (bank - center) @ axes.T
    low, high = flat.min(0), flat.max(0)
    margin = 0.04 * np.maximum(high - low, 1e-6)
    return Chart(
        "coverage",
        "Coverage of the bank",
        "Each dot is a patch of the memory bank on its first two principal components. Isolated dots are rare patches.",
        f"first component ({share[0]:.0%} of the variance)",
        f"second component ({share[1]:.0%})",
        (float(low[0] - margin[0]), float(high[0] + margin[0])),
        (float(low[1] - margin[1]), float(high[1] + margin[1])),
        (Dots(flat, "good", f"bank ({len(bank):,})", small=True),),
    )
