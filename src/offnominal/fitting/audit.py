"""Result of an audit: which of the training images do not look like the others.

Each image is scored as in a fit, against a bank without its own patches. But greedy k-center selects outliers first, and
similar defects in several images would hide each other. Therefore the audit uses only bank patches with support: at least
`supporters_needed` other images have a patch within the covering radius. Similar defects in at most that many images are then
scored against normal patches only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from offnominal.decisions import called_suspect, worst_share
from offnominal.images import EIGHT_BIT, ValueRange, to_image
from offnominal.model import LeftOut
from offnominal.roi import RegionOfInterest
from offnominal.types import Float, Mask, Pose


@dataclass(frozen=True)
class Audit:
    """Result of an audit, image by image.

    Attributes
    ----------
    names
        Names of the images.
    sources
        Index of each image in the data.
    scores
        (n,) float32; higher is less like the other images.
    p_values
        (n,) float64; see `decisions.outlier_p_values`.
    maps
        Anomaly map of each image, aligned, at a quarter of the network size.
    poses
        Pose of the part in each image; None without alignment.
    supporters
        Number of other images that had to support a bank patch.
    values
        Range of pixel values, for drawing.
    region
        Region of interest, for drawing.
    skipped
        Name and reason of each image that could not be read.

    Examples
    --------
    >>> audited = Audit(
    ...     names=("a.png", "b.png", "c.png"), sources=(0, 1, 2), scores=np.array([1.0, 9.0, 2.0], np.float32),
    ...     p_values=np.array([0.9, 0.001, 0.4]), maps=(), poses=(), supporters=1,
    ... )
    >>> suspects = audited.suspects(0.4)
    >>> [suspect.name for suspect in audited.listed(suspects)]
    ['b.png']
    """

    names: tuple[str, ...]
    sources: tuple[int, ...]
    scores: Float
    p_values: npt.NDArray[np.float64]
    maps: tuple[Float, ...]
    poses: tuple[Pose | None, ...]
    supporters: int
    values: ValueRange = EIGHT_BIT
    region: RegionOfInterest | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    def suspects(self, contamination: float | Literal["auto"]) -> npt.NDArray[np.bool_]:
        """(n,) true for the images to leave out.

        Parameters
        ----------
        contamination
            `auto` controls the false discovery rate (`decisions.called_suspect`); a number leaves out this share, worst first.
        """
        return called_suspect(self.p_values) if contamination == "auto" else worst_share(self.scores, contamination)

    def in_order_of_data(self) -> Audit:
        """A copy with the images in the order of the data."""
        order = np.argsort(self.sources, kind="stable")
        return replace(
            self,
            names=tuple(self.names[at] for at in order),
            sources=tuple(self.sources[at] for at in order),
            scores=self.scores[order],
            p_values=self.p_values[order],
            maps=tuple(self.maps[at] for at in order),
            poses=tuple(self.poses[at] for at in order),
        )

    def counted(self, index: int, size: tuple[int, ...]) -> Mask | None:
        """(H, W) pixels of an image that count; None if all do."""
        if self.region is None or self.region.whole:
            return None
        inside: Mask = to_image(self.region.at((size[0], size[1])), self.poses[index])
        return inside

    def listed(self, images: npt.NDArray[np.bool_]) -> tuple[LeftOut, ...]:
        """The images where (n,) `images` is true, worst first."""
        order = [at for at in np.argsort(-self.scores, kind="stable") if images[at]]
        return tuple(LeftOut(self.names[at], float(self.scores[at]), float(self.p_values[at])) for at in order)
