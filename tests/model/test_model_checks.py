"""Damaged or manipulated model files with a valid digest: each is refused in one line, or it works."""

from __future__ import annotations

import copy
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from conftest import damaged, texture, with_model
from offnominal import Detector, load
from offnominal.datasets import any_images
from offnominal.decisions import Calibration
from offnominal.errors import ImageError, ModelFileError, OffnominalError
from offnominal.inference import Evaluation, FeatureEngine, Inspector
from offnominal.model import Model, load_model
from offnominal.model.file import _digest
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.model_facts import facts, warnings_of

Tensors = dict[str, Any]


def read_file(path: Path) -> tuple[dict[str, Any], Tensors]:
    with safe_open(str(path), framework="numpy") as file:
        return json.loads(file.metadata()["description"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_file(path: Path, description: str, tensors: Tensors) -> Path:
    """Write a model file with a valid digest, whatever its content."""
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
    changed_path = path.with_name(f"changed-{random.randrange(10**12)}.safetensors")
    save_file(tensors, changed_path, {**metadata, "description": description, "digest": _digest(description, tensors)})
    return changed_path


@pytest.fixture
def stored(detector: Detector, tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    detector.save(path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load(path)
    (line,) = str(caught.value).splitlines()
    path.unlink()
    return line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_tensors_are_refused(stored: Path, value: float) -> None:
    description, tensors = read_file(stored)
    floats = [name for name, values in tensors.items() if np.issubdtype(values.dtype, np.floating)]
    assert {"member.0.bank.patches", "member.1.standard.scale", "member.1.normal.deviation", "calibration.scores"} <= set(
        floats
    )
    for name in floats:
        changed = tensors[name].copy()
        changed.flat[-1] = value
        assert "inconsistent" in refusal(write_file(stored, json.dumps(description), {**tensors, name: changed})), name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"mean": ', '"mean": NaN, "_": '),
        ('"asked": 0.1', '"asked": NaN'),
        ('"low": 0.0', '"low": -Infinity'),
        ('"high": 255.0', '"high": 1e999'),
        ('"high": 255.0', '"high": 0.0'),
        ('"radius": ', '"radius": NaN, "_": '),
    ],
)
def test_non_finite_numbers_in_the_description_are_refused(stored: Path, old: str, new: str) -> None:
    description, tensors = read_file(stored)
    text = json.dumps(description)
    assert old in text
    assert "inconsistent" in refusal(write_file(stored, text.replace(old, new), tensors))


def _index(name: str, at: tuple[int, ...], value: int) -> Callable[[dict[str, Any], Tensors], None]:
    def change(description: dict[str, Any], tensors: Tensors) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][at] = value

    return change


def _changed(tensors: Tensors, name: str, change: Callable[[Any], Any]) -> None:
    tensors[name] = change(tensors[name])


@pytest.mark.parametrize(
    "change",
    [
        _index("member.0.bank.image", (0,), -1),
        _index("member.1.bank.image", (0,), 12),
        _index("member.0.bank.position", (0, 0), -3),
        _index("member.1.bank.position", (0, 1), 4000),
        _index("member.0.replacements.replaces", (0,), 10**9),
        _index("member.1.replacements.image", (0,), -1),
        _index("member.0.replacements.position", (0, 1), 999),
        _index("member.1.held_out.grid", (0, 0), 2**40),
        _index("thumbnails.ends", (0,), -5),
        _index("thumbnails.ends", (-1,), 2**60),
        lambda description, tensors: description["members"][0]["geometry"].update(multiple=10**9),
        lambda description, tensors: description["members"][1]["geometry"].update(longest=10**9),
        lambda description, tensors: description["members"][0]["geometry"].update(size=[0, 0]),
        lambda description, tensors: description["sources"][0].__setitem__(1, 10**15),
        lambda description, tensors: description["sources"][0].__setitem__(0, 7),
        lambda description, tensors: description["sources"][0].__setitem__(3, 7),
        lambda description, tensors: description["sources"].pop(),
        lambda description, tensors: description["members"].clear(),
        lambda description, tensors: description["members"].pop(),
        lambda description, tensors: description["members"].reverse(),
        lambda description, tensors: description["members"][1].update(name="efficientnet-lite0@2"),
        lambda description, tensors: description["members"][0].update(fit_radius="wide"),
        lambda description, tensors: description.update(removed=-1),
        lambda description, tensors: description.update(threshold_removed=0),
        lambda description, tensors: description["settings"].update(image_size=[10**9, 10**9]),
        lambda description, tensors: description.update(versions=["torch"]),
        lambda description, tensors: description.update(skipped=[[1, 2]]),
        lambda description, tensors: description["members"][1]["distance_scale"].update(deviation=0.0),
        lambda description, tensors: tensors.update({"member.0.held_out.signals": np.zeros((10**12, 0), np.float16)}),
        lambda description, tensors: _changed(tensors, "member.0.bank.patches", lambda values: values.astype(np.float64)),
        lambda description, tensors: _changed(tensors, "member.1.bank.image", lambda values: values.astype(np.int32)),
        lambda description, tensors: _changed(tensors, "member.1.bank.patches", lambda values: values[:, :5].copy()),
        lambda description, tensors: _changed(tensors, "member.0.replacements.patches", lambda values: values[:, :5].copy()),
        lambda description, tensors: tensors.pop("calibration.scores"),
    ],
)
def test_inconsistent_indices_sizes_and_types_are_refused(
    stored: Path, change: Callable[[dict[str, Any], Tensors], Any]
) -> None:
    description, tensors = read_file(stored)
    change(description, tensors)
    assert "inconsistent" in refusal(write_file(stored, json.dumps(description), tensors))


@pytest.mark.parametrize("text", ["", "[]", "null", "7", "{", "[" * 100_000, '{"settings": ' * 5000 + "1" + "}" * 5000])
def test_invalid_descriptions_are_refused(stored: Path, text: str) -> None:
    _, tensors = read_file(stored)
    assert "inconsistent" in refusal(write_file(stored, text, tensors))


def load_or_none(path: Path) -> Model | None:
    """Load the model, or return None if it is refused in one line."""
    try:
        return load_model(path)
    except ModelFileError as error:
        lines = str(error).splitlines()
    finally:
        path.unlink()
    assert len(lines) == 1
    return None


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else list(enumerate(value))[:2]:
            yield from _leaves(child, (*path, key))


def test_changed_descriptions_are_refused_or_work(stored: Path, detector: Detector) -> None:
    """Replace each entry of the description by values of several types."""
    description, tensors = read_file(stored)
    rng, image, inspected = random.Random(0), damaged(300)[0], 0
    engines = detector._ready().engines
    for path in _leaves(description):
        values: list[Any] = [None, -1, 0, 10**12, 1e300, "x", "\0", [], {}, True, [1], -0.5, "9" * 99]
        for value in rng.sample(values, 2):
            changed = copy.deepcopy(description)
            if path:
                node = changed
                for key in path[:-1]:
                    node = node[key]
                node[path[-1]] = value
            file = write_file(stored, json.dumps(changed), tensors)
            model = load_or_none(file)
            if model is None:
                continue
            json.dumps([facts(model), warnings_of(model)], allow_nan=False)
            if path and path[0] in ("settings", "members", "values", "sources", "calibration") and rng.random() < 0.4:
                try:
                    ((_, inspection, _),) = Inspector(model, engines).inspect([image], _raise, evidence=True)
                except OffnominalError:
                    continue
                assert np.isfinite(inspection.score)
                inspected += 1
    assert inspected > 2


def _raise(index: int, error: ImageError) -> None:
    raise error


def test_damaged_tensors_are_refused_or_loaded(stored: Path) -> None:
    description, tensors = read_file(stored)
    rng = np.random.default_rng(0)
    for name, values in tensors.items():
        for _ in range(4):
            changed = np.frombuffer(bytearray(values.tobytes()), values.dtype).reshape(values.shape).copy()
            raw = changed.view(np.uint8).reshape(-1)
            raw[rng.integers(len(raw), size=8)] = rng.integers(256, size=8)
            file = write_file(stored, json.dumps(description), {**tensors, name: changed})
            load_or_none(file)


def with_second_member(detector: Detector, **changes: Any) -> Detector:
    """A detector with changed parts of its second member. They may be non-finite, which no model file may be."""
    first, second = detector.model.members
    model = replace(detector.model, members=(first, replace(second, **changes)))
    return with_model(detector, model)


@pytest.mark.parametrize("part", ["bank", "normal", "standard"])
def test_a_non_finite_score_is_an_error_of_that_image(part: str, detector: Detector, parts: Path, tmp_path: Path) -> None:
    member = detector.model.members[1]
    if part == "bank":
        patches = member.bank.patches.clone()
        patches[:] = float("nan")
        broken = with_second_member(detector, bank=replace(member.bank, patches=patches))
    elif part == "normal":
        mean = member.normal.mean.copy()
        normal = copy.copy(member.normal)
        mean[0] = np.nan
        object.__setattr__(normal, "mean", mean)
        broken = with_second_member(detector, normal=normal)
    else:
        standard = copy.copy(member.standard)
        object.__setattr__(standard, "mean", member.standard.mean * float("inf"))
        broken = with_second_member(detector, standard=standard)
    with pytest.raises(ImageError, match="cannot be scored"):
        broken.inspect(texture(7))
    items = any_images([parts / "test"])
    run, rows = write_inspections(broken, items, tmp_path)
    assert (run.done, run.anomalous, run.unreadable) == (0, 0, 10)
    for row in rows:
        assert row["anomalous"] is None
        assert row["score"] is None
        assert "cannot be scored" in row["error"]


def test_p_values_and_verdicts_of_nan_are_refused() -> None:
    calibration = Calibration(np.array([1, 2, 3], np.float32), 0.5)
    for method in (calibration.p_value, calibration.anomalous):
        with pytest.raises(ValueError, match="NaN"):
            method(float("nan"))
    assert calibration.anomalous(float("inf"))


def test_evaluation_counts_images_without_a_finite_score_as_unreadable(
    detector: Detector, parts: Path, monkeypatch: pytest.MonkeyPatch, network_batch: threading.local
) -> None:
    original = FeatureEngine.maps

    def maps(self: FeatureEngine, images: Any) -> Any:
        feature_maps = original(self, images)
        feature_maps[[at for at, index in enumerate(network_batch.index) if index == 3]] = float("nan")
        return feature_maps

    monkeypatch.setattr(FeatureEngine, "maps", maps)
    result: Evaluation = detector.evaluate(parts)
    assert len(result.images) == 9
    ((_, reason),) = result.unreadable
    assert "cannot be scored" in reason
