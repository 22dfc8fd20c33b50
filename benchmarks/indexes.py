"""What an index of the bank costs in scores and accuracy: every setting of `index` on sets of images, against exact search.

    python benchmarks/indexes.py [--threads 1] [--out FOLDER] MVTEC_ROOT ...

Every index gets a fit of its own, so that the error that its model states stands beside the change that is found on the test
images; the fits differ in nothing else. The search is timed on the patches of one image; the bare torch product is beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from offnominal import Detector
from offnominal.config import SearchIndex
from offnominal.images import labelled_images
from offnominal.memory import EXACT_INDEXES, NearestPatches
from tables import Timing, arguments, machine, table, timed, use_threads, write

EXACT: SearchIndex = "flat"
PRODUCT = "torch product"
BANKS = (0.01, 0.1)
K = 9
FIGURES = ("image_auroc", "pixel_auroc")


def patches_of(detector: Detector, path: Path) -> Tensor:
    def fail(index: int, error: Exception) -> None:
        raise error

    ((_, _, patches, _),) = detector._ready().patches([path], fail)
    return patches.cpu()


def fitted(data: Path, bank: float, index: SearchIndex) -> dict[str, Any]:
    print(data.name, bank, index, file=sys.stderr)
    detector = Detector(bank=bank, index=index).fit(data)
    result = detector.evaluate(data)
    error = detector.model.search_error
    return {
        **{name: result.as_json()[name] for name in FIGURES},
        "scores": np.array([image.inspection.score for image in result.images]),
        "alarms": [image.inspection.anomalous for image in result.images],
        "threshold": detector.model.calibration.threshold,
        "bank": detector.model.bank.patches,
        "patches": patches_of(detector, labelled_images(data)[0].path),
        "error": error,
    }


def by_product(bank: Tensor, patches: Tensor) -> Tensor:
    return torch.addmm(bank.square().sum(1)[None], patches, bank.T, alpha=-2).topk(min(K, len(bank)), largest=False).indices


def measure(data: Path, bank: float) -> dict[str, Any]:
    kinds = [kind for kind in get_args(SearchIndex) if kind != "auto"]
    found = {kind: fitted(data, bank, kind) for kind in kinds}
    exact = found[EXACT]
    assert all(torch.equal(one["bank"], exact["bank"]) for one in found.values()), "the banks must be the same"
    assert all(one["threshold"] == exact["threshold"] for one in found.values()), "held-out scores are exact"
    searches = {kind: NearestPatches(exact["bank"], kind) for kind in kinds}
    patches = exact["patches"]
    times = timed(
        *(lambda search=search: search(patches, K) for search in searches.values()),
        lambda: by_product(exact["bank"], patches),
        runs=9,
    )
    right = searches[EXACT](patches, K)[1].numpy()
    results: dict[str, Any] = {PRODUCT: {"time": times[-1]}}
    for kind, time in zip(kinds, times, strict=False):
        one = found[kind]
        rows = searches[kind](patches, K)[1].numpy()
        change = one["scores"] - exact["scores"]
        results[kind] = {
            "time": time,
            "recall": float(np.mean([np.isin(a, b).mean() for a, b in zip(right, rows, strict=True)])),
            "stated": None if one["error"] is None else vars(one["error"]),
            "change": {"mean": float(np.abs(change).mean()), "most": float(np.abs(change).max())},
            "spread": float(exact["scores"].std()),
            "verdicts": int(np.sum(np.array(one["alarms"]) != np.array(exact["alarms"]))),
            **{name: one[name] for name in FIGURES},
        }
    return {"shape": [len(patches), *exact["bank"].shape], "images": len(exact["scores"]), "indexes": results}


def rows_of(name: str, found: dict[str, Any]) -> list[list[str]]:
    flat: Timing = found["indexes"][EXACT]["time"]
    rows = []
    for kind, one in found["indexes"].items():
        time: Timing = one["time"]
        cells = [name, kind, str(time), f"{flat.middle / time.middle:.2f}"]
        if kind == PRODUCT:
            rows.append([*cells, *["–"] * 7])
            continue
        stated = one["stated"]
        rows.append(
            [
                *cells,
                f"{one['recall']:.4f}",
                *(
                    "exact"
                    if stated is None
                    else " / ".join(f"{100 * stated[prefix + key]:.2g}" for key in ("mean", "most", "peak"))
                    for prefix in ("", "odd_")
                ),
                f"{one['change']['mean']:.4f} / {one['change']['most']:.4f} of {one['spread']:.2f}",
                f"{one['verdicts']}",
                *(f"{one[figure]:.4f}" for figure in FIGURES),
            ]
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="MVTec roots with test images and masks")
    given = parser.parse_args()
    use_threads(given.threads)
    here = machine()
    found = {f"{data.name}, bank {100 * bank:g} %": measure(data, bank) for data in given.data for bank in BANKS}
    assert EXACT in EXACT_INDEXES
    columns = (
        "set",
        "index",
        f"search of an image, K = {K}",
        "speed over flat",
        f"recall@{K}",
        "stated by the model, %: mean / most / peak",
        "the same with noise",
        "change of image score, mean / most, of their deviation",
        "verdicts changed",
        "image AUROC",
        "pixel AUROC",
    )
    write(
        given.out,
        "indexes",
        [
            "# Indexes: what they cost in scores and accuracy",
            str(here),
            "; ".join(
                f"{name}: {one['shape'][0]:,} patches an image, bank {one['shape'][1]:,} x {one['shape'][2]}, "
                f"{one['images']} test images"
                for name, one in found.items()
            )
            + ".",
            table(columns, [row for name, one in found.items() for row in rows_of(name, one)]),
            "*Stated by the model*: relative change of the mean distance to the 3 nearest that the fit measured on held-out "
            "patches: over all, of the patch that changes most, of the largest distance in an image; then the same with noise "
            "of one deviation a feature, since an index can be right on normal patches and miss on odd ones. Image scores are "
            "in standard deviations of held-out normal patches; thresholds are the same, since held-out scores are exact.",
        ],
        {"machine": here.as_json(), "sets": found},
    )


if __name__ == "__main__":
    main()
