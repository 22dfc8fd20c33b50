"""Model files that are damaged or made up, with a digest that fits: refused in one line, or they work."""

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


def opened(path: Path) -> tuple[dict[str, Any], Tensors]:
    with safe_open(str(path), framework="numpy") as file:
        return json.loads(file.metadata()["description"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def sealed(path: Path, description: str, tensors: Tensors) -> Path:
    """A model file whose digest fits, whatever is in it."""
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
    made = path.with_name(f"changed-{random.randrange(10**12)}.safetensors")
    save_file(tensors, made, {**metadata, "description": description, "digest": _digest(description, tensors)})
    return made


@pytest.fixture
def small(detector: Detector, tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    detector.save(path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as found:
        load(path)
    (line,) = str(found.value).splitlines()
    path.unlink()
    return line


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_tensor_may_hold_what_is_no_number(small: Path, value: float) -> None:
    description, tensors = opened(small)
    floats = [name for name, values in tensors.items() if np.issubdtype(values.dtype, np.floating)]
    assert {"member.0.bank.patches", "member.1.standard.scale", "member.1.normal.deviation", "calibration.scores"} <= set(
        floats
    )
    for name in floats:
        changed = tensors[name].copy()
        changed.flat[-1] = value
        assert "inconsistent" in refused(sealed(small, json.dumps(description), {**tensors, name: changed})), name


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
def test_no_number_of_the_description_may_be_none(small: Path, old: str, new: str) -> None:
    description, tensors = opened(small)
    text = json.dumps(description)
    assert old in text
    assert "inconsistent" in refused(sealed(small, text.replace(old, new), tensors))


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
def test_indices_and_sizes_are_of_what_is_there(small: Path, change: Callable[[dict[str, Any], Tensors], Any]) -> None:
    description, tensors = opened(small)
    change(description, tensors)
    assert "inconsistent" in refused(sealed(small, json.dumps(description), tensors))


@pytest.mark.parametrize("text", ["", "[]", "null", "7", "{", "[" * 100_000, '{"settings": ' * 5000 + "1" + "}" * 5000])
def test_a_description_that_is_none(small: Path, text: str) -> None:
    _, tensors = opened(small)
    assert "inconsistent" in refused(sealed(small, text, tensors))


def read(path: Path) -> Model | None:
    """None where it is refused in one line."""
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
        for key, inside in value.items() if isinstance(value, dict) else list(enumerate(value))[:2]:
            yield from _leaves(inside, (*path, key))


def test_any_change_is_refused_or_works(small: Path, detector: Detector) -> None:
    """Every entry of the description with values of all kinds: one line, or a model that inspects."""
    description, tensors = opened(small)
    rng, image, worked = random.Random(0), damaged(300)[0], 0
    engines = detector._ready().engines
    for path in _leaves(description):
        values: list[Any] = [None, -1, 0, 10**12, 1e300, "x", "\0", [], {}, True, [1], -0.5, "9" * 99]
        for value in rng.sample(values, 2):
            changed = copy.deepcopy(description)
            if path:
                inside = changed
                for key in path[:-1]:
                    inside = inside[key]
                inside[path[-1]] = value
            file = sealed(small, json.dumps(changed), tensors)
            model = read(file)
            if model is None:
                continue
            json.dumps([facts(model), warnings_of(model)], allow_nan=False)
            if path and path[0] in ("settings", "members", "values", "sources", "calibration") and rng.random() < 0.4:
                try:
                    ((_, found, _),) = Inspector(model, engines).inspect([image], _raise, evidence=True)
                except OffnominalError:
                    continue
                assert np.isfinite(found.score)
                worked += 1
    assert worked > 2


def _raise(index: int, error: ImageError) -> None:
    raise error


def test_damaged_tensors_never_crash(small: Path) -> None:
    description, tensors = opened(small)
    rng = np.random.default_rng(0)
    for name, values in tensors.items():
        for _ in range(4):
            changed = np.frombuffer(bytearray(values.tobytes()), values.dtype).reshape(values.shape).copy()
            raw = changed.view(np.uint8).reshape(-1)
            raw[rng.integers(len(raw), size=8)] = rng.integers(256, size=8)
            file = sealed(small, json.dumps(description), {**tensors, name: changed})
            read(file)


def blinded(detector: Detector, **parts: Any) -> Detector:
    """A detector whose second member gives numbers that are none, as no file may hold."""
    first, second = detector.model.members
    model = replace(detector.model, members=(first, replace(second, **parts)))
    return with_model(detector, model)


@pytest.mark.parametrize("what", ["bank", "normal", "standard"])
def test_a_score_that_is_none_is_an_error_of_its_image(what: str, detector: Detector, parts: Path, tmp_path: Path) -> None:
    member = detector.model.members[1]
    if what == "bank":
        patches = member.bank.patches.clone()
        patches[:] = float("nan")
        blind = blinded(detector, bank=replace(member.bank, patches=patches))
    elif what == "normal":
        mean = member.normal.mean.copy()
        normal = copy.copy(member.normal)
        mean[0] = np.nan
        object.__setattr__(normal, "mean", mean)
        blind = blinded(detector, normal=normal)
    else:
        standard = copy.copy(member.standard)
        object.__setattr__(standard, "mean", member.standard.mean * float("inf"))
        blind = blinded(detector, standard=standard)
    with pytest.raises(ImageError, match="cannot be scored"):
        blind.inspect(texture(7))
    items = any_images([parts / "test"])
    run, rows = write_inspections(blind, items, tmp_path)
    assert (run.done, run.anomalous, run.unreadable) == (0, 0, 10)
    for row in rows:
        assert row["anomalous"] is None
        assert row["score"] is None
        assert "cannot be scored" in row["error"]


def test_a_p_value_of_nothing_is_refused() -> None:
    calibration = Calibration(np.array([1, 2, 3], np.float32), 0.5)
    for ask in (calibration.p_value, calibration.anomalous):
        with pytest.raises(ValueError, match="NaN"):
            ask(float("nan"))
    assert calibration.anomalous(float("inf"))


def test_an_evaluation_counts_them_as_unreadable(
    detector: Detector, parts: Path, monkeypatch: pytest.MonkeyPatch, network_batch: threading.local
) -> None:
    inspected = FeatureEngine.maps

    def maps(self: FeatureEngine, images: Any) -> Any:
        found = inspected(self, images)
        found[[at for at, index in enumerate(network_batch.index) if index == 3]] = float("nan")
        return found

    monkeypatch.setattr(FeatureEngine, "maps", maps)
    result: Evaluation = detector.evaluate(parts)
    assert len(result.images) == 9
    ((_, reason),) = result.unreadable
    assert "cannot be scored" in reason
