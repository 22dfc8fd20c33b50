"""Greedy k-center against the naive loop: in memory, from disk, on the rows outside a fold; and its start."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offnominal.errors import OutputError
from offnominal.memory import (
    PatchRows,
    PatchStore,
    RemainingRows,
    compiled,
    coreset,
    farthest_from_mean,
    greedy,
    greedy_kcenter,
    kcenter,
    store,
)
from offnominal.memory.pruning import MAX_FEATURES, PrunedCentres


def naive_kcenter(patches: np.ndarray, n: int, start: int) -> np.ndarray:
    points = patches.astype(np.float64)
    chosen, distance = [start], ((points - points[start]) ** 2).sum(1)
    while len(chosen) < n:
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.array(chosen)


def distances_to_centres(patches: np.ndarray, centres: np.ndarray) -> np.ndarray:
    points = patches.astype(np.float64)
    distances: np.ndarray = np.stack([((points - points[centre]) ** 2).sum(1) for centre in centres]).min(0)
    return distances


@pytest.fixture(autouse=True, params=["products", "int8 dot products"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that small data covers every branch."""
    if request.param == "products":
        monkeypatch.setattr(greedy, "register_bits", lambda: 0)
    elif not compiled.compiled():
        pytest.skip("installed without a compiler")
    else:  # in scalar code if the processor has no such instructions
        monkeypatch.setattr(greedy, "register_bits", lambda: 1)
        monkeypatch.setattr(greedy, "PRUNED_CENTRES", 1)
        monkeypatch.setattr(greedy, "OUTLIERS", 2)
    monkeypatch.setattr(greedy, "UPDATED", 64)
    monkeypatch.setattr(greedy, "EXACT", 8)
    monkeypatch.setattr(greedy, "MAX_EXACT", 32)
    monkeypatch.setattr(greedy, "ROWS", 48)
    monkeypatch.setattr(coreset, "ROWS", 48)
    monkeypatch.setattr(greedy, "CENTRES", 7)


def cases() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "random": rng.normal(size=(900, 12)),
        "one": np.zeros((1, 3)),
        "copies": np.ones((200, 4)),
        "integers with many ties": rng.integers(0, 3, (500, 4)).astype(float),
        "few points, many duplicates": np.repeat(rng.normal(size=(12, 5)), 100, axis=0),
        "one outlier": rng.normal(size=(600, 6)) * np.r_[1e5, np.ones(599)][:, None],
        "far from the origin": rng.normal(size=(600, 6)) + 1e3,
        "constant up to rounding": 1 + np.r_[rng.normal(size=(20, 6)), 2.0**-23 * rng.integers(0, 9, (480, 6))],
    }


@pytest.mark.parametrize("count", [1, 10, 300, 999, 1000, 2000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_about_largest_selects_at_most_count_of_the_largest(dtype: torch.dtype, count: int) -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.random(1000) ** 2,
        np.full(1000, 7.0),
        np.full(1000, np.inf),
        np.zeros(1000),
        np.r_[np.full(500, -1.0), rng.integers(0, 4, 500)],
        10.0 ** rng.uniform(-44, 38, 1000),
    ):
        tensor = torch.from_numpy(values).to(dtype)
        rows, outside = greedy._about_largest(tensor, count)
        others = np.setdiff1d(np.arange(1000), rows.numpy())
        assert count / 2 < len(rows) <= count or len(rows) == 1000
        assert (rows.diff() > 0).all()
        assert len(others) == 0 or float(tensor[others].max()) <= min(outside, float(tensor[rows].min()))


@pytest.mark.parametrize("name", cases())
def test_the_coreset_equals_the_naive_one(name: str) -> None:
    patches = cases()[name].astype(np.float32)
    n = min(len(patches), 60)
    selected = kcenter(torch.from_numpy(patches), n, 0)
    assert selected.indices.tolist() == naive_kcenter(patches, n, 0).tolist()
    assert selected.radius == pytest.approx(np.sqrt(distances_to_centres(patches, selected.indices).max()), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**32 - 1), st.data())
def test_the_coreset_equals_the_naive_one_with_many_ties(count: int, dimensions: int, seed: int, data: st.DataObject) -> None:
    patches = np.random.default_rng(seed).integers(0, 4, (count, dimensions)).astype(np.float32)
    n = data.draw(st.integers(1, count))
    start = data.draw(st.integers(0, count - 1))
    assert greedy_kcenter(patches, n, start=start).tolist() == naive_kcenter(patches, n, start).tolist()


def test_the_coreset_equals_the_naive_one_with_full_sized_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    patches = np.random.default_rng(1).normal(size=(30_000, 16)).astype(np.float32)
    selected = kcenter(torch.from_numpy(patches), 300, 5)
    assert selected.indices.tolist() == naive_kcenter(patches, 300, 5).tolist()
    assert selected.radius == pytest.approx(np.sqrt(distances_to_centres(patches, selected.indices).max()), rel=1e-9)


@pytest.mark.parametrize("count", [64, 65, 300])
def test_large_coresets_equal_the_naive_ones(count: int) -> None:
    patches = cases()["random"].astype(np.float32)
    assert kcenter(torch.from_numpy(patches), count, 0).indices.tolist() == naive_kcenter(patches, count, 0).tolist()


@pytest.mark.skipif(not compiled.compiled(), reason="installed without a compiler")
def test_pruning_is_dropped_if_too_many_centres_are_similar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "register_bits", lambda: 1)
    rng = np.random.default_rng(2)
    patches = np.r_[100 * rng.normal(size=(60, 8)), 1e-3 * rng.normal(size=(900, 8))].astype(np.float32)
    expected = naive_kcenter(patches, 640, 0).tolist()
    selection = greedy.GreedyKCenter(PatchRows(torch.from_numpy(patches)), 640, 0)
    selection.n = 600
    assert selection.run(lambda done: None)[0].tolist() == expected[:600]
    selection.pruned = PrunedCentres(selection.centres, 400.0)
    selection.pruned.add(0, 600)
    queries = torch.full((5, 8), 5.0) + torch.arange(5.0)[:, None]  # nearer to all similar centres than to the others
    squared = selection._nearest(queries, queries.square().sum(1), 0)
    centres = selection.centres[:600].double()
    assert np.allclose(squared, (queries[:, None].double() - centres[None]).square().sum(2).amin(1), rtol=1e-4)
    assert selection.pruned is None, "dropped"
    selection.n = 640
    indices, radius = selection.run(lambda done: None)
    assert selection.pruned is None
    assert indices.tolist() == expected
    assert radius == pytest.approx(np.sqrt(distances_to_centres(patches, indices).max()), rel=1e-9)


@pytest.mark.skipif(not compiled.compiled(), reason="installed without a compiler")
def test_wide_and_float64_patches_are_not_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "register_bits", lambda: 1)
    wide, float64 = torch.zeros(3, MAX_FEATURES + 1), torch.zeros(3, 5, dtype=torch.float64)
    for patches in (wide, float64):
        assert greedy.GreedyKCenter(PatchRows(patches), 2, 0).pruned is None


@pytest.mark.parametrize("seed", range(8))
def test_the_radius_is_exact_despite_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches = (1 + np.r_[rng.normal(size=(20, 6)), 1e-6 * rng.normal(size=(480, 6))]).astype(np.float32)
    selected = kcenter(torch.from_numpy(patches), 21, 0)
    assert selected.radius == pytest.approx(np.sqrt(distances_to_centres(patches, selected.indices).max()), rel=1e-9)


def test_the_type_of_array_is_kept_and_the_seed_determines_the_coreset() -> None:
    patches = np.random.default_rng(3).normal(size=(100, 5)).astype(np.float32)
    assert isinstance(greedy_kcenter(torch.from_numpy(patches), 5), torch.Tensor)
    assert greedy_kcenter(patches, 5, seed=1).tolist() == greedy_kcenter(patches, 5, seed=1).tolist()


@pytest.mark.parametrize(
    ("shape", "n", "start"), [((0, 3), 1, 0), ((5,), 1, 0), ((5, 3), 6, 0), ((5, 3), 0, 0), ((5, 3), 2, 5)]
)
def test_wrong_arguments_are_refused(shape: tuple[int, ...], n: int, start: int) -> None:
    with pytest.raises(ValueError, match="must"):
        greedy_kcenter(np.zeros(shape, np.float32), n, start=start)
    with pytest.raises(ValueError, match="finite"):
        greedy_kcenter(np.full((4, 2), np.nan, np.float32), 2)


def on_disk(patches: np.ndarray) -> PatchStore:
    count, dimensions = patches.shape
    patch_store = PatchStore(count, dimensions, limit=0)
    assert patch_store.on_disk
    patch_store.patches.copy_(torch.from_numpy(patches))
    patch_store.release()
    return patch_store


@pytest.mark.parametrize("name", cases())
def test_spilled_patches_give_the_same_coreset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 5000)
    patches = cases()[name].astype(np.float32)
    n = min(len(patches), 60)
    with on_disk(patches) as spilled:
        assert kcenter(spilled.rows(len(patches)), n, 0).indices.tolist() == naive_kcenter(patches, n, 0).tolist()


def test_a_full_disk_is_reported_before_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match="the disk is full"):
        PatchStore(100, 8, limit=0)


def test_tensors_that_require_gradients_are_accepted() -> None:
    patches = torch.randn(30, 4, requires_grad=True)
    assert greedy_kcenter(patches, 5, start=0).tolist() == greedy_kcenter(patches.detach().numpy(), 5, start=0).tolist()


@pytest.mark.parametrize("window", [1, 100, 10**9])
def test_rows_of_a_store_equal_the_written_patches(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", window)
    patches = np.random.default_rng(4).normal(size=(101, 3)).astype(np.float32)
    at = torch.tensor([0, 0, 7, 8, 8, 99])
    with on_disk(patches) as spilled:
        for rows in (spilled.rows(100), PatchRows(torch.from_numpy(patches[:100]))):
            assert len(rows) == 100
            assert rows[at].numpy().tolist() == patches[at].tolist()
            assert rows[at[:0]].shape == (0, 3)
            assert rows[at.flip(0)].numpy().tolist() == patches[at.flip(0)].tolist()
            assert rows[5:9].numpy().tolist() == patches[5:9].tolist()
            blocks = [block.clone() for block in rows.blocks(8)]
            assert [len(block) for block in blocks] == [8] * 12 + [4]
            assert torch.cat(blocks).numpy().tolist() == patches[:100].tolist()


@pytest.mark.parametrize("disk", [False, True])
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 2**32 - 1), st.data())
def test_remaining_rows_equal_a_copy_without_the_excluded_rows(
    disk: bool, count: int, dimensions: int, seed: int, data: st.DataObject
) -> None:
    patches = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start, count if start else count - 1))
    copied = np.delete(patches, slice(start, stop), axis=0)
    with PatchStore(count, dimensions, 0 if disk else 10**6) as patch_store:
        patch_store.patches.copy_(torch.from_numpy(patches))
        rows = RemainingRows(patch_store.rows(count), start, stop)
        assert (len(rows), rows.shape, rows.dtype) == (len(copied), copied.shape, torch.float32)
        requested = data.draw(st.lists(st.integers(0, len(copied) - 1), max_size=9))
        assert rows[torch.tensor(requested, dtype=torch.int64)].tolist() == copied[requested].tolist()
        first, last = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
        assert rows[first:last].tolist() == copied[first:last].tolist()
        blocks = [block.tolist() for block in rows.blocks(data.draw(st.integers(1, count)))]
        assert [patch for block in blocks for patch in block] == copied.tolist()
        if len(copied) > 1:
            n = data.draw(st.integers(1, len(copied)))
            selected, expected = kcenter(rows, n, 0), kcenter(torch.from_numpy(copied), n, 0)
            assert selected.indices.tolist() == expected.indices.tolist()
            assert selected.radius == expected.radius


@pytest.mark.parametrize("name", [name for name, patches in cases().items() if len(patches) > 1])
def test_coresets_of_remaining_rows_equal_those_of_a_copy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 5000)
    patches = cases()[name].astype(np.float32)
    start, stop = len(patches) // 5, len(patches) // 2
    copied = np.delete(patches, slice(start, stop), axis=0)
    with on_disk(patches) as spilled:
        rows = RemainingRows(spilled.rows(len(patches)), start, stop)
        first = farthest_from_mean(rows)
        assert first == farthest_from_mean(torch.from_numpy(copied))
        assert kcenter(rows, 60, first).indices.tolist() == naive_kcenter(copied, 60, first).tolist()


def naive_farthest(patches: np.ndarray) -> int:
    points = patches.astype(np.float64)
    distances = ((points - points.mean(0)) ** 2).sum(1)
    return int(np.flatnonzero(distances >= distances.max() * (1 - 1e-9))[0])


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("name", cases())
def test_the_start_is_the_patch_farthest_from_the_mean(name: str, disk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 5000)
    patches = cases()[name].astype(np.float32)
    with on_disk(patches) as spilled:
        start = farthest_from_mean(spilled.rows(len(patches)) if disk else torch.from_numpy(patches))
    assert start == naive_farthest(patches)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_among_ties_the_first_patch_is_the_start(count: int, dimensions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 3, (count, dimensions)).astype(np.float32)
    assert farthest_from_mean(torch.from_numpy(patches)) == naive_farthest(patches)
    order = rng.permutation(count)
    distances = ((patches - patches.astype(np.float64).mean(0)) ** 2).sum(1)
    start = order[farthest_from_mean(torch.from_numpy(patches[order]))]
    assert distances[start] == pytest.approx(distances.max(), rel=1e-9)


def test_the_coreset_does_not_depend_on_the_order_of_patches() -> None:
    rng = np.random.default_rng(6)
    patches = torch.from_numpy(rng.normal(size=(500, 6)).astype(np.float32))
    chosen = []
    for _ in range(3):
        shuffled = patches[torch.from_numpy(rng.permutation(500))]
        chosen.append(shuffled[kcenter(shuffled, 40, farthest_from_mean(shuffled)).indices].tolist())
    assert chosen[0] == chosen[1] == chosen[2]
