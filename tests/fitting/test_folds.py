"""Calibration by folds: held-out signals equal those of naive fits, and no fold sees its own patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from conftest import texture
from offnominal import Detector
from offnominal.config import settings_from
from offnominal.decisions import FOLDS, LEAVE_ONE_OUT, SPLIT
from offnominal.errors import InputError
from offnominal.fitting.extraction import ShardTask
from offnominal.fitting.held_out_signals import folds_of
from offnominal.fitting.member_patches import TrainingImage
from offnominal.fitting.shard import Shard
from offnominal.images import EIGHT_BIT, Preprocessing
from offnominal.inference import FeatureEngine, SignalEngine, member_engines
from offnominal.memory import farthest_from_mean, kcenter
from offnominal.model import DistanceScale, as_stored
from offnominal.observer import Observer
from offnominal.roi import Layout

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"preset": "fast", "image_size": 64, "bank": 60, "false_alarm_rate": 0.2}
SCALE = DistanceScale(1.0, 0.5)


@pytest.fixture(scope="module")
def engine() -> FeatureEngine:
    (single,) = member_engines(settings_from(backbone="efficientnet-lite0", image_size=64, resize="keep", dimensions=24))
    return single


def naive_folds(patches: torch.Tensor, rows: Sequence[slice], units: Sequence[slice], size: int, settings: Any) -> list[Any]:
    """Signals of each image against a coreset of all images outside its fold. A fold is a fifth of the units."""
    signals = {}
    for fold in np.array_split(np.arange(len(units)), min(5, len(units))):
        held_out_images = {image for unit in fold for image in range(units[unit].start, units[unit].stop)}
        remaining = torch.cat([patches[part] for image, part in enumerate(rows) if image not in held_out_images])
        count = min(size, len(remaining))
        bank = remaining[torch.from_numpy(kcenter(remaining, count, farthest_from_mean(remaining)).indices)]
        for image in held_out_images:
            assert not any(bool((bank == patch).all(1).any()) for patch in patches[rows[image]])
            signals[image] = SignalEngine(bank, settings, SCALE, CPU)(patches[rows[image]]).values
    return [signals[image] for image in range(len(rows))]


@pytest.mark.parametrize("sizes", [[1] * 7, [1, 1], [1, 3, 1, 2], [4, 1, 1, 1, 1, 1], [2, 2, 2]])
@pytest.mark.parametrize("memory", [10**9, 0])
def test_fold_signals_equal_those_of_naive_fits(engine: FeatureEngine, sizes: list[int], memory: int) -> None:
    ends = np.cumsum(sizes)
    units = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
    images = tuple(
        TrainingImage(at, str(at), (64, 64 + 32 * (at % 3)), None, int(np.searchsorted(ends, at, side="right")))
        for at in range(sum(sizes))
    )
    settings = settings_from(fusion={"response": 1}).model_copy(update={"memory": memory})  # 0 bytes: the patches lie on disk
    task = ShardTask(
        images=images,
        sources=tuple(map(str, range(len(images)))),
        first=0,
        total=len(images),
        shards=1,
        preprocessing=Preprocessing((engine.geometry([]),), EIGHT_BIT),
        settings=settings,
    )
    generator, progress = torch.Generator().manual_seed(0), Steps()
    with Shard(task, [engine], progress) as shard:
        (patches,) = shard._extraction.members
        for image, rows in enumerate(patches.rows):
            patches.put(image, torch.randn(rows.stop - rows.start, engine.dimensions, generator=generator))
        assert {rows.stop - rows.start for rows in patches.rows} <= {36, 60, 84}
        assert shard.units == units
        for fold in folds_of(len(units)):
            bank = shard.coreset(0, 30, "greedy", fold).patches
            shard.fold(0, fold, bank, SCALE)
        expected = naive_folds(patches.all.clone(), patches.rows, units, 30, settings)
        signals, grids = shard.signals(0, True), [layout.grid for layout in patches.layouts]
    assert len(signals) == len(images) == progress.done[-1]
    assert progress.done == sorted(progress.done)
    for actual, naive, grid in zip(signals, expected, grids, strict=True):
        assert actual == pytest.approx(as_stored(Layout(grid).fill(naive)), rel=1e-3, abs=1e-3)


class Steps(Observer):
    """Records how many images of the folds are done."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def on_progress(self, stage: str, done: int, total: int) -> None:
        if stage == "folds":
            self.done.append(done)


@pytest.fixture
def fold_banks(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    banks: list[torch.Tensor] = []

    def recording(self: Shard, member: int, size: int, sampler: str, without: slice | None = None) -> Any:
        coreset = original(self, member, size, sampler, without)
        if without is not None:
            banks.append(coreset.patches)
        return coreset

    original = Shard.coreset
    monkeypatch.setattr(Shard, "coreset", recording)
    return banks


def test_fold_banks_hold_no_patch_of_their_fold(fold_banks: list[torch.Tensor]) -> None:
    images = [texture(seed) for seed in range(12)]
    detector = Detector(calibration="folds", **SMALL).fit(images)
    (member,) = detector.model.members
    assert detector.model.calibration.method == FOLDS
    assert len(fold_banks) == 5
    numbers = [int(source.name.removeprefix("array ")) for source in detector.model.sources]
    inspector = detector._ready()
    extracted = inspector.patches([images[number] for number in numbers], lambda at, error: pytest.fail(str(error)))
    patches = {index: patches_by_member[0] for index, _, patches_by_member, _ in extracted}
    for bank, fold in zip(fold_banks, np.array_split(np.arange(12), 5), strict=True):
        nearest = [float(torch.cdist(patches[image].double(), bank.double()).min()) for image in range(12)]
        assert all(nearest[image] > 0.1 for image in fold)
        assert min(near for image, near in enumerate(nearest) if image not in fold) < 1e-3, "the bank holds other images"
        assert len(bank) == 60, "as many patches as the bank of the model"
    signals = member.held_out.signals
    assert all(image.shape[2] == 3 for image in signals)


def test_the_calibration_method_depends_on_the_number_of_images() -> None:
    images = [texture(seed, (64, 64)) for seed in range(12)]
    assert Detector(**SMALL).fit(images).model.calibration.method == FOLDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offnominal.decisions.calibration.FOLDS_UP_TO", 11)
        assert Detector(**SMALL).fit(images).model.calibration.method == LEAVE_ONE_OUT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offnominal.decisions.calibration.SPLIT_MIN_RANK", 0.5)
        assert Detector(**SMALL).fit(images).model.calibration.method == SPLIT


@pytest.mark.parametrize("calibration", ["folds", "leave-one-out"])
def test_constant_held_out_scores_are_refused(calibration: str, tmp_path: Path) -> None:
    """Files with equal pixels and different contents: they are not duplicates, but the scores do not vary."""
    for number in range(4):
        info = PngInfo()
        info.add_text("number", str(number))
        Image.fromarray(texture(0)).save(tmp_path / f"{number}.png", pnginfo=info)
    with pytest.raises(InputError, match=r"all 4 images score the same \(.*\) when held out, so no threshold") as caught:
        Detector(calibration=calibration, **SMALL).fit(tmp_path)
    assert "\n" not in str(caught.value)
