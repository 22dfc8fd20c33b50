"""Fits in 1, 2, 4, 8 and 16 shards: covering radius, certified ratio, accuracy, false alarms.

    python benchmarks/shards.py --data FOLDER_OF_SETS [--cells] [--sets NAME,...] [--shards 1,2,4,8,16] [--draws 5]

The shards are in one process, one after another: the numbers are those of a cluster, the seconds are not. Each draw leaves out
a random tenth of the good training images. Its false alarms are the share of the good images left out, and of the good test
images, that are flagged at the stated rate of 5 %.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from fitting.several_shards import SeveralShards
from offnominal import Detector
from offnominal.datasets import labelled_images, normal_images
from offnominal.inference import member_engines
from offnominal.metrics import auroc
from sets import ImageSet, draw_training_images, requested_sets, set_arguments
from tables import machine, spread, table, use_threads, write, yes

RATE, RADIUS, POINTS = 0.05, 1.15, 0.3


def measured(one: ImageSet, draw: int, shards: int, preset: str) -> list[dict[str, Any]]:
    """Figures of one fit, for each member."""
    fitted_on = draw_training_images(one.data, draw)
    detector = Detector(preset=preset, false_alarm_rate=RATE, contamination=0)
    detector.fit(fitted_on, workers=SeveralShards(member_engines(detector.settings), shards))
    known = set(fitted_on)
    left_out = [item.path for item in normal_images(one.data) if item.path not in known]
    test = labelled_images(one.data)
    scores = detector.score_samples([item.path for item in test])
    bad = np.array([not item.good for item in test])
    good = np.concatenate([scores[~bad], detector.score_samples(left_out)])
    whole = {
        "image_auroc": auroc(scores, bad),
        "false_alarms": float(np.mean(good > detector.model.calibration.threshold)),
        "method": detector.model.calibration.method,
    }
    rows = []
    for member in detector.model.members:
        merge = member.merge
        ratio = 2.0 if merge is None else merge.ratio
        rows.append({"member": member.name, "radius": member.bank.radius, "ratio": ratio, **whole})
    return rows


def main() -> None:
    parser = set_arguments(__doc__, most=sys.maxsize, cells=True)
    parser.add_argument("--shards", default="1,2,4,8,16")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--sets", default="", help="measure only these sets, comma-separated")
    args = parser.parse_args()
    use_threads(args.threads)
    here = machine()
    results: dict[str, Any] = {}
    lines, sets_of = [], []
    with tempfile.TemporaryDirectory() as lists:
        wanted = [name for name in args.sets.split(",") if name]
        for one in [one for one in requested_sets(args, Path(lists)) if not wanted or one.name in wanted]:
            alone: dict[tuple[int, str], dict[str, Any]] = {}
            for shards in map(int, args.shards.split(",")):
                runs = []
                for draw in range(args.draws):
                    for row in measured(one, draw, shards, args.preset):
                        first = alone.setdefault((draw, row["member"]), row)
                        row["against_one"] = row["radius"] / first["radius"]
                        row["lost"] = 100 * (first["image_auroc"] - row["image_auroc"])
                        # One machine's radius is at least the smallest possible one, and at most twice that.
                        row["kept"] = row["radius"] <= row["ratio"] * first["radius"]
                        runs.append(row)
                    print(one.name, shards, draw, runs[-1], file=sys.stderr, flush=True)
                results.setdefault(one.name, {})[shards] = runs
                largest, lost = max(row["against_one"] for row in runs), float(np.mean([row["lost"] for row in runs]))
                lines.append(
                    [
                        one.name,
                        shards,
                        spread(runs, "ratio", 2),
                        yes(all(row["kept"] for row in runs)),
                        spread(runs, "against_one"),
                        yes(largest <= RADIUS),
                        spread(runs, "image_auroc"),
                        yes(lost <= POINTS),
                        spread(runs, "false_alarms"),
                    ]
                )
            sets_of.append(str(one))
    columns = (
        "set", "shards", "certified ratio", "kept", "radius against one shard", f"at most {RADIUS}", "image AUROC",
        f"loses at most {POINTS} points", f"false alarms at {RATE:.0%}",
    )  # fmt: skip
    text = f"{'; '.join(sets_of)}. Preset {args.preset}, {args.draws} draws: mean (least to most)."
    write(
        args.out, "shards", ["# Fits in several shards", text, str(here), table(columns, lines)], {"machine": here, **results}
    )


if __name__ == "__main__":
    main()
