"""Image sets for runs of minutes: MVTec roots, large ones thinned; and random draws of their training images.

    python benchmarks/sets.py FOLDER [--most 100]

writes a manifest of the simulated textile to FOLDER, for programs that take one set: `rivals.py --data FOLDER/textile.csv`.
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
    """`tables.arguments` with the folder of sets and how large a set may be."""
    parser = arguments(doc)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--most", type=int, default=most, help="training images of a set, at most")
    if cells:
        parser.add_argument("--cells", action="store_true", help="the solar cells of elpv-dataset too")
        parser.add_argument("--textile", action="store_true", help="the simulated textile of conformal-clip-data too")
    return parser


@dataclass(frozen=True)
class ImageSet:
    """What `fit` and `evaluate` take, and how much of the set it is: every `step`-th image of its sorted names."""

    name: str
    data: Path
    step: int
    train: int
    test: int

    def __str__(self) -> str:
        part = "whole" if self.step == 1 else f"one image in {self.step}, in the order of their names"
        return f"{self.name} ({part}: {self.train} images to fit on, {self.test} to test)"


def image_sets(folder: Path, most: int, lists: Path) -> list[ImageSet]:
    """The MVTec roots in a folder. One with more than `most` training images is thinned by a fixed step, its test images by
    the same; a manifest in `lists` says what is left."""
    roots = sorted(path for path in folder.iterdir() if (path / "train" / "good").is_dir())
    return [_thinned(root.name, root, most, lists) for root in roots]


def cell_sets(most: int, lists: Path) -> list[ImageSet]:
    """The solar cells of `elpv-dataset`, mono- and polycrystalline, thinned as the roots are."""
    found = []
    for kind in ("mono", "poly"):
        whole = lists / f"elpv {kind}.csv"
        write_manifest(whole, kind=kind)
        found.append(_thinned(f"elpv {kind}", whole, most, lists))
    return found


def write_textile(manifest: Path) -> None:
    """A manifest of the simulated textile of Megahed et al. 2025 (arXiv 2501.12596): 400 nominal images to fit on, the other
    600 and 500 defects of each kind, `local` and `global`, to test. Most defaults were chosen before it was met; `accurate`,
    `resize` and `exposure` were not.
    250 x 250 pixels, grey, without masks, MIT licence.

    Raises:
        InputError: the package is not installed; nothing else here needs it.
    """
    found = importlib.util.find_spec("conformal_clip_data")
    if found is None or found.origin is None:
        raise InputError("pip install conformal-clip-data")
    images = Path(found.origin).parent / "data" / "textile_images" / "simulated"
    rows = [
        (path, "train" if kind == "nominal" and place < 400 else "test", "good" if kind == "nominal" else kind)
        for kind in ("nominal", "local", "global")
        for place, path in enumerate(sorted((images / kind).iterdir()))
    ]
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split", "label"), *rows])


def packaged_sets(lists: Path) -> dict[str, Path]:
    """Manifests, in `lists`, of the sets that come as packages, as far as these are installed."""
    makers: dict[str, Callable[[Path], None]] = {
        "elpv monocrystalline": partial(write_manifest, kind="mono"),
        "elpv polycrystalline": partial(write_manifest, kind="poly"),
        "textile": write_textile,
    }
    found = {}
    for name, make in makers.items():
        try:
            make(lists / f"{name}.csv")
            found[name] = lists / f"{name}.csv"
        except InputError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return found


def textile_set(most: int, lists: Path) -> ImageSet:
    """The textile, thinned as the roots are."""
    whole = lists / "textile.csv"
    write_textile(whole)
    return _thinned("textile", whole, most, lists)


def sets_asked_for(given: Namespace, lists: Path) -> list[ImageSet]:
    """What the arguments of `set_arguments(cells=True)` ask for."""
    found = image_sets(given.data, given.most, lists)
    found += cell_sets(given.most, lists) if given.cells else []
    return found + ([textile_set(given.most, lists)] if given.textile else [])


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


def drawn(data: str | Path, draw: int) -> list[Path]:
    """The training images without a random tenth of them, at least one; the draw is the seed.

    A fit does not depend on the order of its images, so differences between draws come from the images alone.
    """
    images = [item.path for item in normal_images(data)]
    left_out = set(np.random.default_rng(draw).permutation(len(images))[: max(1, len(images) // 10)].tolist())
    return [path for at, path in enumerate(images) if at not in left_out]


def fitted(data: Path, model: Path) -> None:
    """Fit with the defaults and save the model, for other processes to load."""
    Detector().fit(data).save(model)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=sys.maxsize, help="training images, at most")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    print(textile_set(asked.most, asked.folder))
