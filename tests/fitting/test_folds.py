"""What is held out together: folds, groups and copies; and a fit that does not depend on the order of the images."""

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
from offnominal.fitting import TrainingSource, held_out_signals
from offnominal.fitting import fit as fit_module
from offnominal.fitting.held_out_signals import fold_signals
from offnominal.fitting.member_patches import MemberPatches, choose_coreset
from offnominal.fitting.split import split_images
from offnominal.fitting.training_sources import content_key, unit_keys
from offnominal.inference import FeatureEngine, SignalEngine, member_engines
from offnominal.memory import farthest_from_mean, kcenter
from offnominal.model import DistanceScale, Model

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"preset": "fast", "image_size": 64, "bank": 60, "false_alarm_rate": 0.2}
SCALE = DistanceScale(1.0, 0.5)


@pytest.fixture(scope="module")
def engine() -> FeatureEngine:
    (found,) = member_engines(settings_from(backbone="efficientnet-lite0", image_size=64, resize="keep", dimensions=24))
    return found


def naive_folds(patches: torch.Tensor, rows: Sequence[slice], units: Sequence[slice], size: int, settings: Any) -> list[Any]:
    """Each image against the bank of a fit on all images outside its fifth of the units."""
    found = {}
    for fold in np.array_split(np.arange(len(units)), min(5, len(units))):
        out = {image for unit in fold for image in range(units[unit].start, units[unit].stop)}
        left = torch.cat([patches[part] for image, part in enumerate(rows) if image not in out])
        count = min(size, len(left))
        bank = left[torch.from_numpy(kcenter(left, count, farthest_from_mean(left)).indices)]
        for image in out:
            assert not any(bool((bank == patch).all(1).any()) for patch in patches[rows[image]])
            found[image] = SignalEngine(bank, settings, SCALE, CPU)(patches[rows[image]]).values
    return [found[image] for image in range(len(rows))]


@pytest.mark.parametrize("sizes", [[1] * 7, [1, 1], [1, 3, 1, 2], [4, 1, 1, 1, 1, 1], [2, 2, 2]])
@pytest.mark.parametrize("memory", [10**9, 0])
def test_folds_are_fits_without_each_fold(engine: FeatureEngine, sizes: list[int], memory: int) -> None:
    ends = np.cumsum(sizes)
    units = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
    originals = [(64, 64 + 32 * (image % 3)) for image in range(sum(sizes))]
    settings, draws = settings_from(fusion={"response": 1}), torch.Generator().manual_seed(0)
    with MemberPatches(engine, engine.geometry([]), 0, originals, memory) as patches:
        for image, rows in enumerate(patches.rows):
            patches.put(image, torch.randn(rows.stop - rows.start, engine.dimensions, generator=draws))
        assert {rows.stop - rows.start for rows in patches.rows} <= {36, 60, 84}
        told: list[int] = []
        upsamplings = [engine.upsampling(network) for network in patches.networks]
        found = fold_signals(
            patches.readable(),
            patches.rows,
            units,
            size=30,
            settings=settings,
            scale=SCALE,
            device=CPU,
            upsamplings=upsamplings,
            tick=told.append,
        )
        right = naive_folds(patches.all.clone(), patches.rows, units, 30, settings)
    assert len(found) == len(originals) == told[-1]
    assert told == sorted(told)
    for one, other in zip(found, right, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


@pytest.fixture
def held_out(monkeypatch: pytest.MonkeyPatch) -> list[list[list[str]]]:
    """Of every fit, the names of the images that were held out together; a fold's bank holds none of its images' patches."""
    names: list[list[list[str]]] = []
    members = fit_module.Fit._member

    def noted(
        self: Any, extraction: Any, patches: MemberPatches, coreset: Any, *, units: Sequence[slice], **options: Any
    ) -> Any:
        names.append([[image.name for image in extraction.images[unit]] for unit in units])
        return members(self, extraction, patches, coreset, units=units, **options)

    monkeypatch.setattr(fit_module.Fit, "_member", noted)
    return names


@pytest.fixture
def fold_banks(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    banks: list[torch.Tensor] = []

    def noted(patches: Any, *given: Any) -> Any:
        coreset = choose_coreset(patches, *given)
        banks.append(patches[torch.from_numpy(coreset.indices)])
        return coreset

    monkeypatch.setattr(held_out_signals, "choose_coreset", noted)
    return banks


def test_no_bank_of_a_fold_holds_a_patch_of_its_images(fold_banks: list[torch.Tensor]) -> None:
    images = [texture(seed) for seed in range(12)]
    detector = Detector(calibration="folds", **SMALL).fit(images)
    (member,) = detector.model.members
    assert detector.model.calibration.method == FOLDS
    assert len(fold_banks) == 5
    numbers = [int(source.name.removeprefix("array ")) for source in detector.model.sources]
    inspector = detector._ready()
    found = inspector.patches([images[number] for number in numbers], lambda at, error: pytest.fail(str(error)))
    patches = {index: of_members[0] for index, _, of_members, _ in found}
    for bank, fold in zip(fold_banks, np.array_split(np.arange(12), 5), strict=True):
        nearest = [float(torch.cdist(patches[image].double(), bank.double()).min()) for image in range(12)]
        assert all(nearest[image] > 0.1 for image in fold)
        assert min(near for image, near in enumerate(nearest) if image not in fold) < 1e-3, "those of others are in it"
        assert len(bank) == 60, "as many patches as the bank of the model"
    signals = member.held_out.signals
    assert all(image.shape[2] == 3 for image in signals)


def grouped(folder: Path, count: int = 12, of_a_group: int = 3) -> list[tuple[str, str | None]]:
    """Images in groups, each a part photographed some times, and as many that are in none."""
    rows: list[tuple[str, str | None]] = []
    for at in range(count):
        group = at // of_a_group
        image = damaged(group)[0]
        image[at, 5] = 0  # one pixel tells them apart
        cv2.imwrite(str(folder / f"{at}.png"), image)
        rows.append((f"{at}.png", f"part {group}"))
    for at in range(count, count + 4):
        cv2.imwrite(str(folder / f"{at}.png"), texture(at))
        rows.append((f"{at}.png", None))
    return rows


def manifest(path: Path, rows: Sequence[tuple[str, str | None]]) -> Path:
    lines = [json.dumps({"path": name, "label": "good", **({"group": group} if group else {})}) for name, group in rows]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("calibration", ["folds", "leave-one-out"])
def test_images_of_one_group_are_held_out_together(calibration: str, tmp_path: Path, held_out: list[list[list[str]]]) -> None:
    rows = grouped(tmp_path)
    settings = {**SMALL, "bank": 400, "calibration": calibration}
    detector = Detector(**settings).fit(manifest(tmp_path / "m.jsonl", rows))
    (units,) = held_out
    groups: dict[str, set[str]] = {}
    for name, group in rows:
        groups.setdefault(group or name, set()).add(name)
    assert sorted(map(sorted, units)) == sorted(map(sorted, groups.values()))
    assert {(source.name, source.group) for source in detector.model.sources} == set(rows)
    alone = Detector(**settings).fit([tmp_path / name for name, _ in rows])
    together, apart = distances(detector.model), distances(alone.model)
    assert len(together) == len(apart) == len(rows)
    for name, group in rows:  # a blotch that only the images of one group have is far from all that the others have
        assert together[name] > (1.5 if group else 0.9) * apart[name]


def distances(model: Model) -> dict[str, float]:
    """The largest held-out distance of every image, by the name of its file."""
    (member,) = model.members
    found = zip(model.sources, member.held_out.signals, strict=True)
    return {Path(source.name).name: float(signals[:, :, 0].max()) for source, signals in found}


def test_a_split_divides_no_group(tmp_path: Path) -> None:
    rows = grouped(tmp_path)
    for seed in range(4):
        detector = Detector(calibration="split", seed=seed, **SMALL).fit(manifest(tmp_path / "m.jsonl", rows))
        assert detector.model.calibration.method == SPLIT
        fitted = {source.name for source in detector.model.sources}
        held = [(name, group) for name, group in rows if name not in fitted]
        assert detector.model.calibration.count == len(held)
        assert 3 <= len(held) <= 6
        assert not {group for name, group in rows if name in fitted and group} & {group for _, group in held}
    one = manifest(tmp_path / "one.jsonl", [(name, "all") for name, _ in rows])
    with pytest.raises(InputError, match="in 1 groups: a split needs at least 3 images, and a group to fit on; use --cal"):
        Detector(calibration="split", **SMALL).fit(one)


def copied(folder: Path, count: int = 8) -> list[Path]:
    """Normal images, one odd one, and a copy of it."""
    found = [folder / f"{seed}.png" for seed in range(count)]
    for seed, path in enumerate(found):
        cv2.imwrite(str(path), texture(seed))
    for name in ("odd", "copy"):
        found.append(folder / f"{name}.png")
        cv2.imwrite(str(found[-1]), damaged(50)[0])
    return found


@pytest.mark.parametrize("calibration", ["folds", "leave-one-out"])
def test_copies_are_held_out_together(calibration: str, tmp_path: Path, held_out: list[list[list[str]]]) -> None:
    paths = copied(tmp_path)
    notes = Notes()
    detector = Detector(calibration=calibration, **SMALL).fit(paths, observer=notes)
    (units,) = held_out
    assert sorted(map(len, units)) == [1] * 8 + [2]
    assert ["copy.png", "odd.png"] in [sorted(Path(name).name for name in unit) for unit in units]
    assert "they are held out together" in notes.texts[0]
    alone = Detector(calibration=calibration, **SMALL).fit(paths[:-1])
    found, right = distances(detector.model), distances(alone.model)
    assert found["odd.png"] == pytest.approx(found["copy.png"], rel=1e-3)
    assert found["odd.png"] == pytest.approx(right["odd.png"], rel=0.25)  # channel statistics are those of all images
    assert found["odd.png"] > 2 * max(found[f"{seed}.png"] for seed in range(8))


def test_a_copy_in_another_group_is_held_out_with_both_groups(tmp_path: Path, held_out: list[list[list[str]]]) -> None:
    copied(tmp_path)
    rows = [(f"{at}.png", f"part {at // 2}") for at in range(6)] + [("odd.png", "part 0"), ("copy.png", "part 1")]
    Detector(calibration="leave-one-out", **SMALL).fit(manifest(tmp_path / "m.jsonl", rows))
    (units,) = held_out
    together = {frozenset(unit) for unit in units}
    assert together == {frozenset({"0.png", "1.png", "odd.png", "2.png", "3.png", "copy.png"}), frozenset({"4.png", "5.png"})}


def test_a_split_divides_no_copies(tmp_path: Path) -> None:
    paths = copied(tmp_path)
    for seed in (0, 1):
        detector = Detector(calibration="split", seed=seed, **SMALL).fit(paths)
        fitted = {Path(source.name).name for source in detector.model.sources}
        assert len({"odd.png", "copy.png"} & fitted) in (0, 2)
    keys = unit_keys([TrainingSource(path.name, path) for path in paths], [content_key(path) for path in paths])
    assert keys[-1] == keys[-2]
    sides = set()
    for seed in range(40):
        fitted_on, held = split_images(keys, settings_from(calibration="split", seed=seed))
        assert sorted([*fitted_on, *held]) == list(range(10))
        assert (8 in held) == (9 in held)
        sides.add(8 in held)
    assert sides == {False, True}


members_of = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["1", "2", "3", None])), min_size=1, max_size=12)


@given(members_of, st.randoms())
def test_images_are_held_out_together_if_groups_or_copies_join_them(images: list[tuple[str, str | None]], draw: Any) -> None:
    """Each image is an (image content, group); connected components by brute force."""

    def keys_of(some: list[tuple[str, str | None]]) -> list[str]:
        return unit_keys([TrainingSource("", "", group) for _, group in some], [content for content, _ in some])

    joined = [[one[0] == other[0] or (one[1] is not None and one[1] == other[1]) for other in images] for one in images]
    together = np.linalg.matrix_power(np.array(joined, dtype=np.int64), len(images)) > 0
    keys = keys_of(images)
    assert [[one == other for other in keys] for one in keys] == together.tolist()
    order = list(range(len(images)))
    draw.shuffle(order)
    assert keys_of([images[at] for at in order]) == [keys[at] for at in order], "whatever their order"


def test_an_image_that_cannot_be_read_is_on_its_own(tmp_path: Path) -> None:
    assert len({content_key(tmp_path / "a.png"), content_key(tmp_path / "b.png")}) == 2


@pytest.mark.parametrize("calibration", ["auto", "folds", "leave-one-out"])
def test_copies_alone_cannot_be_fitted(calibration: str, tmp_path: Path) -> None:
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), texture(0))
    group = [(f"{name}.png", "one part") for name in "ab"]
    cv2.imwrite(str(tmp_path / "b.png"), texture(1))
    copies: list[Any] = [[texture(0)] * 3, manifest(tmp_path / "m.jsonl", group)]
    for data in copies:
        with pytest.raises(InputError, match="are duplicates or belong to one group: a fit needs at least two") as refused:
            Detector(calibration=calibration, **SMALL).fit(data)
        assert "\n" not in str(refused.value)


def test_how_images_are_held_out_depends_on_how_many_there_are() -> None:
    images = [texture(seed, (64, 64)) for seed in range(12)]
    assert Detector(**SMALL).fit(images).model.calibration.method == FOLDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offnominal.decisions.calibration.FOLDS_UP_TO", 11)
        assert Detector(**SMALL).fit(images).model.calibration.method == LEAVE_ONE_OUT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offnominal.decisions.calibration.SPLIT_MIN_RANK", 0.5)
        assert Detector(**SMALL).fit(images).model.calibration.method == SPLIT


@pytest.mark.parametrize("calibration", ["folds", "leave-one-out"])
def test_held_out_scores_that_do_not_vary_stop_the_fit(calibration: str, tmp_path: Path) -> None:
    """Equal pixels in different files: no copies, but nothing varies."""
    for number in range(4):
        info = PngInfo()
        info.add_text("number", str(number))
        Image.fromarray(texture(0)).save(tmp_path / f"{number}.png", pnginfo=info)
    with pytest.raises(InputError, match=r"all 4 images score the same \(.*\) when held out, so no threshold") as refused:
        Detector(calibration=calibration, **SMALL).fit(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("further", [{"calibration": "folds"}, {"calibration": "leave-one-out"}, {"calibration": "split"}])
def test_the_order_of_files_does_not_matter(further: dict[str, Any], tmp_path: Path) -> None:
    rows = grouped(tmp_path, 6)
    rng = np.random.default_rng(0)
    written = []
    for turn in range(3):
        order = rng.permutation(len(rows))
        shuffled = [rows[at] for at in order]
        detector = Detector(**SMALL, **further).fit(manifest(tmp_path / "m.jsonl", shuffled))
        detector.save(tmp_path / f"{turn}.safetensors")
        written.append((tmp_path / f"{turn}.safetensors").read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("further", [{}, {"contamination": 0.2}, {"sampler": "random"}, {"resize": "keep", "memory": 1000}])
def test_the_order_of_arrays_and_paths_does_not_matter(further: dict[str, Any], tmp_path: Path) -> None:
    images = [texture(seed, (64, 64 + seed % 2 * 32)) for seed in range(9)]
    paths = []
    for at, image in enumerate(images):
        paths.append(str(tmp_path / f"{at}.png"))
        cv2.imwrite(paths[-1], image)
    order = np.random.default_rng(1).permutation(9)
    for sources in (images, paths):
        one, other = (Detector(**SMALL, **further).fit(some).model for some in (sources, [sources[at] for at in order]))
        for member, same in zip(one.members, other.members, strict=True):
            assert torch.equal(member.bank.patches, same.bank.patches)
            assert np.array_equal(member.bank.image, same.bank.image)
            assert torch.equal(member.held_out.replacements.patches, same.held_out.replacements.patches)
        assert one.calibration.scores.tolist() == other.calibration.scores.tolist()
        assert one.calibration.threshold == other.calibration.threshold
        assert [entry.score for entry in one.left_out] == [entry.score for entry in other.left_out]
        if sources is paths:
            assert one.sources == other.sources
