"""The method on a GPU: influence by loop, autograd and closed form; the coreset's naive loop; the search.

    python benchmarks/gpu.py [--out benchmarks/results]

The measurements of `influence.py`, `coreset.py` and `search.py` with the same synthetic patches. Our coreset always runs on the
CPU; here the naive loop, one centre a pass, runs on the GPU against it. FAISS is not among the searches: the pinned package has
no GPU support. `gpu_sets.py` measures the networks and whole sets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import influence
from coreset import CENTRES, COUNT, START, by_turned, first_difference, naive
from influence import BACKWARD, CLAIMED, CLOSED, DIMENSIONS, LOOP, PATCHES, SEARCH
from offnominal.memory import NearestPatches, greedy_kcenter, kcenter
from patches import LIKENESS, made_patches
from search import BANKS, POOL, K, exactly, recall
from tables import Timing, arguments, machine, table, timed, write

GPU = torch.device("cuda")
Rows = list[list[str]]


def waited(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same, at an end only when the GPU is."""

    def run() -> Any:
        found = work()
        torch.cuda.synchronize()
        return found

    return run


def on_gpu(*work: Callable[[], Any], runs: int = 7, warm: int = 2) -> list[Timing]:
    return timed(*(waited(one) for one in work), runs=runs, warm=warm)


def peak_of(work: Callable[[], Any]) -> float:
    """MB that it takes of the GPU beside what is there already."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    waited(work)()
    return float(torch.cuda.max_memory_allocated() - before) / 1e6


def both_machines() -> str:
    """The GPU with what it can do at best, and the processor beside it."""
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU is visible to torch: there is nothing to measure")
    a, numbers = torch.randn(8192, 8192, device=GPU), torch.ones(2**30, device=GPU)
    product, reading = on_gpu(lambda: a @ a, numbers.sum)
    return (
        f"{torch.cuda.get_device_name()}: float32 matrix product {2 * 8192**3 / product.least / 1e12:.0f} TFLOP/s, reading its "
        f"memory {4 * len(numbers) / reading.least / 1e12:.1f} TB/s. Beside it: {machine()}"
    )


def influences(batch: int) -> tuple[Rows, list[str], dict[str, Any]]:
    made = made_patches(PATCHES * batch + 4 * influence.BANK, DIMENSIONS).to(GPU)
    patches, bank = made[: PATCHES * batch].clone(), made[PATCHES * batch :: 4].clone()
    features = influence.some_features(influence.TIMED[batch])
    differs = influence.check(patches, bank, features)
    work = influence.forms(patches, bank, features)
    times = dict(zip(work, on_gpu(*work.values()), strict=True))
    times[LOOP] = times[LOOP].times((DIMENSIONS + 1) / (len(features) + 1))
    peaks = {name: peak_of(one) for name, one in work.items()}
    closed = times[CLOSED].middle
    rows = [
        [
            str(batch),
            name,
            str(time),
            f"{time.middle / closed:,.2f}",
            f"{differs[name]:.0e}" if name in differs else "–",
            f"{peaks[name]:,.0f}",
        ]
        for name, time in times.items()
    ]
    before, after = CLAIMED[batch]
    against = [
        str(batch),
        f"{before} / {after} s, {before / after:,.0f} times",
        f"{times[LOOP].middle:.2f} / {closed:.5f} s, {times[LOOP].middle / closed:,.0f} times",
        " / ".join(f"{times[name].middle / closed:.1f}" for name in BACKWARD) + " times",
        f"{100 * (closed / times[SEARCH].middle - 1):+.0f} %",
    ]
    return rows, against, {"times": times, "peaks_mb": peaks, "differences": differs}


def coresets(dimensions: int) -> Rows:
    made, rows = made_patches(COUNT, dimensions), []
    (ours,) = timed(partial(kcenter, made, CENTRES, START), runs=3)
    chosen = kcenter(made, CENTRES, START).indices
    for there in (made.to(GPU), made.to(GPU).double()):
        work = partial(naive, by_turned(there), CENTRES)
        (loop,) = on_gpu(work, runs=3, warm=1)
        other = first_difference(chosen, work())
        rows.append(
            [
                f"{COUNT:,} x {dimensions:,} -> {CENTRES:,}",
                str(there.dtype).removeprefix("torch."),
                str(loop),
                str(ours),
                f"{loop.middle / ours.middle:.2f}",
                "no" if other is None else f"from the {other + 1:,}th centre on",
            ]
        )
    return rows


def searches(dimensions: int) -> Rows:
    made = made_patches(POOL + 4 * PATCHES, dimensions)
    patches, pool = made[POOL::4].clone(), made[:POOL]
    order = greedy_kcenter(pool, max(BANKS[dimensions]), seed=0)
    return [row for size in BANKS[dimensions] for row in _searches(patches, pool[order[:size]].contiguous())]


def _searches(patches: Tensor, bank: Tensor) -> Rows:
    points, there = patches.to(GPU), bank.to(GPU)
    forms: dict[str, Callable[[], Any]] = {
        "the detector's": partial(NearestPatches(there), points, K),
        "torch.cdist + topk": lambda: torch.cdist(points, there).topk(K, largest=False),
        "bare float32 product": lambda: points @ there.T,
    }
    right = exactly(patches, bank)
    rows = []
    for (name, work), time in zip(forms.items(), on_gpu(*forms.values(), runs=15), strict=True):
        found = "–" if "product" in name else f"{recall(work()[1].cpu(), right):.4f}"
        rows.append([f"{len(bank):,} x {bank.shape[1]:,}", name, str(time), found])
    return rows


def main() -> None:
    given = arguments(__doc__).parse_args()
    here = both_machines()
    influenced = [influences(batch) for batch in influence.BATCHES]
    write(
        given.out,
        "gpu",
        [
            "# The method on a GPU",
            here,
            f"Influence: N = {PATCHES:,} patches an image, D = {DIMENSIONS:,}, bank {influence.BANK:,}, K = {K}, float32. "
            f"{LIKENESS}",
            table(
                ("images", "form", "time", "over the closed form", "differs by", "memory over the data, MB"),
                [row for rows, _, _ in influenced for row in rows],
            ),
            "The loop is timed on some features and extrapolated to all.",
            table(
                (
                    "images",
                    "the document's loop / autograd (RTX 3090)",
                    "loop / closed form here",
                    "autograd (cdist / product / neighbours) over closed form",
                    "closed form on top of the search",
                ),
                [against for _, against, _ in influenced],
            ),
            "Coreset: the naive loop on the GPU, a product with a transposed copy a centre, against ours on the processor.",
            table(
                ("patches", "loop in", "loop on the GPU", "ours on the processor", "times", "choices differ"),
                [row for dimensions in BANKS for row in coresets(dimensions)],
            ),
            f"Search: {PATCHES:,} patches, K = {K}.",
            table(("bank", "search", "time", f"recall@{K}"), [row for dimensions in BANKS for row in searches(dimensions)]),
        ],
        {
            "machines": here,
            "influence": {str(batch): told for batch, (_, _, told) in zip(influence.BATCHES, influenced, strict=True)},
        },
    )


if __name__ == "__main__":
    main()
