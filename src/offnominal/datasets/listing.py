"""Resolve the data argument to items: an MVTec root, a folder, a glob, an image or a manifest."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from offnominal.datasets.folders import good_folders, in_folder, in_glob, mvtec_test, mvtec_train, subfolders, with_masks
from offnominal.datasets.items import SPLITS, Item, unique
from offnominal.datasets.manifests import Manifest, read_manifest, require_no_defect_folder, require_only_good
from offnominal.datasets.pages import Pages, in_pages
from offnominal.datasets.tables import MANIFESTS
from offnominal.errors import InputError
from offnominal.images.pages import is_page

#: Image formats, for messages.
_FORMATS = "PNG, JPEG, BMP, TIFF, WebP"


@dataclass(frozen=True)
class Listing:
    """The items of a data set, and notes to report.

    Attributes
    ----------
    items
        The images.
    notes
        One sentence each, such as the number of duplicate rows that were left out.

    Examples
    --------
    >>> listing = Listing([Item(Path("part.png"), "part.png")], notes=[])
    >>> [item.name for item in listing.items]
    ['part.png']
    """

    items: list[Item]
    notes: list[str]


def normal_images(data: str | Path, pages: Pages = "one") -> list[Item]:
    """List the good images to fit on, sorted by name, without duplicates.

    Parameters
    ----------
    data
        - MVTec root: the images in `train/good`.
        - Manifest: the rows of split `train` or none, with label `good` or none.
        - Folder or glob: all images, except pictures that a run wrote.
    pages
        `all` makes each page of a file an image.

    Raises
    ------
    InputError
        The data does not exist or contains no image, a split is neither train nor test, or images may show defects.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = Path(folder) / "parts.csv"
    ...     _ = manifest.write_text("path,split,label\\na.png,train,good\\nb.png,test,good\\nc.png,test,crack\\n")
    ...     [item.name for item in normal_images(manifest)]
    ['a.png']
    """
    return in_pages(find_normal(data).items, pages)


def find_normal(data: str | Path) -> Listing:
    """List the images of `normal_images` with notes, one item per file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = Path(folder) / "parts.csv"
    ...     _ = manifest.write_text("path,label\\na.png,good\\na.png,good\\n")
    ...     listing = find_normal(manifest)
    >>> len(listing.items), listing.notes[0].endswith("duplicate rows left out: 1")
    (1, True)
    """
    path = _checked_path(data)
    trains = subfolders(path, "train")
    if trains:
        if not good_folders(path):
            raise InputError(f"{path}: has a train folder but no train/good; put the good images in train/good")
        listing = Listing(mvtec_train(path), [])
    else:
        manifest = _manifest(path)
        notes: list[str] = []
        if manifest is not None:
            _require_splits(manifest)
            notes = [*manifest.notes, *require_only_good(manifest)]
        items = _listed(data, manifest)
        items = [item for item in items if item.split in (None, "train") and (item.good or item.label is None)]
        if manifest is None:
            require_no_defect_folder(data, items)
        listing = _without_duplicates(data, items, notes)
    if not listing.items:
        raise InputError(f"{data}: contains no good image to fit on (supported: {_FORMATS})")
    return listing


def manifest_notes(data: str | Path) -> list[str]:
    """List the notes of an update on a manifest of good images; other data has none.

    Raises
    ------
    InputError
        As `normal_images`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = Path(folder) / "parts.csv"
    ...     _ = manifest.write_text("path,operator\\na.png,Ann\\n")
    ...     (note,) = manifest_notes(manifest)
    >>> note.split("parts.csv: ")[1]
    "unused columns: 'operator' (used: path, split, label, mask, group, mm_per_pixel)"
    """
    path = _checked_path(data)
    if path.suffix.lower() not in MANIFESTS or not path.is_file():
        return []
    listing = find_normal(path)
    grouped = sum(item.group is not None for item in listing.items)
    note = f"{path}: images with a group: {grouped}; an update holds out single images, a new fit whole groups"
    return [*listing.notes, note] if grouped else listing.notes


def labelled_images(data: str | Path, pages: Pages = "one") -> list[Item]:
    """List the images to evaluate on, with labels and any masks.

    Parameters
    ----------
    data
        - MVTec root: the images in `test`, with masks from `ground_truth`.
        - Manifest: the labelled rows whose split is not `train`.
    pages
        `all` makes each page of a file an image.

    Raises
    ------
    InputError
        The data has no labels, or not both good and defective images.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = Path(folder) / "parts.csv"
    ...     _ = manifest.write_text("path,split,label\\na.png,train,good\\nb.png,test,good\\nc.png,test,crack\\n")
    ...     [(item.name, item.label) for item in labelled_images(manifest)]
    [('b.png', 'good'), ('c.png', 'crack')]
    """
    return in_pages(find_labelled(data).items, pages)


def find_labelled(data: str | Path) -> Listing:
    """List the images of `labelled_images` with notes, one item per file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = Path(folder) / "parts.csv"
    ...     _ = manifest.write_text("path,label\\na.png,good\\nb.png,crack\\n")
    ...     len(find_labelled(manifest).items)
    2
    """
    path = _checked_path(data)
    if path.is_dir():
        if not subfolders(path, "test"):
            raise InputError(f"{path}: evaluate needs labels: an MVTec root with test/good and test/<defect>, or a manifest")
        items, unmatched = with_masks([item for item in mvtec_test(path) if item.label is not None], path)
        notes = []
        if unmatched:
            first = unmatched[0].relative_to(path).as_posix()
            notes.append(f"{path}: files of ground_truth that match no test image: {len(unmatched)}, the first '{first}'")
    else:
        manifest = _manifest(path)
        if manifest is not None:
            _require_splits(manifest)
        notes = [] if manifest is None else [*manifest.notes]
        items = [item for item in _listed(data, manifest) if item.split != "train" and item.label is not None]
    if not items:
        raise InputError(f"{data}: no labelled test image; a manifest needs the columns path and label ('good' or a defect)")
    if not any(item.good for item in items) or all(item.good for item in items):
        raise InputError(f"{data}: evaluate needs both good and defective images; found only {items[0].label}")
    return _without_duplicates(data, items, notes)


def count_unlabelled(data: str | Path) -> int:
    """Count the test images without a label, which `labelled_images` leaves out.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     manifest = Path(folder) / "parts.csv"
    ...     _ = manifest.write_text("path,label\\na.png,good\\nb.png,crack\\nc.png,\\n")
    ...     count_unlabelled(manifest)
    1
    """
    path = Path(data)
    items = mvtec_test(path) if path.is_dir() else _listed(data, _manifest(path))
    return sum(item.split != "train" and item.label is None for item in items)


def any_images(inputs: Iterable[str | Path], leave_out: Iterable[Path] = (), pages: Pages = "one") -> list[Item]:
    """List the images to inspect, in the order of the inputs, without duplicates.

    Parameters
    ----------
    inputs
        Files, folders, globs, manifests, and MVTec roots, of which the images in `test` are taken.
    leave_out
        Folders whose images are left out, such as the output of the run.
    pages
        `all` makes each page of a file an image.

    Raises
    ------
    InputError
        An input does not exist, or it has no image outside of `leave_out`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png", "notes.txt"):
    ...         (Path(folder) / name).touch()
    ...     [item.name for item in any_images([folder])]
    ['a.png', 'b.png']
    """
    return in_pages(find_any(inputs, leave_out).items, pages)


def find_any(inputs: Iterable[str | Path], leave_out: Iterable[Path] = ()) -> Listing:
    """List the images of `any_images` with notes, one item per file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     image = Path(folder) / "a.png"
    ...     image.touch()
    ...     find_any([image, folder]).items[0].name
    'a.png'
    """
    items: list[Item] = []
    notes: list[str] = []
    excluded = [folder.absolute() for folder in leave_out]
    for source in inputs:
        path = Path(source)
        manifest = _manifest(path)
        root = path.is_dir() and good_folders(path) and subfolders(path, "test")
        listing = _without_duplicates(source, mvtec_test(path) if root else _listed(source, manifest), [])
        notes += [*(() if manifest is None else manifest.notes), *listing.notes]
        images = listing.items
        if not images:
            raise InputError(f"{source}: contains no image (supported: {_FORMATS})")
        images = [item for item in images if not any(item.path.absolute().is_relative_to(folder) for folder in excluded)]
        if not images:
            raise InputError(f"{source}: all its images lie in a folder that this run writes to; give another --out")
        items += images
    if not items:
        raise InputError("no image was given")
    return Listing(unique(items)[0], notes)


def _checked_path(data: str | Path) -> Path:
    """The path of the data. Raises `InputError` for an empty name, which would mean the current folder, and for other types."""
    if not isinstance(data, (str, Path)) or not str(data).strip():
        raise InputError(f"data = {str(data)[:60]!r}: name a folder, an MVTec root, a manifest or a glob of images")
    if "://" in str(data):
        raise InputError(f"{data}: is an address; only --cluster reads buckets (--cluster auto on this machine)")
    return Path(data)


def _manifest(path: Path) -> Manifest | None:
    return read_manifest(path) if path.suffix.lower() in MANIFESTS and path.is_file() else None


def _listed(data: str | Path, manifest: Manifest | None) -> list[Item]:
    """The items of the data; of a manifest one per row."""
    path = Path(data)
    if manifest is not None:
        return list(manifest.items)
    if path.is_dir():
        return in_folder(path, root=path)
    if path.exists() or is_page(path):  # a pipe or a device is listed, and refused when it is read
        return [Item(path, path.name)]
    if glob.has_magic(str(data)):
        return in_glob(str(data))
    raise InputError(
        f"{data}: does not exist; give a folder, an image, a glob in quotes, or a .csv, .jsonl or .parquet manifest"
    )


def _without_duplicates(data: str | Path, items: list[Item], notes: list[str]) -> Listing:
    """Remove duplicates, with a note if rows of a manifest were left out."""
    kept, duplicates = unique(items)
    return Listing(kept, [*notes, f"{data}: duplicate rows left out: {duplicates}"] if duplicates else notes)


def _require_splits(manifest: Manifest) -> None:
    """Raise `InputError` if a split is neither train nor test."""
    for number, item in enumerate(manifest.items, 1):
        if item.split not in (None, *SPLITS):
            raise InputError(f"{manifest.path}: row {number} has split '{item.split}', which is neither train nor test")
