"""K nearest bank patches: the search of the detector, FAISS flat and a torch product.

    python benchmarks/search.py [--threads 1] [--out benchmarks/results]

Parallel inspections use one thread each; `search-1` measures this case.

K = 9 for the 1,024 patches of an image in greedy banks of 1,024, 4,096 and 16,384 x 152, and of 4,096 x 1,024 (as many
dimensions as wide_resnet50_2). All searches are exact up to rounding, which is asserted against float64 differences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offnominal.memory import NearestPatches, greedy_kcenter
from offnominal.memory.pruning import register_bits
from offnominal.memory.search import _flat, uses_pruning
from patches import LIKENESS, synthetic_patches
from tables import Timing, arguments, machine, seconds, table, timed, use_threads, write, yes

PATCHES, K, MEAN_OF = 1024, 9, 3
BANKS = {152: (1024, 4096, 16384), 1024: (4096,)}
POOL = 65536
GOAL = 2.0
Search = Callable[[Tensor], Tensor]
PRODUCT, BYTES = "bare float32 product", "bare int8 product"
FLAT, OURS, NAIVE = "FAISS flat", "the detector's", "torch product + topk"


def by_product(bank: Tensor) -> Search:
    lengths = bank.square().sum(1)[None]
    return lambda patches: torch.addmm(lengths, patches, bank.T, alpha=-2).topk(K, largest=False).indices


def by_index(bank: Tensor) -> Search:
    index = _flat(bank.numpy())
    return lambda patches: torch.from_numpy(index.search(patches.numpy(), K)[1])


def by_detector(bank: Tensor) -> Search:
    search = NearestPatches(bank)
    return lambda patches: search(patches, K)[1]


SEARCHES: dict[str, Callable[[Tensor], Search]] = {FLAT: by_index, OURS: by_detector, NAIVE: by_product}


def exact_neighbours(patches: Tensor, bank: Tensor) -> Tensor:
    """(N, K) nearest bank patches by float64 differences."""
    return torch.cat(
        [
            torch.cdist(block, bank.double(), compute_mode="donot_use_mm_for_euclid_dist").topk(K, largest=False).indices
            for block in patches.double().split(128)
        ]
    )


def mean_distance(patches: Tensor, bank: Tensor, indices: Tensor, count: int) -> Tensor:
    """Mean distance to the nearest `count` of the neighbours. A missing neighbour (-1) counts as infinitely distant."""
    distances = torch.linalg.vector_norm((patches[:, None] - bank[indices.clamp(min=0)]).double(), dim=2)
    return torch.where(indices >= 0, distances, torch.inf).sort(1).values[:, :count].mean(1)


def recall(neighbours: Tensor, expected: Tensor) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(expected.numpy(), neighbours.numpy(), strict=True)]))


def _keep(searches: dict[str, Any], name: str, build: Callable[[Tensor], Any], bank: Tensor) -> None:
    searches[name] = build(bank)


def measure(patches: Tensor, bank: Tensor) -> dict[str, dict[str, Any]]:
    expected = exact_neighbours(patches, bank)
    distances = {count: mean_distance(patches, bank, expected, count) for count in (MEAN_OF, K)}
    searches: dict[str, Any] = {}
    built = {name: seconds(partial(_keep, searches, name, build, bank)) for name, build in SEARCHES.items()}
    products = {PRODUCT: partial(torch.mm, patches, bank.T)}
    if register_bits():
        products[BYTES] = partial(torch._int_mm, patches.to(torch.int8), bank.to(torch.int8).T)
    times = timed(*products.values(), *(partial(search, patches) for search in searches.values()), runs=15, settle=2)
    results: dict[str, dict[str, Any]] = {name: {"time": time} for name, time in zip(products, times, strict=False)}
    for (name, search), time in zip(searches.items(), times[len(products) :], strict=True):
        indices = search(patches)
        errors = {
            count: float((mean_distance(patches, bank, indices, count) / distance - 1).abs().mean())
            for count, distance in distances.items()
        }
        results[name] = {"time": time, "build": built[name], "recall": recall(indices, expected), "errors": errors}
    for name in SEARCHES:
        assert results[name]["recall"] > 0.9999, f"{name} must be exact up to rounding among near-ties"
    return results


def measured(dimensions: int, sizes: tuple[int, ...]) -> dict[int, dict[str, dict[str, Any]]]:
    patches_and_pool = synthetic_patches(POOL + 4 * PATCHES, dimensions)
    patches, pool = patches_and_pool[POOL::4].clone(), patches_and_pool[:POOL]
    order = greedy_kcenter(pool, max(sizes), seed=0)
    return {size: measure(patches, pool[order[:size]].contiguous()) for size in sizes}


def row(bank: str, name: str, result: dict[str, Any], flat: Timing, limit: float) -> list[str]:
    time: Timing = result["time"]
    details = ["–", "–", "–"]
    if "recall" in result:
        errors = " / ".join(f"{error:.0e}" for error in result["errors"].values())
        details = [f"{result['recall']:.4f}", errors, f"{1000 * result['build']:.0f}"]
    return [bank, name, str(time), f"{flat.middle / time.middle:.2f}", f"{time.middle / limit:.1f}", *details]


def main() -> None:
    args = arguments(__doc__).parse_args()
    use_threads(args.threads)
    this_machine = machine()
    results_by_size = {dimensions: measured(dimensions, sizes) for dimensions, sizes in BANKS.items()}
    rows, goals = [], []
    for dimensions, banks in results_by_size.items():
        for size, results in banks.items():
            bank, flat = f"{size:,} x {dimensions:,}", results[FLAT]["time"]
            limit = 2 * PATCHES * size * dimensions / this_machine.product
            rows += [row(bank, name, result, flat, limit) for name, result in results.items()]
            gain = flat.middle / results[OURS]["time"].middle
            method = "int8 candidates, then float32" if uses_pruning(size, dimensions) else "FAISS flat"
            goals.append([bank, method, f"{gain:.2f}", yes(gain >= GOAL)])
    columns = (
        "bank",
        "search",
        "time",
        "speed over FAISS flat",
        "over the physical limit",
        f"recall@{K}",
        f"mean relative error of the mean over {MEAN_OF} / {K}",
        "build, ms",
    )
    parts = [
        "# Search: the K nearest bank patches",
        f"{PATCHES:,} patches, K = {K}; banks: greedy choices of {POOL:,} patches of other images.",
        LIKENESS,
        str(this_machine),
        table(columns, rows),
        "*Physical limit*: operations of the float32 product over the machine's matrix rate; int8 "
        "products may fall below it. The neighbours are compared with those by float64 differences.",
        table(("bank", "the detector's search", "times FAISS flat", f"goal, with int8 products: {GOAL:g} times"), goals),
    ]
    name = "search" if args.threads is None else f"search-{args.threads}"
    write(
        args.out,
        name,
        parts,
        {"machine": this_machine, **{str(dimensions): banks for dimensions, banks in results_by_size.items()}},
    )


if __name__ == "__main__":
    main()
