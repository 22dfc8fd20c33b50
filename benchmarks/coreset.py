"""Greedy k-center: our implementation, the naive loop, the approximate sampler of the PatchCore paper, and random sampling.

    python benchmarks/coreset.py [--threads 1] [--only 152] [--data MVTEC_ROOT [--set NAME=VALUE ...]] [--out FOLDER]

200,000 synthetic patches with 152 and with 1,024 features -> 2,000; with `--data`, also up to 200,000 real patches of the good
images of that folder. The naive loop selects one centre per pass over all patches, in three forms; the fastest one is the
rival. It is timed for a few centres and extrapolated. Float64 distances of all patches to all centres verify our complete
coreset.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offnominal.memory import greedy_kcenter, kcenter, random_coreset
from patches import LIKENESS, real_patches, synthetic_patches
from tables import Timing, arguments, machine, now, table, timed, use_threads, write, yes

COUNT, CENTRES, START = 200_000, 2_000, 0
PROBED, TIMED, SMALL = 10, 100, (5_000, 300)
#: Times faster than the naive loop.
GOALS = {152: "25", 1024: "15, with exact savings 25"}
NEEDED = {152: 25, 1024: 15}
SHARES, SEEDS, COVERED = (0.001, 0.01, 0.1), 5, 50_000
SquaredDistances = Callable[[int], Tensor]


def by_difference(patches: Tensor) -> SquaredDistances:
    return lambda centre: (patches - patches[centre]).square_().sum(1)


def by_matvec(patches: Tensor) -> SquaredDistances:
    lengths = patches.square().sum(1)
    return lambda centre: (patches @ patches[centre]).mul_(-2).add_(lengths).add_(lengths[centre])


def by_transposed(patches: Tensor) -> SquaredDistances:
    """The product with a transposed copy, which doubles the memory and reads faster."""
    lengths, transposed = patches.square().sum(1), patches.T.contiguous()
    return lambda centre: (patches[centre] @ transposed).mul_(-2).add_(lengths).add_(lengths[centre])


FORMS: dict[str, Callable[[Tensor], SquaredDistances]] = {
    "differences": by_difference,
    "matrix-vector product": by_matvec,
    "product with a transposed copy": by_transposed,
}


def naive_kcenter(distances_to: SquaredDistances, n: int) -> list[int]:
    """One centre per pass: the patch farthest from the selected ones, n times."""
    chosen, nearest = [START], distances_to(START)
    while len(chosen) < n:
        chosen.append(int(nearest.argmax()))
        torch.minimum(nearest, distances_to(chosen[-1]), out=nearest)
    return chosen


def approximate(patches: Tensor, n: int, seed: int = 0) -> list[int]:
    """The sampler of the PatchCore paper: a random projection to 128 features, starting from ten random patches."""
    random = torch.Generator().manual_seed(seed)
    projected = patches @ (torch.randn(patches.shape[1], 128, generator=random) / 128**0.5)
    starts = projected[torch.randperm(len(projected), generator=random)[:10]]
    nearest = torch.cdist(projected, starts).mean(1).square_()
    distances_to, chosen = by_transposed(projected), list[int]()
    while len(chosen) < n:
        chosen.append(int(nearest.argmax()))
        torch.minimum(nearest, distances_to(chosen[-1]), out=nearest)
    return chosen


def radius(patches: Tensor, chosen: Any) -> float:
    """Covering radius: the largest distance of a patch to its nearest centre."""
    mean = patches.mean(0)
    centres = patches[chosen] - mean
    lengths, farthest = centres.square().sum(1)[None], 0.0
    for block in (patches - mean).split(8192):
        nearest = torch.addmm(lengths, block, centres.T, alpha=-2).amin(1) + block.square().sum(1)
        farthest = max(farthest, float(nearest.max()))
    return float(max(0.0, farthest) ** 0.5)


def verify_greedy(patches: Tensor, chosen: Tensor) -> int:
    """Check in float64 that every centre is the patch farthest from the previous centres.

    By induction, the coreset is then the naive one. Returns the number of near-ties: centres within 1e-9 of the largest
    distance that are not the first patch with the largest float64 distance. A worse centre fails.
    """
    mean = patches.mean(0, dtype=torch.float64)
    centres = patches[chosen].double() - mean
    lengths = centres.square().sum(1)[None]
    largest = torch.full((len(chosen) - 1,), -1.0, dtype=torch.float64)
    farthest, of_centre = torch.zeros(len(chosen) - 1, dtype=torch.int64), torch.full_like(largest, -1.0)
    for rows in torch.arange(len(patches)).split(4096):
        block = patches[rows].double() - mean
        squared = torch.addmm(lengths, block, centres.T, alpha=-2).add_(block.square().sum(1, keepdim=True))
        nearest = squared.cummin(1).values[:, :-1]  # column j: distance to the nearest of the first j + 1 centres
        largest_of_block = nearest.max(0)
        farthest = torch.where(largest_of_block.values > largest, rows[largest_of_block.indices], farthest)
        largest = torch.maximum(largest, largest_of_block.values)
        inside = torch.nonzero((chosen[1:] >= rows[0]) & (chosen[1:] <= rows[-1])).flatten()
        of_centre[inside] = nearest[chosen[1:][inside] - rows[0], inside]
    assert bool((of_centre >= largest * (1 - 1e-9)).all()), "a centre is not the farthest patch"
    return int((farthest != chosen[1:]).sum())


def first_difference(a: Any, b: Any) -> int | None:
    positions = np.flatnonzero(np.asarray(a) != np.asarray(b))
    return int(positions[0]) if len(positions) else None


def time_naive(distances_to: SquaredDistances, timed_centres: int, n: int) -> Timing:
    return timed(lambda: naive_kcenter(distances_to, timed_centres), runs=3, warm=0)[0].times(n / timed_centres)


def measure(patches: Tensor, n: int) -> dict[str, Any]:
    count = len(patches)
    small = patches[:: max(1, count // SMALL[0])][: SMALL[0]].contiguous()
    print(f"{count:,} x {patches.shape[1]:,} -> {n:,}", file=sys.stderr)
    exact = naive_kcenter(by_difference(small.double()), SMALL[1])
    assert exact == greedy_kcenter(small, SMALL[1], start=START).tolist(), "ours must be the naive float64 choice"
    forms = {}
    for name, form in FORMS.items():
        forms[name] = time_naive(form(patches), PROBED, n)
    fastest = min(forms, key=lambda name: forms[name].middle)
    rival_distances = FORMS[fastest](patches)
    chosen: dict[str, Any] = {}
    ours, loop = timed(
        lambda: chosen.__setitem__("ours", kcenter(patches, n, START)),
        lambda: chosen.__setitem__("naive", naive_kcenter(rival_distances, TIMED)),
        runs=3,
        warm=0,
    )
    result = chosen["ours"]
    started = now()
    rival = approximate(patches, n)
    rival_seconds = now() - started
    return {
        "shape": [count, patches.shape[1], n],
        "forms": forms,
        "fastest": fastest,
        "naive": loop.times(n / TIMED),
        "ours": ours,
        "approximate": Timing.of([rival_seconds]),
        "radius": {
            "ours": result.radius,
            "approximate": radius(patches, rival),
            "random": radius(patches, random_coreset(count, n, 0)),
        },
        "ties": verify_greedy(patches, torch.from_numpy(result.indices)),
        "naive_float32_differs_at": first_difference(chosen["naive"], result.indices[:TIMED]),
    }


def covering(patches: Tensor) -> list[dict[str, Any]]:
    """Covering radius of greedy and random banks of several sizes."""
    rows = []
    for share in SHARES:
        n = round(share * len(patches))
        started = now()
        greedy = kcenter(patches, n, START).radius
        elapsed = now() - started
        random_radii = [radius(patches, random_coreset(len(patches), n, seed)) for seed in range(SEEDS)]
        rows.append({"share": share, "n": n, "greedy": greedy, "random": random_radii, "seconds": elapsed})
    return rows


def rows_of(name: str, result: dict[str, Any], product: float, reading: float) -> list[list[str]]:
    count, dimensions, n = result["shape"]
    bytes_a_pass, operations = 4 * count * dimensions, 2 * count * dimensions * n
    loop: Timing = result["naive"]
    times = {
        **{
            f"naive loop, {form} ({PROBED} centres timed)": time
            for form, time in result["forms"].items()
            if form != result["fastest"]
        },
        f"naive loop, {result['fastest']} ({TIMED} centres timed)": loop,
        "approximate greedy of the paper, one run": result["approximate"],
        "exact greedy, ours": result["ours"],
    }
    rows = []
    for sampler, time in times.items():
        if sampler.startswith("naive"):
            limit, covering_radius = n * bytes_a_pass / reading, result["radius"]["ours"]
        elif sampler.startswith("approximate"):
            limit, covering_radius = n * 4 * count * 128 / reading, result["radius"]["approximate"]
        else:
            limit, covering_radius = operations / product, result["radius"]["ours"]
        rows.append(
            [
                name,
                sampler,
                str(time),
                f"{loop.middle / time.middle:.2f}",
                f"{time.middle / limit:.1f}",
                f"{covering_radius:.2f}",
            ],
        )
    rows.append([name, "random sampling", "–", "–", "–", f"{result['radius']['random']:.2f}"])
    return rows


def verdict(name: str, result: dict[str, Any]) -> list[str]:
    dimensions = result["shape"][1]
    times = result["naive"].middle / result["ours"].middle
    matvec = result["forms"]["matrix-vector product"].middle / result["ours"].middle
    position = result["naive_float32_differs_at"]
    return [
        name,
        GOALS.get(dimensions, "–"),
        f"{times:.1f} (matrix-vector form {matvec:.1f})",
        yes(times >= NEEDED[dimensions]) if dimensions in NEEDED else "–",
        f"all {result['shape'][2]:,} centres" + (f", {result['ties']} of them near-ties" if result["ties"] else ""),
        f"none in {TIMED}" if position is None else f"at centre {position}",
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="an MVTec root whose patches are also measured")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the features of --data")
    parser.add_argument(
        "--only", type=int, choices=(152, 1024), help="measure only synthetic patches with this number of features"
    )
    args = parser.parse_args()
    use_threads(args.threads)
    this_machine = machine()
    results = {}
    for dimensions in (152, 1024) if args.only is None else (args.only,):
        results[f"synthetic, {COUNT:,} x {dimensions:,} -> {CENTRES:,}"] = measure(
            synthetic_patches(COUNT, dimensions), CENTRES
        )
    if args.data:
        patches = real_patches(args.data, args.set, COUNT)
        n = round(len(patches) / 100)
        results[f"{args.data.name}, {len(patches):,} x {patches.shape[1]:,} -> {n:,}"] = measure(patches, n)
    cover = {"synthetic": covering(synthetic_patches(COVERED, 152))}
    if args.data:
        cover[args.data.name] = covering(patches[:: max(1, len(patches) // COVERED)][:COVERED].contiguous())
    columns = ("patches", "sampler", "time", "speed over the naive loop", "over the physical limit", "covering radius")
    rows = [
        row for name, result in results.items() for row in rows_of(name, result, this_machine.product, this_machine.reading)
    ]
    goals = (
        "patches",
        "goal, times",
        "times faster than the naive loop",
        "met?",
        "proved in float64",
        "naive float32 loop differs",
    )
    covers = [
        [
            name,
            f"{100 * row['share']:g} % ({row['n']:,})",
            f"{row['greedy']:.2f}",
            f"{np.mean(row['random']):.2f} ({min(row['random']):.2f}–{max(row['random']):.2f})",
            f"{row['seconds']:.2f}",
        ]
        for name, group in cover.items()
        for row in group
    ]
    write(
        args.out,
        "coreset",
        [
            "# Coreset: greedy k-center",
            LIKENESS,
            str(this_machine),
            table(columns, rows),
            "Times of the naive loop are extrapolated from the centres stated. *Physical limit*: naive loops read all patches "
            "once a centre at the machine's reading rate (the approximate one their 128 projected features); ours is held "
            "against one float32 product of all patches with all centres; below it where not every distance is renewed.",
            table(goals, [verdict(name, result) for name, result in results.items()]),
            f"The same choice as the float64 loop of differences on {SMALL[0]:,} patches -> {SMALL[1]} was asserted first.",
            f"Covering radius of {COVERED:,} patches x 152, random with {SEEDS} seeds:",
            table(("patches", "bank", "greedy", "random, mean (least–most)", "greedy, s"), covers),
        ],
        {"machine": this_machine.as_json(), "samplers": results, "covering": cover},
    )


if __name__ == "__main__":
    main()
