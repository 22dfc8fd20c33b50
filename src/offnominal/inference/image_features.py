"""Features of whole images, for the image-level p-value and the drift monitor."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from offnominal.images import ImageBatch, pixel_features
from offnominal.types import Float


def image_features(batch: ImageBatch, maps: Tensor) -> Float:
    """Features of whole images: mean of each feature map, then profiles and brightness of the pixels.

    The pixel features show the brightness before exposure correction, which the maps do not.

    Parameters
    ----------
    batch
        B images.
    maps
        (B, D, h, w) raw maps of the first member.

    Returns
    -------
    array
        (B, D + 131) float32.

    Examples
    --------
    >>> import torch
    >>> view = np.zeros((1, 3, 64, 64), np.float32)
    >>> batch = ImageBatch((view,), index=(0,), original=((64, 64),), decoded=(None,), poses=(None,), mm_per_pixel=(None,))
    >>> image_features(batch, torch.zeros(1, 4, 8, 8)).shape
    (1, 135)
    """
    return np.concatenate([maps.mean((2, 3)).cpu().numpy(), pixel_features(batch.overview)], axis=1)
