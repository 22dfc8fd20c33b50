"""Which images are held out together: those of one group, and copies of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offnominal.errors import ImageError
from offnominal.images import Source, content_digest


@dataclass(frozen=True)
class TrainingSource:
    """An image to fit on: what it is called, where it is, and the group that it is held out with, if any."""

    name: str
    source: Source
    group: str | None = None


def content_key(source: Source) -> str:
    """Text that depends on the content of a source alone; of one that cannot be read, on what it is called."""
    try:
        return content_digest(source).hex()
    except ImageError as error:
        return f"unreadable {error}"


def held_together(sources: Sequence[TrainingSource], digests: Sequence[str]) -> list[str]:
    """A key for each image, equal for images that are held out together: those of one group, and copies of one image.

    A copy in two groups joins them. The keys depend on the groups and on `digests`, the `content_key` of each image, alone.
    """
    root: dict[str, str] = {}

    def find(key: str) -> str:
        while root.setdefault(key, key) != key:
            key = root[key]
        return key

    for one, digest in zip(sources, digests, strict=True):
        keys = [digest] if one.group is None else [digest, f"group {one.group}"]
        first, *others = sorted({find(key) for key in keys})
        root.update(dict.fromkeys(others, first))
    return [find(digest) for digest in digests]
