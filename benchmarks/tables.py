"""Shared parts of the benchmarks: clocks, separate processes, the description of the machine, Markdown tables, result files."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter, process_time
from typing import Any, TypeVar

import torch  # imported before FAISS, so that FAISS shares the threads of torch, as in offnominal

# isort: split
import faiss

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Median, minimum and maximum seconds of several runs."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        return cls(median(seconds), min(seconds), max(seconds))

    def times(self, factor: float) -> Timing:
        return Timing(self.middle * factor, self.least * factor, self.most * factor)

    def __str__(self) -> str:
        """`12.3 ms (11.9–14.0)`, all in a unit that fits the median."""
        unit, scale = ("s", 1.0) if self.middle >= 1 else ("ms", 1000.0)
        middle, least, most = (f"{_three_digits(scale * value)}" for value in (self.middle, self.least, self.most))
        return f"{middle} {unit} ({least}–{most})"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def now() -> float:
    """Processor seconds on one thread, which other programs hardly disturb; wall seconds on several threads."""
    return process_time() if torch.get_num_threads() == 1 else perf_counter()


def seconds(function: Callable[[], Any]) -> float:
    started = now()
    function()
    return now() - started


def timed(*functions: Callable[[], Any], runs: int = 5, warm: int = 1, settle: int = 0) -> list[Timing]:
    """Time functions in turns, so that other load on the machine affects all of them. Returns one `Timing` per function.

    In each turn, a function first runs `settle` times without timing: threads of the previous library may still be active, and
    the caches hold other data.
    """
    for function in functions:
        for _ in range(warm):
            function()
    rounds = []
    for _ in range(runs):
        turn = []
        for function in functions:
            for _ in range(settle):
                function()
            turn.append(seconds(function))
        rounds.append(turn)
    return [Timing.of(column) for column in zip(*rounds, strict=True)]


@dataclass(frozen=True)
class Machine:
    """The processor and its best rates: operations of a float32 matrix product and bytes read, per second."""

    processor: str
    cores: int
    threads: int
    clock: str
    load: float
    torch: str
    faiss: str
    product: float
    reading: float

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores, {self.threads} threads used, torch {self.torch}, faiss {self.faiss}. "
            f"Best of this run: float32 matrix product {self.product / 1e9:.0f} GFLOP/s, reading memory "
            f"{self.reading / 1e9:.0f} GB/s. Seconds are {self.clock} seconds, median (least–most). Load average at "
            f"the start: {self.load:.1f}."
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def machine() -> Machine:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    numbers = torch.ones(64_000_000)
    product, reading = timed(lambda: a @ b, lambda: numbers.sum(), runs=9)
    return Machine(
        _processor(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch.get_num_threads(),
        "processor" if torch.get_num_threads() == 1 else "wall",
        load,
        torch.__version__,
        faiss.__version__,
        2 * 2048**3 / product.least,
        4 * len(numbers) / reading.least,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    model = f"family {fields['cpu family']} model {fields['model']}" if {"cpu family", "model"} <= fields.keys() else ""
    extension = next(
        (flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in fields.get("flags", "").split()), ""
    )
    return ", ".join(part for part in (fields.get("model name", platform.machine()), model, extension) if part)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark: `--out` and `--threads`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--threads", type=int, help="with 1, processor seconds are measured; use it if other programs run")
    return parser


def use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)


def _limit(threads: int | None) -> None:
    """Limit the threads and cores of this process. The limit of cores applies to OpenVINO."""
    use_threads(threads)
    if threads is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def run_in_process(threads: int | None, function: Callable[..., Result], *args: Any) -> Result:
    """Run `function(*args)` in a new process with a limit of threads and cores, for an independent peak memory."""
    with ProcessPoolExecutor(1, get_context("spawn"), _limit, (threads,)) as pool:
        return pool.submit(function, *args).result()


def peak_memory() -> int:
    """Peak memory of this process in bytes.

    `ru_maxrss` of a child process starts at the size of its parent, so the value of the kernel (`VmHWM`) is preferred.
    """
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s*(\d+)", status.read_text()) if status.exists() else None
    return 1024 * int(match[1] if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def spread(runs: Sequence[dict[str, Any]], key: str, digits: int = 3) -> str:
    """`0.950 (0.940–0.961)`: mean, minimum and maximum of a metric over several runs."""
    values = [run[key] for run in runs]
    if None in values:
        return "–"
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def plus_minus(values: Sequence[float | None], digits: int = 3) -> str:
    """`0.963 ± 0.004`: mean and standard deviation of a metric over draws."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    return f"{mean(known):.{digits}f}" + (f" ± {stdev(known):.{digits}f}" if len(known) > 1 else "")


def points(ours: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], key: str) -> str:
    """`+1.2`: mean gain of our runs over the others in a metric from 0 to 1, in hundredths."""
    values = [[run[key] for run in runs] for runs in (ours, others)]
    return "–" if None in values[0] + values[1] else f"{100 * (mean(values[0]) - mean(values[1])):+.1f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in cells) + " |" for cells in lines)


def write(out: Path, stem: str, parts: Sequence[str], results: dict[str, Any]) -> None:
    """Print the parts (paragraphs and tables), and write them as Markdown and the results as JSON."""
    text = "\n\n".join(parts) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{stem}.md").write_text(text)
    (out / f"{stem}.json").write_text(json.dumps(results, indent=1, default=_as_json) + "\n")
    print(text)


def _as_json(value: Any) -> Any:
    return asdict(value) if isinstance(value, Timing | Machine) else str(value)


def yes(met: bool) -> str:
    return "yes" if met else "no"
