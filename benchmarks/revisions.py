"""The defaults of two revisions: accuracy on the same draws, time of a fit and of an image.

    python benchmarks/revisions.py BEFORE [AFTER] --data FOLDER_OF_SETS [--draws 5] [--most 50] [--cells] [--textile]

Both are commits of this repository, installed into a temporary folder; AFTER defaults to HEAD. Sets and draws are those of
`presets.py`. Each fit runs in its own process. Times are measured on all images of the set named by `--timed`: the settings
take turns, three fits each, and images are inspected one at a time, from the file to score and map.
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

from sets import draw_training_images, requested_sets, set_arguments
from tables import Timing, machine, spread, table, write

KEYS = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.05")
FITS, IMAGES = 3, 100
ROOT = Path(__file__).parents[1]

#: Runs with the source of a revision: reads a job, fits and prints the results. Uses only names of both revisions.
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
    """Run one fit with a source tree, on one core or on all. Returns metrics or times."""
    environment = os.environ | {"PYTHONPATH": str(source)}

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    command = [sys.executable, "-c", WORKER]
    completed = subprocess.run(
        command, input=json.dumps(job), env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=pin, check=True
    )
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result


def install(revision: str, folder: Path) -> Path:
    """Install the package of a revision with compiled extensions. Returns its folder."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    folder = folder / revision
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder / "source", filter="data")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(folder / "package"), str(folder / "source")], check=True)
    return folder / "package"


def on_cores(calls: Sequence[Callable[[int | None], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run each call on its own core, in parallel on all cores."""
    free = SimpleQueue[int]()
    cores = sorted(os.sched_getaffinity(0))
    for core in cores:
        free.put(core)

    def on_core(call: Callable[[int | None], dict[str, Any]]) -> dict[str, Any]:
        core = free.get()
        try:
            return call(core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        return list(pool.map(on_core, calls))


def gain(ours: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], key: str) -> str:
    """`+0.52 ± 0.11`: mean gain in points, paired by draw, and its standard error over draws."""
    if ours[0][key] is None:
        return "–"
    points = [100 * (own_run[key] - other_run[key]) for own_run, other_run in zip(ours, others, strict=True)]
    error = f" ± {stdev(points) / len(points) ** 0.5:.2f}" if len(points) > 1 else ""
    return f"{mean(points):+.2f}{error}"


def main() -> None:
    parser = set_arguments(__doc__, most=50, cells=True)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--timed", default="magnetic_tile", help="set in FOLDER_OF_SETS whose fit and images are timed")
    args = parser.parse_args()
    this_machine = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, after, seconds = install(args.before, folder), install(args.after, folder), {}
        settings = {"before": (before, {}), "after": (after, {}), "after, fast": (after, {"preset": "fast"})}
        timed_set = args.data / args.timed
        if timed_set.is_dir():
            from offnominal.datasets import labelled_images, normal_images

            job = {
                "train": [str(item.path) for item in normal_images(timed_set)],
                "timed": [str(item.path) for item in labelled_images(timed_set)[:IMAGES]],
            }
            rounds = [
                {setting: run(source, job | {"settings": options}) for setting, (source, options) in settings.items()}
                for _ in range(FITS)
            ]
            seconds = {
                setting: {
                    key: Timing.of([times_of_round[setting][key] for times_of_round in rounds]) for key in ("fit", "image")
                }
                for setting in settings
            }
            print(
                {setting: {key: str(value) for key, value in result.items()} for setting, result in seconds.items()}, flush=True
            )
        results: dict[str, dict[str, list[dict[str, Any]]]] = {}
        sets = requested_sets(args, folder)
        for image_set in sets:
            results[image_set.name] = {}
            jobs = [
                {
                    "train": list(map(str, draw_training_images(image_set.data, draw))),
                    "timed": [],
                    "data": str(image_set.data),
                    "keys": KEYS,
                }
                for draw in range(args.draws)
            ]
            for setting in ("before", "after"):
                source, options = settings[setting]
                calls = [partial(run, source, job | {"settings": options}) for job in jobs]
                results[image_set.name][setting] = on_cores(calls)
                print(image_set.name, setting, *(spread(results[image_set.name][setting], key) for key in KEYS), flush=True)
    columns = tuple(key.replace("_", " ") for key in KEYS)
    rows = [
        [
            name,
            *(
                f"{spread(result['before'], key)} → {spread(result['after'], key)}: "
                f"{gain(result['after'], result['before'], key)}"
                for key in KEYS
            ),
        ]
        for name, result in results.items()
    ]
    means = {
        key: mean(
            100 * (after_run[key] - before_run[key])
            for result in results.values()
            if result["after"][0][key] is not None
            for after_run, before_run in zip(result["after"], result["before"], strict=True)
        )
        for key in KEYS
        if any(result["after"][0][key] is not None for result in results.values())
    }
    rows.append(["mean gain over sets", *(f"{means[key]:+.2f}" if key in means else "–" for key in KEYS)])
    write(
        args.out,
        "revisions",
        [
            f"# The default of {args.before} (before) and of {args.after} (after)",
            "; ".join(map(str, sets)) + ".",
            f"{args.draws} draws of nine tenths of the training images: mean (least–most) before → after: points gained, "
            "paired by draw, with the standard error over draws.",
            str(this_machine),
            table(("set", *columns), rows),
            f"Time of a fit of the whole {args.timed} and of one of its images, median (least–most) of {FITS} fits in turns:",
            table(
                ("settings", "fit", "one image"),
                [[setting, result["fit"], result["image"]] for setting, result in seconds.items()],
            ),
        ],
        {"machine": this_machine, "before": args.before, "after": args.after, "sets": results, "seconds": seconds},
    )


if __name__ == "__main__":
    main()
