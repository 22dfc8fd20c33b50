"""What `--preset auto` chooses on every set, and how near that comes to the best preset in hindsight.

    python benchmarks/preset_choice.py --data FOLDER_OF_SETS [--most 100] [--cells] [--threads 1] [--out benchmarks/results]

Reads what `presets.py` measured with labels (`presets.json` in the folder of `--out`), made with the same `--most`; the choice
itself looks at good training images alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from offnominal.config import PRESETS, settings_from
from offnominal.detector.learning.choice import chosen_preset
from offnominal.images import normal_images
from sets import set_arguments, sets_asked_for
from tables import apart, machine, now, table, use_threads, write

KEYS = ("image_auroc", "pixel_ap")


def chosen(data: Path) -> dict[str, Any]:
    started = now()
    _, choice = chosen_preset([item.path for item in normal_images(data)], settings_from(preset="auto"))
    tried = {one.name: [one.gain, one.error, one.milliseconds] for one in choice.tried}
    return {"chosen": choice.chosen, "reason": choice.reason, "tried": tried, "seconds": now() - started}


def row(name: str, found: dict[str, Any], known: dict[str, list[dict[str, Any]]]) -> list[str]:
    cells = [name, found["chosen"], found["reason"], f"{found['seconds']:.0f}"]
    for key in KEYS:
        means = {way: mean(one[key] for one in known[way]) for way in PRESETS if known[way][0][key] is not None}
        if not means:
            cells += ["–", "–"]
            continue
        best = max(means, key=lambda way: means[way])
        cells += [best, f"{100 * (means[found['chosen']] - means[best]):+.1f}"]
    return cells


def main() -> None:
    given = set_arguments(__doc__, seeds=1, most=100, cells=True).parse_args()
    use_threads(given.threads)
    here = machine()
    known = json.loads((given.out / "presets.json").read_text())["sets"]
    found, rows = {}, []
    with tempfile.TemporaryDirectory() as lists:
        sets = sets_asked_for(given, Path(lists))
        for one in sets:
            print(one, file=sys.stderr, flush=True)
            found[one.name] = apart(given.threads, chosen, one.data)
            rows.append(row(one.name, found[one.name], known[one.name]))
    columns = ("set", "chosen", "why", "trial, s", "best image AUROC", "chosen less best", "best pixel AP", "chosen less best")
    write(
        given.out,
        "preset_choice",
        [
            "# The preset that good images choose",
            "; ".join(map(str, sets)) + ".",
            str(here),
            table(columns, rows),
            "*Chosen less best*: points, by the means of `presets.md`.",
        ],
        {"machine": here, "sets": found},
    )


if __name__ == "__main__":
    main()
