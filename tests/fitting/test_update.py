"""Incremental updates: images added and removed, compared with a fit and with held-out scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from PIL import Image

from conftest import REAL_DATA, damaged, texture, with_model
from offnominal import Detector, load
from offnominal.errors import InputError, SettingsError
from offnominal.inference import held_out_scores
from offnominal.memory import cover
from offnominal.model import Member, Model
from offnominal.outputs.guarantee import promise, rests_on

SMALL: dict[str, Any] = {"image_size": 96, "bank": 120, "false_alarm_rate": 0.1, "calibration": "leave-one-out"}


@cache
def shared_fit(**settings: object) -> Detector:
    return Detector(**{**SMALL, **settings}).fit([texture(seed) for seed in range(10)])


def fitted(**settings: object) -> Detector:
    """A new detector with the shared model of ten images."""
    detector = shared_fit(**settings)
    return with_model(detector, detector.model)


def scores_of(model: Model) -> np.ndarray:
    return held_out_scores(
        [(member.held_out.signals, model.networks(member)) for member in model.members], model.settings, model.sources
    )


def test_a_model_of_very_many_images_keeps_no_signals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fitted().save(tmp_path / "small.safetensors")
    monkeypatch.setattr("offnominal.fitting.fit.SIGNALS_UP_TO", 9)
    detector = Detector(**SMALL).fit([texture(seed) for seed in range(10)])
    detector.save(tmp_path / "large.safetensors")
    assert (tmp_path / "large.safetensors").stat().st_size < (tmp_path / "small.safetensors").stat().st_size
    loaded = load(tmp_path / "large.safetensors")
    assert not loaded.model.updatable
    assert loaded.score_samples([texture(20)]) == fitted().score_samples([texture(20)])
    isolated = replace(loaded.model.calibration, scores=np.float32(10.0) ** np.arange(10, dtype=np.float32))
    assert rests_on(replace(loaded.model, calibration=isolated)) == []
    with pytest.raises(InputError, match="fitted on 10 images, and keeps no held-out signals for updates: fit again"):
        loaded.update(add=[texture(30)])


def number_of(model: Model, name: str) -> int:
    return [source.name for source in model.sources].index(name)


def patches_of(detector: Detector, image: np.ndarray) -> list[torch.Tensor]:
    """The patches of an image for each member."""

    def fail(index: int, error: Exception) -> None:
        raise error

    inspector = detector._ready()
    ((_, _, patches, _),) = inspector.patches([image], fail)
    return patches


def with_members(model: Model, change: Callable[[Member], Member]) -> Model:
    return replace(model, members=tuple(map(change, model.members)))


def covering_distance(patches: torch.Tensor, bank: torch.Tensor) -> float:
    return float(torch.cdist(patches.double(), bank.double()).amin(1).max())


@trials(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 9), st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_cover_equals_the_naive_farthest_first_selection(count: int, bank: int, radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    new, old = rng.normal(size=(count, 3)).astype(np.float32), rng.normal(size=(bank, 3)).astype(np.float32)
    new[rng.random(count) < 0.2] = new[0]  # duplicates
    distance = np.linalg.norm(new[:, None].astype(np.float64) - old[None], axis=2).min(1)
    expected = []
    while distance.max() > radius:
        expected.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(new.astype(np.float64) - new[expected[-1]], axis=1))
    assert cover(torch.from_numpy(new), torch.from_numpy(old), radius).tolist() == expected


def test_the_model_file_keeps_the_held_out_data(model_file: Path, detector: Detector) -> None:
    model, loaded = detector.model, load(model_file).model
    assert np.array_equal(np.sort(scores_of(model)), model.calibration.scores)
    assert np.array_equal(scores_of(loaded), scores_of(model))
    for stored, fitted_member in zip(loaded.members, model.members, strict=True):
        kept, original = stored.held_out.replacements, fitted_member.held_out.replacements
        assert torch.equal(kept.patches, original.patches)
        for name in ("replaces", "image", "position"):
            assert np.array_equal(getattr(kept, name), getattr(original, name))
        assert stored.held_out.radius == fitted_member.bank.radius


@pytest.mark.parametrize("removed", [0, 4])
def test_a_removed_image_gets_its_held_out_score(removed: int) -> None:
    detector = fitted()
    held_out = scores_of(detector.model)[number_of(detector.model, f"array {removed}")]
    change = detector.update(remove=[f"array {removed}"])
    assert change.removed == (f"array {removed}",)
    assert change.patches_removed > 0
    assert detector.inspect(texture(removed)).score == pytest.approx(held_out, abs=5e-3)


def test_a_removed_image_leaves_no_data() -> None:
    detector = fitted()
    before = detector.model
    own = patches_of(detector, texture(3))
    for patches, member in zip(own, before.members, strict=True):
        assert float(torch.cdist(patches, member.bank.patches).min()) < 1e-2
    removed = number_of(before, "array 3")
    detector.update(remove=["array 3"])
    after = detector.model
    kept = np.delete(np.arange(10), removed)
    assert after.sources == tuple(before.sources[at] for at in kept)
    assert after.calibration.count == 9
    for patches, old, new in zip(own, before.members, after.members, strict=True):
        assert len(new.held_out.signals) == 9
        for remaining in (new.bank.patches, new.held_out.replacements.patches):
            if len(remaining):
                assert float(torch.cdist(patches, remaining).min()) > 1e-2
        for at, source in enumerate(kept):
            rows, old_rows = torch.from_numpy(new.bank.image == at), torch.from_numpy(old.bank.image == source)
            assert {tuple(row) for row in old.bank.patches[old_rows].tolist()} <= {
                tuple(row) for row in new.bank.patches[rows].tolist()
            }
            assert np.array_equal(new.held_out.signals[at], old.held_out.signals[source])
    assert before.thumbnails is not None
    assert after.thumbnails is not None
    assert [after.thumbnails.stored(at) for at in range(9)] == [before.thumbnails.stored(int(at)) for at in kept]


def test_the_covering_radius_holds_after_a_removal() -> None:
    detector = fitted()
    before = detector.model.members
    detector.update(remove=["array 0", "array 5"])
    for number, (old, new) in enumerate(zip(before, detector.model.members, strict=True)):
        assert old.bank.radius is not None
        assert new.bank.radius is not None
        assert new.bank.radius >= old.bank.radius
        for seed in (1, 2, 7):
            assert covering_distance(patches_of(detector, texture(seed))[number], new.bank.patches) <= new.bank.radius + 1e-3


def test_added_images_are_covered_and_calibrate() -> None:
    detector = fitted()
    radii = [member.bank.radius for member in detector.model.members]
    other = [texture(seed) + np.uint8(40) for seed in (50, 51, 52)]
    change = detector.update(add=other)
    model = detector.model
    assert change.added == ("array 10", "array 11", "array 12")
    assert model.thumbnails is not None
    assert model.thumbnails.kept == 13
    assert change.patches_added == sum(len(member.bank.patches) - 120 for member in model.members) > 0
    assert [member.bank.radius for member in model.members] == radii
    assert model.calibration.count == 13
    for image in other:
        for patches, member, radius in zip(patches_of(detector, image), model.members, radii, strict=True):
            assert radius is not None
            assert covering_distance(patches, member.bank.patches) <= radius + 1e-3
    # The held-out score against the updated bank equals the score after the image is removed again.
    held_out = scores_of(model)[11]
    detector.update(remove=["array 11"])
    assert detector.inspect(other[1]).score == pytest.approx(held_out, abs=5e-3)


def test_adding_and_removing_an_image_restores_the_model(tmp_path: Path) -> None:
    detector = fitted()
    before = detector.model
    detector.update(add=[damaged(60)[0]])
    assert detector.model.calibration.scores[-1] > before.calibration.scores[-1] + 1
    detector.update(remove=["array 10"])
    after = detector.model
    assert (after.added, after.removed) == (1, 1)
    for old, new in zip(before.members, after.members, strict=True):
        assert new.bank.radius is not None
        assert old.bank.radius is not None
        assert new.bank.radius > old.bank.radius  # an upper bound, because the patches that the image covered are unknown
    radii = {member.name: member.bank.radius for member in before.members}
    reset = with_members(after, lambda member: replace(member, bank=replace(member.bank, radius=radii[member.name])))
    reset = replace(reset, added=0, removed=0, threshold_removed=False)
    for name, model in (("before", before), ("after", reset)):
        with_model(detector, model).save(tmp_path / name)
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


def test_removing_the_image_behind_the_threshold_voids_the_guarantee(tmp_path: Path) -> None:
    detector = fitted()
    order = np.argsort(scores_of(detector.model))
    lowest, highest = (detector.model.sources[at].name for at in (order[0], order[-1]))
    detector.update(remove=[lowest])
    assert detector.model.guaranteed
    assert "approximate" in promise(detector.model)
    detector.update(remove=[highest])
    assert not detector.model.guaranteed
    detector.update(add=[texture(30)])
    detector.save(tmp_path / "m")
    loaded = load(tmp_path / "m").model
    assert not loaded.guaranteed
    assert promise(loaded).startswith("no guarantee applies")


def test_models_fitted_with_folds_can_be_updated() -> None:
    detector = fitted(calibration="folds")
    methods = [detector.model.calibration.method]
    detector.update(remove=["array 1"])
    methods.append(detector.model.calibration.method)  # the remaining images were held out by folds
    detector.update(add=[texture(30)], remove=["array 2"])
    methods.append(detector.model.calibration.method)
    assert methods == ["folds", "folds", "leave-one-out"]
    assert detector.inspect(damaged(50)[0]).anomalous


def test_an_update_adds_every_page_of_a_file(tmp_path: Path) -> None:
    stack = tmp_path / "stack.tif"
    first, *others = (Image.fromarray(texture(seed)) for seed in (40, 41, 42))
    first.save(stack, save_all=True, append_images=others)
    with pytest.raises(InputError, match="several pages"):
        fitted().update(add=[stack])
    for pages in (stack, [stack], tmp_path):
        assert [Path(name).name for name in fitted().update(add=pages, pages="all").added] == [
            "stack.tif#1",
            "stack.tif#2",
            "stack.tif#3",
        ]


def test_run_settings_are_not_stored_in_the_model(model_file: Path, tmp_path: Path) -> None:
    stored = load(model_file).settings
    detector = load(model_file, runtime="torch", batch_size=2, device="cpu")
    assert (detector.settings.runtime, detector.settings.batch_size) == ("torch", 2)
    detector.update(add=[texture(900)])
    detector.save(tmp_path / "m")
    assert load(tmp_path / "m").settings == stored


def test_the_same_update_gives_the_same_bytes(model_file: Path, parts: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        detector = load(model_file)
        detector.update(add=parts / "test" / "good", remove=["train/good/002.png"])
        detector.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load(tmp_path / "a")
    assert loaded.model.calibration.count == 16
    assert loaded.model.sources[-1].name == "104.png"
    assert loaded.inspect(damaged(300)[0]).anomalous


def test_a_random_bank_grows_in_proportion() -> None:
    detector = fitted(sampler="random", bank=0.1)
    sizes = [len(member.bank.patches) for member in detector.model.members]
    detector.update(add=[texture(seed) for seed in range(20, 25)])
    assert [len(member.bank.patches) for member in detector.model.members] == [size + round(size / 2) for size in sizes]
    detector.update(remove=["array 0"])
    assert [member.bank.radius for member in detector.model.members] == [None, None]


def test_updates_with_several_shapes_and_with_the_response() -> None:
    images = [texture(i, (96, 120 if i % 2 else 200)) for i in range(8)]
    detector = Detector(**SMALL, fusion={"response": 1.0}).fit(images[:6])
    detector.update(add=images[6:], remove=["array 1"])
    assert [source.size for source in detector.model.sources][-2:] == [(96, 200), (96, 120)]
    assert detector.inspect(images[1]).anomaly_map.shape == (96, 120)


def test_invalid_updates_are_refused_and_change_nothing(model_file: Path, tmp_path: Path) -> None:
    detector = load(model_file)
    before = detector.model
    names = [source.name for source in before.sources]
    with pytest.raises(InputError, match=r"did you mean 'train/good/003\.png'"):
        detector.update(remove=["003.png"])
    with pytest.raises(InputError, match="did you mean 'train/good/00"):
        detector.update(remove=["train/god/003.png"])
    with pytest.raises(InputError, match=r"are named like 'train/good/0"):
        detector.update(remove=["?"])
    with pytest.raises(InputError, match="would leave 1"):
        detector.update(remove=names[1:])
    with pytest.raises(InputError, match="nothing to update"):
        detector.update()
    ambiguous = Detector(image_size=96, bank=50).fit([texture(seed) for seed in range(3)])
    sources = ambiguous.model.sources
    same_names = replace(ambiguous.model, sources=(sources[0], sources[0], sources[2]))
    ambiguous = with_model(ambiguous, same_names)
    with pytest.raises(InputError, match=f"2 images named '{sources[0].name}'"):
        ambiguous.update(remove=[sources[0].name])
    path_16_bit = tmp_path / "wide.png"
    cv2.imwrite(str(path_16_bit), texture(9).astype(np.uint16) * 256)
    with pytest.raises(InputError, match=r"none of 1 images can be added; the first error: .*16-bit"):
        detector.update(add=[path_16_bit])
    with pytest.raises(InputError, match="twice"):
        detector.update(add=[str(path_16_bit), str(path_16_bit)])
    with pytest.raises(InputError, match="does not exist"):
        detector.update(add=tmp_path / "nowhere")
    assert detector.model is before
    cv2.imwrite(str(tmp_path / "fine.png"), texture(9))
    change = detector.update(add=tmp_path)
    assert change.added == ("fine.png",)
    assert [name for name, _ in change.skipped] == ["wide.png"]
    with pytest.raises(InputError, match="not been fitted"):
        Detector().update(remove=["a"])
    with pytest.raises(SettingsError, match=r"below 0.5"):
        Detector(contamination=0.5)


@pytest.mark.realdata
def test_an_update_with_cookies_is_as_good_as_a_full_fit() -> None:
    paths = sorted((REAL_DATA / "aws_cookies" / "train" / "good").iterdir())
    # The bank size is a share of the patches, so that both banks grow with their images.
    full, grown = Detector(bank=0.01).fit(paths), Detector(bank=0.01).fit(paths[:24])
    grown.update(add=paths[24:])
    assert grown.model.calibration.count == full.model.calibration.count == 31
    for detector in (full, grown):
        auroc = detector.evaluate(REAL_DATA / "aws_cookies").figures["image_auroc"]
        assert auroc is not None
        assert auroc >= 0.99
    for updated, expected in zip(grown.model.members, full.model.members, strict=True):
        assert updated.bank.radius == pytest.approx(expected.bank.radius, rel=0.05)
