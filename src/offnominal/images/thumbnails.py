"""Small pictures of the training images, kept in the model, so that evidence can be seen when the files have moved away."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from offnominal.errors import unwritable
from offnominal.images.geometry import resize
from offnominal.quiet import without_warnings
from offnominal.types import Float, Index, require

#: Longest side of a thumbnail in pixels, and its JPEG quality.
LONGEST, QUALITY = 256, 85
#: Bytes of thumbnails that wait in memory while a model is fitted; more go to a temporary file.
_MOST_WAITING = 64_000_000


@dataclass(frozen=True)
class Thumbnails:
    """JPEG pictures one after another, at most `LONGEST` pixels long.

    Attributes:
        content: (bytes,) uint8.
        ends: (n,) int64 rising: where each picture ends; one that is empty was not kept.
    """

    content: npt.NDArray[np.uint8]
    ends: Index

    def __post_init__(self) -> None:
        require(self.content.ndim == 1 and self.content.dtype == np.uint8, "thumbnails must be bytes in one row")
        require(self.ends.ndim == 1 and self.ends.dtype == np.int64, "ends of thumbnails must be whole numbers in one row")
        bounds = np.concatenate([[0], self.ends])
        require(bool((np.diff(bounds) >= 0).all()) and bounds[-1] == len(self.content), "ends of thumbnails do not fit")

    @classmethod
    def of(cls, pictures: Iterable[bytes]) -> Thumbnails:
        """From JPEG bytes, empty where there is no picture."""
        kept = list(pictures)
        ends = np.cumsum([len(picture) for picture in kept], dtype=np.int64)
        return cls(np.frombuffer(b"".join(kept), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def kept(self) -> int:
        """How many pictures there are."""
        return int(np.count_nonzero(np.diff(self.ends, prepend=0)))

    def stored(self, index: int) -> bytes:
        """The bytes of a picture, as they are."""
        return self.content[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])].tobytes()

    def picture(self, index: int) -> npt.NDArray[np.uint8] | None:
        """(h, w, 3) RGB, or None where none was kept or its bytes are no picture of ours.

        A model file may come from a stranger: the size that a picture claims is read before anything is decoded.
        """
        content = self.stored(index)
        try:
            with without_warnings(), Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                return np.asarray(image.convert("RGB")) if max(image.size) <= LONGEST else None
        except Exception:  # noqa: BLE001 - damaged pictures raise many kinds, and none may cost the evidence
            return None


def thumbnail(pixels: Float, original: tuple[int, int]) -> bytes:
    """(3, height, width) network pixels, about 0 to 1, of an image of `original` (H, W) -> JPEG bytes in its own aspect.

    Values beyond 0 and 1 are clipped, for the eye only; the same pixels and libraries give the same bytes.
    """
    scale = min(LONGEST, max(original), max(pixels.shape[1:])) / max(original)
    size = max(1, round(original[0] * scale)), max(1, round(original[1] * scale))
    small = resize(np.ascontiguousarray(pixels.transpose(1, 2, 0)), size)
    shown = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)
    done, content = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return content.tobytes()


class ThumbnailStore:
    """Thumbnails of all images while a model is fitted, most of which may turn out not to be needed.

    Use as a context manager: what lies on disk goes when it closes.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MOST_WAITING, prefix="offnominal-")  # noqa: SIM115
        self._ends = [0]

    def __enter__(self) -> ThumbnailStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, picture: bytes) -> None:
        """Add the picture of the next image. Raises `OutputError` where the disk that they wait on is full."""
        try:
            self._file.write(picture)
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from None
        self._ends.append(self._ends[-1] + len(picture))

    def only(self, wanted: Container[int], among: Sequence[int]) -> Thumbnails:
        """The pictures `among` those added, by their numbers; those that are not `wanted` are left empty."""
        pictures = []
        for index in among:
            self._file.seek(self._ends[index])
            pictures.append(self._file.read(self._ends[index + 1] - self._ends[index]) if index in wanted else b"")
        return Thumbnails.of(pictures)
