"""Files of several pages: one image per page, if requested."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from offnominal.datasets.items import Item
from offnominal.errors import ImageError
from offnominal.images.file_checks import count_pages
from offnominal.images.pages import page_of

#: `one`: a file of several pages is refused as an image; `all`: each page is an image.
Pages = Literal["one", "all"]
#: Formats that hold several pages or frames.
_PAGED = frozenset({".tif", ".tiff", ".webp", ".png", ".jpg", ".jpeg", ".jpe", ".gif"})


def page_paths(path: Path) -> list[Path]:
    """List the pages of a file as `stack.tif#1`, `stack.tif#2`, ...

    A file of one page, and one that cannot be read, is returned unchanged.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page, path = Image.new("L", (8, 8)), Path(folder) / "stack.tif"
    ...     page.save(path, save_all=True, append_images=[page])
    ...     [page.name for page in page_paths(path)]
    ['stack.tif#1', 'stack.tif#2']
    """
    if path.suffix.lower() not in _PAGED or page_of(path)[1] is not None:
        return [path]
    try:
        count = count_pages(path)
    except ImageError:  # decoding will report the error
        return [path]
    return [path] if count == 1 else [path.with_name(f"{path.name}#{number}") for number in range(1, count + 1)]


def in_pages(items: Iterable[Item], pages: Pages) -> list[Item]:
    """Expand the items to one per page if `pages` is `all`. The mask of page 2 is page 2 of the mask.

    Examples
    --------
    >>> items = [Item(Path("part.bmp"), "part.bmp")]
    >>> in_pages(items, "one") == in_pages(items, "all") == items
    True
    """
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
