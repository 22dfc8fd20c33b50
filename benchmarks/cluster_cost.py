"""Estimated time of a fit and an inspection of a million images on a cluster.

    python benchmarks/cluster_cost.py --data FOLDER_OF_SETS [--images 200,400] [--bank 5000] [--out benchmarks/results]

Measured rates are put into a model of the passes. Two workers of one CPU, each with one shard, fit on two numbers of images.
For each stage, the line through both gives seconds per fit and seconds per image of a worker. The merge is measured with
coresets of 2, 4 and 8 shards, and is proportional to their number; it runs on the machine of the command. A network carries
`NETWORK` bytes a second to and from that machine: each worker sends its coreset and receives the bank. The model is then
checked against other fits with one and two workers, and inspections likewise.

    seconds(n images, W workers) = fixed + n / W * per_image + (W - 2) * merge + W * (coreset + bank bytes) / NETWORK
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch

from cluster_rows import links
from offnominal import Detector
from offnominal.cluster.connection import connected
from offnominal.cluster.inspecting import inspect_on_cluster
from offnominal.cluster.workers import ClusterWorkers
from offnominal.datasets import normal_images
from offnominal.fitting.fit import OVERSAMPLING
from offnominal.images import raise_unreadable
from offnominal.memory import farthest_from_mean, kcenter, merge_coresets
from offnominal.observer import SILENT
from tables import arguments, machine, table, write

#: Bytes a second to and from the machine of the command: 10 Gbit/s.
NETWORK = 1.25e9
MILLION, WORKERS = 1_000_000, (10, 100, 1000)
#: Images of a part of an inspection, and of a shard whose coreset is merged.
INSPECTED, SHARD = 512, 25
#: Shards of the measured fits. A fit in one shard selects a smaller coreset, and merges nothing.
SHARDS = 2


@dataclass(frozen=True)
class Line:
    """Seconds as a line: `fixed + per_image * images`."""

    fixed: float
    per_image: float

    @classmethod
    def through(cls, few: int, seconds_few: float, many: int, seconds_many: float) -> Line:
        slope = max(0.0, (seconds_many - seconds_few) / (many - few))
        return cls(max(0.0, seconds_few - slope * few), slope)


class Costs:
    """Fits and inspections on local workers of one CPU."""

    def __init__(self, images: list[Path], bank: int, folder: Path) -> None:
        self._images, self._bank, self._folder = images, bank, folder

    def fit(self, count: int, workers: int) -> tuple[float, Detector]:
        """Seconds of a fit in two shards after the start of the cluster, and the detector, which has those of each stage."""
        detector = Detector(bank=self._bank, contamination=0, calibration="leave-one-out", false_alarm_rate=0.05)
        folder = links(self._images, self._folder / f"fit-{count}-{workers}", count)
        with connected("auto", worker_cpus=1) as cluster:
            own = ClusterWorkers(replace(cluster, cpus=workers), detector.settings, None, SILENT, SHARDS)
            started = perf_counter()
            detector.fit(str(folder), workers=own)
            return perf_counter() - started, detector

    def inspect(self, model: Path, count: int, workers: int) -> float:
        """Seconds after the start of the cluster."""
        folder = links(self._images, self._folder / f"images-{count}-{workers}", count)
        with connected("auto", worker_cpus=1) as cluster:
            started = perf_counter()
            used = replace(cluster, cpus=workers)
            inspect_on_cluster(used, model, [str(folder)], str(self._folder / f"inspected-{count}-{workers}"))
            return perf_counter() - started

    def merge(self, detector: Detector) -> tuple[float, int]:
        """Seconds of a merge for each shard, and bytes of its coreset and the bank: mean of 2, 4 and 8 shards."""
        seconds, size, inspector = 0.0, 0, detector._ready()
        groups = [self._images[first : first + SHARD] for first in range(0, 8 * SHARD, SHARD)]
        shards = [[of for _, _, of, _ in inspector.patches(group, raise_unreadable)] for group in groups]
        for number in range(len(detector.model.members)):
            patches = [torch.cat([of_image[number] for of_image in shard]) for shard in shards]
            coresets = [kcenter(shard, OVERSAMPLING * self._bank, farthest_from_mean(shard)) for shard in patches]
            chosen = [shard[torch.from_numpy(coreset.indices)] for shard, coreset in zip(patches, coresets, strict=True)]
            size += 4 * (chosen[0].numel() + self._bank * chosen[0].shape[1])
            for count in (2, 4, 8):
                started = perf_counter()
                merge_coresets(chosen[:count], coresets[:count], self._bank)
                seconds += (perf_counter() - started) / count / 3
        return seconds, size


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="magnetic_tile")
    parser.add_argument("--images", default="200,400")
    parser.add_argument("--bank", type=int, default=5000)
    args = parser.parse_args()
    here = machine()
    few, many = map(int, args.images.split(","))
    with tempfile.TemporaryDirectory() as name:
        costs, model = (
            Costs([item.path for item in normal_images(args.data / args.set)], args.bank, Path(name)),
            Path(name) / "m",
        )
        one = costs.fit(SHARDS * few, SHARDS)
        two = costs.fit(SHARDS * many, SHARDS)
        two[1].save(model)
        stages = {stage: Line.through(few, one[1].seconds[stage], many, two[1].seconds[stage]) for stage in one[1].seconds}
        fit = Line.through(few, one[0], many, two[0])
        inspect = Line.through(
            INSPECTED, costs.inspect(model, INSPECTED, 1), 4 * INSPECTED, costs.inspect(model, 4 * INSPECTED, 1)
        )
        merge, size = costs.merge(two[1])

        def fit_seconds(images: int, workers: int) -> float:
            merging = max(0, workers - SHARDS) * merge + workers * size / NETWORK
            return fit.fixed + fit.per_image * images / workers + merging

        def inspect_seconds(images: int, workers: int) -> float:
            return inspect.fixed + inspect.per_image * images / workers

        checks = [
            ["fit", count, workers, f"{fit_seconds(count, workers):.0f}", f"{costs.fit(count, workers)[0]:.0f}"]
            for count, workers in ((many, 1), (3 * many, 2), (4 * many, 2))
        ]
        checks += [
            ["inspect", count, workers, f"{inspect_seconds(count, workers):.0f}", f"{costs.inspect(model, count, workers):.0f}"]
            for count, workers in ((4 * INSPECTED, 2), (8 * INSPECTED, 2))
        ]
    measured = [[f"fit: {stage}", f"{line.fixed:.1f}", f"{1e3 * line.per_image:.1f}"] for stage, line in stages.items()]
    measured += [["fit", f"{fit.fixed:.1f}", f"{1e3 * fit.per_image:.1f}"]]
    measured += [["inspect", f"{inspect.fixed:.1f}", f"{1e3 * inspect.per_image:.1f}"]]
    million = [
        [what, workers, f"{seconds / 3600:.1f}", f"{workers * seconds / 3600:.0f}"]
        for what, of in (("fit", fit_seconds), ("inspect", inspect_seconds))
        for workers in WORKERS
        for seconds in [of(MILLION, workers)]
    ]
    lines = [
        "# Cost of a cluster",
        f"Images of {args.set}, repeated; bank of {args.bank:,} patches in each member; workers of one CPU.",
        str(here),
        table(("stage", "seconds, once", "milliseconds an image"), measured),
        f"A merge takes {merge:.2f} s for each shard. Coreset and bank of a worker have {size / 1e6:.1f} MB.",
        table(("command", "images", "workers", "seconds by the model", "seconds measured"), checks),
        "One million images, by the model:",
        table(("command", "workers", "hours", "CPU hours"), million),
    ]
    write(args.out, "cluster_cost", lines, {"machine": here, "fit": fit, "inspect": inspect, "merge": merge, "bytes": size})


if __name__ == "__main__":
    main()
