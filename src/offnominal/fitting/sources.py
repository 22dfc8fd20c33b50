"""What a user names -> the images to fit on, and which of them are held out together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offnominal.datasets import MANIFESTS, Pages, normal_images, page_paths
from offnominal.errors import ImageError
from offnominal.images import Source, content_digest, several


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
        Images of one group are held out together; None for an image on its own.
    """

    name: str
    source: Source
    group: str | None = None


def training_sources(data: str | Path | Sequence[Source], pages: Pages = "one") -> list[TrainingSource]:
    """The images of a data set, or of a sequence of paths and arrays."""
    if isinstance(data, (str, Path)):
        return [TrainingSource(item.name, item.path, item.group) for item in normal_images(data, pages)]
    sources: list[TrainingSource] = []
    for number, source in enumerate(several(data)):
        if not isinstance(source, (str, Path)):
            sources.append(TrainingSource(f"array {number}", source))
        elif pages == "all":
            sources += [TrainingSource(str(path), path) for path in page_paths(Path(source))]
        else:
            sources.append(TrainingSource(str(source), source))
    return sources


def added_sources(added: Sequence[Source], first_number: int, pages: Pages = "one") -> list[TrainingSource]:
    """The images of several folders, globs, manifests, files and arrays; arrays are numbered from `first_number` on."""
    sources: list[TrainingSource] = []
    for number, source in enumerate(several(added), first_number):
        if not isinstance(source, (str, Path)):
            sources.append(TrainingSource(f"array {number}", source))
        elif Path(source).is_file() and Path(source).suffix.lower() not in MANIFESTS:
            sources += training_sources([source], pages)
        else:
            sources += training_sources(source, pages)
    return sources


def content_key(source: Source) -> str:
    """Text that depends on the content of a source alone; for an unreadable source, on the error message."""
    try:
        return content_digest(source).hex()
    except ImageError as error:
        return f"unreadable {error}"


def held_together(sources: Sequence[TrainingSource], digests: Sequence[str]) -> list[str]:
    """A key for each image. Images with equal keys are held out together: those of one group, and copies of one image.

    A copy in two groups joins them. The keys depend on the groups and on `digests` (the `content_key` of each image) alone.

    Examples
    --------
    >>> held_together([TrainingSource("a", "a.png"), TrainingSource("b", "b.png"), TrainingSource("c", "c.png")], "xyx")
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
