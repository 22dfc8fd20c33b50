"""Images side by side: the same results in the same order as one after the other."""

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
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Three threads, whatever the machine has, and a handful of images are many."""
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "MIN_PARALLEL", 4)
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def nothing(*items: object) -> int:
    return 0


def test_results_come_in_order_from_threads_of_one(three: int) -> None:
    meeting = threading.Barrier(three)

    def work(item: int) -> tuple[int, int, str]:
        if item < three:
            meeting.wait(60)  # passed only where three are in here at once
        return item**2, torch.get_num_threads(), threading.current_thread().name

    found = []
    for one in parallel_map(work, range(50), three, nothing):
        assert torch.get_num_threads() == three
        found.append(one)
    assert [square for square, _, _ in found] == [item**2 for item in range(50)]
    assert {count for _, count, _ in found} == {1}
    assert threading.current_thread().name not in {name for _, _, name in found}
    told: list[int] = []
    other = threading.Thread(target=lambda: told.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert told == [three]


def test_no_items_no_results(three: int) -> None:
    assert list(parallel_map(lambda item: item, [], three, nothing)) == []


def test_one_thread_is_the_callers(three: int) -> None:
    found = list(parallel_map(lambda item: (item, threading.current_thread(), torch.get_num_threads()), range(3), 1, nothing))
    assert found == [(item, threading.current_thread(), three) for item in range(3)]


def test_disturbances_are_learned_as_one_after_another(three: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [texture(seed) for seed in range(12)]
    found = Detector(image_size=96, false_alarm_rate=0.1).fit(images).model.appearance
    monkeypatch.setattr(threads, "MIN_PARALLEL", 10**9)
    plain = Detector(image_size=96, false_alarm_rate=0.1).fit(images).model.appearance
    assert found is not None
    assert plain is not None
    assert found.names == plain.names
    assert np.allclose(found.directions, plain.directions, atol=1e-3)
    assert np.allclose(found.reference, plain.reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "most"), [(0, 2 * 3 + 1), (MAX_PENDING_BYTES // 2 + 1, 2), (2 * MAX_PENDING_BYTES, 2)])
def test_little_is_taken_ahead(three: int, size: int, most: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(20):
            taken += 1
            yield item

    for seen, _ in enumerate(parallel_map(lambda item: item, items(), three, lambda item: size)):
        assert taken <= seen + most


def test_an_error_comes_in_its_turn(three: int) -> None:
    done = []

    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        done.append(item)
        return item

    results = parallel_map(work, range(1000), three, nothing)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert len(done) < 20


def test_who_stops_early_leaves_no_thread_and_no_work(three: int) -> None:
    before, begun, gate = threading.active_count(), [], threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or gate.wait(60)
        return item

    results = parallel_map(work, range(1000), three, nothing)
    next(results)
    opening = threading.Timer(1.0, gate.set)  # after what waits was called off
    opening.start()
    assert isinstance(results, Generator)
    results.close()
    opening.join()
    assert threading.active_count() == before
    assert len(begun) <= 1 + three  # six were waiting for a thread


def test_ctrl_c_while_threads_start_leaves_none(three: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Barrier):
        def wait(self, timeout: float | None = None) -> int:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(threads, "Barrier", Interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        list(parallel_map(nothing, range(9), three, nothing))
    assert torch.get_num_threads() == three
    for thread in threading.enumerate():
        if thread.name.startswith("offnominal"):
            thread.join(60)
    assert threading.active_count() == before


def test_where_a_thread_cannot_be_started_none_waits(three: int, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, calls = ThreadPoolExecutor.submit, itertools.count()

    def second_fails(pool: ThreadPoolExecutor, *given: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("can't start new thread")
        return submit(pool, *given)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", second_fails)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="new thread"):
        list(parallel_map(nothing, range(9), three, nothing))
    for thread in threading.enumerate():
        if thread.name.startswith("offnominal"):
            thread.join(60)
    assert threading.active_count() == before


def test_a_gpu_and_few_images_have_one(three: int) -> None:
    assert threads_for(4, CPU) == three
    assert threads_for(3, CPU) == 1
    assert threads_for(1000, torch.device("cuda")) == 1
    for count, inside in ((three, 1), (1, three)):
        with single_torch_thread(count):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == three


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_many_images_are_inspected_as_each_alone(three: int, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(image_size=96, bank=80, runtime=runtime).fit([texture(i) for i in range(8)])
    images = [texture(10 + i, (96, 96 + i % 2 * 32)) for i in range(10)]
    images[3] = np.zeros((5, 5, 7), np.uint8)
    failures: list[tuple[int, ImageError]] = []
    names: set[str] = set()
    inspection = type(detector._ready())._inspection

    def noted(*args: object) -> object:
        names.add(threading.current_thread().name)
        return inspection(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(type(detector._ready()), "_inspection", noted)
    found = list(detector.inspect_many(images, failed=lambda at, error: failures.append((at, error)), evidence=True, maps=True))
    assert names
    assert all(name.startswith("offnominal") for name in names)
    assert [at for at, _ in failures] == [3]
    assert [at for at, _ in found] == [0, 1, 2, 4, 5, 6, 7, 8, 9]  # one at a time: in the order given, whatever the shapes
    for at, one in found:
        alone = detector.inspect(images[at], evidence=True, maps=True)
        assert one.score == pytest.approx(alone.score, rel=1e-4, abs=1e-4)
        assert np.allclose(one.anomaly_map, alone.anomaly_map, rtol=1e-3, atol=1e-3)
        assert len(one.regions) == len(alone.regions)
        assert one.layer_maps is not None


def test_a_fit_side_by_side_is_the_same_model(three: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [texture(i) for i in range(9)]
    many = Detector(image_size=96, bank=80).fit(images).model
    monkeypatch.setattr(threads, "MIN_PARALLEL", 1000)
    few = Detector(image_size=96, bank=80).fit(images).model
    for one, other in zip(many.members, few.members, strict=True):
        assert torch.allclose(one.bank.patches, other.bank.patches, rtol=1e-3, atol=1e-3)
        assert np.array_equal(one.bank.image, other.bank.image)
    assert np.allclose(many.calibration.scores, few.calibration.scores, rtol=1e-3, atol=1e-3)


def test_the_bank_does_not_depend_on_how_images_came(three: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = []
    for i in range(9):
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), texture(i, (96, 96 + i % 2 * 32)))
    whole = paths[4].read_bytes()
    paths[4].write_bytes(whole[: len(whole) // 2])  # the header tells a size, the rest cannot be read
    models = []
    for fewest, batch_size in ((4, 4), (1000, 1), (1000, 4), (1000, 3)):
        monkeypatch.setattr(threads, "MIN_PARALLEL", fewest)
        models.append(Detector(image_size=96, bank=80, batch_size=batch_size).fit(paths).model)
    naive = Detector(image_size=96, bank=80).fit([path for path in paths if path != paths[4]]).model
    for model in models:
        assert [name for name, _ in model.skipped] == [str(paths[4])]
        assert [source.name for source in model.sources] == [source.name for source in naive.sources]
        for member, right in zip(model.members, naive.members, strict=True):
            assert np.array_equal(member.bank.image, right.bank.image)
            assert np.array_equal(member.bank.position, right.bank.position)
            assert torch.allclose(member.bank.patches, right.bank.patches, rtol=1e-3, atol=1e-3)
        assert np.allclose(model.calibration.scores, naive.calibration.scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("count", "said"), [(1, "1 image of 256 x 192"), (5, "smaller --batch-size")])
def test_a_full_gpu_is_said(three: int, count: int, said: str, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: FeatureEngine, batch: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FeatureEngine, "maps", full)
    with pytest.raises(SettingsError, match=said):
        list(detector.inspect_many([texture(seed) for seed in range(count)], failed=lambda index, error: None))
