"""User input -> the images to fit on, and which of them are held out together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offnominal.datasets import MANIFESTS, Pages, normal_images, page_paths
from offnominal.errors import ImageError
from offnominal.images import Source, content_digest, measured, path_of, require_sequence
from offnominal.memory import SourceImage


@dataclass(frozen=True)
class TrainingSource:
    """An image to fit on.

    Attributes
    ----------
    name
        The name in messages and in the model.
    source
        A path or an array.
    group
        Images of one group are held out together; None for no group.

    Examples
    --------
    >>> TrainingSource("good/001.png", Path("parts/good/001.png"), group="part 7").group
    'part 7'
    """

    name: str
    source: Source
    group: str | None = None


def training_sources(data: str | Path | Sequence[Source], pages: Pages = "one") -> list[TrainingSource]:
    """The normal training images of a data set, or the images of a sequence of paths and arrays.

    Parameters
    ----------
    data
        Folder, MVTec root, glob, image or manifest; or paths and arrays.
    pages
        Whether files with several pages give one image or `all`.

    Examples
    --------
    >>> import numpy as np
    >>> [source.name for source in training_sources([np.zeros((64, 64)), "good/001.png"])]
    ['array 0', 'good/001.png']
    """
    if isinstance(data, (str, Path)):
        items = normal_images(data, pages)
        return [TrainingSource(item.name, measured(item.path, item.mm_per_pixel), item.group) for item in items]
    sources: list[TrainingSource] = []
    for number, source in enumerate(require_sequence(data)):
        if pages == "all" and isinstance(source, (str, Path)):
            sources += [TrainingSource(str(path), path) for path in page_paths(Path(source))]
        else:
            sources.append(TrainingSource(path_of(source) or f"array {number}", source))
    return sources


def added_sources(added: Sequence[Source], first_number: int, pages: Pages = "one") -> list[TrainingSource]:
    """The images of several folders, globs, manifests, files and arrays.

    Parameters
    ----------
    added
        Folders, globs, manifests, files and arrays.
    first_number
        Number of the first entry in the names of arrays.
    pages
        Whether files with several pages give one image or `all`.

    Examples
    --------
    >>> import numpy as np
    >>> [source.name for source in added_sources([np.zeros((64, 64)), np.ones((64, 64))], first_number=12)]
    ['array 12', 'array 13']
    """
    sources: list[TrainingSource] = []
    for number, source in enumerate(require_sequence(added), first_number):
        if not isinstance(source, (str, Path)):
            sources.append(TrainingSource(f"array {number}", source))
        elif Path(source).is_file() and Path(source).suffix.lower() not in MANIFESTS:
            sources += training_sources([source], pages)
        else:
            sources += training_sources(source, pages)
    return sources


def first_unused_number(images: Sequence[SourceImage]) -> int:
    """One more than the highest number of an array among the images of a model.

    Examples
    --------
    >>> first_unused_number([SourceImage("array 11", (64, 64)), SourceImage("a.png", (64, 64))])
    12
    """
    numbers = [image.name.removeprefix("array ") for image in images if image.name.startswith("array ")]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def content_key(source: Source) -> str:
    """Digest of the content of a source; for an unreadable source, its error message."""
    try:
        return content_digest(source).hex()
    except ImageError as error:
        return f"unreadable {error}"


def unit_keys(sources: Sequence[TrainingSource], digests: Sequence[str]) -> list[str]:
    """A key for each image. Images with equal keys are held out together: images of one group, and duplicates.

    Duplicates in two groups join these groups.

    Parameters
    ----------
    digests
        The `content_key` of each image.

    Examples
    --------
    >>> unit_keys([TrainingSource("a", "a.png"), TrainingSource("b", "b.png"), TrainingSource("c", "c.png")], "xyx")
    ['x', 'y', 'x']
    """
    root: dict[str, str] = {}

    def find(key: str) -> str:
        while root.setdefault(key, key) != key:
            key = root[key]
        return key

    for source, digest in zip(sources, digests, strict=True):
        keys = [digest] if source.group is None else [digest, f"group {source.group}"]
        first, *others = sorted({find(key) for key in keys})
        root.update(dict.fromkeys(others, first))
    return [find(digest) for digest in digests]
