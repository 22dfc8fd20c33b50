"""The method on a GPU: influence by loop, autograd and closed form; the naive coreset loop; the search.

    python benchmarks/gpu.py [--out benchmarks/results]

The measurements of `influence.py`, `coreset.py` and `search.py` with the same synthetic patches. Our coreset always runs on the
CPU; it is compared with the naive loop on the GPU, which selects one centre per pass. FAISS is not among the searches, because
the pinned package has no GPU support. `gpu_sets.py` measures the networks and whole sets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import influence
from coreset import CENTRES, COUNT, START, by_transposed, first_difference, naive_kcenter
from influence import BACKWARD, CLAIMED, CLOSED, DIMENSIONS, LOOP, PATCHES, SEARCH
from offnominal.memory import NearestPatches, greedy_kcenter, kcenter
from patches import LIKENESS, synthetic_patches
from search import BANKS, POOL, K, exact_neighbours, recall
from tables import Timing, arguments, machine, table, timed, write

GPU = torch.device("cuda")
Rows = list[list[str]]


def synchronised(work: Callable[[], Any]) -> Callable[[], Any]:
    """`work`, which returns only after the GPU has finished."""

    def run() -> Any:
        result = work()
        torch.cuda.synchronize()
        return result

    return run


def on_gpu(*functions: Callable[[], Any], runs: int = 7, warm: int = 2) -> list[Timing]:
    return timed(*(synchronised(function) for function in functions), runs=runs, warm=warm)


def peak_of(work: Callable[[], Any]) -> float:
    """Additional GPU memory in MB that `work` needs at its peak."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    synchronised(work)()
    return float(torch.cuda.max_memory_allocated() - before) / 1e6


def describe_machines() -> str:
    """The GPU with its best rates, and the processor."""
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU is visible to torch: there is nothing to measure")
    a, numbers = torch.randn(8192, 8192, device=GPU), torch.ones(2**30, device=GPU)
    product, reading = on_gpu(lambda: a @ a, numbers.sum)
    return (
        f"{torch.cuda.get_device_name()}: float32 matrix product {2 * 8192**3 / product.least / 1e12:.0f} TFLOP/s, reading its "
        f"memory {4 * len(numbers) / reading.least / 1e12:.1f} TB/s. Beside it: {machine()}"
    )


def influences(batch: int) -> tuple[Rows, list[str], dict[str, Any]]:
    patches_and_pool = synthetic_patches(PATCHES * batch + 4 * influence.BANK, DIMENSIONS).to(GPU)
    patches, bank = patches_and_pool[: PATCHES * batch].clone(), patches_and_pool[PATCHES * batch :: 4].clone()
    features = influence.some_features(influence.TIMED[batch])
    deviations = influence.check(patches, bank, features)
    work = influence.forms(patches, bank, features)
    times = dict(zip(work, on_gpu(*work.values()), strict=True))
    times[LOOP] = times[LOOP].times((DIMENSIONS + 1) / (len(features) + 1))
    peaks = {name: peak_of(form) for name, form in work.items()}
    closed = times[CLOSED].middle
    rows = [
        [
            str(batch),
            name,
            str(time),
            f"{time.middle / closed:,.2f}",
            f"{deviations[name]:.0e}" if name in deviations else "–",
            f"{peaks[name]:,.0f}",
        ]
        for name, time in times.items()
    ]
    before, after = CLAIMED[batch]
    comparison = [
        str(batch),
        f"{before} / {after} s, {before / after:,.0f} times",
        f"{times[LOOP].middle:.2f} / {closed:.5f} s, {times[LOOP].middle / closed:,.0f} times",
        " / ".join(f"{times[name].middle / closed:.1f}" for name in BACKWARD) + " times",
        f"{100 * (closed / times[SEARCH].middle - 1):+.0f} %",
    ]
    return rows, comparison, {"times": times, "peaks_mb": peaks, "differences": deviations}


def coresets(dimensions: int) -> Rows:
    patches, rows = synthetic_patches(COUNT, dimensions), []
    (our_time,) = timed(partial(kcenter, patches, CENTRES, START), runs=3)
    chosen = kcenter(patches, CENTRES, START).indices
    for gpu_patches in (patches.to(GPU), patches.to(GPU).double()):
        work = partial(naive_kcenter, by_transposed(gpu_patches), CENTRES)
        (loop,) = on_gpu(work, runs=3, warm=1)
        difference = first_difference(chosen, work())
        rows.append(
            [
                f"{COUNT:,} x {dimensions:,} -> {CENTRES:,}",
                str(gpu_patches.dtype).removeprefix("torch."),
                str(loop),
                str(our_time),
                f"{loop.middle / our_time.middle:.2f}",
                "no" if difference is None else f"from the {difference + 1:,}th centre on",
            ]
        )
    return rows


def searches(dimensions: int) -> Rows:
    patches_and_pool = synthetic_patches(POOL + 4 * PATCHES, dimensions)
    patches, pool = patches_and_pool[POOL::4].clone(), patches_and_pool[:POOL]
    order = greedy_kcenter(pool, max(BANKS[dimensions]), seed=0)
    return [row for size in BANKS[dimensions] for row in _searches(patches, pool[order[:size]].contiguous())]


def _searches(patches: Tensor, bank: Tensor) -> Rows:
    points, bank_on_gpu = patches.to(GPU), bank.to(GPU)
    forms: dict[str, Callable[[], Any]] = {
        "the detector's": partial(NearestPatches(bank_on_gpu), points, K),
        "torch.cdist + topk": lambda: torch.cdist(points, bank_on_gpu).topk(K, largest=False),
        "bare float32 product": lambda: points @ bank_on_gpu.T,
    }
    expected = exact_neighbours(patches, bank)
    rows = []
    for (name, work), time in zip(forms.items(), on_gpu(*forms.values(), runs=15), strict=True):
        recall_of_search = "–" if "product" in name else f"{recall(work()[1].cpu(), expected):.4f}"
        rows.append([f"{len(bank):,} x {bank.shape[1]:,}", name, str(time), recall_of_search])
    return rows


def main() -> None:
    args = arguments(__doc__).parse_args()
    machines = describe_machines()
    influence_results = [influences(batch) for batch in influence.BATCHES]
    write(
        args.out,
        "gpu",
        [
            "# The method on a GPU",
            machines,
            f"Influence: N = {PATCHES:,} patches an image, D = {DIMENSIONS:,}, bank {influence.BANK:,}, K = {K}, float32. "
            f"{LIKENESS}",
            table(
                ("images", "form", "time", "over the closed form", "differs by", "memory over the data, MB"),
                [row for rows, _, _ in influence_results for row in rows],
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
                [comparison for _, comparison, _ in influence_results],
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
            "machines": machines,
            "influence": {
                str(batch): details for batch, (_, _, details) in zip(influence.BATCHES, influence_results, strict=True)
            },
        },
    )


if __name__ == "__main__":
    main()
