"""Maps and masks as files for other tools: PNG, 16-bit TIFF, NPY, COCO."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np

from offnominal.types import Float, Mask, Region, require

MapFormat = Literal["png", "tiff", "npy"]
#: Largest pixel value of the integer formats.
LEVELS = {"png": 255, "tiff": 65535}


def encode_map(values: Float, kind: MapFormat, low: float, high: float) -> bytes:
    """Encode a map as a file.

    `npy` stores the float32 values. `png` (8-bit grey) and `tiff` (16-bit grey) store integers p, rounded to the nearest, with
    value = low + p / LEVELS[kind] * (high - low).

    Parameters
    ----------
    values
        (H, W) finite values.
    kind
        File format.
    low, high
        Values of the lowest and the highest level; all values must lie between them. Unused for `npy`.

    Returns
    -------
    bytes
        Content of the file.

    Examples
    --------
    >>> content = encode_map(np.array([[0.0, 0.5, 2.0]], np.float32), "png", low=0, high=2)
    >>> cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    array([[  0,  64, 255]], dtype=uint8)
    """
    if kind == "npy":
        target = io.BytesIO()
        np.save(target, np.asarray(values, dtype=np.float32), allow_pickle=False)
        return target.getvalue()
    top = LEVELS[kind]
    share = (values.astype(np.float64) - low) / (high - low)
    require(bool(share.min() >= -1e-5 and share.max() <= 1 + 1e-5), f"values must lie between {low:g} and {high:g}")
    levels = np.rint(np.clip(share, 0, 1) * top).astype(np.uint8 if top == 255 else np.uint16)
    done, content = cv2.imencode(f".{kind}", levels)
    assert done
    return content.tobytes()


def encode_mask(mask: Mask) -> bytes:
    """Encode an (H, W) boolean mask as an 8-bit PNG, 255 where true.

    Examples
    --------
    >>> content = encode_mask(np.array([[True, False]]))
    >>> cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    array([[255,   0]], dtype=uint8)
    """
    done, content = cv2.imencode(".png", mask.astype(np.uint8) * np.uint8(255))
    assert done
    return content.tobytes()


def run_lengths(mask: Mask) -> list[int]:
    """Uncompressed COCO run lengths of an (H, W) boolean mask.

    Runs go down the columns; the first one counts zeros and may be 0.

    Examples
    --------
    >>> run_lengths(np.array([[False, True], [False, True]]))
    [2, 2]
    >>> run_lengths(np.array([[True], [False]]))
    [0, 1, 1]
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(length) for length in np.diff([0, *changes.tolist(), mask.size])]


class CocoMasks:
    """Region masks in COCO's instance format, with run lengths as `segmentation` and the peak as `score`.

    Examples
    --------
    >>> coco = CocoMasks()
    >>> region = Region(box=(1, 0, 2, 1), area=1, peak=7.5, peak_at=(1, 0), p_value=0.01)
    >>> coco.add(0, "a.png", (2, 3), [region], [np.array([[False, True, False], [False, False, False]])])
    >>> coco.as_json()["annotations"][0]["bbox"], coco.as_json()["annotations"][0]["segmentation"]
    ([1, 0, 1, 1], {'size': [2, 3], 'counts': [2, 1, 3]})
    """

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, image: int, name: str, size: tuple[int, int], regions: Sequence[Region], masks: Sequence[Mask]) -> None:
        """Add an image with its regions.

        Parameters
        ----------
        image
            Number of the image.
        name
            File name.
        size
            (H, W) in pixels.
        regions, masks
            The regions, and the (H, W) boolean mask of each.
        """
        self._images.append({"id": image, "file_name": name, "width": size[1], "height": size[0]})
        for region, mask in zip(regions, masks, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "segmentation": {"size": list(size), "counts": run_lengths(mask)},
                    "area": int(mask.sum()),
                    "bbox": [int(side) for side in box],
                    "iscrowd": 0,
                    "score": region.peak,
                }
            )

    def remove(self, image: int) -> None:
        """Remove an image and its regions."""
        self._images = [entry for entry in self._images if entry["id"] != image]
        self._annotations = [entry for entry in self._annotations if entry["image_id"] != image]

    def as_json(self) -> dict[str, Any]:
        """The content of the file; images are in the order of their numbers."""
        return {
            "info": {"description": "regions above the calibrated threshold; score is the peak of the anomaly map"},
            "images": sorted(self._images, key=lambda image: int(image["id"])),
            "annotations": self._annotations,
            "categories": [{"id": 1, "name": "anomaly", "supercategory": ""}],
        }
