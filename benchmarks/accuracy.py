"""Accuracy, time and memory of the default settings (or others) on every set at hand; writes a Markdown and a JSON table.

    python benchmarks/accuracy.py --data FOLDER_OF_SETS --out benchmarks/results [--set resize=keep ...] [--sets textile,...]

FOLDER_OF_SETS holds MVTec roots; the solar cells of `elpv-dataset` and the textile of `conformal-clip-data` are added where
these packages are installed. Every set runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

COLUMNS = (
    "set",
    "image AUROC",
    "pixel AUROC",
    "pixel AP",
    "AUPRO 0.30",
    "AUPRO 0.05",
    "false alarms (promised)",
    "detected",
    "unlike as a whole: good, defective",
    "fit s (coreset s)",
    "ms an image, batch of one",
    "peak GB of fit",
)


def measure(data: str, settings: dict[str, Any], joined: list[str]) -> dict[str, Any]:
    """Fit and evaluate one set in this process; where it has all of the `joined` classes, these together as well."""
    from offnominal import Detector
    from offnominal.images import labelled_images, pixels_of
    from offnominal.metrics import Judged, figures

    started = perf_counter()
    detector = Detector(**settings).fit(data)
    fit_seconds = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    decoded = [pixels_of(item.path) for item in labelled_images(data)[:40]]
    times = []
    for pixels in decoded:
        started = perf_counter()
        detector.inspect(pixels)
        times.append(perf_counter() - started)
    result = detector.evaluate(data)
    found = result.as_json()
    if set(joined) <= set(result.classes):
        found["classes"][" + ".join(joined)] = figures(
            [
                Judged(
                    one.item.good,
                    one.item.label or "defect",
                    one.inspection.score,
                    one.inspection.anomalous,
                    one.inspection.anomaly_map,
                    one.mask,
                )
                for one in result.images
                if one.item.good or one.item.label in joined
            ]
        )
    return {
        **found,
        "fit_seconds": fit_seconds,
        "stages": detector.seconds,
        "ms_batch_of_one": 1000 * float(np.median(times[3:])),
        "peak_gb": peak,
        "promised": detector.model.calibration.rate,
    }


def as_a_whole(found: dict[str, Any] | None) -> str:
    return "–" if found is None else f"{found['false_alarm_rate']:.3f}, {found['detection_rate']:.3f}"


def class_as_a_whole(found: dict[str, Any] | None, kind: str) -> str:
    """– for classes that are only judged together."""
    return "–" if found is None or kind not in found["classes"] else f"{found['classes'][kind]:.3f}"


def row(name: str, found: dict[str, Any]) -> list[str]:
    def share(key: str) -> str:
        return "–" if found[key] is None else f"{found[key]:.3f}"

    return [
        name,
        share("image_auroc"),
        share("pixel_auroc"),
        share("pixel_ap"),
        share("aupro_0.30"),
        share("aupro_0.05"),
        f"{found['false_alarm_rate']:.3f} ({found['promised']:.3f})",
        share("detection_rate"),
        as_a_whole(found["whole_image"]),
        f"{found['fit_seconds']:.1f} ({found['stages'].get('coreset', 0):.1f})",
        f"{found['ms_batch_of_one']:.1f}",
        f"{found['peak_gb']:.2f}",
    ]


def setting(pair: str) -> tuple[str, Any]:
    """`seed=1` -> a name and a value: a number where it reads as one."""
    name, _, value = pair.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the fit")
    parser.add_argument("--sets", default="", help="these alone, by name")
    parser.add_argument("--only", help="measure one set and print JSON (used by this program itself)")
    parser.add_argument("--joined", default="blowhole,crack", help="classes that are also judged together")
    given = parser.parse_args()
    settings = dict(map(setting, given.set))
    if given.only:
        print(json.dumps(measure(given.only, settings, given.joined.split(","))))
        return
    sets = {path.name: str(path) for path in sorted(given.data.iterdir()) if (path / "train" / "good").is_dir()}
    with tempfile.TemporaryDirectory() as folder:
        from sets import packaged_sets

        sets |= {name: str(manifest) for name, manifest in packaged_sets(Path(folder)).items()}
        chosen = [name for name in given.sets.split(",") if name] or list(sets)
        found = {}
        for name, data in ((name, sets[name]) for name in chosen):
            words = [sys.executable, __file__, "--data", str(given.data), "--only", data, "--joined", given.joined]
            for pair in given.set:
                words += ["--set", pair]
            print(name, file=sys.stderr)
            found[name] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    from tables import machine, table  # not above: a set is measured without what that imports

    text = [f"{machine()}\n\nSettings: {settings or 'the defaults'}; {len(found)} sets.", ""]
    text.append(table(COLUMNS, [row(name, figures) for name, figures in found.items()]))
    classes = [
        [
            name,
            kind,
            *("–" if figures[key] is None else f"{figures[key]:.3f}" for key in ("image_auroc", "pixel_auroc", "pixel_ap")),
            class_as_a_whole(whole["whole_image"], kind),
        ]
        for name, whole in found.items()
        for kind, figures in whole["classes"].items()
    ]
    text += ["", table(("set", "class", "image AUROC", "pixel AUROC", "pixel AP", "unlike as a whole"), classes), ""]
    given.out.mkdir(parents=True, exist_ok=True)
    stem = "-".join(["accuracy", *filter(None, given.sets.split(",")), *(pair.replace("=", "-") for pair in given.set)])
    (given.out / f"{stem}.md").write_text("\n".join(text))
    (given.out / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
