"""Speed of the networks for each runtime and precision. Used by `precision.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from offnominal.config import settings_from
from offnominal.features import MemberName
from offnominal.inference import FeatureEngine
from tables import Timing, run_in_process, table, timed, yes

Mode = tuple[str, str]
RUNTIMES, PRECISIONS = ("openvino", "torch"), ("float32", "bfloat16", "float16")
MODES: tuple[Mode, ...] = tuple((runtime, precision) for runtime in RUNTIMES for precision in PRECISIONS)
REFERENCE, EAGER = ("openvino", "float32"), ("torch", "float32")
SIDE, BATCHES, GOAL = 256, (1, 8), 2.0
LITE, WIDE = "efficientnet-lite0", "wide_resnet50_2"
Speeds = dict[tuple[str, int], tuple[float, dict[Mode, Timing | str]]]


def hardware_precisions() -> set[str]:
    """The precisions that the processor supports in hardware, as reported by OpenVINO."""
    from offnominal.features.openvino_runtime import able  # not available on machines without OpenVINO

    return {precision for precision in PRECISIONS if able(precision)}


def refusal(error: Exception) -> str:
    return f"refused: {(str(error) or type(error).__name__).splitlines()[0]}"


def speed(backbone: str, modes: tuple[Mode, ...], batch: int) -> tuple[float, dict[Mode, Timing | str]]:
    """Operations per image, and for each mode its time per image or the reason for its refusal. The modes take turns."""
    images = np.random.default_rng(0).random((batch, 3, SIDE, SIDE), np.float32)
    operations = float("nan")
    work: dict[Mode, Callable[[], Any]] = {}
    refused: dict[Mode, str] = {}
    for mode in modes:
        try:
            settings = settings_from(backbone=backbone, runtime=mode[0], precision=mode[1])
            engine = FeatureEngine(settings, MemberName(backbone), pretrained=backbone == LITE)
            engine.patches(images)
            if mode == EAGER:  # only here: a network that is converted while its operations are counted is wrong
                with FlopCounterMode(display=False) as counter:
                    engine.patches(images)
                operations = counter.get_total_flops() / batch
            work[mode] = partial(engine.patches, images)
        except Exception as error:  # noqa: BLE001 - runtimes raise different errors for unsupported precisions
            refused[mode] = refusal(error)
    times = dict(zip(work, timed(*work.values(), runs=5, warm=0), strict=True))
    return operations, {mode: refused[mode] if mode in refused else times[mode].times(1 / batch) for mode in modes}


def speeds(threads: int | None, hardware: set[str]) -> Speeds:
    """Both networks. The wide one runs only in hardware precisions, because emulation takes minutes per image."""
    supported = tuple(mode for mode in MODES if mode[1] in hardware)
    chosen = ((LITE, MODES), (WIDE, supported))
    return {(name, batch): run_in_process(threads, speed, name, modes, batch) for name, modes in chosen for batch in BATCHES}


def as_table(results: Speeds, product: float) -> str:
    rows = []
    for (name, batch), (operations, times) in results.items():
        eager = times[EAGER]
        for mode, time in times.items():
            row = [name, batch, *mode, time, "–", "–"]
            if isinstance(time, Timing) and isinstance(eager, Timing):
                row[5:] = [f"{eager.middle / time.middle:.2f}", f"{time.middle * product / operations:.1f}"]
            rows.append(row)
    columns = (
        "network",
        "images at once",
        "runtime",
        "precision",
        "an image",
        "times torch float32",
        "over the physical limit",
    )
    return table(columns, rows)


def goal(results: Speeds) -> str:
    rows = []
    for batch in BATCHES:
        times = results[WIDE, batch][1]
        eager = times[EAGER]
        assert isinstance(eager, Timing), eager
        for (runtime, precision), time in times.items():
            if runtime == REFERENCE[0] and isinstance(time, Timing):
                gain = eager.middle / time.middle
                rows.append([f"{batch} at once", f"{runtime} in {precision}", f"{gain:.2f}", yes(gain >= GOAL)])
    return table((f"{WIDE}, random weights", "by", "times torch eager in float32", f"goal: {GOAL:g} times"), rows)


def as_json(results: Speeds) -> dict[str, Any]:
    return {
        f"{name}, {batch} at once": {"operations": operations, **{" ".join(mode): time for mode, time in times.items()}}
        for (name, batch), (operations, times) in results.items()
    }
