"""The speed of the networks on each runtime in each precision. Used by `precision.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from offnominal.config import settings_from
from offnominal.features import MemberName
from offnominal.inference import FeatureEngine
from tables import Timing, apart, table, timed, yes

Way = tuple[str, str]
RUNTIMES, PRECISIONS = ("openvino", "torch"), ("float32", "bfloat16", "float16")
WAYS: tuple[Way, ...] = tuple((runtime, precision) for runtime in RUNTIMES for precision in PRECISIONS)
REFERENCE, EAGER = ("openvino", "float32"), ("torch", "float32")
SIDE, BATCHES, GOAL = 256, (1, 8), 2.0
LITE, WIDE = "efficientnet-lite0", "wide_resnet50_2"
Speeds = dict[tuple[str, int], tuple[float, dict[Way, Timing | str]]]


def in_hardware() -> set[str]:
    """The precisions that this processor multiplies in, as OpenVINO tells."""
    from offnominal.features.openvino_runtime import able  # not there where a GPU does the work

    return {precision for precision in PRECISIONS if able(precision)}


def refusal(error: Exception) -> str:
    return f"refused: {(str(error) or type(error).__name__).splitlines()[0]}"


def speed(backbone: str, ways: tuple[Way, ...], batch: int) -> tuple[float, dict[Way, Timing | str]]:
    """Operations of one image; for each way its time for one image, or why it was refused. The ways take turns."""
    images = np.random.default_rng(0).random((batch, 3, SIDE, SIDE), np.float32)
    operations = float("nan")
    work: dict[Way, Callable[[], Any]] = {}
    refused: dict[Way, str] = {}
    for way in ways:
        try:
            settings = settings_from(backbone=backbone, runtime=way[0], precision=way[1])
            engine = FeatureEngine(settings, MemberName(backbone), pretrained=backbone == LITE)
            engine.patches(images)
            if way == EAGER:  # not the others: a network that is converted while its operations are counted comes out wrong
                with FlopCounterMode(display=False) as counter:
                    engine.patches(images)
                operations = counter.get_total_flops() / batch
            work[way] = partial(engine.patches, images)
        except Exception as error:  # noqa: BLE001 - whatever a runtime says to a precision that it does not know
            refused[way] = refusal(error)
    times = dict(zip(work, timed(*work.values(), runs=5, warm=0), strict=True))
    return operations, {way: refused[way] if way in refused else times[way].times(1 / batch) for way in ways}


def speeds(threads: int | None, hardware: set[str]) -> Speeds:
    """Both networks; the wide one only in precisions that the hardware has: emulated, an image would take minutes."""
    able = tuple(way for way in WAYS if way[1] in hardware)
    chosen = ((LITE, WAYS), (WIDE, able))
    return {(name, batch): apart(threads, speed, name, ways, batch) for name, ways in chosen for batch in BATCHES}


def as_table(found: Speeds, product: float) -> str:
    rows = []
    for (name, batch), (operations, times) in found.items():
        eager = times[EAGER]
        for way, time in times.items():
            row = [name, batch, *way, time, "–", "–"]
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


def goal(found: Speeds) -> str:
    rows = []
    for batch in BATCHES:
        times = found[WIDE, batch][1]
        eager = times[EAGER]
        assert isinstance(eager, Timing), eager
        for (runtime, precision), ours in times.items():
            if runtime == REFERENCE[0] and isinstance(ours, Timing):
                gain = eager.middle / ours.middle
                rows.append([f"{batch} at once", f"{runtime} in {precision}", f"{gain:.2f}", yes(gain >= GOAL)])
    return table((f"{WIDE}, random weights", "by", "times torch eager in float32", f"goal: {GOAL:g} times"), rows)


def as_json(found: Speeds) -> dict[str, Any]:
    return {
        f"{name}, {batch} at once": {"operations": operations, **{" ".join(way): time for way, time in times.items()}}
        for (name, batch), (operations, times) in found.items()
    }
