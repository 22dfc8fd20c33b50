"""report.html and the folder of pictures beside it, image by image as they are inspected."""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2

from offnominal.errors import ImageError, unwritable
from offnominal.model import Model
from offnominal.reports import Entry, SourceFile, attention, pictures_of, report, shrink
from offnominal.reports.plots import Chart
from offnominal.storage import write_whole
from offnominal.storage.owned_files import PICTURES, REPORT, own, own_folder, remove_own
from offnominal.types import Inspection, Mask

#: JPEG knows no longer side; what is longer is drawn smaller.
LONGEST_JPEG = 65_500

#: Bytes of an image's name that its pictures bear: a file name has at most 255 on most systems.
LONGEST_STEM = 120

#: Errors that are of one file's name, and not of the folder or the disk.
OF_A_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR)

#: Most images with pictures in a report; scores beyond count and are drawn in the plots.
MOST_PICTURES = 1000


class ReportWriter:
    """Takes inspected images one by one and keeps what the page needs: numbers of all, pictures of the `most` worst.

    Its files are recorded as those of `command`; pictures of an earlier report in the folder are removed.
    """

    def __init__(self, folder: Path, model: Model, most: int = MOST_PICTURES, command: str = "evaluate") -> None:
        self._folder, self._model, self._most, self._command = folder, model, most, command
        self._entries: dict[int, Entry] = {}
        self._shown: list[tuple[tuple[bool, float], int]] = []
        make_folder(folder)
        remove_own(folder, lambda name, _: name.startswith(f"{PICTURES}/"))
        own_folder(folder, PICTURES, command)

    def wants(self, index: int, found: Inspection, good: bool | None) -> bool:
        """Whether pictures of this image would be kept, so that it need not be decoded for nothing."""
        return len(self._shown) < self._most or self._rank(found, good, index) > self._shown[0]

    def add(
        self,
        index: int,
        name: str,
        found: Inspection,
        picture: Any | None,
        *,
        label: str | None = None,
        good: bool | None = None,
        mask: Mask | None = None,
        heat: str | None = None,
        receipts: Mapping[int, str] | None = None,
    ) -> None:
        """Add an image.

        `picture` is (H, W, 3) for a screen, None where it is not wanted; `heat` and `receipts` are addresses of pictures that
        exist already, relative to the folder.

        Raises:
            OutputError: a picture cannot be written.
        """
        height, width = found.anomaly_map.shape
        thumb, thumb_size, files = None, (0, 0), {}
        if picture is not None and self.wants(index, found, good):
            made = pictures_of(picture, found, mask)
            drawn = {"image": made.image, "influence": made.influence, **({} if heat else {"heat": made.heat})}
            for kind, content in drawn.items():
                files[kind] = f"{PICTURES}/{index:05d}-{kind}.jpg"
                write_picture(own(self._folder, files[kind], self._command), content)
            files.update({"heat": _address(heat)} if heat else {})
            thumb, thumb_size = made.thumb, made.thumb_size
            heapq.heappush(self._shown, self._rank(found, good, index))
        self._entries[index] = Entry(
            name=name,
            label=label,
            good=good,
            score=found.score,
            p_value=found.p_value,
            anomalous=found.anomalous,
            regions=found.regions,
            size=(height, width),
            thumb=thumb,
            thumb_size=thumb_size,
            files=files,
            receipts={number: _address(address) for number, address in (receipts or {}).items()},
            whole_p_value=found.whole_p_value,
        )
        if len(self._shown) > self._most:
            self._forget(heapq.heappop(self._shown)[1])

    def _sources(self) -> dict[str, SourceFile]:
        """Writes the kept picture of every good image that a receipt on the page names."""
        kept, found = self._model.thumbnails, {}
        named = {
            near.image
            for entry in self._entries.values()
            if entry.thumb is not None
            for region in entry.regions
            if region.evidence is not None
            for near in region.evidence.nearest
        }
        for at, source in enumerate(self._model.sources):
            if kept is not None and source.name in named and kept.picture(at) is not None:
                file = f"{PICTURES}/good-{at:05d}.jpg"
                write_whole(own(self._folder, file, self._command), kept.stored(at))
                found[source.name] = SourceFile(file, source.size)
        return found

    def write(
        self,
        title: str,
        facts: Mapping[str, str],
        warnings: Sequence[str],
        unreadable: Sequence[tuple[str, str]],
        metrics: Mapping[str, Any] | None = None,
        charts: Sequence[Chart] = (),
    ) -> None:
        """Write `report.html`. Raises `OutputError`."""
        page = report(
            title,
            [self._entries[index] for index in sorted(self._entries)],
            threshold=self._model.calibration.threshold,
            calibration=self._model.calibration.scores,
            facts=facts,
            warnings=warnings,
            unreadable=unreadable,
            metrics=metrics,
            charts=charts,
            sources=self._sources(),
        )
        write_whole(own(self._folder, REPORT, self._command), as_text(page))

    def _rank(self, found: Inspection, good: bool | None, index: int) -> tuple[tuple[bool, float], int]:
        return attention(found.score, found.anomalous, good, found.threshold), -index

    def _forget(self, negative: int) -> None:
        entry = self._entries[-negative]
        for address in entry.files.values():
            if address.startswith(PICTURES):
                (self._folder / address).unlink(missing_ok=True)
        self._entries[-negative] = replace(entry, thumb=None, files={})


def as_text(content: str) -> bytes:
    """A text file's bytes; what a file name holds that is no UTF-8 is written as an escape."""
    return content.encode("utf-8", "backslashreplace")


def picture_name(number: str, image: str) -> str:
    """What the files of an image go by: a number, and as much of the image's own name as a file name can hold."""
    stem = Path(image).stem
    while len(os.fsencode(stem)) > LONGEST_STEM:
        stem = stem[:-1]
    return f"{number}-{stem}"


def _address(file: str) -> str:
    """A relative path as a page links to it; its bytes need not be UTF-8."""
    return quote(os.fsencode(file))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def write_picture(path: Path, picture: Any, quality: int = 90) -> None:
    """Write an (H, W, 3) picture as the kind of file that its ending says.

    Raises:
        ImageError: it cannot be encoded, or no file can have its name.
        OutputError: the place cannot be written.
    """
    picture = shrink(picture, LONGEST_JPEG)
    done, content = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"{path}: a picture of {picture.shape[1]} x {picture.shape[0]} cannot be encoded")
    write_file(path, content.tobytes())


def write_file(path: Path, content: bytes) -> None:
    """Write a file, and its folder; faster than `write_whole`, and not safe against a crash.

    Raises:
        ImageError: no file can have its name.
        OutputError: the place cannot be written.
    """
    make_folder(path.parent)
    try:
        path.write_bytes(content)
    except OSError as error:
        if error.errno in OF_A_NAME:
            raise ImageError(f"{path}: no file can have this name ({error.strerror}); rename the image") from None
        raise unwritable(path, error) from None
