"""Thumbnails of the training images, kept in the model, so that evidence can be shown after the files have moved."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from offnominal.images.geometry import resize
from offnominal.quiet import without_warnings
from offnominal.storage.spill import ArrayStore
from offnominal.types import Float, Index, require

#: Longest side of a thumbnail in pixels, and its JPEG quality.
LONGEST, QUALITY = 256, 85
#: Bytes of thumbnails held in memory during a fit; more spill to a temporary file.
_MOST_IN_MEMORY = 64_000_000


@dataclass(frozen=True)
class Thumbnails:
    """JPEG files, one after another.

    Attributes
    ----------
    content
        (bytes,) uint8: all files.
    ends
        (n,) int64, ascending: where each file ends in `content`. An empty file means that no thumbnail was kept.

    Examples
    --------
    >>> thumbnails = Thumbnails.of([thumbnail(np.full((3, 8, 8), 0.5, np.float32), (8, 8)), b""])
    >>> len(thumbnails), thumbnails.kept
    (2, 1)
    >>> thumbnails.picture(0).shape, thumbnails.picture(1)
    ((8, 8, 3), None)
    """

    content: npt.NDArray[np.uint8]
    ends: Index

    def __post_init__(self) -> None:
        require(self.content.ndim == 1 and self.content.dtype == np.uint8, "content of thumbnails must be (bytes,) uint8")
        require(self.ends.ndim == 1 and self.ends.dtype == np.int64, "ends of thumbnails must be (n,) int64")
        bounds = np.concatenate([[0], self.ends])
        require(
            bool((np.diff(bounds) >= 0).all()) and bounds[-1] == len(self.content),
            "ends of thumbnails must ascend to the number of bytes",
        )

    @classmethod
    def of(cls, pictures: Iterable[bytes]) -> Thumbnails:
        """Join JPEG files; empty bytes stand for no thumbnail."""
        files = list(pictures)
        ends = np.cumsum([len(file) for file in files], dtype=np.int64)
        return cls(np.frombuffer(b"".join(files), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def kept(self) -> int:
        """Number of thumbnails that are not empty."""
        return int(np.count_nonzero(np.diff(self.ends, prepend=0)))

    def stored(self, index: int) -> bytes:
        """The JPEG file of an image, empty if no thumbnail was kept."""
        return self.content[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])].tobytes()

    def picture(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Decode a thumbnail to (h, w, 3) RGB; None if none was kept, or if it is damaged or too large.

        A model file may come from an untrusted source, so the size is checked before anything is decoded.
        """
        content = self.stored(index)
        try:
            with without_warnings(), Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                return np.asarray(image.convert("RGB")) if max(image.size) <= LONGEST else None
        except Exception:  # noqa: BLE001 - damaged pictures raise many kinds, and evidence must not fail on them
            return None


def thumbnail(pixels: Float, original: tuple[int, int]) -> bytes:
    """Encode the network pixels of an image as a small JPEG file in the aspect ratio of the original.

    The same pixels and library versions give the same bytes.

    Parameters
    ----------
    pixels
        (3, height, width) float32, about 0 to 1. Values outside 0 to 1 are clipped.
    original
        (H, W) of the original image.

    Examples
    --------
    >>> jpeg = thumbnail(np.full((3, 256, 256), 0.5, np.float32), (600, 800))
    >>> Image.open(io.BytesIO(jpeg)).size
    (256, 192)
    """
    scale = min(LONGEST, max(original), max(pixels.shape[1:])) / max(original)
    size = max(1, round(original[0] * scale)), max(1, round(original[1] * scale))
    small = resize(np.ascontiguousarray(pixels.transpose(1, 2, 0)), size)
    displayed = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)
    encoded, content = cv2.imencode(".jpg", cv2.cvtColor(displayed, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert encoded
    return content.tobytes()


class ThumbnailStore:
    """Collects the thumbnails of all images during a fit. The model keeps some of them.

    Use it as a context manager: closing deletes the temporary file.

    Examples
    --------
    >>> with ThumbnailStore() as store:
    ...     for picture in (b"first", b"second", b"third"):
    ...         store.add(picture)
    ...     store.picture(2)
    b'third'
    """

    def __init__(self) -> None:
        self._store = ArrayStore(_MOST_IN_MEMORY)
        self._pictures: list[npt.NDArray[np.uint8]] = []

    def __enter__(self) -> ThumbnailStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._store.__exit__(kind, error, trace)
        self._pictures.clear()

    def add(self, picture: bytes) -> None:
        """Add the thumbnail of the next image. Raises `OutputError` if the temporary file cannot be written."""
        self._pictures.append(self._store.keep(np.frombuffer(picture, np.uint8)))

    def picture(self, number: int) -> bytes:
        """The thumbnail that was added as number `number`, from 0."""
        return self._pictures[number].tobytes()
