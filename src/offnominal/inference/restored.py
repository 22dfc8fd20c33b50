"""Results of an aligned image, in the pixels of the image itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from offnominal.images import moved, to_image
from offnominal.types import Evidence, Inspection, Pose, Region

Box = tuple[int, int, int, int]


def restored(inspection: Inspection, pose: Pose, regions: Sequence[Region]) -> Inspection:
    """Bring maps and evidence of an aligned image back to the image.

    Parameters
    ----------
    inspection
        Result in the pixels of the aligned image, which is as large as the image.
    pose
        Pose of the part in the image.
    regions
        The regions of `inspection`, in the pixels of the image.

    Returns
    -------
    Inspection
        With `pose`. If the part was not found, the image is anomalous.

    Examples
    --------
    >>> anomaly_map = np.eye(1, 40, 10, dtype=np.float32)
    >>> aligned = Inspection(None, 1.0, 0.25, False, 3.0, anomaly_map, anomaly_map, regions=())
    >>> restored(aligned, Pose(5.0, 0.0, 0.0, 1.0, quality=0.9), ()).anomaly_map.argmax()
    np.int64(15)
    """
    size = (inspection.anomaly_map.shape[0], inspection.anomaly_map.shape[1])
    explained = tuple(
        replace(there, evidence=None if here.evidence is None else _evidence(here.evidence, pose, size))
        for here, there in zip(inspection.regions, regions, strict=True)
    )
    maps = None
    if inspection.layer_maps is not None:
        maps = {name: to_image(values, pose) for name, values in inspection.layer_maps.items()}
    return replace(
        inspection,
        anomalous=inspection.anomalous or not pose.found,
        anomaly_map=to_image(inspection.anomaly_map, pose),
        influence_map=to_image(inspection.influence_map, pose),
        regions=explained,
        noise_map=None if inspection.noise_map is None else to_image(inspection.noise_map, pose),
        layer_maps=maps,
        pose=pose,
    )


def _evidence(evidence: Evidence, pose: Pose, size: tuple[int, int]) -> Evidence:
    typical = evidence.typical_box
    return replace(
        evidence,
        box=_box(evidence.box, pose, size),
        typical_box=None if typical is None else _box(typical, pose, size),
    )


def _box(box: Box, pose: Pose, size: tuple[int, int]) -> Box:
    """The box in the image around a box of the aligned image."""
    left, top, right, bottom = box
    corners = moved(np.array([[left, top], [right, top], [left, bottom], [right, bottom]]), pose, size)
    limits = np.array(size[::-1])
    low = np.clip(np.floor(corners.min(axis=0)), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)), low + 1, limits).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
