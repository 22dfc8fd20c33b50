"""What the user points at -> a list of items: an MVTec category, a folder, a glob, one image, or a manifest."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from offnominal.datasets.folders import good_folders, in_folder, in_glob, mvtec_test, mvtec_train, subfolders, with_masks
from offnominal.datasets.items import SPLITS, Item, once
from offnominal.datasets.manifests import Manifest, read_manifest, require_no_defect_folder, require_only_good
from offnominal.datasets.pages import Pages, in_pages, is_page
from offnominal.datasets.tables import MANIFESTS
from offnominal.errors import InputError


@dataclass(frozen=True)
class Listing:
    """The items that some data hold, and what to report of them, a sentence each."""

    items: list[Item]
    notes: list[str]


def normal_images(data: str | Path, pages: Pages = "one") -> list[Item]:
    """The good images to fit on, sorted by name, each file once.

    Of an MVTec root this is `train/good`; of a manifest the rows whose split is `train` (or absent) and whose label is
    good (or absent); of a folder or a glob everything, but for pictures that a run wrote. With `pages` = `all` each page of a
    file is an image.

    Raises:
        InputError: nothing is there, no image is among it, a row is neither to be fitted on nor to be tested on, or defects
            may be among the images.
    """
    return in_pages(find_normal(data).items, pages)


def find_normal(data: str | Path) -> Listing:
    """`normal_images` before pages are counted, with notes."""
    path = _place(data)
    trains = subfolders(path, "train")
    if trains:
        if not good_folders(path):
            raise InputError(f"{path}: has a train folder but no train/good; put the good images there")
        found = Listing(mvtec_train(path), [])
    else:
        manifest = _manifest(path)
        notes = [] if manifest is None else [*manifest.notes, *_require_splits(manifest), *require_only_good(manifest)]
        items = _listed(data, manifest)
        kept = [item for item in items if item.split in (None, "train") and (item.good or item.label is None)]
        if manifest is None:
            require_no_defect_folder(data, kept)
        found = _listing(data, kept, notes)
    if not found.items:
        raise InputError(f"{data}: holds no good image to fit on ({_accepted()})")
    return found


def manifest_notes(data: str | Path) -> list[str]:
    """What an update reports of a manifest of good images; nothing of other data. Raises `InputError` as `normal_images`."""
    path = _place(data)
    if path.suffix.lower() not in MANIFESTS or not path.is_file():
        return []
    found = find_normal(path)
    grouped = sum(item.group is not None for item in found.items)
    note = f"{path}: images with a group: {grouped}; an update holds each image out alone, a new fit each group"
    return [*found.notes, note] if grouped else found.notes


def labelled_images(data: str | Path, pages: Pages = "one") -> list[Item]:
    """The images to evaluate on: labels, and masks where there are some; with `pages` = `all` each page is an image.

    Raises:
        InputError: the data carries no labels, or not both good and defective images.
    """
    return in_pages(find_labelled(data).items, pages)


def find_labelled(data: str | Path) -> Listing:
    """`labelled_images` before pages are counted, with notes."""
    path = _place(data)
    if path.is_dir():
        if not subfolders(path, "test"):
            raise InputError(f"{path}: evaluate needs labels: an MVTec root with test/good and test/<defect>, or a manifest")
        items, strange = with_masks([item for item in mvtec_test(path) if item.label is not None], path)
        notes = []
        if strange:
            first = strange[0].relative_to(path).as_posix()
            notes.append(f"{path}: files of ground_truth that match no test image: {len(strange)}, the first '{first}'")
    else:
        manifest = _manifest(path)
        notes = [] if manifest is None else [*manifest.notes, *_require_splits(manifest)]
        items = [item for item in _listed(data, manifest) if item.split != "train" and item.label is not None]
    if not items:
        raise InputError(f"{data}: no labelled test image; a manifest needs the columns path and label ('good' or a defect)")
    if not any(item.good for item in items) or all(item.good for item in items):
        raise InputError(f"{data}: evaluate needs both good and defective images; found only {items[0].label}")
    return _listing(data, items, notes)


def count_unlabelled(data: str | Path) -> int:
    """Test images that `labelled_images` leaves out, since they have no label."""
    path = Path(data)
    items = mvtec_test(path) if path.is_dir() else _listed(data, _manifest(path))
    return sum(item.split != "train" and item.label is None for item in items)


def any_images(inputs: Iterable[str | Path], leave_out: Iterable[Path] = (), pages: Pages = "one") -> list[Item]:
    """The images to inspect: files, folders, globs and manifests, in the order given, each file once; of an MVTec root those
    of `test`. What lies in a folder of `leave_out` is not among them. With `pages` = `all` each page of a file is an image.

    Raises:
        InputError: one of the inputs is missing or holds no image, or none but in such a folder.
    """
    return in_pages(find_any(inputs, leave_out).items, pages)


def find_any(inputs: Iterable[str | Path], leave_out: Iterable[Path] = ()) -> Listing:
    """`any_images` before pages are counted, with notes."""
    items: list[Item] = []
    notes: list[str] = []
    not_these = [folder.absolute() for folder in leave_out]
    for given in inputs:
        path = Path(given)
        manifest = _manifest(path)
        root = path.is_dir() and good_folders(path) and subfolders(path, "test")
        one = _listing(given, mvtec_test(path) if root else _listed(given, manifest), [])
        notes += [*(() if manifest is None else manifest.notes), *one.notes]
        found = one.items
        if not found:
            raise InputError(f"{given}: holds no image ({_accepted()})")
        found = [item for item in found if not any(item.path.absolute().is_relative_to(folder) for folder in not_these)]
        if not found:
            raise InputError(f"{given}: all its images lie in a folder that this run writes to; give another --out")
        items += found
    if not items:
        raise InputError("no image was given")
    return Listing(once(items)[0], notes)


def _place(data: str | Path) -> Path:
    """Raises `InputError` for what names no place; an empty name would be the folder that one happens to be in."""
    if not isinstance(data, (str, Path)) or not str(data).strip():
        raise InputError(f"data = {str(data)[:60]!r}: name a folder, an MVTec root, a manifest or a glob of images")
    return Path(data)


def _accepted() -> str:
    return "PNG, JPEG, BMP, TIFF and WebP are read"


def _manifest(path: Path) -> Manifest | None:
    return read_manifest(path) if path.suffix.lower() in MANIFESTS and path.is_file() else None


def _listed(data: str | Path, manifest: Manifest | None) -> list[Item]:
    """The items; of a manifest one for each row."""
    path = Path(data)
    if manifest is not None:
        return list(manifest.items)
    if path.is_dir():
        return in_folder(path, root=path)
    if path.exists() or is_page(path):  # a pipe or a device is an image that cannot be read
        return [Item(path, path.name)]
    if glob.has_magic(str(data)):
        return in_glob(str(data))
    raise InputError(
        f"{data}: does not exist; give a folder, an image, a glob in quotes, or a .csv, .jsonl or .parquet manifest"
    )


def _listing(data: str | Path, items: list[Item], notes: list[str]) -> Listing:
    """Each file once, and a note where rows of a manifest were left out."""
    kept, doubled = once(items)
    return Listing(kept, [*notes, f"{data}: rows left out that name an image again: {doubled}"] if doubled else notes)


def _require_splits(manifest: Manifest) -> list[str]:
    """Raises `InputError` where a split is neither to be fitted on nor to be tested on."""
    for number, item in enumerate(manifest.items, 1):
        if item.split not in (None, *SPLITS):
            raise InputError(f"{manifest.path}: row {number} has split '{item.split}', which is neither train nor test")
    return []
