"""List the images of folders, globs and MVTec roots. Links are followed; each real folder is visited once."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from offnominal.datasets.items import GOOD, GOOD_WORDS, Item, real_path, unique, word
from offnominal.errors import InputError
from offnominal.images.decode import SUFFIXES

#: Folders of pictures that a run writes beside one of `_RUN_FILES`. They are not images of parts.
RUN_FOLDERS = ("overlays", "receipts", "maps", "masks", "report_files", "suspects")
_RUN_FILES = ("results.jsonl", "metrics.json", "audit.csv")
#: Endings of mask names after the name of the image, in order of preference.
_MASK_ENDINGS = ("_mask", "", "_gt", "_label", "_seg", "_ground_truth")


def in_folder(folder: Path, root: Path, split: str | None = None, label: str | None = None) -> list[Item]:
    """List the images in a folder and its subfolders, sorted by path, without hidden files and pictures of a run.

    Raises
    ------
    InputError
        A folder cannot be opened.
    """
    items = [Item(path, path.relative_to(root).as_posix(), split, label) for path in _files(folder) if _may_be_image(path)]
    items = [item for item in items if item.path.parent == folder or not _written_by_run(item.path.parent)]
    return sorted(unique(items)[0], key=lambda item: item.path)


def in_glob(pattern: str) -> list[Item]:
    """List the images that a glob matches, sorted by path. Its suffix matches upper and lower case."""
    paths = [path for path in _matches(Path(pattern)) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    folder = Path(pattern).parent.name
    paths = [path for path in paths if path.parent.name == folder or not _written_by_run(path.parent)]
    items, _ = unique(Item(path, str(path)) for path in sorted(paths))
    return sorted(items, key=lambda item: item.path)


def subfolders(root: Path, *names: str) -> list[Path]:
    """List the folders in `root` that have one of these names, ignoring case, sorted."""
    if not root.is_dir():
        return []
    return sorted(path for path in _entries(root) if path.name.casefold() in names and path.is_dir())


def good_folders(root: Path) -> list[Path]:
    """List the folders of good images in `train` of an MVTec root: `good`, or a synonym such as `OK`, ignoring case."""
    trains = subfolders(root, "train")
    return [path for train in trains for path in _entries(train) if word(path.name) in GOOD_WORDS and path.is_dir()]


def mvtec_train(root: Path) -> list[Item]:
    """List the good training images of an MVTec root."""
    items = [item for folder in good_folders(root) for item in in_folder(folder, root, "train", GOOD)]
    return unique(items)[0]


def mvtec_test(root: Path) -> list[Item]:
    """List the test images of an MVTec root, labelled by their folder; images outside of a folder have no label."""
    items: list[Item] = []
    for test in subfolders(root, "test"):
        for path in _entries(test):
            if path.is_dir():
                label = GOOD if word(path.name) in GOOD_WORDS else path.name
                items += in_folder(path, root, "test", label)
            elif path.suffix.lower() in SUFFIXES:
                items.append(Item(path, path.relative_to(root).as_posix(), "test"))
    return unique(items)[0]


def with_masks(items: list[Item], root: Path) -> tuple[list[Item], list[Path]]:
    """Add the masks in `ground_truth/<defect>` to their items, and list the files there that match no item.

    A mask has the name of its image, or an ending such as `_mask`, in any image format.
    """
    masks = {label: _masks(root, label) for label in {item.label for item in items if item.label and not item.good}}
    masked: list[Item] = []
    for item in items:
        by_name = masks.get(item.label or "", {})
        stem = Path(*Path(item.name).parts[2:] or ("-",)).with_suffix("").as_posix()
        names = [name + ending for ending in _MASK_ENDINGS for name in (stem, stem.casefold())]
        mask = next((by_name[name] for name in names if name in by_name), None)
        masked.append(item if mask is None else replace(item, mask=mask))
    used = {item.mask for item in masked}
    folders = subfolders(root, "ground_truth")
    # Some data sets have masks of good images. They are not needed.
    good = [path for folder in folders for path in _entries(folder) if word(path.name) in GOOD_WORDS]
    files = [path for folder in folders for path in _files(folder) if not any(path.is_relative_to(skipped) for skipped in good)]
    return masked, sorted(path for path in files if path not in used)


def _masks(root: Path, label: str) -> dict[str, Path]:
    """Map names without suffix, as written and in lower case, to the masks of one kind of defect."""
    exact: dict[str, Path] = {}
    folded: dict[str, Path] = {}
    for truth in subfolders(root, "ground_truth"):
        for folder in subfolders(truth, label.casefold()):
            for path in _files(folder):
                if path.suffix.lower() in SUFFIXES:
                    name = path.relative_to(folder).with_suffix("").as_posix()
                    exact.setdefault(name, path)
                    folded.setdefault(name.casefold(), path)
    return {**folded, **exact}


def _may_be_image(path: Path) -> bool:
    """Check the suffix. A broken link without a suffix is listed too, since its target may have been a folder of images."""
    return path.suffix.lower() in SUFFIXES or (not path.suffix and path.is_symlink() and not path.exists())


def _written_by_run(folder: Path) -> bool:
    """Whether a run wrote the pictures in the folder."""
    return folder.name in RUN_FOLDERS and any((folder.parent / name).is_file() for name in _RUN_FILES)


def _files(folder: Path) -> Iterator[Path]:
    """Files in a folder and its subfolders without hidden ones; files in linked folders come last."""
    for subfolder in _folders(folder):
        yield from (path for path in _entries(subfolder) if not path.is_dir())


def _folders(folder: Path) -> Iterator[Path]:
    """The folder and its subfolders, links last. Each real folder comes once, so that a loop of links ends."""
    plain, links, visited = deque([folder]), deque[Path](), set[str]()
    while plain or links:
        current = plain.popleft() if plain else links.popleft()
        real = real_path(current)
        if real in visited:
            continue
        visited.add(real)
        yield current
        for path in _entries(current):
            if path.is_dir():
                (links if path.is_symlink() else plain).append(path)


def _entries(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without hidden ones. Raises `InputError` if it cannot be opened."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be opened ({error.strerror or error}); check your access to it") from None


def _matches(pattern: Path) -> Iterator[Path]:
    """Like `glob.glob(recursive=True)`, but a loop of links ends, and `*.png` matches `A.PNG`."""
    parts = pattern.parts
    if "**" not in parts:
        last = _any_case(parts[-1])
        yield from map(Path, glob.glob(str(pattern.with_name(last)) if last != parts[-1] else str(pattern)))
        return
    index = parts.index("**")
    before, after = Path(*parts[:index]), parts[index + 1 :] or ("*",)
    for start in glob.glob(str(before)) if index else ["."]:
        for folder in _folders(Path(start)) if os.path.isdir(start) else ():
            base = Path(glob.escape(str(folder))) if index or folder != Path() else Path()
            yield from _matches(base.joinpath(*after))


def _any_case(part: str) -> str:
    """`*.png` -> `*.[pP][nN][gG]`, for suffixes of images."""
    stem, suffix = os.path.splitext(part)
    if suffix.lower() not in SUFFIXES:
        return part
    return f"{stem}." + "".join(f"[{letter.lower()}{letter.upper()}]" for letter in suffix[1:])
