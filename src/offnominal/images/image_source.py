"""Image sources: paths, Pillow images and arrays, and how each is decoded."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from offnominal.errors import ImageError, InputError
from offnominal.gates import MmPerPixel
from offnominal.images.arrays import Pixels, from_array, planes
from offnominal.images.decode import decode, from_pillow
from offnominal.images.file_checks import DEFAULT_MEMORY
from offnominal.images.pages import page_of


class StoredImage(ABC):
    """An image that is not a file of this machine, such as an object in a bucket. It is copied when it is read.

    Attributes
    ----------
    name
        Its address, for messages and results.
    """

    name: str

    @abstractmethod
    def copy(self) -> AbstractContextManager[Path]:
        """A copy of the file, which exists until the context ends. Raises `ImageError`."""


@dataclass(frozen=True)
class MeasuredImage:
    """An image with the size of its pixels.

    Attributes
    ----------
    image
        Path, Pillow image, array, or image in a store.
    mm_per_pixel
        Width and height of a pixel in mm.

    Examples
    --------
    >>> MeasuredImage("part.png", (0.02, 0.02)).image
    'part.png'
    """

    image: Any
    mm_per_pixel: MmPerPixel


#: An image: a path, a Pillow image, an array or tensor of pixels, an image in a store, or one with the size of its pixels.
Source = Path | str | Image.Image | StoredImage | MeasuredImage | Any


def measured(image: Source, mm_per_pixel: MmPerPixel | None) -> Source:
    """An image with the size of its pixels, if it is known.

    Examples
    --------
    >>> measured("part.png", None)
    'part.png'
    """
    return image if mm_per_pixel is None else MeasuredImage(image, mm_per_pixel)


def mm_per_pixel_of(source: Source) -> MmPerPixel | None:
    """Size of the pixels of an image; None if it is not known.

    Examples
    --------
    >>> mm_per_pixel_of(measured("part.png", (0.02, 0.03)))
    (0.02, 0.03)
    """
    return source.mm_per_pixel if isinstance(source, MeasuredImage) else None


def _plain(source: Source) -> Source:
    return source.image if isinstance(source, MeasuredImage) else source


def pixels_of(source: Source, memory: int = DEFAULT_MEMORY) -> Pixels:
    """Decode a path, a Pillow image or an array.

    Parameters
    ----------
    source
        The image. `stack.tif#2` is the second page of `stack.tif`.
    memory
        Bytes that decoding, inspecting and drawing the image may take.

    Returns
    -------
    ndarray of uint8, uint16 or float32
        (H, W, 3) stored values. The channels of a grey image are read-only views of one plane.

    Raises
    ------
    ImageError
        The source cannot be read, or it would take more than `memory` bytes.

    Examples
    --------
    >>> pixels_of(np.zeros((4, 6), np.uint16)).shape
    (4, 6, 3)
    """
    source = _plain(source)
    with as_image_error(source), file_of(source) as file:
        if isinstance(file, (str, Path)):
            return decode(Path(file), memory)
        if isinstance(source, Image.Image):
            return from_pillow(source, memory=memory)
        return from_array(source, memory=memory)


@contextmanager
def file_of(source: Source) -> Iterator[Source]:
    """The source itself, or a copy of the file of an image in a store. Errors name the image, not the copy."""
    source = _plain(source)
    if not isinstance(source, StoredImage):
        yield source
        return
    with source.copy() as path:
        try:
            yield path
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), source.name)) from None


@contextmanager
def as_image_error(source: Source) -> Iterator[None]:
    """Turn any error into an `ImageError`, so that the other images are still processed."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders and foreign objects raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ImageError(f"{name_of(source)}: cannot be read ({type(error).__name__}: {reason})") from None


def path_of(source: Source) -> str | None:
    """The path or address of an image; None for pixels."""
    source = _plain(source)
    if isinstance(source, StoredImage):
        return source.name
    return str(source) if isinstance(source, (str, Path)) else None


def name_of(source: Source) -> str:
    return path_of(source) or "image"


def content_digest(source: Source) -> bytes:
    """Hash the content of a source: the bytes of a file, the pixels of an array or a Pillow image.

    Returns
    -------
    bytes
        16 bytes.

    Raises
    ------
    ImageError
        The source cannot be read.

    Examples
    --------
    >>> grey = np.zeros((4, 6), np.uint8)
    >>> content_digest(grey) == content_digest(Image.fromarray(grey))
    True
    """
    with as_image_error(source), file_of(source) as stored:
        digest = blake2b(digest_size=16)
        if isinstance(stored, (str, Path)):
            file, page = page_of(Path(stored))
            digest.update(f"{page} ".encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
        else:
            pixels = planes(pixels_of(stored))
            digest.update(f"{pixels.dtype} {pixels.shape} ".encode())
            digest.update(np.ascontiguousarray(pixels).data)
        return digest.digest()


def require_sequence(sources: Iterable[Source]) -> Sequence[Source]:
    """Check that several images were given and return them as a sequence.

    Raises
    ------
    InputError
        A single image or a folder was given. Its rows or characters would be taken for images.

    Examples
    --------
    >>> require_sequence(["a.png", "b.png"])
    ['a.png', 'b.png']
    >>> require_sequence("a.png")
    Traceback (most recent call last):
    offnominal.errors.InputError: expected several images, got one: put it in a list, [image]
    """
    if isinstance(sources, (str, Path)) and os.path.isdir(sources):
        raise InputError(f"{sources}: is a folder; list its images, such as sorted(Path({str(sources)!r}).glob('*.png'))")
    single = isinstance(sources, (str, Path, Image.Image))
    if isinstance(sources, np.ndarray):
        single = sources.ndim < 3 or (sources.ndim == 3 and sources.shape[2] in (1, 3, 4))
    if single:
        raise InputError("expected several images, got one: put it in a list, [image]")
    if not isinstance(sources, Iterable):
        raise InputError(f"expected several images, got {str(sources)[:60]}: give a list of paths or arrays")
    return sources if isinstance(sources, Sequence) else list(sources)
