"""Images in parallel: the same results in the same order as one after the other."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import texture
from offnominal import Detector
from offnominal.errors import ImageError, SettingsError
from offnominal.inference import FeatureEngine, parallel_map, single_torch_thread, threads_for
from offnominal.inference import parallel as threads
from offnominal.inference.parallel import MAX_PENDING_BYTES

CPU = torch.device("cpu")


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Three threads on any machine, and parallel runs from four images on."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "MIN_PARALLEL", 4)
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def no_bytes(*items: object) -> int:
    return 0


def test_results_are_in_order_and_workers_use_one_torch_thread(three_threads: int) -> None:
    meeting = threading.Barrier(three_threads)

    def work(item: int) -> tuple[int, int, str]:
        if item < three_threads:
            meeting.wait(60)  # passes only if three threads are here at once
        return item**2, torch.get_num_threads(), threading.current_thread().name

    results = []
    for result in parallel_map(work, range(50), three_threads, no_bytes):
        assert torch.get_num_threads() == three_threads
        results.append(result)
    assert [square for square, _, _ in results] == [item**2 for item in range(50)]
    assert {count for _, count, _ in results} == {1}
    assert threading.current_thread().name not in {name for _, _, name in results}
    counts: list[int] = []
    other = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert counts == [three_threads]


def test_no_items_give_no_results(three_threads: int) -> None:
    assert list(parallel_map(lambda item: item, [], three_threads, no_bytes)) == []


def test_a_single_thread_runs_in_the_caller(three_threads: int) -> None:
    results = list(
        parallel_map(lambda item: (item, threading.current_thread(), torch.get_num_threads()), range(3), 1, no_bytes)
    )
    assert results == [(item, threading.current_thread(), three_threads) for item in range(3)]


def test_drift_directions_are_independent_of_threads(three_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [texture(seed) for seed in range(12)]
    parallel = Detector(image_size=96, false_alarm_rate=0.1).fit(images).model.appearance
    monkeypatch.setattr(threads, "MIN_PARALLEL", 10**9)
    sequential = Detector(image_size=96, false_alarm_rate=0.1).fit(images).model.appearance
    assert parallel is not None
    assert sequential is not None
    assert parallel.names == sequential.names
    assert np.allclose(parallel.directions, sequential.directions, atol=1e-3)
    assert np.allclose(parallel.reference, sequential.reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "limit"), [(0, 2 * 3 + 1), (MAX_PENDING_BYTES // 2 + 1, 2), (2 * MAX_PENDING_BYTES, 2)])
def test_items_in_flight_are_limited(three_threads: int, size: int, limit: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(20):
            taken += 1
            yield item

    for index, _ in enumerate(parallel_map(lambda item: item, items(), three_threads, lambda item: size)):
        assert taken <= index + limit


def test_errors_are_raised_in_order(three_threads: int) -> None:
    done = []

    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        done.append(item)
        return item

    results = parallel_map(work, range(1000), three_threads, no_bytes)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert len(done) < 20


def test_closing_early_ends_threads_and_cancels_work(three_threads: int) -> None:
    before, begun, gate = threading.active_count(), [], threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or gate.wait(60)
        return item

    results = parallel_map(work, range(1000), three_threads, no_bytes)
    next(results)
    opening = threading.Timer(1.0, gate.set)  # after the waiting work was cancelled
    opening.start()
    assert isinstance(results, Generator)
    results.close()
    opening.join()
    assert threading.active_count() == before
    assert len(begun) <= 1 + three_threads  # six items were waiting for a thread


def test_ctrl_c_during_start_leaves_no_thread(three_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Barrier):
        def wait(self, timeout: float | None = None) -> int:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(threads, "Barrier", Interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        list(parallel_map(no_bytes, range(9), three_threads, no_bytes))
    assert torch.get_num_threads() == three_threads
    for thread in threading.enumerate():
        if thread.name.startswith("offnominal"):
            thread.join(60)
    assert threading.active_count() == before


def test_a_failed_thread_start_leaves_no_waiting_thread(three_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, calls = ThreadPoolExecutor.submit, itertools.count()

    def second_fails(pool: ThreadPoolExecutor, *args: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("can't start new thread")
        return submit(pool, *args)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", second_fails)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="new thread"):
        list(parallel_map(no_bytes, range(9), three_threads, no_bytes))
    for thread in threading.enumerate():
        if thread.name.startswith("offnominal"):
            thread.join(60)
    assert threading.active_count() == before


def test_one_thread_is_used_for_gpus_and_few_images(three_threads: int) -> None:
    assert threads_for(4, CPU) == three_threads
    assert threads_for(3, CPU) == 1
    assert threads_for(1000, torch.device("cuda")) == 1
    for count, expected in ((three_threads, 1), (1, three_threads)):
        with single_torch_thread(count):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == three_threads


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_parallel_inspections_equal_single_ones(three_threads: int, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(image_size=96, bank=80, runtime=runtime).fit([texture(i) for i in range(8)])
    images = [texture(10 + i, (96, 96 + i % 2 * 32)) for i in range(10)]
    images[3] = np.zeros((5, 5, 7), np.uint8)
    failures: list[tuple[int, ImageError]] = []
    names: set[str] = set()
    inspection = type(detector._ready())._inspection

    def recording(*args: object) -> object:
        names.add(threading.current_thread().name)
        return inspection(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(type(detector._ready()), "_inspection", recording)
    results = list(
        detector.inspect_many(images, failed=lambda at, error: failures.append((at, error)), evidence=True, maps=True)
    )
    assert names
    assert all(name.startswith("offnominal") for name in names)
    assert [at for at, _ in failures] == [3]
    assert [at for at, _ in results] == [0, 1, 2, 4, 5, 6, 7, 8, 9]  # in the given order, whatever the shapes
    for at, result in results:
        single = detector.inspect(images[at], evidence=True, maps=True)
        assert result.score == pytest.approx(single.score, rel=1e-4, abs=1e-4)
        assert np.allclose(result.anomaly_map, single.anomaly_map, rtol=1e-3, atol=1e-3)
        assert len(result.regions) == len(single.regions)
        assert result.layer_maps is not None


def test_a_parallel_fit_gives_the_same_model(three_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [texture(i) for i in range(9)]
    parallel = Detector(image_size=96, bank=80).fit(images).model
    monkeypatch.setattr(threads, "MIN_PARALLEL", 1000)
    sequential = Detector(image_size=96, bank=80).fit(images).model
    for one, other in zip(parallel.members, sequential.members, strict=True):
        assert torch.allclose(one.bank.patches, other.bank.patches, rtol=1e-3, atol=1e-3)
        assert np.array_equal(one.bank.image, other.bank.image)
    assert np.allclose(parallel.calibration.scores, sequential.calibration.scores, rtol=1e-3, atol=1e-3)


def test_the_bank_does_not_depend_on_batches_and_threads(
    three_threads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = []
    for i in range(9):
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), texture(i, (96, 96 + i % 2 * 32)))
    content = paths[4].read_bytes()
    paths[4].write_bytes(content[: len(content) // 2])  # the header is readable, the pixels are not
    models = []
    for min_parallel, batch_size in ((4, 4), (1000, 1), (1000, 4), (1000, 3)):
        monkeypatch.setattr(threads, "MIN_PARALLEL", min_parallel)
        models.append(Detector(image_size=96, bank=80, batch_size=batch_size).fit(paths).model)
    naive = Detector(image_size=96, bank=80).fit([path for path in paths if path != paths[4]]).model
    for model in models:
        assert [name for name, _ in model.skipped] == [str(paths[4])]
        assert [source.name for source in model.sources] == [source.name for source in naive.sources]
        for member, expected in zip(model.members, naive.members, strict=True):
            assert np.array_equal(member.bank.image, expected.bank.image)
            assert np.array_equal(member.bank.position, expected.bank.position)
            assert torch.allclose(member.bank.patches, expected.bank.patches, rtol=1e-3, atol=1e-3)
        assert np.allclose(model.calibration.scores, naive.calibration.scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("count", "message"), [(1, "1 image of 256 x 192"), (5, "smaller --batch-size")])
def test_a_full_gpu_is_reported(
    three_threads: int, count: int, message: str, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FeatureEngine, batch: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FeatureEngine, "maps", full)
    with pytest.raises(SettingsError, match=message):
        list(detector.inspect_many([texture(seed) for seed in range(count)], failed=lambda index, error: None))
