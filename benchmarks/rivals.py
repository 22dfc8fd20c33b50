"""offnominal against anomalib's Patchcore: equal backbone weights, layers, image size and bank size, in one run.

    python benchmarks/rivals.py --data MVTEC_ROOT [--environment FOLDER] [--bank 0.01] [--test 200] [--out FOLDER]

This program installs anomalib into its own environment. The input of anomalib is normalised as the backbone expects; its
default would reduce its accuracy. Each method fits in its own process, one after the other. A quick method fits several times,
because the fits of anomalib differ in time, memory and accuracy. After all fits, the methods inspect in turns, so that other
load on the machine affects all of them. Times per image run from the file to the score and the map, after a warm-up. The same
code computes the accuracy of all methods, on masks in original resolution. Our bank size counts the patches of all members.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

import rival_patchcore
from tables import machine, table, write

SIDE = 256
RIVAL = "anomalib Patchcore"
#: Largest number of images that are inspected in each turn, one by one and in batches, and the number of turns.
IN_BATCHES, TURNS = 128, 5
#: A method that fits in fewer than `QUICK` seconds fits `FITS` times.
QUICK, FITS = 60.0, 5
FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.30", "aupro_0.05")
MEDIANS = ("fit_seconds", "coreset_seconds", "peak_gb", "ms_batch_of_one", "ms_in_batches", *FIGURES)
COLUMNS = (
    "method",
    "fit, s",
    "coreset, s",
    "bank",
    "ms an image, one at a time",
    "ms an image, batches",
    "peak GB of fit",
    *(name.replace("_", " ") for name in FIGURES),
)


def environment(folder: Path) -> Path:
    """The interpreter of an environment with anomalib, which is created if missing."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing anomalib into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        pins = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
        words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "anomalib", *pins]
        subprocess.run(words, check=True)
        (folder / "ready").touch()
    return python


def choose_images(data: str, most: int) -> tuple[list[Any], list[Any]]:
    """Training images, and at most `most` test images by a fixed step."""
    from offnominal.datasets import labelled_images, normal_images

    test = labelled_images(data)
    step = max(1, -(-len(test) // most))
    return list(normal_images(data)), test[::step]


def run_ours(data: str, settings: dict[str, str], most: int) -> None:
    """Fit in this process and print the results, then inspect on request; see `Contestant`."""
    from offnominal import Detector
    from offnominal.metrics import Judged, figures

    train, test = choose_images(data, most)
    started = perf_counter()
    detector = Detector(**settings).fit([item.path for item in train])
    fit = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    judged = []
    for item in test:
        inspection = detector.inspect(item.path)
        judged.append(
            Judged(item.good, item.label, inspection.score, inspection.anomalous, inspection.anomaly_map, mask_of(item))
        )
    results = {
        "fit_seconds": fit,
        "coreset_seconds": detector.seconds["coreset"],
        "bank": sum(len(member.bank.patches) for member in detector.model.members),
        "peak_gb": peak,
        **figures(judged),
    }

    def batches(paths: list[Path]) -> None:
        for _ in detector.inspect_many(paths, failed=lambda index, error: None):
            pass

    rival_patchcore.serve_turns(results, [item.path for item in test][:IN_BATCHES], detector.inspect, batches)


def fit_repeatedly(start: Callable[[], Contestant]) -> Contestant:
    """Start a contestant that fits; several times if the fit is quick. The last one has the results of all fits."""
    contestant = start()
    fits = contestant.fits
    while contestant.results["fit_seconds"] < QUICK and len(fits) < FITS:
        contestant.end()
        contestant = start()
        fits = fits + contestant.fits
    contestant.fits = fits
    return contestant


class Contestant:
    """A process that has fitted and waits. `results` are those of its fit; `turn` starts one more inspection."""

    def __init__(self, words: list[str]) -> None:
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.results = self._answer()
        self.fits = [self.results]
        self.turns: list[dict[str, float]] = []

    def turn(self) -> None:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        self.turns.append(self._answer())

    def end(self) -> None:
        """End the process."""
        self._process.communicate()

    def finish(self) -> None:
        """End the process. The results become the medians over its fits and turns."""
        self.end()
        for several, name in ((self.fits, "fits"), (self.turns, "turns")):
            keys = [key for key in MEDIANS if all(result.get(key) is not None for result in several)]
            values = [{key: result[key] for key in keys} for result in several]
            self.results = (
                self.results | {key: statistics.median(result[key] for result in values) for key in keys} | {name: values}
            )

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise SystemExit(f"a contestant ended early, with {self._process.wait()}")


def mask_of(item: Any) -> Any:
    from offnominal.images import pixels_of, read_mask

    return None if item.mask is None else read_mask(item.mask, pixels_of(item.path).shape[:2])


def start_rival(python: Path, data: str, bank: float, most: int, folder: Path) -> Contestant:
    """Start `rival_patchcore.py` in the environment of anomalib. `folder` holds its weights, job and maps."""
    import torch

    from offnominal.features import load_backbone, torchvision_schemas
    from offnominal.images import pixels_of
    from offnominal.metrics import Judged, figures

    train, test = choose_images(data, most)
    backbone = load_backbone("efficientnet-lite0")
    torch.save(dict(backbone.network.get_submodule("network").state_dict()), folder / "weights.pt")
    job = {
        "schemas": torchvision_schemas.__file__,
        "backbone": "tf_efficientnet_lite0",
        "layers": list(backbone.layers),
        "weights": str(folder / "weights.pt"),
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "side": SIDE,
        "bank": bank,
        "train": [str(item.path) for item in train],
        "test": [str(item.path) for item in test],
        "in_batches": IN_BATCHES,
        "maps": str(folder / "maps.npy"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    contestant = Contestant([str(python), rival_patchcore.__file__, str(folder / "job.json")])
    maps = np.load(folder / "maps.npy", mmap_mode="r")
    judged = []
    for item, score, small in zip(test, contestant.results.pop("scores"), maps, strict=True):
        height, width = pixels_of(item.path).shape[:2]
        large = cv2.resize(np.array(small), (width, height), interpolation=cv2.INTER_LINEAR)
        judged.append(Judged(item.good, item.label, score, False, large, mask_of(item)))
    contestant.results |= figures(judged)
    return contestant


def row(name: str, results: dict[str, Any]) -> list[str]:
    def cell(key: str, digits: int) -> str:
        if results[key] is None:
            return "–"
        low, high = (f"{function(fit[key] for fit in results['fits']):.{digits}f}" for function in (min, max))
        return f"{results[key]:.{digits}f}" + (f" ({low}–{high})" if low != high else "")

    return [
        name,
        cell("fit_seconds", 1),
        cell("coreset_seconds", 1),
        f"{results['bank']:,}",
        f"{results['ms_batch_of_one']:.1f}",
        f"{results['ms_in_batches']:.1f}",
        cell("peak_gb", 2),
        *(cell(key, 3) for key in FIGURES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--environment", type=Path, default=Path("build/anomalib"))
    parser.add_argument("--bank", type=float, default=0.01)
    parser.add_argument("--test", type=int, default=200, help="approximate largest number of test images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--ours", help="settings as JSON: measure ours and print JSON (used by this program itself)")
    args = parser.parse_args()
    if args.ours is not None:
        run_ours(args.data, json.loads(args.ours), args.test)
        return
    import torch

    python = environment(args.environment)
    same_settings = {
        "backbone": "efficientnet-lite0",
        "resize": "squash",
        "image_size": f"{SIDE}x{SIDE}",
        "bank": str(args.bank),
    }
    methods = {
        "ours, as theirs: squashed": same_settings,
        "ours, fast": {"preset": "fast", "bank": str(args.bank)},
        "ours, default": {"bank": str(args.bank)},
    }
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        methods["as theirs, the network in bfloat16"] = {**same_settings, "precision": "bfloat16"}
    contestants: dict[str, Contestant] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in methods.items():
            print(name, file=sys.stderr)
            words = [sys.executable, __file__, "--data", args.data, "--test", str(args.test), "--ours", json.dumps(settings)]
            contestants[name] = fit_repeatedly(partial(Contestant, words))
        print(RIVAL, file=sys.stderr)
        contestants[RIVAL] = fit_repeatedly(partial(start_rival, python, args.data, args.bank, args.test, Path(folder)))
        for _ in range(TURNS):
            for contestant in contestants.values():
                contestant.turn()
        for contestant in contestants.values():
            contestant.finish()
    results = {name: contestant.results for name, contestant in contestants.items()}
    rival = results[RIVAL]
    ratios = [
        [
            name,
            *(
                f"{rival[key] / result[key]:.1f}"
                for key in ("fit_seconds", "coreset_seconds", "ms_batch_of_one", "ms_in_batches", "peak_gb")
            ),
        ]
        for name, result in results.items()
        if result is not rival
    ]
    this_machine = machine()
    train, test = choose_images(args.data, args.test)
    write(
        args.out,
        f"rivals-{Path(args.data).stem}",
        [
            "# Ours against anomalib's Patchcore",
            f"{Path(args.data).stem}: {len(train)} good images to fit, {len(test)} to test. EfficientNet-Lite0, the same "
            f"weights and layers, {SIDE} x {SIDE} pixels (ours by default keeps the aspect, and a second member sees "
            f"the image at 1.5 times its size), a bank of {args.bank:g} of the patches. "
            f"Ours also calibrates: it scores every training image "
            f"held out. Times an image: medians of {TURNS} turns. In brackets the least and the most of {FITS} fits, before "
            f"them their median; a method that takes {QUICK:.0f} s or longer fits once.",
            str(this_machine),
            table(COLUMNS, [row(name, result) for name, result in results.items()]),
            "How many times anomalib needs what ours needs:",
            table(("method", "fit", "coreset", "one image", "image in batches", "memory"), ratios),
        ],
        {"machine": this_machine.as_json(), **results},
    )


if __name__ == "__main__":
    main()
