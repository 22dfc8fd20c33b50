"""anomalib's Patchcore on one set, in its own environment. Started by `rivals.py`; writes maps and inspects in turns.

    python rival_patchcore.py JOB.json

The job names the training and test files, a file of backbone weights, the layers, the image side and the share of the bank. The
model is called as by anomalib's engine, but without the engine, which would only add to its time.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any


def import_schemas(path: str) -> None:
    """Register two schemas that torchvision needs to be imported with a CPU build of torch."""
    spec = importlib.util.spec_from_file_location("torchvision_schemas", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.import_timm()


def serve_turns(
    results: dict[str, Any], paths: list[Any], inspect: Callable[[Any], Any], batches: Callable[[list[Any]], Any]
) -> None:
    """Print the results as a line of JSON. Then, for each input line, inspect all images and print the times.

    Each turn inspects once one by one and once in batches.
    """
    batches(paths)
    print(json.dumps(results), flush=True)
    for _ in sys.stdin:
        times = []
        for path in paths:
            started = perf_counter()
            inspect(path)
            times.append(perf_counter() - started)
        started = perf_counter()
        batches(paths)
        in_batches = perf_counter() - started
        answer = {"ms_batch_of_one": 1000 * median(times), "ms_in_batches": 1000 * in_batches / len(paths)}
        print(json.dumps(answer), flush=True)


def main() -> None:
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    import_schemas(job["schemas"])
    import numpy as np
    import torch
    from anomalib.data.utils import read_image
    from anomalib.models import Patchcore
    from anomalib.models.components import KCenterGreedy
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    torch.manual_seed(0)
    side = (job["side"], job["side"])
    prepare = Compose([Resize(side, antialias=True), Normalize(mean=job["mean"], std=job["std"])])

    def read(path: str) -> torch.Tensor:
        prepared: torch.Tensor = prepare(read_image(path, as_tensor=True))
        return prepared

    lightning_model = Patchcore(
        backbone=job["backbone"],
        layers=job["layers"],
        pre_trained=False,
        coreset_sampling_ratio=job["bank"],
        pre_processor=False,
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    model = lightning_model.model
    weights = torch.load(job["weights"], weights_only=True)
    network = model.feature_extractor.feature_extractor
    missing = network.load_state_dict(weights, strict=False).missing_keys
    # The network also runs the stages after the last layer, whose weights have no effect.
    last = int(job["layers"][-1].removeprefix("blocks."))
    unused = [name for name in missing if name.startswith("blocks.") and int(name.split(".")[1]) > last]
    assert all(name in unused or name.endswith("num_batches_tracked") for name in missing), missing

    seconds: dict[str, float] = {}
    select = KCenterGreedy.select_coreset_idxs

    def timed_select(self: Any) -> Any:
        started = perf_counter()
        chosen = select(self)
        seconds["coreset"] = perf_counter() - started
        return chosen

    KCenterGreedy.select_coreset_idxs = timed_select
    started = perf_counter()
    model.train()
    model.feature_extractor.eval()
    with torch.inference_mode():
        for first in range(0, len(job["train"]), 32):
            model(torch.stack([read(path) for path in job["train"][first : first + 32]]))
        lightning_model.fit()
    seconds["fit"] = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    model.eval()

    def inspect(path: str) -> tuple[float, Any]:
        prediction = model(read(path)[None])
        return float(prediction.pred_score), prediction.anomaly_map[0, 0].numpy()

    def batches(paths: list[str]) -> None:
        for first in range(0, len(paths), 16):
            model(torch.stack([read(path) for path in paths[first : first + 16]]))

    maps = np.lib.format.open_memmap(job["maps"], "w+", np.float32, (len(job["test"]), *side))
    with torch.inference_mode():
        scores = []
        for at, path in enumerate(job["test"]):
            score, maps[at] = inspect(path)
            scores.append(score)
        maps.flush()
        results = {
            "fit_seconds": seconds["fit"],
            "coreset_seconds": seconds["coreset"],
            "bank": len(model.memory_bank),
            "peak_gb": peak,
            "scores": scores,
        }
        serve_turns(results, job["test"][: job["in_batches"]], inspect, batches)


if __name__ == "__main__":
    main()
