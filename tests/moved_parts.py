"""Pictures of a part that lies differently in each, on request with a scratch."""

from __future__ import annotations

import cv2
import numpy as np

from offnominal.images import moved
from offnominal.types import Pose

SIZE = (240, 320)


def part(pose: Pose | None = None, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A part with holes and a label on a plain background, moved and with noise."""
    picture = np.full((*SIZE, 3), 60, np.uint8)
    cv2.rectangle(picture, (90, 60), (230, 180), (170, 160, 150), cv2.FILLED)
    cv2.circle(picture, (120, 90), 14, (90, 90, 90), cv2.FILLED)
    cv2.circle(picture, (205, 150), 8, (40, 60, 200), cv2.FILLED)
    cv2.rectangle(picture, (150, 120), (180, 128), (220, 220, 220), cv2.FILLED)
    picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    if pose is not None:
        picture = cv2.warpAffine(picture, pose.matrix(size), size[::-1], borderValue=(60, 60, 60))
    noise = np.random.default_rng(seed).integers(0, 6, picture.shape, np.uint8)
    return np.asarray(picture + noise, np.uint8)


#: Centre of the defect on the reference.
DEFECT = (140, 152)


def random_pose(seed: int) -> Pose:
    dx, dy, degrees = np.random.default_rng(seed).uniform((-25, -20, -12), (25, 20, 12))
    return Pose(dx, dy, degrees, 1.0, 1.0)


def drawn(seed: int, *, defective: bool = False, pose: Pose | None = None) -> np.ndarray:
    """A part somewhere in the image, on request with a scratch."""
    pose = pose or random_pose(seed)
    image = part(pose, seed)
    if defective:
        (x, y), (right, bottom) = moved(np.array([[130.0, 140.0], [150.0, 165.0]]), pose, SIZE)
        cv2.line(image, (round(x), round(y)), (round(right), round(bottom)), (20, 20, 20), 3)
    return image
