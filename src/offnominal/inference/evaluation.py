"""Labelled images -> figures."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from offnominal.datasets import Item
from offnominal.errors import unwritable
from offnominal.metrics import Curves, Figures
from offnominal.types import Inspection, Mask

Array = TypeVar("Array", bound=npt.NDArray[Any])

#: Size of one temporary file of a `MapStore`; an open file each, so not small.
_FILE_BYTES = 1 << 30
#: Arrays begin at multiples of this.
_ALIGNED = 64


class MapStore:
    """Keeps arrays in memory up to `limit` bytes together; those beyond come back as read-only views of temporary files.

    Use as a context manager while arrays are added. The files have no name and vanish with the last array that lies in them.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._file: Any = None
        self._bytes: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._at = 0

    def __enter__(self) -> MapStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def keep(self, array: Array) -> Array:
        """The array itself, or the same values on disk.

        Raises:
            OutputError: the disk is full.
        """
        if array.nbytes <= self._left:
            self._left -= array.nbytes
            return array
        try:
            if self._at + array.nbytes > len(self._bytes):
                self._open(max(_FILE_BYTES, array.nbytes))
            # Written and not copied through the view: on a full disk that is an error, the copy would be a crash.
            self._file.seek(self._at)
            self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from None
        stored: Any = self._bytes[self._at : self._at + array.nbytes].view(array.dtype).reshape(array.shape)
        self._at += -(-array.nbytes // _ALIGNED) * _ALIGNED
        return stored  # type: ignore[no-any-return]

    def _open(self, size: int) -> None:
        self._close()
        self._file = tempfile.TemporaryFile(prefix="offnominal-")  # noqa: SIM115 - closed by the next one, or on exit
        self._file.truncate(size)
        self._bytes = np.asarray(np.memmap(self._file, np.uint8, "r", shape=(size,)))
        self._at = 0

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True)
class Evaluated:
    """One test image: what it is, what was found, and its mask where there is one."""

    item: Item
    inspection: Inspection
    mask: Mask | None


@dataclass(frozen=True)
class Evaluation:
    """Figures and curves over all images, figures per class.

    `rate` is the false-alarm rate in force. `unreadable` holds (name, reason) of images, and of those that were scored but
    whose mask cannot be read; `unlabelled` counts the rows of a manifest that have no label.
    """

    figures: Figures
    curves: Curves
    classes: dict[str, Figures]
    images: tuple[Evaluated, ...]
    unreadable: tuple[tuple[str, str], ...]
    seconds: float
    unlabelled: int
    rate: float

    @property
    def without_mask(self) -> int:
        """Defective images that pixel figures leave out; 0 where there are no such figures, as of a set without masks."""
        return (
            0
            if self.figures["pixel_auroc"] is None
            else sum(not image.item.good and image.mask is None for image in self.images)
        )

    def as_json(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        count = max(1, len(self.images))
        scored = {image.item.name for image in self.images}
        without = sum(name not in scored for name, _ in self.unreadable)
        return {
            **self.figures,
            "ms_per_image": 1000 * self.seconds / count,
            "images_per_second": count / self.seconds if self.seconds > 0 else None,
            "n_unreadable": without,
            "n_masks_unreadable": len(self.unreadable) - without,
            "n_without_mask": sum(not image.item.good and image.mask is None for image in self.images),
            "n_unlabelled": self.unlabelled,
            "classes": self.classes,
            "whole_image": self._as_a_whole(),
        }

    def _as_a_whole(self) -> dict[str, Any] | None:
        """Shares of good and of defective images, and of those of each class, whose `whole_p_value` is at most the rate."""
        unlike: dict[str, list[bool]] = {}
        for image in self.images:
            if image.inspection.whole_p_value is None:
                return None
            kind = "good" if image.item.good else image.item.label or "defect"
            unlike.setdefault(kind, []).append(image.inspection.whole_p_value <= self.rate)
        good = unlike.pop("good", [])
        bad = [one for of_class in unlike.values() for one in of_class]
        return {
            "false_alarm_rate": float(np.mean(good)) if good else None,
            "detection_rate": float(np.mean(bad)) if bad else None,
            "classes": {kind: float(np.mean(found)) for kind, found in sorted(unlike.items())},
        }
