"""Features of images as a whole, for the drift monitor and the image-level p-value."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from offnominal.images import ImageBatch, pixel_features
from offnominal.types import Float


def image_features(batch: ImageBatch, maps: Tensor) -> Float:
    """A batch and the first member's (B, D, h, w) raw maps -> (B, D + 131) float32.

    These are the means of the maps over all positions, then the profiles and the brightness of the pixels: the maps do not
    show a brightness that `Exposure` has corrected.
    """
    return np.concatenate([maps.mean((2, 3)).cpu().numpy(), pixel_features(batch.views[0])], axis=1)
