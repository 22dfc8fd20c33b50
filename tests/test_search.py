"""The nearest bank patches by every index, against distances worked out one by one; what an index costs is told."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from conftest import texture
from offnominal import Detector, load
from offnominal.cli import info
from offnominal.config import SearchIndex, settings_from
from offnominal.detector import load_model
from offnominal.detector.learning.hold_out import search_error
from offnominal.detector.outputs.run import facts, warnings_of
from offnominal.errors import SettingsError
from offnominal.memory import EXACT_INDEXES, HeldOutBanks, NearestPatches, Upsampling, compiled, search

INDEXES = get_args(SearchIndex)
APPROXIMATE = [index for index in INDEXES if index not in EXACT_INDEXES]


def naive(patches: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    squared = ((patches[:, None].astype(np.float64) - bank[None]) ** 2).sum(2)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squared, order, 1), order


def made(count: int, seed: int, dimensions: int = 12) -> np.ndarray:
    """Clusters that overlap, so that the lists of an inverted file mean something and miss something."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(0, 1, (30, dimensions))
    return (centres[rng.integers(0, 30, count)] + rng.normal(size=(count, dimensions))).astype(np.float32)


@pytest.mark.parametrize("index", INDEXES)
def test_what_is_found_is_near_and_its_distance_right(index: SearchIndex) -> None:
    bank, patches = made(2000, 1), made(300, 2)
    squared, rows = NearestPatches(torch.from_numpy(bank), index)(torch.from_numpy(patches), 5)
    right, right_rows = naive(patches, bank, 5)
    own = ((patches[:, None].astype(np.float64) - bank[rows.numpy()]) ** 2).sum(2)
    assert squared.numpy() == pytest.approx(own, rel=1e-4, abs=1e-3)
    assert (np.diff(squared.numpy(), axis=1) >= 0).all()
    assert all(len(set(row)) == 5 for row in rows.tolist())
    assert (own >= right - 1e-9).all()
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(right_rows, rows.numpy(), strict=True)])
    assert recall > (0.9999 if index in (*EXACT_INDEXES, "fp16") else 0.9)
    if index == "ivf":
        assert recall < 1, "a case in which nothing is missed shows nothing"


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_small_banks_give_all_that_they_have(index: SearchIndex, size: int) -> None:
    bank, patches = made(size, 3), made(20, 4)
    squared, rows = NearestPatches(torch.from_numpy(bank), index)(torch.from_numpy(patches), 9)
    assert rows.shape == squared.shape == (20, min(9, size))
    if size < 100:
        assert rows.tolist() == naive(patches, bank, 9)[1].tolist()


def test_a_patch_whose_lists_hold_too_few_is_searched_exactly() -> None:
    bank = np.concatenate([made(2000, 1), np.linspace(500, 900, 40)[:, None] * np.eye(12)[0][None]]).astype(np.float32)
    far = np.full((1, 12), -400, np.float32)
    squared, rows = NearestPatches(torch.from_numpy(bank), "ivf")(torch.from_numpy(np.concatenate([far, bank[-1:]])), 900)
    right, right_rows = naive(np.concatenate([far, bank[-1:]]), bank, 900)
    assert (rows >= 0).all()
    assert squared[1].sort().values.numpy() == pytest.approx(right[1], rel=1e-3)
    assert set(rows[1].tolist()) == set(right_rows[1].tolist())


@pytest.mark.parametrize("index", APPROXIMATE)
def test_an_index_is_built_the_same_every_time(index: SearchIndex) -> None:
    bank, patches = torch.from_numpy(made(3000, 1)), torch.from_numpy(made(200, 2))
    first, second = (NearestPatches(bank, index)(patches, 9) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_the_cost_is_that_of_the_held_out_patches() -> None:
    """Against distances to the bank's patches of other images, worked out one by one."""
    patches, starts = made(4000, 5), np.arange(0, 4000, 400)
    centres = np.random.default_rng(6).choice(4000, 1000, replace=False)
    settings = settings_from(index="ivf", distance_neighbors=2)
    banks = HeldOutBanks(torch.from_numpy(patches), starts, centres, 1.0, torch.device("cpu"))
    told = search_error(banks, 10, settings)
    assert told is not None
    assert told.images == 10
    assert told.patches > 3900
    bank = patches[centres]
    search = NearestPatches(torch.from_numpy(bank), "ivf")
    changes, peaks = [], []
    for image, start in enumerate(starts):
        points = patches[start : start + 400]
        others = centres // 400 != image
        exact = np.sqrt(naive(points, bank[others], 2)[0]).mean(1)
        _, rows = search(torch.from_numpy(points), 9)
        found = []
        for point, row in zip(points, rows.numpy(), strict=True):
            row = row[others[row]][:2]
            found.append(np.sqrt(((point.astype(np.float64) - bank[row]) ** 2).sum(1)).mean() if len(row) == 2 else np.nan)
        some = ~np.isnan(found)
        changes.append((np.array(found) / exact - 1)[some])
        peaks.append(np.array(found)[some].max() / exact[some].max() - 1)
    every = np.concatenate(changes)
    assert told.patches == len(every)
    assert told.mean == pytest.approx(every.mean(), rel=1e-3, abs=1e-6)
    assert told.most == pytest.approx(every.max(), rel=1e-3, abs=1e-6)
    assert told.peak == pytest.approx(max(peaks), rel=1e-3, abs=1e-6)
    assert told.mean > 0
    assert told.odd_mean > 0
    assert told.odd_most >= told.odd_mean
    assert search_error(banks, 10, settings_from()) is None


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [texture(seed) for seed in range(6)]


@pytest.fixture(scope="module", params=["auto", "hnsw"])
def fitted(request: pytest.FixtureRequest, images: list[np.ndarray]) -> Detector:
    return Detector(image_size=96, bank=60, index=request.param).fit(images)


def test_a_model_tells_what_its_index_costs(fitted: Detector, tmp_path: Path) -> None:
    approximate = fitted.settings.index != "auto"
    fitted.save(tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors")
    assert model.search_error == fitted.model.search_error
    assert (model.search_error is not None) == approximate
    told = facts(model)["search"]
    assert told["index"] == fitted.settings.index
    assert told["exact"] != approximate
    assert (told["distance_error"] is not None) == approximate
    assert any("may miss neighbours" in line for line in warnings_of(model)) == approximate
    with redirect_stdout(out := StringIO()):
        info(tmp_path / "model.safetensors", json=True)
    assert json.loads(out.getvalue())["search"] == told


def test_held_out_scores_are_exact_whatever_the_index(images: list[np.ndarray]) -> None:
    exact, tried = (Detector(image_size=96, bank=60, index=index).fit(images) for index in ("auto", "ivf"))
    assert tried.model.calibration.scores.tolist() == exact.model.calibration.scores.tolist()
    assert torch.equal(tried.model.bank.patches, exact.model.bank.patches)


def test_an_inspection_uses_the_index(images: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    made_of = NearestPatches.__init__

    def noted(self: NearestPatches, bank: torch.Tensor, index: SearchIndex = "auto") -> None:
        asked.append(index)
        made_of(self, bank, index)

    detector = Detector(image_size=96, bank=60, index="sq8").fit(images)
    detector.save(path := tmp_path / "model.safetensors")
    score = detector.inspect(images[0]).score
    monkeypatch.setattr(NearestPatches, "__init__", noted)
    assert load(path).inspect(images[0]).score == score
    assert asked == ["sq8"]


def test_no_neighbours_are_not_searched() -> None:
    for told in (None, Upsampling(1, (4, 4), torch.ones(2, 2))):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            NearestPatches(torch.randn(9, 3))(torch.randn(4, 3), 0, told)


def test_an_unknown_index_is_refused() -> None:
    with pytest.raises(SettingsError, match="index"):
        Detector(index="lsh")


def test_faiss_with_threads_of_its_own_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it was imported before torch: several would wait for torch's."""
    patches, bank, asked = torch.randn(20, 5), torch.randn(30, 5), list[int]()
    rows = torch.randint(30, (20, 3))
    right = search.squared_distances(patches, bank, rows)
    monkeypatch.setattr(search, "_shares_threads", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(search.faiss, "omp_set_num_threads", asked.append)
    assert torch.equal(search.squared_distances(patches, bank, rows), right)
    assert asked == [1]


def can_compile() -> bool:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return sys.platform == "linux" and shutil.which("cc") is not None and header.is_file()


@pytest.mark.skipif(not can_compile(), reason="no compiler, or none that knows Python and OpenMP for sure")
def test_what_can_be_compiled_was() -> None:
    """An installation goes on without it, so nothing else would tell of C that no longer compiles."""
    assert compiled.compiled()
