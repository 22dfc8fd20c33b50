"""Images of one group and duplicates are held out together. Fits do not depend on the order of the images."""

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

from conftest import Notes, damaged, texture
from offnominal import Detector
from offnominal.config import settings_from
from offnominal.decisions import SPLIT
from offnominal.errors import InputError
from offnominal.fitting import TrainingSource
from offnominal.fitting.shard import Shard
from offnominal.fitting.split import split_images
from offnominal.fitting.training_sources import content_key, unit_keys
from offnominal.model import Model

SMALL: dict[str, Any] = {"preset": "fast", "image_size": 64, "bank": 60, "false_alarm_rate": 0.2}


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
