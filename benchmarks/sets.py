"""Image sets for benchmarks of minutes: MVTec roots, thinned if large, and random draws of their training images.

    python benchmarks/sets.py FOLDER [--most 100] [--data FOLDER_OF_SETS]

writes manifests of the simulated textile and of thinned sets to FOLDER, for programs that take one set:
`rivals.py --data FOLDER/textile.csv`.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from offnominal import Detector
from offnominal.datasets import labelled_images, normal_images
from offnominal.demo import write_manifest
from offnominal.errors import InputError
from tables import arguments


def set_arguments(doc: str | None, *, most: int, cells: bool = False) -> ArgumentParser:
    """`tables.arguments` with the folder of sets and the largest number of training images."""
    parser = arguments(doc)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--most", type=int, default=most, help="largest number of training images of a set")
    if cells:
        parser.add_argument("--cells", action="store_true", help="add the solar cells of elpv-dataset")
        parser.add_argument("--textile", action="store_true", help="add the simulated textile of conformal-clip-data")
    return parser


@dataclass(frozen=True)
class ImageSet:
    """Data for `fit` and `evaluate`: every `step`-th image of a set, sorted by name."""

    name: str
    data: Path
    step: int
    train: int
    test: int

    def __str__(self) -> str:
        part = "whole" if self.step == 1 else f"one image in {self.step}, in the order of their names"
        return f"{self.name} ({part}: {self.train} images to fit on, {self.test} to test)"


def image_sets(folder: Path, most: int, lists: Path) -> list[ImageSet]:
    """The MVTec roots in a folder.

    A root with more than `most` training images is thinned by a fixed step, and its test images by the same step. A manifest in
    `lists` holds the remaining images.
    """
    roots = sorted(path for path in folder.iterdir() if (path / "train" / "good").is_dir())
    return [_thinned(root.name, root, most, lists) for root in roots]


def cell_sets(most: int, lists: Path) -> list[ImageSet]:
    """The mono- and polycrystalline solar cells of `elpv-dataset`, thinned like the roots."""
    sets = []
    for kind in ("mono", "poly"):
        manifest = lists / f"elpv {kind}.csv"
        write_manifest(manifest, kind=kind)
        sets.append(_thinned(f"elpv {kind}", manifest, most, lists))
    return sets


def write_textile(manifest: Path) -> None:
    """Write a manifest of the simulated textile of Megahed et al. 2025 (arXiv 2501.12596).

    Training: 400 nominal images. Test: 600 nominal images and 500 defects of each kind, `local` and `global`. The images are
    grey, 250 x 250 pixels, without masks (MIT licence). Most defaults were chosen without this set, except `accurate`, `resize`
    and `exposure`.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("conformal_clip_data")
    if spec is None or spec.origin is None:
        raise InputError("pip install conformal-clip-data")
    images = Path(spec.origin).parent / "data" / "textile_images" / "simulated"
    rows = [
        (path, "train" if kind == "nominal" and number < 400 else "test", "good" if kind == "nominal" else kind)
        for kind in ("nominal", "local", "global")
        for number, path in enumerate(sorted((images / kind).iterdir()))
    ]
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split", "label"), *rows])


def packaged_sets(lists: Path) -> dict[str, Path]:
    """Manifests, written to `lists`, of the sets whose packages are installed."""
    writers: dict[str, Callable[[Path], None]] = {
        "elpv monocrystalline": partial(write_manifest, kind="mono"),
        "elpv polycrystalline": partial(write_manifest, kind="poly"),
        "textile": write_textile,
    }
    manifests = {}
    for name, write in writers.items():
        try:
            write(lists / f"{name}.csv")
            manifests[name] = lists / f"{name}.csv"
        except InputError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return manifests


def textile_set(most: int, lists: Path) -> ImageSet:
    """The textile, thinned like the roots."""
    manifest = lists / "textile.csv"
    write_textile(manifest)
    return _thinned("textile", manifest, most, lists)


def requested_sets(args: Namespace, lists: Path) -> list[ImageSet]:
    """The sets that the options of `set_arguments(cells=True)` request."""
    sets = image_sets(args.data, args.most, lists)
    sets += cell_sets(args.most, lists) if args.cells else []
    return sets + ([textile_set(args.most, lists)] if args.textile else [])


def _thinned(name: str, data: Path, most: int, lists: Path) -> ImageSet:
    normal = normal_images(data)
    step = -(-len(normal) // most)
    train, test = normal[::step], labelled_images(data)[::step]
    if step > 1:
        data = lists / f"{name}.csv"
        with data.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "split", "label", "mask"))
            writer.writerows((item.path.absolute(), "train", item.label, "") for item in train)
            writer.writerows(
                (item.path.absolute(), "test", item.label, item.mask.absolute() if item.mask else "") for item in test
            )
    return ImageSet(name, data, step, len(train), len(test))


def draw_training_images(data: str | Path, draw: int) -> list[Path]:
    """The training images without a random tenth, at least one; the draw is the seed.

    A fit does not depend on the order of its images, so draws differ only in their images.
    """
    images = [item.path for item in normal_images(data)]
    left_out = set(np.random.default_rng(draw).permutation(len(images))[: max(1, len(images) // 10)].tolist())
    return [path for at, path in enumerate(images) if at not in left_out]


def fit_and_save(data: Path, model: Path) -> None:
    """Fit with the defaults and save the model for other processes."""
    Detector().fit(data).save(model)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=sys.maxsize, help="largest number of training images")
    parser.add_argument("--data", type=Path, help="folder of MVTec roots, to thin them too")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for one in [textile_set(args.most, args.folder), *(image_sets(args.data, args.most, args.folder) if args.data else [])]:
        print(one)
