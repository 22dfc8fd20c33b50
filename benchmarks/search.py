"""K nearest bank patches: FAISS flat as the detector uses it, a torch product, and compressed and approximate indexes.

    python benchmarks/search.py [--threads 1] [--out benchmarks/results]

K = 9 for the 1,024 patches of an image in greedy banks of 1,024, 4,096 and 16,384 x 152. The distances to the neighbours found
are worked out exactly afterwards, as the detector does, so an index errs only by the neighbours that it misses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from offnominal.memory import NearestPatches, greedy_kcenter
from patches import LIKENESS, made_patches
from tables import Timing, arguments, machine, seconds, table, timed, use_threads, write

PATCHES, DIMENSIONS, K, MEAN_OF = 1024, 152, 9, 3
BANKS = (1024, 4096, 16384)
POOL = 65536
Search = Callable[[Tensor], Tensor]
PRODUCT = "bare float32 product"
FLAT = "FAISS flat (the detector's)"


def by_product(bank: Tensor) -> Search:
    lengths = bank.square().sum(1)[None]
    return lambda patches: torch.addmm(lengths, patches, bank.T, alpha=-2).topk(K, largest=False).indices


def by_index(index: Any, bank: Tensor) -> Search:
    index.train(bank.numpy())
    index.add(bank.numpy())
    return lambda patches: torch.from_numpy(index.search(patches.numpy(), K)[1])


def scalar(kind: int) -> Callable[[Tensor], Search]:
    return lambda bank: by_index(faiss.IndexScalarQuantizer(DIMENSIONS, kind, faiss.METRIC_L2), bank)


def inverted(probes: int) -> Callable[[Tensor], Search]:
    def build(bank: Tensor) -> Search:
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(DIMENSIONS), DIMENSIONS, round(len(bank) ** 0.5))
        index.nprobe = probes
        index.cp.min_points_per_centroid = 1  # a small bank is no reason to warn
        return by_index(index, bank)

    return build


def graph(effort: int) -> Callable[[Tensor], Search]:
    def build(bank: Tensor) -> Search:
        index = faiss.IndexHNSWFlat(DIMENSIONS, 32)
        index.hnsw.efSearch = effort
        return by_index(index, bank)

    return build


def flat(bank: Tensor) -> Search:
    search = NearestPatches(bank)
    return lambda patches: search(patches, K)[1]


WAYS: dict[str, Callable[[Tensor], Search]] = {
    FLAT: flat,
    "torch product + topk": by_product,
    "FAISS fp16": scalar(faiss.ScalarQuantizer.QT_fp16),
    "FAISS SQ8": scalar(faiss.ScalarQuantizer.QT_8bit),
    "FAISS IVF-flat, 8 of sqrt(M) lists": inverted(8),
    "FAISS HNSW-32, effort 64": graph(64),
}


def exactly(patches: Tensor, bank: Tensor) -> Tensor:
    """(N, K) nearest by float64 differences."""
    return torch.cat(
        [
            torch.cdist(block, bank.double(), compute_mode="donot_use_mm_for_euclid_dist").topk(K, largest=False).indices
            for block in patches.double().split(128)
        ]
    )


def mean_distance(patches: Tensor, bank: Tensor, indices: Tensor, count: int) -> Tensor:
    """Mean distance to the nearest `count` of the neighbours found; a place without a neighbour (-1) counts as far."""
    away = torch.linalg.vector_norm((patches[:, None] - bank[indices.clamp(min=0)]).double(), dim=2)
    return torch.where(indices >= 0, away, torch.inf).sort(1).values[:, :count].mean(1)


def recall(found: Tensor, right: Tensor) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(right.numpy(), found.numpy(), strict=True)]))


def _keep(searches: dict[str, Any], name: str, build: Callable[[Tensor], Any], bank: Tensor) -> None:
    searches[name] = build(bank)


def measure(patches: Tensor, bank: Tensor) -> dict[str, dict[str, Any]]:
    right = exactly(patches, bank)
    distances = {count: mean_distance(patches, bank, right, count) for count in (MEAN_OF, K)}
    searches: dict[str, Any] = {}
    built = {name: seconds(partial(_keep, searches, name, build, bank)) for name, build in WAYS.items()}
    product = torch.empty(len(patches), len(bank))
    times = timed(
        lambda: torch.mm(patches, bank.T, out=product),
        *(lambda search=search: search(patches) for search in searches.values()),
        runs=15,
    )
    results: dict[str, dict[str, Any]] = {PRODUCT: {"time": times[0]}}
    for (name, search), time in zip(searches.items(), times[1:], strict=True):
        indices = search(patches)
        errors = {
            count: float((mean_distance(patches, bank, indices, count) / distance - 1).abs().mean())
            for count, distance in distances.items()
        }
        results[name] = {"time": time, "build": built[name], "recall": recall(indices, right), "errors": errors}
    for name in (FLAT, "torch product + topk"):
        assert results[name]["recall"] > 0.9999, f"{name} must be exact but for rounding among near-ties"
    return results


def main() -> None:
    given = arguments(__doc__).parse_args()
    use_threads(given.threads)
    here = machine()
    made = made_patches(POOL + 4 * PATCHES, DIMENSIONS)
    patches, pool = made[POOL::4].clone(), made[:POOL]
    order = greedy_kcenter(pool, max(BANKS), seed=0)
    found = {size: measure(patches, pool[order[:size]].contiguous()) for size in BANKS}
    rows = []
    for size, results in found.items():
        limit = 2 * PATCHES * size * DIMENSIONS / here.product
        exact: Timing = results[FLAT]["time"]
        for name, result in results.items():
            time: Timing = result["time"]
            rows.append(
                [
                    f"{size:,}",
                    name,
                    str(time),
                    f"{exact.middle / time.middle:.2f}",
                    f"{time.middle / limit:.1f}",
                    *(
                        ("–", "–", "–")
                        if name == PRODUCT
                        else (
                            f"{result['recall']:.4f}",
                            " / ".join(f"{error:.0e}" for error in result["errors"].values()),
                            f"{1000 * result['build']:.0f}",
                        )
                    ),
                ]
            )
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
    write(
        given.out,
        "search",
        [
            "# Search: the K nearest bank patches",
            f"{PATCHES:,} patches, D = {DIMENSIONS}, K = {K}; banks: greedy choices of {POOL:,} patches of other images.",
            LIKENESS,
            str(here),
            table(columns, rows),
            "*Physical limit*: operations of the float32 product over the machine's matrix rate; smaller or approximate "
            "indexes may fall below it. The neighbours are compared with those by float64 differences.",
        ],
        {
            "machine": here.as_json(),
            "banks": {
                size: {name: {**result, "time": asdict(result["time"])} for name, result in results.items()}
                for size, results in found.items()
            },
        },
    )


if __name__ == "__main__":
    main()
