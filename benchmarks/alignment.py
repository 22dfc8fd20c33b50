"""What does alignment gain and cost, if parts are rotated and shifted?

    python benchmarks/alignment.py --data FOLDER_OF_SETS [--cells] [--draws 5] [--out benchmarks/results]

Every image of a set is moved: shifted by up to 10 % of its sides and rotated by up to 15 degrees, at random. The background of
cookies and cells continues; of the other sets, whose parts fill the image, a window of the moved image is cut out.
In each draw, which also leaves out a random tenth of the training images, the preset `fast` is fitted on the images
as they are, on the moved ones, and on the moved ones with `align = rigid`. "Not found" is the share of images whose part is
not found: good ones, defective ones, and all images of the other sets, resized to the shape of the set.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from offnominal import Detector
from offnominal.datasets import Item, labelled_images, normal_images
from offnominal.errors import InputError
from offnominal.images import pixels_of, raise_unreadable, read_header, read_mask
from offnominal.types import Pose
from sets import ImageSet, requested_sets, set_arguments
from tables import machine, plus_minus, table, use_threads, write

SHIFT, DEGREES, RATE = 0.1, 15.0, 0.05
#: Share of the sides of the window that is cut out: its corners stay inside of the image.
WINDOW = 0.66
#: Sets whose parts lie on a background that continues, by the first word of their names.
ON_BACKGROUND = ("aws_cookies", "elpv")
AS_IS, MOVED, ALIGNED = "as they are", "moved", "moved, align = rigid"
FIGURES = ("image_auroc", "pixel_auroc", "false_alarm_rate", "detection_rate")


def moved(picture: Any, rng: np.random.Generator, whole: bool, still: bool) -> Any:
    """A picture or a mask, shifted and rotated; with `still`, only cut."""
    size = picture.shape[:2]
    share = 1.0 if whole else WINDOW
    dx, dy, degrees = rng.uniform((-SHIFT, -SHIFT, -DEGREES), (SHIFT, SHIFT, DEGREES))
    pose = Pose(0.0, 0.0, 0.0, 1.0, 1.0) if still else Pose(dx * share * size[1], dy * share * size[0], degrees, 1.0, 1.0)
    flags = cv2.INTER_NEAREST if picture.ndim == 2 else cv2.INTER_CUBIC
    border = cv2.BORDER_CONSTANT if picture.ndim == 2 else cv2.BORDER_REPLICATE
    picture = cv2.warpAffine(picture, pose.matrix(size), size[::-1], flags=flags, borderMode=border)
    if whole:
        return picture
    height, width = (round(side * WINDOW) for side in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return picture[top : top + height, left : left + width]


def write_moved(
    items: Sequence[Item], split: str, folder: Path, seed: int, size: tuple[int, int], *, whole: bool, still: bool
) -> list[tuple[str, ...]]:
    """Bring images and masks to one size, and move them; returns the rows of a manifest."""
    rows = list[tuple[str, ...]]()
    for number, item in enumerate(items):
        path, mask = folder / f"{split}-{number:05d}.png", ""
        picture = np.ascontiguousarray(pixels_of(item.path)[:, :, ::-1])
        before, picture = picture.shape[:2], cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(path), moved(picture, np.random.default_rng([seed, number]), whole, still))
        if item.mask is not None:
            marked = read_mask(item.mask, before).astype(np.uint8) * 255
            marked = cv2.resize(marked, size[::-1], interpolation=cv2.INTER_NEAREST)
            marked = moved(marked, np.random.default_rng([seed, number]), whole, still)
            if marked.any():
                mask = str(path.with_suffix(".mask.png"))
                cv2.imwrite(mask, marked)
            elif not item.good:
                continue  # the defect has left the image
        rows.append((str(path), split, "good" if item.good else item.label or "defect", mask))
    return rows


def of_similar_shape(items: Sequence[Item]) -> list[Item]:
    """The images whose aspect ratio is the most common one, rounded to tenths: little changes if they get one shape."""
    ratios = [round(size[1] / size[0], 1) for size in (read_header(item.path).size for item in items)]
    common = max(sorted(set(ratios)), key=ratios.count)
    return [item for item, ratio in zip(items, ratios, strict=True) if ratio == common]


def reshaped(paths: Sequence[Path], size: tuple[int, int]) -> list[Any]:
    """Images of other sets, in the shape of this one."""
    return [cv2.resize(np.ascontiguousarray(pixels_of(path)), size[::-1], interpolation=cv2.INTER_AREA) for path in paths]


def measure(one: ImageSet, others: Sequence[Path], draw: int) -> dict[str, Any]:
    """Figures of the three cases for one draw; None if a fit refuses the images."""
    whole = one.name.split()[0] in ON_BACKGROUND
    good, tested = list(normal_images(one.data)), list(labelled_images(one.data))
    if not whole:
        shapes = of_similar_shape([*good, *tested])
        good, tested = [item for item in good if item in shapes], [item for item in tested if item in shapes]
    shape = read_header(good[0].path).size
    left_out = np.random.default_rng(draw).permutation(len(good))[: max(1, len(good) // 10)].tolist()
    good = [item for at, item in enumerate(good) if at not in left_out]
    results: dict[str, Any] = {}
    for case, settings in ((AS_IS, {}), (MOVED, {}), (ALIGNED, {"align": "rigid"})):
        with tempfile.TemporaryDirectory() as name:
            folder, still = Path(name), case == AS_IS
            rows = write_moved(good, "train", folder, 2 * draw, shape, whole=whole, still=still)
            rows += write_moved(tested, "test", folder, 2 * draw + 1, shape, whole=whole, still=still)
            manifest = folder / "set.csv"
            with manifest.open("w", newline="") as file:
                csv.writer(file).writerows([("path", "split", "label", "mask"), *rows])
            detector = Detector(preset="fast", false_alarm_rate=RATE, **settings)
            started = perf_counter()
            try:
                detector.fit(manifest)
            except InputError as error:  # nothing tells where the part lies
                print(one.name, error, file=sys.stderr, flush=True)
                results[case] = None
                continue
            fitted = perf_counter() - started
            evaluation = detector.evaluate(manifest)
            figures: dict[str, Any] = {name: evaluation.figures[name] for name in FIGURES}
            figures |= {"fit": fitted, "ms": 1000 * evaluation.seconds / len(evaluation.images)}
            if settings:
                found = {True: list[bool](), False: list[bool]()}
                for image in evaluation.images:
                    found[image.item.good].append(image.inspection.found)
                size = read_header(Path(rows[0][0])).size
                foreign = [i.found for _, i in detector.inspect_many(reshaped(others, size), failed=raise_unreadable)]
                figures |= {
                    "lost_good": 1 - mean(found[True]),
                    "lost_bad": 1 - mean(found[False]),
                    "lost_foreign": 1 - mean(foreign),
                    "left_out": len(detector.model.skipped),
                }
            results[case] = figures
    return results


def main() -> None:
    parser = set_arguments(__doc__, most=sys.maxsize, cells=True)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--sets", default="", help="measure only these sets, comma-separated")
    args = parser.parse_args()
    use_threads(args.threads)
    here, results, lines = machine(), dict[str, Any](), list[list[str]]()
    wanted = [name for name in args.sets.split(",") if name]
    with tempfile.TemporaryDirectory() as lists:
        sets = requested_sets(args, Path(lists))
        foreign = {one.name: [item.path for item in labelled_images(one.data)][:20] for one in sets}
        for one in sets:
            if wanted and one.name not in wanted:
                continue
            others = [path for name, paths in foreign.items() if name != one.name for path in paths]
            runs = [measure(one, others, draw) for draw in range(args.draws)]
            results[one.name] = runs
            for case in (AS_IS, MOVED, ALIGNED):
                of_case = [run[case] for run in runs]
                if any(run is None for run in of_case):
                    lines.append([one.name, case, "refused", *["–"] * (len(FIGURES) + 3)])
                    continue
                cells = [plus_minus([run[name] for run in of_case]) for name in FIGURES]
                lost = ["–"] * 3
                if case == ALIGNED:
                    lost = [plus_minus([run[name] for run in of_case]) for name in ("lost_good", "lost_bad", "lost_foreign")]
                lines.append([one.name, case, *cells, *lost, f"{mean(run['ms'] for run in of_case):.1f}"])
                print(*lines[-1], file=sys.stderr, flush=True)
    columns = ["set", "images", "image AUROC", "pixel AUROC", "false alarms", "detected", "not found: good", "defective"]
    columns += ["other sets", "ms an image"]
    text = f"{args.draws} draws, preset fast, stated rate {RATE:.0%}: mean ± standard deviation."
    write(args.out, "alignment", ["# Alignment", text, str(here), table(columns, lines)], {"machine": here, **results})


if __name__ == "__main__":
    main()
