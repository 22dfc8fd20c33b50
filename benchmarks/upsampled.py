"""Search with upsampled features, against FAISS flat, on the patches of real images.

    python benchmarks/upsampled.py --data IMAGES [--threads 1] [--out benchmarks/results]

IMAGES has good training images and test images, as for `offnominal evaluate`. The model has one member. The banks are random,
because the time hardly depends on their patches. Candidate pruning by int8 dot products is switched off.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offnominal import Detector
from offnominal.datasets import labelled_images
from offnominal.features import parse_members
from offnominal.images import Preprocessing, batches, raise_unreadable
from offnominal.inference import FeatureEngine
from offnominal.memory import NearestPatches, Upsampling, search
from tables import Timing, arguments, machine, table, timed, use_threads, write

BANKS, K, IMAGES = (1024, 4096, 16384), 9, 8


def by_flat(index: Any, patches: Tensor) -> tuple[Tensor, Tensor]:
    squared, rows = index.search(patches.numpy(), K)
    return torch.from_numpy(squared), torch.from_numpy(rows)


def measure(images: list[Tensor], upsampling: Upsampling, bank: Tensor) -> dict[str, Any]:
    flat, ours, patches = partial(by_flat, search._flat(bank.numpy())), NearestPatches(bank), images[0]
    times = timed(
        partial(torch.mm, patches, bank.T),
        partial(flat, patches),
        partial(ours, patches, K, upsampling),
        runs=25,
        settle=1,
    )
    pairs = [(flat(image), ours(image, K, upsampling)) for image in images]
    same = float(torch.cat([from_flat[1] == from_ours[1] for from_flat, from_ours in pairs]).float().mean())
    largest_difference = max(
        float((from_flat[0] - from_ours[0]).abs().max() / from_flat[0].mean()) for from_flat, from_ours in pairs
    )
    assert same > 0.999, "the neighbours must be equal up to rounding among near-ties"
    return dict(zip(("product", "flat", "ours"), times, strict=True)) | {"same": same, "apart": largest_difference}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", required=True)
    args = parser.parse_args()
    use_threads(args.threads)
    search.uses_pruning = lambda count, dimensions: False
    this_machine = machine()
    detector = Detector(preset="fast", image_size=(256, 256), resize="squash", sampler="random", bank=max(BANKS))
    model = detector.fit(args.data).model
    (member,), (name,) = model.members, parse_members(model.settings.backbone)
    engine, sources = FeatureEngine(model.settings, name), [item.path for item in labelled_images(args.data)[:IMAGES]]
    (batch,) = batches(sources, Preprocessing((member.geometry,), model.values), batch_size=IMAGES, failed=raise_unreadable)
    upsampling = engine.upsampling((256, 256))
    assert upsampling is not None
    images = [
        patches.contiguous()
        for patches in engine.standardise(engine.patches(batch.network_input(0)), member.standard, (256, 256))
    ]
    results = {size: measure(images, upsampling, member.bank.patches[:size].contiguous()) for size in BANKS}

    def times(slow: Timing, fast: Timing) -> str:
        return f"{slow.middle / fast.middle:.2f}"

    rows = [
        [
            f"{size:,} x {member.bank.patches.shape[1]}",
            *(str(result[name]) for name in ("product", "flat", "ours")),
            times(result["flat"], result["ours"]),
            f"{100 * result['same']:.3f}",
            f"{result['apart']:.0e}",
        ]
        for size, result in results.items()
    ]
    data = Path(args.data).name
    columns = ("bank", "whole product", "FAISS flat", "ours", "times", "same neighbours, %", "apart")
    parts = [
        "# Search that uses the upsampling of deeper features",
        f"{data}: {len(images[0]):,} patches of an image, K = {K}; random banks. "
        f"{upsampling.first} features are of the finest map, the others of one with half as many positions a side.",
        str(this_machine),
        table(columns, rows),
        f"*Apart*: the largest difference of a squared distance over their mean, {IMAGES} images.",
    ]
    stem = f"upsampled-{data}" + ("" if args.threads is None else f"-{args.threads}")
    write(args.out, stem, parts, {"machine": this_machine, **{str(size): result for size, result in results.items()}})


if __name__ == "__main__":
    main()
