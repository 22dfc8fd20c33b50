"""Maps and masks as files for the next tool: PNG, 16-bit TIFF, NPY, COCO."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np

from offnominal.types import Float, Mask, Region, require

MapFormat = Literal["png", "tiff", "npy"]
#: Largest pixel value of each format that holds whole numbers.
LEVELS = {"png": 255, "tiff": 65535}


def encode_map(values: Float, kind: MapFormat, low: float, high: float) -> bytes:
    """(H, W) finite values -> a file's bytes.

    `npy` holds the float32 values themselves. `png` (8 bits, grey) and `tiff` (16 bits, grey) hold whole numbers p with
    value = low + p / LEVELS[kind] * (high - low), rounded to the nearest; values must lie in `low` to `high`.
    """
    if kind == "npy":
        target = io.BytesIO()
        np.save(target, np.asarray(values, dtype=np.float32), allow_pickle=False)
        return target.getvalue()
    top = LEVELS[kind]
    share = (values.astype(np.float64) - low) / (high - low)
    require(bool(share.min() >= -1e-5 and share.max() <= 1 + 1e-5), f"values beyond {low:g} to {high:g}")
    whole = np.rint(np.clip(share, 0, 1) * top).astype(np.uint8 if top == 255 else np.uint16)
    done, content = cv2.imencode(f".{kind}", whole)
    assert done
    return content.tobytes()


def encode_mask(mask: Mask) -> bytes:
    """(H, W) booleans -> PNG of 8 bits, 255 where true."""
    done, content = cv2.imencode(".png", mask.astype(np.uint8) * np.uint8(255))
    assert done
    return content.tobytes()


def run_lengths(mask: Mask) -> list[int]:
    """COCO's uncompressed run lengths of (H, W) booleans: column by column, the first run counts zeros (and may be 0)."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(length) for length in np.diff([0, *changes.tolist(), mask.size])]


class CocoMasks:
    """Masks of regions in COCO's instance format: `annotations` whose `segmentation` is run lengths, with a `score`."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, image: int, name: str, size: tuple[int, int], regions: Sequence[Region], masks: Sequence[Mask]) -> None:
        """Add an image of (H, W), numbered `image`, with its regions and the mask of each."""
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
        """Take an image out again, with its regions."""
        self._images = [one for one in self._images if one["id"] != image]
        self._annotations = [one for one in self._annotations if one["image_id"] != image]

    def as_json(self) -> dict[str, Any]:
        """The whole of the file, images in the order of their numbers."""
        return {
            "info": {"description": "places above the calibrated threshold; score is the peak of the anomaly map"},
            "images": sorted(self._images, key=lambda image: int(image["id"])),
            "annotations": self._annotations,
            "categories": [{"id": 1, "name": "anomaly", "supercategory": ""}],
        }
