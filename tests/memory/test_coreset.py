"""Greedy k-center against the naive loop: in memory, from disk, of the rows outside a fold; and where it starts."""

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


def naive(patches: np.ndarray, n: int, start: int) -> np.ndarray:
    points = patches.astype(np.float64)
    chosen, distance = [start], ((points - points[start]) ** 2).sum(1)
    while len(chosen) < n:
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.array(chosen)


def to_centres(patches: np.ndarray, centres: np.ndarray) -> np.ndarray:
    points = patches.astype(np.float64)
    away: np.ndarray = np.stack([((points - points[centre]) ** 2).sum(1) for centre in centres]).min(0)
    return away


@pytest.fixture(autouse=True, params=["products", "products of bytes"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that small data goes through every branch."""
    if request.param == "products":
        monkeypatch.setattr(greedy, "register_bits", lambda: 0)
    elif not compiled.compiled():
        pytest.skip("installed without a compiler")
    else:  # one by one where this processor has no instructions for them
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
        "few points many times": np.repeat(rng.normal(size=(12, 5)), 100, axis=0),
        "one far away": rng.normal(size=(600, 6)) * np.r_[1e5, np.ones(599)][:, None],
        "far from the origin": rng.normal(size=(600, 6)) + 1e3,
        "flat but for rounding": 1 + np.r_[rng.normal(size=(20, 6)), 2.0**-23 * rng.integers(0, 9, (480, 6))],
    }


@pytest.mark.parametrize("count", [1, 10, 300, 999, 1000, 2000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_about_the_largest_are_no_more_and_none_outside_is_larger(dtype: torch.dtype, count: int) -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.random(1000) ** 2,
        np.full(1000, 7.0),
        np.full(1000, np.inf),
        np.zeros(1000),
        np.r_[np.full(500, -1.0), rng.integers(0, 4, 500)],
        10.0 ** rng.uniform(-44, 38, 1000),
    ):
        given = torch.from_numpy(values).to(dtype)
        rows, outside = greedy._about_largest(given, count)
        others = np.setdiff1d(np.arange(1000), rows.numpy())
        assert count / 2 < len(rows) <= count or len(rows) == 1000
        assert (rows.diff() > 0).all()
        assert len(others) == 0 or float(given[others].max()) <= min(outside, float(given[rows].min()))


@pytest.mark.parametrize("name", cases())
def test_the_choice_is_the_naive_one(name: str) -> None:
    patches = cases()[name].astype(np.float32)
    n = min(len(patches), 60)
    found = kcenter(torch.from_numpy(patches), n, 0)
    assert found.indices.tolist() == naive(patches, n, 0).tolist()
    assert found.radius == pytest.approx(np.sqrt(to_centres(patches, found.indices).max()), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**32 - 1), st.data())
def test_the_choice_is_the_naive_one_on_grids(count: int, dimensions: int, seed: int, data: st.DataObject) -> None:
    patches = np.random.default_rng(seed).integers(0, 4, (count, dimensions)).astype(np.float32)
    n = data.draw(st.integers(1, count))
    start = data.draw(st.integers(0, count - 1))
    assert greedy_kcenter(patches, n, start=start).tolist() == naive(patches, n, start).tolist()


def test_full_sized_blocks_and_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    patches = np.random.default_rng(1).normal(size=(30_000, 16)).astype(np.float32)
    found = kcenter(torch.from_numpy(patches), 300, 5)
    assert found.indices.tolist() == naive(patches, 300, 5).tolist()
    assert found.radius == pytest.approx(np.sqrt(to_centres(patches, found.indices).max()), rel=1e-9)


@pytest.mark.parametrize("many", [64, 65, 300])
def test_the_choice_of_many_is_the_naive_one(many: int) -> None:
    patches = cases()["random"].astype(np.float32)
    assert kcenter(torch.from_numpy(patches), many, 0).indices.tolist() == naive(patches, many, 0).tolist()


@pytest.mark.skipif(not compiled.compiled(), reason="installed without a compiler")
def test_where_too_many_centres_are_alike_their_products_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "register_bits", lambda: 1)
    rng = np.random.default_rng(2)
    patches = np.r_[100 * rng.normal(size=(60, 8)), 1e-3 * rng.normal(size=(900, 8))].astype(np.float32)
    right = naive(patches, 640, 0).tolist()
    selection = greedy.GreedyKCenter(PatchRows(torch.from_numpy(patches)), 640, 0)
    selection.n = 600
    assert selection.run(lambda done: None)[0].tolist() == right[:600]
    selection.pruned = PrunedCentres(selection.centres, 400.0)
    selection.pruned.add(0, 600)
    about = torch.full((5, 8), 5.0) + torch.arange(5.0)[:, None]  # nearer to all that are alike than to the others
    near = selection._nearest(about, about.square().sum(1), 0)
    centres = selection.centres[:600].double()
    assert np.allclose(near, (about[:, None].double() - centres[None]).square().sum(2).amin(1), rtol=1e-4)
    assert selection.pruned is None, "given up"
    selection.n = 640
    indices, radius = selection.run(lambda done: None)
    assert selection.pruned is None
    assert indices.tolist() == right
    assert radius == pytest.approx(np.sqrt(to_centres(patches, indices).max()), rel=1e-9)


@pytest.mark.skipif(not compiled.compiled(), reason="installed without a compiler")
def test_many_features_and_float64_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "register_bits", lambda: 1)
    wide, double = torch.zeros(3, MAX_FEATURES + 1), torch.zeros(3, 5, dtype=torch.float64)
    for patches in (wide, double):
        assert greedy.GreedyKCenter(PatchRows(patches), 2, 0).pruned is None


@pytest.mark.parametrize("seed", range(8))
def test_the_radius_is_exact_where_rounding_hides_the_farthest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches = (1 + np.r_[rng.normal(size=(20, 6)), 1e-6 * rng.normal(size=(480, 6))]).astype(np.float32)
    found = kcenter(torch.from_numpy(patches), 21, 0)
    assert found.radius == pytest.approx(np.sqrt(to_centres(patches, found.indices).max()), rel=1e-9)


def test_the_kind_of_array_is_kept_and_the_seed_decides() -> None:
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
    kept = PatchStore(count, dimensions, limit=0)
    assert kept.on_disk
    kept.patches.copy_(torch.from_numpy(patches))
    kept.release()
    return kept


@pytest.mark.parametrize("name", cases())
def test_from_disk_the_choice_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 5000)
    patches = cases()[name].astype(np.float32)
    n = min(len(patches), 60)
    with on_disk(patches) as kept:
        assert kcenter(kept.rows(len(patches)), n, 0).indices.tolist() == naive(patches, n, 0).tolist()


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match="the disk is full"):
        PatchStore(100, 8, limit=0)


def test_a_tensor_with_a_gradient_is_taken_as_it_is() -> None:
    patches = torch.randn(30, 4, requires_grad=True)
    assert greedy_kcenter(patches, 5, start=0).tolist() == greedy_kcenter(patches.detach().numpy(), 5, start=0).tolist()


@pytest.mark.parametrize("window", [1, 100, 10**9])
def test_rows_of_a_file_are_those_written(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", window)
    patches = np.random.default_rng(4).normal(size=(101, 3)).astype(np.float32)
    at = torch.tensor([0, 0, 7, 8, 8, 99])
    with on_disk(patches) as kept:
        for rows in (kept.rows(100), PatchRows(torch.from_numpy(patches[:100]))):
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
def test_remaining_rows_are_a_copy_without_the_others(
    disk: bool, count: int, dimensions: int, seed: int, data: st.DataObject
) -> None:
    patches = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start, count if start else count - 1))
    copied = np.delete(patches, slice(start, stop), axis=0)
    with PatchStore(count, dimensions, 0 if disk else 10**6) as kept:
        kept.patches.copy_(torch.from_numpy(patches))
        rows = RemainingRows(kept.rows(count), start, stop)
        assert (len(rows), rows.shape, rows.dtype) == (len(copied), copied.shape, torch.float32)
        asked = data.draw(st.lists(st.integers(0, len(copied) - 1), max_size=9))
        assert rows[torch.tensor(asked, dtype=torch.int64)].tolist() == copied[asked].tolist()
        first, last = sorted(data.draw(st.tuples(st.integers(0, count), st.integers(0, count))))
        assert rows[first:last].tolist() == copied[first:last].tolist()
        blocks = [block.tolist() for block in rows.blocks(data.draw(st.integers(1, count)))]
        assert [patch for block in blocks for patch in block] == copied.tolist()
        if len(copied) > 1:
            n = data.draw(st.integers(1, len(copied)))
            found, right = kcenter(rows, n, 0), kcenter(torch.from_numpy(copied), n, 0)
            assert found.indices.tolist() == right.indices.tolist()
            assert found.radius == right.radius


@pytest.mark.parametrize("name", [name for name, patches in cases().items() if len(patches) > 1])
def test_remaining_rows_are_chosen_from_as_a_copy_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 5000)
    patches = cases()[name].astype(np.float32)
    start, stop = len(patches) // 5, len(patches) // 2
    copied = np.delete(patches, slice(start, stop), axis=0)
    with on_disk(patches) as kept:
        rows = RemainingRows(kept.rows(len(patches)), start, stop)
        first = farthest_from_mean(rows)
        assert first == farthest_from_mean(torch.from_numpy(copied))
        assert kcenter(rows, 60, first).indices.tolist() == naive(copied, 60, first).tolist()


def naive_farthest(patches: np.ndarray) -> int:
    points = patches.astype(np.float64)
    away = ((points - points.mean(0)) ** 2).sum(1)
    return int(np.flatnonzero(away >= away.max() * (1 - 1e-9))[0])


@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize("name", cases())
def test_the_start_is_the_patch_farthest_from_the_mean(name: str, disk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 5000)
    patches = cases()[name].astype(np.float32)
    with on_disk(patches) as kept:
        found = farthest_from_mean(kept.rows(len(patches)) if disk else torch.from_numpy(patches))
    assert found == naive_farthest(patches)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_of_patches_as_far_the_first_is_the_start_in_any_order(count: int, dimensions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 3, (count, dimensions)).astype(np.float32)
    assert farthest_from_mean(torch.from_numpy(patches)) == naive_farthest(patches)
    other = rng.permutation(count)
    away = ((patches - patches.astype(np.float64).mean(0)) ** 2).sum(1)
    found = other[farthest_from_mean(torch.from_numpy(patches[other]))]
    assert away[found] == pytest.approx(away.max(), rel=1e-9)


def test_the_choice_from_the_start_does_not_depend_on_the_order_of_the_patches() -> None:
    rng = np.random.default_rng(6)
    patches = torch.from_numpy(rng.normal(size=(500, 6)).astype(np.float32))
    chosen = []
    for _ in range(3):
        some = patches[torch.from_numpy(rng.permutation(500))]
        chosen.append(some[kcenter(some, 40, farthest_from_mean(some)).indices].tolist())
    assert chosen[0] == chosen[1] == chosen[2]
