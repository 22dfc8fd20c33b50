"""Folders, globs and MVTec roots -> items. Links are followed, and each real folder is visited once."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from offnominal.datasets.items import GOOD, GOOD_WORDS, Item, once, real_path, word
from offnominal.errors import InputError
from offnominal.images.decode import SUFFIXES

#: Folders that a run fills with pictures, beside one of these files: they are no images of parts.
RUN_FOLDERS = ("overlays", "receipts", "maps", "masks", "report_files", "suspects")
_RUN_FILES = ("results.jsonl", "metrics.json", "audit.csv")
#: What the name of a mask adds to the name of its image; the first match counts.
_MASK_ENDINGS = ("_mask", "", "_gt", "_label", "_seg", "_ground_truth")


def in_folder(folder: Path, root: Path, split: str | None = None, label: str | None = None) -> list[Item]:
    """The images in a folder and below it, sorted by path; hidden files and pictures of a run are left out.

    Raises:
        InputError: a folder in it cannot be opened.
    """
    items = [Item(path, path.relative_to(root).as_posix(), split, label) for path in _files(folder) if _may_be_image(path)]
    seen = [item for item in items if item.path.parent == folder or not _of_a_run(item.path.parent)]
    return sorted(once(seen)[0], key=lambda item: item.path)


def in_glob(pattern: str) -> list[Item]:
    """The images that a glob matches, sorted by path; the ending of its last part is matched in any case."""
    found = [path for path in _matches(Path(pattern)) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    asked = Path(pattern).parent.name
    seen = [path for path in found if path.parent.name == asked or not _of_a_run(path.parent)]
    kept, _ = once(Item(path, str(path)) for path in sorted(seen))
    return sorted(kept, key=lambda item: item.path)


def subfolders(root: Path, *names: str) -> list[Path]:
    """The folders in `root` that have one of these names in any case, sorted."""
    if not root.is_dir():
        return []
    return sorted(path for path in _entries(root) if path.name.casefold() in names and path.is_dir())


def good_folders(root: Path) -> list[Path]:
    """Folders of good images below the `train` of an MVTec root, such as `train/good`; `Good` and `OK` are understood."""
    trains = subfolders(root, "train")
    return [path for train in trains for path in _entries(train) if word(path.name) in GOOD_WORDS and path.is_dir()]


def mvtec_train(root: Path) -> list[Item]:
    """The good images to fit on of an MVTec root."""
    items = [item for folder in good_folders(root) for item in in_folder(folder, root, "train", GOOD)]
    return once(items)[0]


def mvtec_test(root: Path) -> list[Item]:
    """The test images of an MVTec root, each with the label that its folder names; None for those in no folder."""
    items: list[Item] = []
    for test in subfolders(root, "test"):
        for path in _entries(test):
            if path.is_dir():
                label = GOOD if word(path.name) in GOOD_WORDS else path.name
                items += in_folder(path, root, "test", label)
            elif path.suffix.lower() in SUFFIXES:
                items.append(Item(path, path.relative_to(root).as_posix(), "test"))
    return once(items)[0]


def with_masks(items: list[Item], root: Path) -> tuple[list[Item], list[Path]]:
    """The items with the masks that `ground_truth/<defect>` holds for them, and the files there that match no image.

    A mask is named as its image, or with an ending such as `_mask`; any format that images may have will do.
    """
    masks = {label: _masks(root, label) for label in {item.label for item in items if item.label and not item.good}}
    found: list[Item] = []
    for item in items:
        known = masks.get(item.label or "", {})
        stem = Path(*Path(item.name).parts[2:] or ("-",)).with_suffix("").as_posix()
        names = [name + ending for ending in _MASK_ENDINGS for name in (stem, stem.casefold())]
        mask = next((known[name] for name in names if name in known), None)
        found.append(item if mask is None else replace(item, mask=mask))
    used = {item.mask for item in found}
    folders = subfolders(root, "ground_truth")
    # A mask of a good image is usual in some sets, and holds nothing that is measured.
    good = [path for folder in folders for path in _entries(folder) if word(path.name) in GOOD_WORDS]
    files = [path for folder in folders for path in _files(folder) if not any(path.is_relative_to(one) for one in good)]
    return found, sorted(path for path in files if path not in used)


def _masks(root: Path, label: str) -> dict[str, Path]:
    """Name without suffix, as it is and in lower case -> mask of one kind of defect."""
    found: dict[str, Path] = {}
    folded: dict[str, Path] = {}
    for truth in subfolders(root, "ground_truth"):
        for folder in subfolders(truth, label.casefold()):
            for path in _files(folder):
                if path.suffix.lower() in SUFFIXES:
                    name = path.relative_to(folder).with_suffix("").as_posix()
                    found.setdefault(name, path)
                    folded.setdefault(name.casefold(), path)
    return {**folded, **found}


def _may_be_image(path: Path) -> bool:
    """By its name; a link that leads nowhere is listed even without a suffix, since it may have led to a folder."""
    return path.suffix.lower() in SUFFIXES or (not path.suffix and path.is_symlink() and not path.exists())


def _of_a_run(folder: Path) -> bool:
    """Whether a folder is where a run put its pictures."""
    return folder.name in RUN_FOLDERS and any((folder.parent / name).is_file() for name in _RUN_FILES)


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder and below it: first those that no linked folder leads to. Hidden ones are left out."""
    for place in _folders(folder):
        yield from (path for path in _entries(place) if not path.is_dir())


def _folders(folder: Path) -> Iterator[Path]:
    """The folder and those below it, each real one once, so that a loop of links ends. Links come last."""
    waiting, links, seen = deque([folder]), deque[Path](), set[str]()
    while waiting or links:
        place = waiting.popleft() if waiting else links.popleft()
        real = real_path(place)
        if real in seen:
            continue
        seen.add(real)
        yield place
        for path in _entries(place):
            if path.is_dir():
                (links if path.is_symlink() else waiting).append(path)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without what is hidden. Raises `InputError`."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be opened ({error.strerror or error}); check your access to it") from None


def _matches(pattern: Path) -> Iterator[Path]:
    """As `glob.glob(recursive=True)`, but a loop of links ends, and `*.png` matches `A.PNG`."""
    parts = pattern.parts
    if "**" not in parts:
        last = _any_case(parts[-1])
        yield from map(Path, glob.glob(str(pattern.with_name(last)) if last != parts[-1] else str(pattern)))
        return
    at = parts.index("**")
    before, behind = Path(*parts[:at]), parts[at + 1 :] or ("*",)
    for start in glob.glob(str(before)) if at else ["."]:
        for folder in _folders(Path(start)) if os.path.isdir(start) else ():
            base = Path(glob.escape(str(folder))) if at or folder != Path() else Path()
            yield from _matches(base.joinpath(*behind))


def _any_case(part: str) -> str:
    """`*.png` -> `*.[pP][nN][gG]` where the ending is that of an image."""
    stem, ending = os.path.splitext(part)
    if ending.lower() not in SUFFIXES:
        return part
    return f"{stem}." + "".join(f"[{letter.lower()}{letter.upper()}]" for letter in ending[1:])
