"""The default of one revision against that of another: accuracy on the same draws, time of a fit and of an image.

    python benchmarks/revisions.py BEFORE [AFTER] --data FOLDER_OF_SETS [--draws 5] [--most 50] [--cells] [--textile]

Both are commits of this repository, installed into a temporary folder; AFTER is HEAD unless given. Sets and draws are those of
`presets.py`. Every fit runs in a process of its own. Times are those of the set named by `--timed`, whole: the settings take
turns, three fits each, and an image is inspected one at a time, from its file to score and map.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from statistics import mean, stdev
from typing import Any

from sets import drawn, set_arguments, sets_asked_for
from tables import Timing, machine, spread, table, write

KEYS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.05")
FITS, IMAGES = 3, 100
HERE = Path(__file__).parents[1]

#: Run by each revision's own source: reads a job, fits, and prints what it found. Only names that both revisions have.
WORKER = """
import json, sys
from time import perf_counter
from offnominal import Detector
job = json.load(sys.stdin)
started = perf_counter()
detector = Detector(**job["settings"]).fit(job["train"])
fit = perf_counter() - started
if job["timed"]:
    images = []
    for path in job["timed"]:
        started = perf_counter()
        detector.inspect(path)
        images.append(perf_counter() - started)
    print(json.dumps({"fit": fit, "image": sorted(images)[len(images) // 2]}))
else:
    figures = detector.evaluate(job["data"]).figures
    print(json.dumps({key: figures[key] for key in job["keys"]}))
"""


def run(source: Path, job: dict[str, Any], core: int | None = None) -> dict[str, Any]:
    """One fit by a source tree, on one core or on all; the caller reads figures or times."""
    environment = os.environ | {"PYTHONPATH": str(source)}

    def held() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    words = [sys.executable, "-c", WORKER]
    done = subprocess.run(
        words, input=json.dumps(job), env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=held, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def installed(revision: str, folder: Path) -> Path:
    """A folder with the package of a revision, its C part compiled."""
    archive = subprocess.run(["git", "archive", revision], cwd=HERE, stdout=subprocess.PIPE, check=True).stdout
    folder = folder / revision
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder / "source", filter="data")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*words, str(folder / "package"), str(folder / "source")], check=True)
    return folder / "package"


def on_cores(calls: Sequence[Callable[[int | None], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every call on a core of its own, as many at once as there are cores."""
    free = SimpleQueue[int]()
    cores = sorted(os.sched_getaffinity(0))
    for core in cores:
        free.put(core)

    def one(call: Callable[[int | None], dict[str, Any]]) -> dict[str, Any]:
        core = free.get()
        try:
            return call(core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        return list(pool.map(one, calls))


def gain(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], key: str) -> str:
    """`+0.52 ± 0.11`: points gained, paired by draw, and their standard error over draws."""
    if ours[0][key] is None:
        return "–"
    points = [100 * (one[key] - other[key]) for one, other in zip(ours, theirs, strict=True)]
    error = f" ± {stdev(points) / len(points) ** 0.5:.2f}" if len(points) > 1 else ""
    return f"{mean(points):+.2f}{error}"


def main() -> None:
    parser = set_arguments(__doc__, most=50, cells=True)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--timed", default="magnetic_tile", help="the set, in FOLDER_OF_SETS, whose fit and images are timed")
    given = parser.parse_args()
    here = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, after, seconds = installed(given.before, folder), installed(given.after, folder), {}
        ways = {"before": (before, {}), "after": (after, {}), "after, fast": (after, {"preset": "fast"})}
        whole = given.data / given.timed
        if whole.is_dir():
            from offnominal.datasets import labelled_images, normal_images

            job = {
                "train": [str(item.path) for item in normal_images(whole)],
                "timed": [str(item.path) for item in labelled_images(whole)[:IMAGES]],
            }
            rounds = [
                {way: run(source, job | {"settings": asked}) for way, (source, asked) in ways.items()} for _ in range(FITS)
            ]
            seconds = {way: {key: Timing.of([turn[way][key] for turn in rounds]) for key in ("fit", "image")} for way in ways}
            print({way: {key: str(value) for key, value in of.items()} for way, of in seconds.items()}, flush=True)
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        sets = sets_asked_for(given, folder)
        for one in sets:
            found[one.name] = {}
            jobs = [
                {"train": list(map(str, drawn(one.data, draw))), "timed": [], "data": str(one.data), "keys": KEYS}
                for draw in range(given.draws)
            ]
            for way in ("before", "after"):
                source, asked = ways[way]
                calls = [partial(run, source, job | {"settings": asked}) for job in jobs]
                found[one.name][way] = on_cores(calls)
                print(one.name, way, *(spread(found[one.name][way], key) for key in KEYS), flush=True)
    columns = tuple(key.replace("_", " ") for key in KEYS)
    rows = [
        [
            name,
            *(
                f"{spread(of['before'], key)} → {spread(of['after'], key)}: {gain(of['after'], of['before'], key)}"
                for key in KEYS
            ),
        ]
        for name, of in found.items()
    ]
    means = {
        key: mean(
            100 * (one[key] - other[key])
            for of in found.values()
            if of["after"][0][key] is not None
            for one, other in zip(of["after"], of["before"], strict=True)
        )
        for key in KEYS
        if any(of["after"][0][key] is not None for of in found.values())
    }
    rows.append(["mean gain over sets", *(f"{means[key]:+.2f}" if key in means else "–" for key in KEYS)])
    write(
        given.out,
        "revisions",
        [
            f"# The default of {given.before} (before) and of {given.after} (after)",
            "; ".join(map(str, sets)) + ".",
            f"{given.draws} draws of nine tenths of the training images: mean (least–most) before → after: points gained, "
            "paired by draw, with the standard error over draws.",
            str(here),
            table(("set", *columns), rows),
            f"Time of a fit of the whole {given.timed} and of one of its images, median (least–most) of {FITS} fits in turns:",
            table(("settings", "fit", "one image"), [[way, of["fit"], of["image"]] for way, of in seconds.items()]),
        ],
        {"machine": here, "before": given.before, "after": given.after, "sets": found, "seconds": seconds},
    )


if __name__ == "__main__":
    main()
