"""Learning on: images added and taken out, against a fit and against what was held out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from conftest import REAL_DATA, damaged, texture
from offnominal import Detector, load
from offnominal.detector import Model
from offnominal.detector.inspector import Inspector
from offnominal.detector.learning.update import _found
from offnominal.detector.learnt import usual_and_scores
from offnominal.errors import InputError, SettingsError
from offnominal.memory import cover

SMALL = {"image_size": 96, "bank": 120, "false_alarm_rate": 0.1}


@cache
def inspector_of(**settings: object) -> Inspector:
    return Detector(**{**SMALL, **settings}).fit([texture(seed) for seed in range(10)])._ready()


def fitted(**settings: object) -> Detector:
    """A detector of its own on the one fit to ten images."""
    detector = Detector()
    detector._inspector = inspector_of(**settings)
    return detector


def scores_of(model: Model) -> np.ndarray:
    networks = [model.geometry.network_size(source.size) for source in model.bank.sources]
    return usual_and_scores(model.learnt.signals, networks, model.settings, head=bool(model.heads))[1]


def patches_of(detector: Detector, image: np.ndarray) -> torch.Tensor:
    def fail(index: int, error: Exception) -> None:
        raise error

    inspector = detector._inspector
    assert isinstance(inspector, Inspector)
    ((_, _, patches, _),) = inspector.patches([image], fail)
    return patches


def away(patches: torch.Tensor, bank: torch.Tensor) -> float:
    return float(torch.cdist(patches.double(), bank.double()).amin(1).max())


@trials(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 9), st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_cover_is_the_farthest_first_choice(count: int, bank: int, radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    new, old = rng.normal(size=(count, 3)).astype(np.float32), rng.normal(size=(bank, 3)).astype(np.float32)
    new[rng.random(count) < 0.2] = new[0]  # copies
    distance = np.linalg.norm(new[:, None].astype(np.float64) - old[None], axis=2).min(1)
    right = []
    while distance.max() > radius:
        right.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(new.astype(np.float64) - new[right[-1]], axis=1))
    assert cover(torch.from_numpy(new), torch.from_numpy(old), radius).tolist() == right


def test_the_file_keeps_what_calibrates(model_file: Path, detector: Detector) -> None:
    model, read = detector.model, load(model_file).model
    assert np.array_equal(np.sort(scores_of(model)), model.calibration.scores)
    assert np.array_equal(scores_of(read), scores_of(model))
    kept, found = read.learnt.stand_ins, model.learnt.stand_ins
    assert torch.equal(kept.patches, found.patches)
    for name in ("replaces", "image", "place"):
        assert np.array_equal(getattr(kept, name), getattr(found, name))
    assert read.learnt.radius == model.bank.radius


@pytest.mark.parametrize("gone", [0, 4])
def test_an_image_taken_out_scores_what_it_was_held_out_with(gone: int) -> None:
    detector = fitted()
    held_out = scores_of(detector.model)[gone]
    change = detector.update(remove=[f"array {gone}"])
    assert change.removed == (f"array {gone}",)
    assert change.patches_removed > 0
    assert detector.inspect(texture(gone)).score == pytest.approx(held_out, abs=5e-3)


def test_nothing_of_an_image_taken_out_is_left() -> None:
    detector = fitted()
    before = detector.model
    own = patches_of(detector, texture(3))
    assert float(torch.cdist(own, before.bank.patches).min()) < 1e-2
    detector.update(remove=["array 3"])
    after = detector.model
    assert "array 3" not in {source.name for source in after.bank.sources}
    assert len(after.bank.sources) == len(after.learnt.signals) == after.calibration.count == 9
    for patches in (after.bank.patches, after.learnt.stand_ins.patches):
        if len(patches):
            assert float(torch.cdist(own, patches).min()) > 1e-2
    stayed = np.delete(np.arange(10), 3)
    for at, source in enumerate(stayed):
        assert after.bank.sources[at] == before.bank.sources[source]
        rows = torch.from_numpy(after.bank.image == at)
        old = torch.from_numpy(before.bank.image == source)
        known = {tuple(row) for row in before.bank.patches[old].tolist()}
        assert known <= {tuple(row) for row in after.bank.patches[rows].tolist()}
        assert np.array_equal(after.learnt.signals[at], before.learnt.signals[source])
    assert before.thumbnails is not None
    assert after.thumbnails is not None
    assert [after.thumbnails.stored(at) for at in range(9)] == [before.thumbnails.stored(int(at)) for at in stayed]


def test_after_taking_out_the_stated_radius_still_holds() -> None:
    detector = fitted()
    before = detector.model.bank
    detector.update(remove=["array 0", "array 5"])
    bank = detector.model.bank
    assert before.radius is not None
    assert bank.radius is not None
    assert bank.radius >= before.radius
    for seed in (1, 2, 7):
        assert away(patches_of(detector, texture(seed)), bank.patches) <= bank.radius + 1e-3


def test_added_images_are_covered_held_out_and_calibrate() -> None:
    detector = fitted()
    radius = detector.model.bank.radius
    assert radius is not None
    other = [texture(seed) + np.uint8(40) for seed in (50, 51, 52)]
    change = detector.update(add=other)
    model = detector.model
    assert change.added == ("array 10", "array 11", "array 12")
    assert model.thumbnails is not None
    assert model.thumbnails.kept == 13
    assert change.patches_added == len(model.bank.patches) - 120 > 0
    assert model.bank.radius == radius
    assert model.calibration.count == 13
    for image in other:
        assert away(patches_of(detector, image), model.bank.patches) <= radius + 1e-3
    # Held out of the grown bank: what stays when the image is taken out again.
    held_out = scores_of(model)[11]
    detector.update(remove=["array 11"])
    assert detector.inspect(other[1]).score == pytest.approx(held_out, abs=5e-3)


def test_added_and_taken_out_again_is_as_before(tmp_path: Path) -> None:
    detector = fitted()
    before = detector.model
    detector.update(add=[damaged(60)[0]])
    assert detector.model.calibration.scores[-1] > before.calibration.scores[-1] + 1
    detector.update(remove=["array 10"])
    after = detector.model
    assert (after.learnt.added, after.learnt.removed) == (1, 1)
    assert after.bank.radius is not None
    assert before.bank.radius is not None
    assert after.bank.radius > before.bank.radius  # a bound: nobody knows any more whom the image's patches covered
    plain = replace(
        after, learnt=replace(after.learnt, added=0, removed=0), bank=replace(after.bank, radius=before.bank.radius)
    )
    for name, model in (("before", before), ("after", plain)):
        detector._inspector = Inspector(model, detector._ready().engine)
        detector.save(tmp_path / name)
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


def test_how_a_model_is_run_is_not_written_into_it(model_file: Path, tmp_path: Path) -> None:
    stored = load(model_file).settings
    run = load(model_file, runtime="torch", batch_size=2, device="cpu")
    assert (run.settings.runtime, run.settings.batch_size) == ("torch", 2)
    run.update(add=[texture(900)])
    run.save(tmp_path / "m")
    assert load(tmp_path / "m").settings == stored


def test_the_same_update_gives_the_same_bytes(model_file: Path, parts: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        detector = load(model_file)
        detector.update(add=parts / "test" / "good", remove=["train/good/002.png"])
        detector.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = load(tmp_path / "a")
    assert read.model.calibration.count == 16
    assert read.model.bank.sources[-1].name == "104.png"
    assert read.inspect(damaged(300)[0]).anomalous


def test_a_random_bank_grows_by_its_share() -> None:
    detector = fitted(sampler="random", bank=0.1)
    size = len(detector.model.bank.patches)
    detector.update(add=[texture(seed) for seed in range(20, 25)])
    assert len(detector.model.bank.patches) == size + round(size / 2)
    detector.update(remove=["array 0"])
    assert detector.model.bank.radius is None


def test_images_of_several_shapes_and_with_the_response() -> None:
    images = [texture(i, (96, 120 if i % 2 else 200)) for i in range(8)]
    detector = Detector(**SMALL, fusion={"response": 1.0}).fit(images[:6])
    detector.update(add=images[6:], remove=["array 1"])
    assert [source.size for source in detector.model.bank.sources][-2:] == [(96, 200), (96, 120)]
    assert detector.inspect(images[1]).anomaly_map.shape == (96, 120)


def test_what_cannot_be_done_is_said_and_changes_nothing(model_file: Path, tmp_path: Path) -> None:
    detector = load(model_file)
    before = detector.model
    names = [source.name for source in before.bank.sources]
    with pytest.raises(InputError, match=r"did you mean 'train/good/003\.png'"):
        detector.update(remove=["003.png"])
    with pytest.raises(InputError, match="did you mean 'train/good/00"):
        detector.update(remove=["train/god/003.png"])
    with pytest.raises(InputError, match=r"are named as 'train/good/000\.png'"):
        detector.update(remove=["?"])
    with pytest.raises(InputError, match="would leave 1"):
        detector.update(remove=names[1:])
    with pytest.raises(InputError, match="nothing to update"):
        detector.update()
    twice = Detector(image_size=96, bank=50).fit([texture(seed) for seed in range(3)])
    sources = twice.model.bank.sources
    alike = replace(twice.model, bank=replace(twice.model.bank, sources=(sources[0], sources[0], sources[2])))
    with pytest.raises(InputError, match="2 images named 'array 0'"):
        _found(alike, ["array 0"])
    wide = tmp_path / "wide.png"
    cv2.imwrite(str(wide), texture(9).astype(np.uint16) * 256)
    with pytest.raises(InputError, match=r"none of 1 images can be added; the first: .*16-bit"):
        detector.update(add=[wide])
    with pytest.raises(InputError, match="twice"):
        detector.update(add=[str(wide), str(wide)])
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
def test_added_cookies_against_a_full_fit() -> None:
    paths = sorted((REAL_DATA / "aws_cookies" / "train" / "good").iterdir())
    # A share of the patches: banks that grow with their images can be compared, a fewest number is as large for both.
    whole, grown = Detector(bank=0.01).fit(paths), Detector(bank=0.01).fit(paths[:24])
    grown.update(add=paths[24:])
    assert grown.model.calibration.count == whole.model.calibration.count == 31
    for detector in (whole, grown):
        assert detector.evaluate(REAL_DATA / "aws_cookies").figures["image_auroc"] >= 0.99
    assert grown.model.bank.radius == pytest.approx(whole.model.bank.radius, rel=0.05)
