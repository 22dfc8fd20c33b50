"""report.html and its folder of pictures, written image by image."""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from offnominal.errors import ImageError, unwritable
from offnominal.model import Model
from offnominal.reports import (
    ZOOM_FROM,
    Entry,
    Picture,
    Pyramid,
    SourceFile,
    attention,
    overlay,
    pictures_of,
    pyramid_tiles,
    report,
    shrink,
)
from offnominal.reports.plots import Chart
from offnominal.storage import write_atomically
from offnominal.storage.owned_files import PICTURES, REPORT, own, own_folder, remove_own
from offnominal.types import Inspection, Mask

#: Longest side of a JPEG; larger pictures are shrunk.
LONGEST_JPEG = 65_500

#: Bytes of an image's name in the names of its pictures; most systems allow 255 for a whole file name.
LONGEST_STEM = 120

#: Errors caused by one file name rather than by the folder or the disk.
FILE_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR)

#: Images with pictures in a report, which bounds its size; counts and plots cover all images.
MOST_PICTURES = 1000


class ReportWriter:
    """Collects inspected images one by one and writes the report.

    All images count; pictures are kept for the worst only. The pictures of an earlier report in the folder are removed.

    Parameters
    ----------
    folder
        Output folder of the run.
    model
        The model that inspected the images.
    most
        Number of images with pictures.
    command
        The command that the files are recorded for.
    """

    def __init__(self, folder: Path, model: Model, most: int = MOST_PICTURES, command: str = "evaluate") -> None:
        self._folder, self._model, self._most, self._command = folder, model, most, command
        self._entries: dict[int, Entry] = {}
        #: A heap: the least important image with pictures comes first.
        self._pictured: list[tuple[tuple[bool, float], int]] = []
        make_folder(folder)
        remove_own(folder, lambda name, _: name.startswith(f"{PICTURES}/"))
        own_folder(folder, PICTURES, command)

    def needs_picture(self, index: int, inspection: Inspection, good: bool | None) -> bool:
        """Whether this image is among the worst so far, so that it has to be decoded."""
        return len(self._pictured) < self._most or self._rank(inspection, good, index) > self._pictured[0]

    def add(
        self,
        index: int,
        name: str,
        inspection: Inspection,
        picture: Any | None,
        *,
        label: str | None = None,
        good: bool | None = None,
        mask: Mask | None = None,
        heat: str | None = None,
        receipts: Mapping[int, str] | None = None,
    ) -> None:
        """Add an image.

        Parameters
        ----------
        index
            Number of the image in the run.
        name
            Name shown in the report.
        inspection
            Its result.
        picture
            (H, W, 3) uint8 for display; None for an image without pictures.
        label, good
            Its label, and whether that means good; None without a label.
        mask
            (H, W) defect mask; its outline is drawn.
        heat
            Existing overlay, relative to the folder; None draws one.
        receipts
            Region number -> existing receipt, relative to the folder.

        Raises
        ------
        OutputError
            A picture cannot be written.
        """
        height, width = inspection.anomaly_map.shape
        thumb, thumb_size, files, zoom = None, (0, 0), {}, None
        if picture is not None and self.needs_picture(index, inspection, good):
            drawn = pictures_of(picture, inspection, mask)
            contents = {"image": drawn.image, "influence": drawn.influence, **({} if heat else {"heat": drawn.heat})}
            for kind, content in contents.items():
                files[kind] = f"{PICTURES}/{index:05d}-{kind}.jpg"
                write_picture(own(self._folder, files[kind], self._command), content)
            if max(height, width) > ZOOM_FROM:
                zoom = Pyramid.of((height, width))
                self._write_pyramid(f"{index:05d}-image", np.ascontiguousarray(picture))
                heated = overlay(picture, inspection.anomaly_map, inspection.threshold, mask)
                self._write_pyramid(f"{index:05d}-heat", heated)
            files.update({"heat": _address(heat)} if heat else {})
            thumb, thumb_size = drawn.thumb, drawn.thumb_size
            heapq.heappush(self._pictured, self._rank(inspection, good, index))
        self._entries[index] = Entry(
            name=name,
            label=label,
            good=good,
            score=inspection.score,
            p_value=inspection.p_value,
            anomalous=inspection.anomalous,
            regions=inspection.regions,
            size=(height, width),
            thumb=thumb,
            thumb_size=thumb_size,
            files=files,
            receipts={number: _address(path) for number, path in (receipts or {}).items()},
            whole_p_value=inspection.whole_p_value,
            not_found=None if inspection.pose is None else inspection.pose.problem,
            zones=inspection.zones,
            zoom=zoom,
            pyramids={} if zoom is None else {kind: f"{PICTURES}/{index:05d}-{kind}" for kind in ("image", "heat")},
        )
        if len(self._pictured) > self._most:
            self._remove_pictures(-heapq.heappop(self._pictured)[1])

    def write(
        self,
        title: str,
        facts: Mapping[str, str],
        warnings: Sequence[str],
        unreadable: Sequence[tuple[str, str]],
        metrics: Mapping[str, Any] | None = None,
        charts: Sequence[Chart] = (),
    ) -> None:
        """Write `report.html`; for the parameters see `reports.report`. Raises `OutputError`."""
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
            sources=self._write_sources(),
        )
        write_atomically(own(self._folder, REPORT, self._command), as_text(page))

    def _write_pyramid(self, name: str, picture: Picture) -> None:
        """Write the tiles of a large picture."""
        for tile, content in pyramid_tiles(picture):
            write_picture(own(self._folder, f"{PICTURES}/{name}/{tile}", self._command), content)

    def _write_sources(self) -> dict[str, SourceFile]:
        """Write the thumbnails of the training images that the evidence of shown images names."""
        thumbnails, sources = self._model.thumbnails, {}
        if thumbnails is None:
            return {}
        named = {
            near.image
            for entry in self._entries.values()
            if entry.thumb is not None
            for region in entry.regions
            if region.evidence is not None
            for near in region.evidence.nearest
        }
        for index, source in enumerate(self._model.sources):
            if source.name in named and thumbnails.picture(index) is not None:
                file = f"{PICTURES}/good-{index:05d}.jpg"
                write_atomically(own(self._folder, file, self._command), thumbnails.stored(index))
                sources[source.name] = SourceFile(file, source.size)
        return sources

    def _rank(self, inspection: Inspection, good: bool | None, index: int) -> tuple[tuple[bool, float], int]:
        return attention(inspection.score, inspection.anomalous, good, inspection.threshold), -index

    def _remove_pictures(self, index: int) -> None:
        entry = self._entries[index]
        for address in entry.files.values():
            if address.startswith(PICTURES):
                (self._folder / address).unlink(missing_ok=True)
        for folder in entry.pyramids.values():
            remove_own(self._folder, partial(_lies_in, folder))
        self._entries[index] = replace(entry, thumb=None, files={}, zoom=None, pyramids={})


def _lies_in(folder: str, name: str, command: str) -> bool:
    return name.startswith(f"{folder}/")


def as_text(content: str) -> bytes:
    """A text as UTF-8; bytes of file names that are not valid UTF-8 become escapes.

    Examples
    --------
    >>> as_text("é.png"), as_text(os.fsdecode(b"\\xff.png"))
    (b'\\xc3\\xa9.png', b'\\\\udcff.png')
    """
    return content.encode("utf-8", "backslashreplace")


def picture_name(number: str, image: str) -> str:
    """Stem of the files of an image: a number, and the image's own stem cut to `LONGEST_STEM` bytes.

    Examples
    --------
    >>> picture_name("00007", "test/crack/012.png")
    '00007-012'
    """
    stem = Path(image).stem
    while len(os.fsencode(stem)) > LONGEST_STEM:
        stem = stem[:-1]
    return f"{number}-{stem}"


def _address(file: str) -> str:
    """A relative path as a link in a page; its bytes need not be UTF-8."""
    return quote(os.fsencode(file))


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def write_picture(path: Path, picture: Any, quality: int = 90) -> None:
    """Write a picture in the format of its suffix.

    Parameters
    ----------
    path
        Target file.
    picture
        (H, W, 3) uint8 RGB; shrunk if a side exceeds the limit of JPEG.
    quality
        JPEG quality.

    Raises
    ------
    ImageError
        The picture cannot be encoded, or its name is not valid for a file.
    OutputError
        The folder cannot be written.
    """
    picture = shrink(picture, LONGEST_JPEG)
    done, content = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"{path}: a picture of {picture.shape[1]} x {picture.shape[0]} pixels cannot be encoded")
    write_file(path, content.tobytes())


def write_file(path: Path, content: bytes) -> None:
    """Write a file and create its folder. Faster than `write_atomically`, but not atomic.

    Raises
    ------
    ImageError
        The name is not valid for a file.
    OutputError
        The folder cannot be written.
    """
    make_folder(path.parent)
    try:
        path.write_bytes(content)
    except OSError as error:
        if error.errno in FILE_NAME_ERRORS:
            raise ImageError(f"{path}: not a valid file name ({error.strerror}); rename the image") from None
        raise unwritable(path, error) from None
