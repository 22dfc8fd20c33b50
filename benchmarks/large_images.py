"""Images of 50 megapixels in tiles: memory, time and seams.

    python benchmarks/large_images.py --data FOLDER_OF_SETS [--images 4] [--megapixels 50] [--out benchmarks/results]

Large images are made from good pictures of mvtec_leather_mini: each is mirrored at its borders until it fills the image. Into
one of them, a real defect is copied at its native size. A process of its own fits on the others (preset `fast`, bank of
5,000 patches) and another one inspects all; the largest resident memory of each is measured. The time for each megapixel is
compared with that of small images: pieces of 512 x 512 pixels of the same pictures, inspected whole by a model of image size
512. Seams: the peak of the defect with tiles of several sizes, relative to that with tiles of 1024 pixels.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from offnominal import Detector, load
from offnominal.datasets import Item, labelled_images, normal_images
from offnominal.images import pixels_of, raise_unreadable, read_mask
from offnominal.inference import Inspector, engines_of
from sets import set_arguments
from tables import machine, table, use_threads, write

SETTINGS: dict[str, Any] = {"preset": "fast", "bank": 5000, "contamination": 0, "false_alarm_rate": 0.2, "thumbnails": False}
PIECE = 512
TILES = (256, 384, 512, 768)


def mosaic(paths: list[Path], number: int, size: tuple[int, int]) -> Any:
    """A large image of (H, W): one picture, mirrored at its borders again and again; further images are flipped and shifted."""
    turn, at = divmod(number, len(paths))
    picture = pixels_of(paths[at])
    for axis in range(2):
        if turn >> axis & 1:
            picture = np.flip(picture, axis)
    height, width = picture.shape[:2]
    shift = 97 * turn
    padded = np.pad(picture, ((0, max(0, size[0] + shift - height)), (0, max(0, size[1] - width)), (0, 0)), "symmetric")
    return np.ascontiguousarray(padded[shift : shift + size[0], : size[1]])


def pasted(image: Any, item: Item, at: tuple[int, int]) -> None:
    """Copy the defect of a picture into a large image, with its middle at (x, y), at its native size and with a soft border."""
    picture = pixels_of(item.path)
    assert item.mask is not None
    mask = read_mask(item.mask, picture.shape[:2])
    labels, _ = ndimage.label(mask)
    rows, columns = ndimage.find_objects(labels)[0]
    rows, columns = (slice(max(0, part.start - 24), part.stop + 24) for part in (rows, columns))
    share = cv2.dilate((labels[rows, columns] == 1).astype(np.float32), np.ones((17, 17), np.uint8))
    share = cv2.GaussianBlur(share, (0, 0), 4)[:, :, None]
    part = picture[rows, columns]
    top, left = at[1] - len(part) // 2, at[0] - part.shape[1] // 2
    place = image[top : top + len(part), left : left + part.shape[1]]
    place[:] = np.rint(share * part + (1 - share) * place)


def measured(command: str, *arguments: str) -> dict[str, Any]:
    """Result of this program in a process of its own."""
    ran = subprocess.run([sys.executable, __file__, "--step", command, *arguments], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def step(command: str, arguments: list[str]) -> None:
    """A step in this process; prints seconds, gigabytes and results."""
    started, result = perf_counter(), dict[str, Any]()
    if command == "fit":
        folder, model, tile = arguments
        detector = Detector(**SETTINGS, tile=int(tile)).fit(sorted(Path(folder).glob("*.png")))
        detector.save(model)
        result["stages"] = detector.seconds
    else:
        model, tile, *images = arguments
        inspector = with_tile(model, int(tile))
        for image in images:
            started = perf_counter()
            ((_, inspection, _),) = inspector.inspect([image], raise_unreadable)
            result[Path(image).stem] = {
                "seconds": perf_counter() - started,
                "score": inspection.score,
                "anomalous": inspection.anomalous,
                "regions": [[*region.peak_at, region.peak] for region in inspection.regions[:3]],
            }
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({**result, "total": perf_counter() - started, "gigabytes": gigabytes}))


def small_seconds(image: Any, bank: int) -> float:
    """Seconds for each megapixel of small images: pieces of a large one."""
    rows, columns = image.shape[0] // PIECE, image.shape[1] // PIECE
    pieces = [
        np.ascontiguousarray(image[row * PIECE : (row + 1) * PIECE, column * PIECE : (column + 1) * PIECE])
        for row in range(rows)
        for column in range(columns)
    ]
    detector = Detector(**{**SETTINGS, "bank": bank}, image_size=PIECE).fit(pieces[:24])
    started = perf_counter()
    detector.score_samples(pieces[24:])
    return (perf_counter() - started) / (len(pieces[24:]) * PIECE * PIECE / 1e6)


def with_tile(path: str, tile: int) -> Inspector:
    """A fitted model with tiles of another size."""
    model = load(path).model
    members = tuple(replace(member, geometry=replace(member.geometry, tile=tile)) for member in model.members)
    model = replace(model, settings=model.settings.model_copy(update={"tile": tile}), members=members)
    return Inspector(model, engines_of(model, None, path))


def seams(model: str, image: str, at: tuple[int, int]) -> dict[int, float]:
    """Peak of the defect with tiles of several sizes, relative to that with the largest tiles, on a part of the image."""
    pixels = pixels_of(Path(image))
    left, top = (max(0, min(middle - 1024, side - 2048)) for middle, side in zip(at, pixels.shape[1::-1], strict=True))
    part = np.ascontiguousarray(pixels[top : top + 2048, left : left + 2048])
    peaks = {}
    for tile in (1024, *TILES):
        ((_, inspection, _),) = with_tile(model, tile).inspect([part], raise_unreadable)
        peaks[tile] = inspection.score
    return {tile: peaks[tile] / peaks[1024] for tile in TILES}


def main() -> None:
    if "--step" in sys.argv:
        step(sys.argv[2], sys.argv[3:])
        return
    parser = set_arguments(__doc__, most=100)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--megapixels", type=float, default=50)
    args = parser.parse_args()
    use_threads(args.threads)
    here = machine()
    good = [item.path for item in normal_images(args.data / "mvtec_leather_mini")]
    bad = next(item for item in labelled_images(args.data / "mvtec_leather_mini") if item.mask is not None)
    height = round((args.megapixels * 1e6 * 3 / 4) ** 0.5 / 32) * 32
    size = height, height * 4 // 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "good").mkdir()
        for seed in range(args.images):
            cv2.imwrite(str(folder / "good" / f"{seed}.png"), mosaic(good, seed, size))
        cv2.imwrite(str(folder / "new.png"), mosaic(good, args.images, size))
        image, at = mosaic(good, args.images + 1, size), (size[1] // 2 + 131, size[0] // 2 + 77)
        pasted(image, bad, at)
        cv2.imwrite(str(folder / "defective.png"), image)
        model = str(folder / "part.safetensors")
        fitted = measured("fit", str(folder / "good"), model, "512")
        images = str(folder / "new.png"), str(folder / "defective.png")
        inspected = {tile: measured("inspect", model, str(tile), *images) for tile in (512, 1024)}
        small = small_seconds(image, 5000)
        at_seams = seams(model, str(folder / "defective.png"), at)
    megapixels = size[0] * size[1] / 1e6
    found = inspected[512]["defective"]
    near = [np.hypot(x - at[0], y - at[1]) < PIECE / 2 for x, y, _ in found["regions"]]
    rows = [["fit", 512, args.images, f"{fitted['total']:.0f}", "–", "–", f"{fitted['gigabytes']:.2f}"]]
    for tile, result in inspected.items():
        seconds = result["defective"]["seconds"]
        rate, memory = seconds / megapixels, f"{result['gigabytes']:.2f}"
        rows.append(["inspect", tile, 1, f"{seconds:.1f}", f"{rate:.2f}", f"{rate / small:.2f}", memory])
    lines = [
        "# Large images",
        f"{args.images} images of {size[1]} x {size[0]} ({megapixels:.0f} megapixels) to fit on.",
        str(here),
        table(("step", "tile", "images", "seconds", "for each megapixel", "times small images", "largest memory (GB)"), rows),
        f"Defect: {'flagged' if found['anomalous'] else 'not flagged'}, {'at its place' if any(near) else 'elsewhere'}; "
        f"score {found['score']:.1f}, good image {inspected[512]['new']['score']:.1f}.",
        f"Small images of {PIECE} x {PIECE}: {small:.2f} seconds for each megapixel.",
        table(("tile", "peak relative to tiles of 1024"), [[tile, f"{ratio:.4f}"] for tile, ratio in at_seams.items()]),
    ]
    write(args.out, "large_images", lines, {
        "machine": here, "fit": fitted, "inspect": inspected, "small": small, "seams": at_seams, "at": at,
    })  # fmt: skip


if __name__ == "__main__":
    main()
