"""anomalib's Patchcore on one set, in an environment of its own; started by `rivals.py`, prints JSON and leaves maps.

    python rival_patchcore.py JOB.json

The job names the training and test files, a file of backbone weights, layers, side of the image and share of the bank. The
model is driven as anomalib's own engine drives it, but without that engine, which would only add to its time.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
from pathlib import Path
from time import perf_counter
from typing import Any


def import_schemas(path: str) -> None:
    """Beside a CPU build of torch, torchvision needs two schemas before it can be imported."""
    spec = importlib.util.spec_from_file_location("torchvision_schemas", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.import_timm()


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
    whole = Patchcore(
        backbone=job["backbone"],
        layers=job["layers"],
        pre_trained=False,
        coreset_sampling_ratio=job["bank"],
        pre_processor=False,
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    model = whole.model
    weights = torch.load(job["weights"], weights_only=True)
    network = model.feature_extractor.feature_extractor
    missing = network.load_state_dict(weights, strict=False).missing_keys
    assert not [name for name in missing if not name.endswith("num_batches_tracked")], missing[:3]

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
            model(torch.stack([prepare(read_image(path, as_tensor=True)) for path in job["train"][first : first + 32]]))
        whole.fit()
    seconds["fit"] = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    model.eval()
    times, scores = [], []
    maps = np.lib.format.open_memmap(job["maps"], "w+", np.float32, (len(job["test"]), *side))
    with torch.inference_mode():
        for at, path in enumerate(job["test"]):
            started = perf_counter()
            found = model(prepare(read_image(path, as_tensor=True))[None])
            score, anomaly_map = float(found.pred_score), found.anomaly_map[0, 0].numpy()
            times.append(perf_counter() - started)
            scores.append(score)
            maps[at] = anomaly_map
        paths = job["test"][: job["in_batches"]]
        for _ in range(2):
            started = perf_counter()
            for first in range(0, len(paths), 16):
                model(torch.stack([prepare(read_image(path, as_tensor=True)) for path in paths[first : first + 16]]))
            batches = (perf_counter() - started) / len(paths)
    maps.flush()
    print(
        json.dumps(
            {
                "fit_seconds": seconds["fit"],
                "coreset_seconds": seconds["coreset"],
                "bank": len(model.memory_bank),
                "peak_gb": peak,
                "ms_batch_of_one": 1000 * float(np.median(times[3:])),
                "ms_in_batches": 1000 * batches,
                "scores": scores,
            }
        )
    )


if __name__ == "__main__":
    main()
