"""One image for each page of a file, where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from offnominal.datasets.items import Item
from offnominal.errors import ImageError
from offnominal.images.files import count_pages
from offnominal.images.frames import is_page, page_of

__all__ = ["Pages", "in_pages", "is_page", "page_paths"]

#: `one`: a file of several pages is an image that cannot be read; `all`: each page is an image.
Pages = Literal["one", "all"]
#: Formats that hold several pages or frames.
_PAGED = frozenset({".tif", ".tiff", ".webp", ".png", ".jpg", ".jpeg", ".jpe", ".gif"})


def page_paths(path: Path) -> list[Path]:
    """`stack.tif` -> `stack.tif#1`, `stack.tif#2`...; a file of one page, and one that cannot be read, stays as it is."""
    if path.suffix.lower() not in _PAGED or page_of(path)[1] is not None:
        return [path]
    try:
        count = count_pages(path)
    except ImageError:  # told when it is decoded
        return [path]
    return [path] if count == 1 else [path.with_name(f"{path.name}#{number}") for number in range(1, count + 1)]


def in_pages(items: Iterable[Item], pages: Pages) -> list[Item]:
    """The items, with `all` each page one; the mask of page 2 is page 2 of the mask."""
    if pages == "one":
        return list(items)
    return [page for item in items for page in _in_pages(item)]


def _in_pages(item: Item) -> list[Item]:
    paths = page_paths(item.path)
    if len(paths) == 1:
        return [item]
    return [
        replace(
            item,
            path=path,
            name=f"{item.name}#{number}",
            mask=None if item.mask is None else item.mask.with_name(f"{item.mask.name}#{number}"),
        )
        for number, path in enumerate(paths, 1)
    ]
