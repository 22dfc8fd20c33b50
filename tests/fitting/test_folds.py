"""Images that are held out together: folds, groups and duplicates. Fits do not depend on the order of the images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from conftest import Notes, damaged, texture
from offnominal import Detector
from offnominal.config import settings_from
from offnominal.decisions import FOLDS, LEAVE_ONE_OUT, SPLIT
from offnominal.errors import InputError
from offnominal.fitting import TrainingSource
from offnominal.fitting.extraction import ShardTask
from offnominal.fitting.held_out_signals import folds_of
from offnominal.fitting.member_patches import TrainingImage
from offnominal.fitting.shard import Shard
from offnominal.fitting.split import split_images
from offnominal.fitting.training_sources import content_key, unit_keys
from offnominal.images import EIGHT_BIT
from offnominal.inference import FeatureEngine, SignalEngine, member_engines
from offnominal.memory import farthest_from_mean, kcenter
from offnominal.model import DistanceScale, Model
from offnominal.observer import Observer
from offnominal.scoring import to_grid

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
@pytest.mark.parametrize("memory", [10**9, 10**6])
def test_fold_signals_equal_those_of_naive_fits(engine: FeatureEngine, sizes: list[int], memory: int) -> None:
    ends = np.cumsum(sizes)
    units = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
    images = tuple(
        TrainingImage(at, str(at), (64, 64 + 32 * (at % 3)), None, int(np.searchsorted(ends, at, side="right")))
        for at in range(sum(sizes))
    )
    settings = settings_from(fusion={"response": 1}, memory=memory)
    task = ShardTask(
        images=images,
        sources=tuple(map(str, range(len(images)))),
        first=0,
        total=len(images),
        shards=1,
        geometries=(engine.geometry([]),),
        values=EIGHT_BIT,
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
        signals, grids = shard.signals(0), patches.grids
    assert len(signals) == len(images) == progress.done[-1]
    assert progress.done == sorted(progress.done)
    for actual, naive, grid in zip(signals, expected, grids, strict=True):
        assert actual == pytest.approx(to_grid(naive, grid), rel=2e-3, abs=2e-3)


class Steps(Observer):
    """Records how many images of the folds are done."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def on_progress(self, stage: str, done: int, total: int) -> None:
        if stage == "folds":
            self.done.append(done)


@pytest.fixture
def held_out(monkeypatch: pytest.MonkeyPatch) -> list[list[list[str]]]:
    """For each fit, the units: lists of names of images that are held out together."""
    names: list[list[list[str]]] = []
    original = Shard.hold_out

    def recording(self: Shard, *arguments: Any) -> Any:
        names.append([[image.name for image in self.images[unit]] for unit in self.units])
        return original(self, *arguments)

    monkeypatch.setattr(Shard, "hold_out", recording)
    return names


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


def write_grouped_images(folder: Path, count: int = 12, group_size: int = 3) -> list[tuple[str, str | None]]:
    """Write grouped images, each group with photographs of one part, and four images without a group."""
    rows: list[tuple[str, str | None]] = []
    for at in range(count):
        group = at // group_size
        image = damaged(group)[0]
        image[at, 5] = 0  # one pixel differs
        cv2.imwrite(str(folder / f"{at}.png"), image)
        rows.append((f"{at}.png", f"part {group}"))
    for at in range(count, count + 4):
        cv2.imwrite(str(folder / f"{at}.png"), texture(at))
        rows.append((f"{at}.png", None))
    return rows


def write_manifest(path: Path, rows: Sequence[tuple[str, str | None]]) -> Path:
    lines = [json.dumps({"path": name, "label": "good", **({"group": group} if group else {})}) for name, group in rows]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("calibration", ["folds", "leave-one-out"])
def test_images_of_one_group_are_held_out_together(calibration: str, tmp_path: Path, held_out: list[list[list[str]]]) -> None:
    rows = write_grouped_images(tmp_path)
    settings = {**SMALL, "bank": 400, "calibration": calibration}
    detector = Detector(**settings).fit(write_manifest(tmp_path / "m.jsonl", rows))
    (units,) = held_out
    groups: dict[str, set[str]] = {}
    for name, group in rows:
        groups.setdefault(group or name, set()).add(name)
    assert sorted(map(sorted, units)) == sorted(map(sorted, groups.values()))
    assert {(source.name, source.group) for source in detector.model.sources} == set(rows)
    ungrouped = Detector(**settings).fit([tmp_path / name for name, _ in rows])
    by_group, by_image = distances(detector.model), distances(ungrouped.model)
    assert len(by_group) == len(by_image) == len(rows)
    for name, group in rows:  # a blotch that only one group has is far from the patches of other images
        assert by_group[name] > (1.5 if group else 0.9) * by_image[name]


def distances(model: Model) -> dict[str, float]:
    """The largest held-out distance of each image, by file name."""
    (member,) = model.members
    images = zip(model.sources, member.held_out.signals, strict=True)
    return {Path(source.name).name: float(signals[:, :, 0].max()) for source, signals in images}


def test_a_split_keeps_groups_together(tmp_path: Path) -> None:
    rows = write_grouped_images(tmp_path)
    for seed in range(4):
        detector = Detector(calibration="split", seed=seed, **SMALL).fit(write_manifest(tmp_path / "m.jsonl", rows))
        assert detector.model.calibration.method == SPLIT
        fitted = {source.name for source in detector.model.sources}
        held_out = [(name, group) for name, group in rows if name not in fitted]
        assert detector.model.calibration.count == len(held_out)
        assert 3 <= len(held_out) <= 6
        assert not {group for name, group in rows if name in fitted and group} & {group for _, group in held_out}
    single_group = write_manifest(tmp_path / "one.jsonl", [(name, "all") for name, _ in rows])
    with pytest.raises(InputError, match="in 1 groups: a split needs at least 3 images, and a group to fit on; use --cal"):
        Detector(calibration="split", **SMALL).fit(single_group)


def write_images_with_duplicate(folder: Path, count: int = 8) -> list[Path]:
    """Write normal images, one anomalous image and its duplicate."""
    paths = [folder / f"{seed}.png" for seed in range(count)]
    for seed, path in enumerate(paths):
        cv2.imwrite(str(path), texture(seed))
    for name in ("odd", "copy"):
        paths.append(folder / f"{name}.png")
        cv2.imwrite(str(paths[-1]), damaged(50)[0])
    return paths


@pytest.mark.parametrize("calibration", ["folds", "leave-one-out"])
def test_duplicates_are_held_out_together(calibration: str, tmp_path: Path, held_out: list[list[list[str]]]) -> None:
    paths = write_images_with_duplicate(tmp_path)
    notes = Notes()
    detector = Detector(calibration=calibration, **SMALL).fit(paths, observer=notes)
    (units,) = held_out
    assert sorted(map(len, units)) == [1] * 8 + [2]
    assert ["copy.png", "odd.png"] in [sorted(Path(name).name for name in unit) for unit in units]
    assert "they are held out together" in notes.texts[0]
    without_duplicate = Detector(calibration=calibration, **SMALL).fit(paths[:-1])
    distance, expected = distances(detector.model), distances(without_duplicate.model)
    assert distance["odd.png"] == pytest.approx(distance["copy.png"], rel=1e-3)
    assert distance["odd.png"] == pytest.approx(expected["odd.png"], rel=0.25)  # channel statistics include all images
    assert distance["odd.png"] > 2 * max(distance[f"{seed}.png"] for seed in range(8))


def test_duplicates_in_two_groups_join_the_groups(tmp_path: Path, held_out: list[list[list[str]]]) -> None:
    write_images_with_duplicate(tmp_path)
    rows = [(f"{at}.png", f"part {at // 2}") for at in range(6)] + [("odd.png", "part 0"), ("copy.png", "part 1")]
    Detector(calibration="leave-one-out", **SMALL).fit(write_manifest(tmp_path / "m.jsonl", rows))
    (units,) = held_out
    together = {frozenset(unit) for unit in units}
    assert together == {frozenset({"0.png", "1.png", "odd.png", "2.png", "3.png", "copy.png"}), frozenset({"4.png", "5.png"})}


def test_a_split_keeps_duplicates_together(tmp_path: Path) -> None:
    paths = write_images_with_duplicate(tmp_path)
    for seed in (0, 1):
        detector = Detector(calibration="split", seed=seed, **SMALL).fit(paths)
        fitted = {Path(source.name).name for source in detector.model.sources}
        assert len({"odd.png", "copy.png"} & fitted) in (0, 2)
    keys = unit_keys([TrainingSource(path.name, path) for path in paths], [content_key(path) for path in paths])
    assert keys[-1] == keys[-2]
    sides = set()
    for seed in range(40):
        fitted_on, held_out = split_images(keys, settings_from(calibration="split", seed=seed))
        assert sorted([*fitted_on, *held_out]) == list(range(10))
        assert (8 in held_out) == (9 in held_out)
        sides.add(8 in held_out)
    assert sides == {False, True}


contents_and_groups = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["1", "2", "3", None])), min_size=1, max_size=12
)


@given(contents_and_groups, st.randoms())
def test_units_are_the_connected_components_of_groups_and_duplicates(images: list[tuple[str, str | None]], random: Any) -> None:
    """Each image is a pair (content, group). The expected units are connected components by brute force."""

    def keys_of(pairs: list[tuple[str, str | None]]) -> list[str]:
        return unit_keys([TrainingSource("", "", group) for _, group in pairs], [content for content, _ in pairs])

    joined = [[one[0] == other[0] or (one[1] is not None and one[1] == other[1]) for other in images] for one in images]
    together = np.linalg.matrix_power(np.array(joined, dtype=np.int64), len(images)) > 0
    keys = keys_of(images)
    assert [[one == other for other in keys] for one in keys] == together.tolist()
    order = list(range(len(images)))
    random.shuffle(order)
    assert keys_of([images[at] for at in order]) == [keys[at] for at in order], "independent of the order"


def test_unreadable_images_are_their_own_units(tmp_path: Path) -> None:
    assert len({content_key(tmp_path / "a.png"), content_key(tmp_path / "b.png")}) == 2


@pytest.mark.parametrize("calibration", ["auto", "folds", "leave-one-out"])
def test_duplicates_or_a_single_group_cannot_be_fitted(calibration: str, tmp_path: Path) -> None:
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), texture(0))
    group = [(f"{name}.png", "one part") for name in "ab"]
    cv2.imwrite(str(tmp_path / "b.png"), texture(1))
    datasets: list[Any] = [[texture(0)] * 3, write_manifest(tmp_path / "m.jsonl", group)]
    for data in datasets:
        with pytest.raises(InputError, match="are duplicates or belong to one group: a fit needs at least two") as caught:
            Detector(calibration=calibration, **SMALL).fit(data)
        assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("further", [{"calibration": "folds"}, {"calibration": "leave-one-out"}, {"calibration": "split"}])
def test_the_order_of_files_does_not_change_the_model(further: dict[str, Any], tmp_path: Path) -> None:
    rows = write_grouped_images(tmp_path, 6)
    rng = np.random.default_rng(0)
    written = []
    for attempt in range(3):
        order = rng.permutation(len(rows))
        shuffled = [rows[at] for at in order]
        detector = Detector(**SMALL, **further).fit(write_manifest(tmp_path / "m.jsonl", shuffled))
        detector.save(tmp_path / f"{attempt}.safetensors")
        written.append((tmp_path / f"{attempt}.safetensors").read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("further", [{}, {"contamination": 0.2}, {"sampler": "random"}, {"resize": "keep", "memory": 1000}])
def test_the_order_of_arrays_and_paths_does_not_change_the_model(further: dict[str, Any], tmp_path: Path) -> None:
    images = [texture(seed, (64, 64 + seed % 2 * 32)) for seed in range(9)]
    paths = []
    for at, image in enumerate(images):
        paths.append(str(tmp_path / f"{at}.png"))
        cv2.imwrite(paths[-1], image)
    order = np.random.default_rng(1).permutation(9)
    for sources in (images, paths):
        one, other = (Detector(**SMALL, **further).fit(ordered).model for ordered in (sources, [sources[at] for at in order]))
        for member, same_member in zip(one.members, other.members, strict=True):
            assert torch.equal(member.bank.patches, same_member.bank.patches)
            assert np.array_equal(member.bank.image, same_member.bank.image)
            assert torch.equal(member.held_out.replacements.patches, same_member.held_out.replacements.patches)
        assert one.calibration.scores.tolist() == other.calibration.scores.tolist()
        assert one.calibration.threshold == other.calibration.threshold
        assert [entry.score for entry in one.left_out] == [entry.score for entry in other.left_out]
        if sources is paths:
            assert one.sources == other.sources
