"""Ours against anomalib's Patchcore: same backbone weights, layers, image size and bank size, in one run.

    python benchmarks/rivals.py --data MVTEC_ROOT [--environment FOLDER] [--bank 0.01] [--test 200] [--out FOLDER]

This program installs anomalib into an environment of its own. anomalib's input is normalised as the backbone expects; its
default would cost it accuracy. Each method fits in a process of its own, one after the other. A quick method fits several
times, because anomalib's fits differ in time, memory and accuracy. After all fits the methods inspect in turns, so that other
load on the machine affects all alike. Times per image run from the file to the score and the map, after a warm-up. The same
code computes the accuracy of all, on masks in original resolution. The bank of ours counts the patches of all members.
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
#: So many images, or all that there are, are inspected in every turn, one by one and in batches, and so many turns taken.
IN_BATCHES, TURNS = 128, 5
#: A method that fits in fewer seconds than these fits so many times.
QUICK, FITS = 60.0, 5
FIGURES = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.30", "aupro_0.05")
VARIED = ("fit_seconds", "coreset_seconds", "peak_gb", "ms_batch_of_one", "ms_in_batches", *FIGURES)
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
    """The interpreter of an environment that holds anomalib; made where it is missing."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing anomalib into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        pins = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
        words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "anomalib", *pins]
        subprocess.run(words, check=True)
        (folder / "ready").touch()
    return python


def chosen(data: str, most: int) -> tuple[list[Any], list[Any]]:
    """Training images, and up to `most` test images, every so many-th of each class."""
    from offnominal.datasets import labelled_images, normal_images

    test = labelled_images(data)
    step = max(1, -(-len(test) // most))
    return list(normal_images(data)), test[::step]


def ours(data: str, settings: dict[str, str], most: int) -> None:
    """Fit in this process and print what came of it, then inspect whenever it is asked for; see `Contestant`."""
    from offnominal import Detector
    from offnominal.metrics import Judged, figures

    train, test = chosen(data, most)
    started = perf_counter()
    detector = Detector(**settings).fit([item.path for item in train])
    fit = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    judged = []
    for item in test:
        found = detector.inspect(item.path)
        judged.append(Judged(item.good, item.label, found.score, found.anomalous, found.anomaly_map, mask_of(item)))
    known = {
        "fit_seconds": fit,
        "coreset_seconds": detector.seconds["coreset"],
        "bank": sum(len(member.bank.patches) for member in detector.model.members),
        "peak_gb": peak,
        **figures(judged),
    }

    def batches(paths: list[Path]) -> None:
        for _ in detector.inspect_many(paths, failed=lambda index, error: None):
            pass

    rival_patchcore.contend(known, [item.path for item in test][:IN_BATCHES], detector.inspect, batches)


def fitted(start: Callable[[], Contestant]) -> Contestant:
    """One that has fitted, the last of several where that is quick; it knows what the others found."""
    contestant = start()
    fits = contestant.fits
    while contestant.known["fit_seconds"] < QUICK and len(fits) < FITS:
        contestant.end()
        contestant = start()
        fits = fits + contestant.fits
    contestant.fits = fits
    return contestant


class Contestant:
    """A process that has fitted and waits: `known` is what it found, `turn` lets it inspect once more."""

    def __init__(self, words: list[str]) -> None:
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.known = self._answer()
        self.fits = [self.known]
        self.turns: list[dict[str, float]] = []

    def turn(self) -> None:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        self.turns.append(self._answer())

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def leave(self) -> None:
        """`end`; figures are the medians of its fits and turns."""
        self.end()
        for several, name in ((self.fits, "fits"), (self.turns, "turns")):
            some = [key for key in VARIED if all(one.get(key) is not None for one in several)]
            told = [{key: one[key] for key in some} for one in several]
            self.known = self.known | {key: statistics.median(one[key] for one in told) for key in some} | {name: told}

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


def theirs(python: Path, data: str, bank: float, most: int, folder: Path) -> Contestant:
    """anomalib's, by `rival_patchcore.py` in its own environment; what it needs lies in `folder`."""
    import torch

    from offnominal.features import load_backbone, torchvision_schemas
    from offnominal.images import pixels_of
    from offnominal.metrics import Judged, figures

    train, test = chosen(data, most)
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
    for item, score, small in zip(test, contestant.known.pop("scores"), maps, strict=True):
        height, width = pixels_of(item.path).shape[:2]
        large = cv2.resize(np.array(small), (width, height), interpolation=cv2.INTER_LINEAR)
        judged.append(Judged(item.good, item.label, score, False, large, mask_of(item)))
    contestant.known |= figures(judged)
    return contestant


def row(name: str, found: dict[str, Any]) -> list[str]:
    def told(key: str, digits: int) -> str:
        if found[key] is None:
            return "–"
        least, most = (f"{of(one[key] for one in found['fits']):.{digits}f}" for of in (min, max))
        return f"{found[key]:.{digits}f}" + (f" ({least}–{most})" if least != most else "")

    return [
        name,
        told("fit_seconds", 1),
        told("coreset_seconds", 1),
        f"{found['bank']:,}",
        f"{found['ms_batch_of_one']:.1f}",
        f"{found['ms_in_batches']:.1f}",
        told("peak_gb", 2),
        *(told(key, 3) for key in FIGURES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--environment", type=Path, default=Path("build/anomalib"))
    parser.add_argument("--bank", type=float, default=0.01)
    parser.add_argument("--test", type=int, default=200, help="at most about so many test images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--ours", help="settings as JSON: measure ours and print JSON (used by this program itself)")
    given = parser.parse_args()
    if given.ours is not None:
        ours(given.data, json.loads(given.ours), given.test)
        return
    import torch

    python = environment(given.environment)
    alike = {"backbone": "efficientnet-lite0", "resize": "squash", "image_size": f"{SIDE}x{SIDE}", "bank": str(given.bank)}
    ways = {
        "ours, as theirs: squashed": alike,
        "ours, fast": {"preset": "fast", "bank": str(given.bank)},
        "ours, default": {"bank": str(given.bank)},
    }
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        ways["as theirs, the network in bfloat16"] = {**alike, "precision": "bfloat16"}
    contestants: dict[str, Contestant] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in ways.items():
            print(name, file=sys.stderr)
            words = [sys.executable, __file__, "--data", given.data, "--test", str(given.test), "--ours", json.dumps(settings)]
            contestants[name] = fitted(partial(Contestant, words))
        print(RIVAL, file=sys.stderr)
        contestants[RIVAL] = fitted(partial(theirs, python, given.data, given.bank, given.test, Path(folder)))
        for _ in range(TURNS):
            for one in contestants.values():
                one.turn()
        for one in contestants.values():
            one.leave()
    found = {name: one.known for name, one in contestants.items()}
    rival = found[RIVAL]
    ratios = [
        [
            name,
            *(
                f"{rival[key] / one[key]:.1f}"
                for key in ("fit_seconds", "coreset_seconds", "ms_batch_of_one", "ms_in_batches", "peak_gb")
            ),
        ]
        for name, one in found.items()
        if one is not rival
    ]
    where = machine()
    train, test = chosen(given.data, given.test)
    write(
        given.out,
        f"rivals-{Path(given.data).stem}",
        [
            "# Ours against anomalib's Patchcore",
            f"{Path(given.data).stem}: {len(train)} good images to fit, {len(test)} to test. EfficientNet-Lite0, the same "
            f"weights and layers, {SIDE} x {SIDE} pixels (ours by default keeps the aspect, and a second member sees "
            f"the image at 1.5 times its size), a bank of {given.bank:g} of the patches. "
            f"Ours also calibrates: it scores every training image "
            f"held out. Times an image: medians of {TURNS} turns. In brackets the least and the most of {FITS} fits, before "
            f"them their median; a method that takes {QUICK:.0f} s or longer fits once.",
            str(where),
            table(COLUMNS, [row(name, one) for name, one in found.items()]),
            "How many times anomalib needs what ours needs:",
            table(("method", "fit", "coreset", "one image", "image in batches", "memory"), ratios),
        ],
        {"machine": where.as_json(), **found},
    )


if __name__ == "__main__":
    main()
