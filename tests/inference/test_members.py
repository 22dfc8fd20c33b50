"""Members of a model: their names, and that a model of two is the mean of two models of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import damaged, texture, with_spy
from offnominal import Detector, load
from offnominal.config import settings_from
from offnominal.errors import BackboneError
from offnominal.features import MemberName, parse_members
from offnominal.images import batches, position_at
from offnominal.inference import held_out_scores, member_engines
from offnominal.scoring import DISTANCE, average_maps

LITE = "efficientnet-lite0"
PAIR = f"{LITE}+{LITE}@1.5"
SMALL: dict[str, Any] = {"image_size": 64, "bank": 60, "false_alarm_rate": 0.2}


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (LITE, [(LITE, 1.0)]),
        (PAIR, [(LITE, 1.0), (LITE, 1.5)]),
        (f" {LITE} @ 2.0 + resnet18@0.25 ", [(LITE, 2.0), ("resnet18", 0.25)]),
        ("a@4+b+a@0.5", [("a", 4.0), ("b", 1.0), ("a", 0.5)]),
        ("vit_small_patch14_dinov2.lvd142m@1", [("vit_small_patch14_dinov2.lvd142m", 1.0)]),
    ],
)
def test_names_of_members_are_read(text: str, members: list[tuple[str, float]]) -> None:
    assert parse_members(text) == tuple(MemberName(*one) for one in members)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a+a", "names the member a twice"),
        ("a@1.5+b+a@1.50", "names the member a@1.5 twice"),
        ("a+a@1", "names the member a twice"),
        ("a++b", "a name is missing"),
        ("+a", "a name is missing"),
        (" ", "a name is missing"),
        ("@1.5", "a name is missing"),
        ("a@", "a number from 0.25 to 4"),
        ("a@big", "a number from 0.25 to 4"),
        ("a@0.2", "a number from 0.25 to 4"),
        ("a@4.1", "a number from 0.25 to 4"),
        ("a@nan", "a number from 0.25 to 4"),
        ("a@inf", "a number from 0.25 to 4"),
        ("a@-1", "a number from 0.25 to 4"),
        ("a@1.5@2", "a number from 0.25 to 4"),
    ],
)
def test_a_wrong_name_is_one_line(text: str, says: str) -> None:
    with pytest.raises(BackboneError, match=says) as refused:
        parse_members(text)
    assert "\n" not in str(refused.value)


names = st.text("abc_.0123", min_size=1, max_size=6)
quarters = st.integers(1, 16).map(lambda number: number / 4)


@given(st.lists(st.builds(MemberName, names, quarters), min_size=1, max_size=4, unique=True))
def test_what_a_member_is_called_is_read_as_that_member(members: list[MemberName]) -> None:
    assert parse_members("+".join(map(str, members))) == tuple(members)


def test_layers_and_weights_belong_to_one_backbone(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="belong to one backbone"):
        member_engines(settings_from(backbone=f"{LITE}+efficientnet-lite2", layers="blocks.2"))
    with pytest.raises(BackboneError, match="belong to one backbone"):
        member_engines(settings_from(backbone=f"{LITE}+resnet18"), tmp_path / "w.pth")
    engines = member_engines(settings_from(backbone=PAIR, layers="blocks.2"))
    assert [engine.identity.layers for engine in engines] == [("blocks.2",)] * 2


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("normal")
    found = [folder / f"{seed}.png" for seed in range(9)]
    for seed, path in enumerate(found):
        cv2.imwrite(str(path), texture(seed))
    return found


@pytest.fixture(scope="module")
def pair(paths: list[Path]) -> Detector:
    return Detector(backbone=PAIR, **SMALL).fit(paths)


@pytest.fixture(scope="module")
def singles(paths: list[Path]) -> list[Detector]:
    return [Detector(backbone=name, **SMALL).fit(paths) for name in PAIR.split("+")]


def maps_of(detector: Detector, image: Any) -> list[np.ndarray]:
    """The working map of each member."""
    inspector = detector._ready()
    (batch,) = batches(
        [image], inspector.views, detector.model.values, batch_size=1, failed=lambda at, error: pytest.fail(str(error))
    )
    return [scorer.score(batch, False)[1][0].anomaly for scorer in inspector.scorers]


def test_each_member_is_fitted_as_it_would_be_alone(pair: Detector, singles: list[Detector]) -> None:
    assert [member.name for member in pair.model.members] == PAIR.split("+")
    for member, single in zip(pair.model.members, singles, strict=True):
        (alone,) = single.model.members
        assert member.name == alone.name
        assert member.geometry == alone.geometry
        assert len(member.bank.patches) == len(alone.bank.patches) == SMALL["bank"]
        assert torch.allclose(member.bank.patches, alone.bank.patches, atol=1e-5)
        assert np.array_equal(member.bank.image, alone.bank.image)
        assert np.array_equal(member.bank.position, alone.bank.position)
        assert member.normal.mean == pytest.approx(alone.normal.mean, rel=1e-5)
    assert pair.model.members[0].geometry.size != pair.model.members[1].geometry.size


def test_a_model_of_two_scores_the_mean_of_the_maps_of_two_models(pair: Detector, singles: list[Detector]) -> None:
    for image in (texture(50), damaged(51)[0], texture(52, (80, 150))):
        alone = [maps_of(single, image)[0] for single in singles]
        for one, right in zip(maps_of(pair, image), alone, strict=True):
            assert one == pytest.approx(right, abs=1e-4)
        mean = average_maps(alone)
        assert pair.inspect(image).score == pytest.approx(float(mean.max()), abs=1e-4)
    both = [(one.model.members[0].held_out.signals, one.model.networks(one.model.members[0])) for one in singles]
    right = np.sort(held_out_scores(both, pair.settings))
    assert pair.model.calibration.scores == pytest.approx(right, abs=1e-4)


def test_influence_is_the_mean_over_members(pair: Detector, singles: list[Detector]) -> None:
    image = damaged(51)[0]
    found = pair.inspect(image)
    both = [single.inspect(image).influence_map for single in singles]
    assert 0 <= found.influence_map.min() <= found.influence_map.max() <= 1.001
    # Maps of two grids are interpolated twice: once to the finer, then to the image.
    assert np.abs(found.influence_map - np.mean(both, axis=0)).mean() < 0.02


def test_members_share_the_decoding_of_an_image(pair: Detector, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    decoded: list[Path] = []
    module = sys.modules["offnominal.images.image_source"]
    decode = module.decode
    monkeypatch.setattr(module, "decode", with_spy(lambda path, *more: decoded.append(path), decode))
    assert len(list(pair.inspect_many(paths, failed=lambda at, error: pytest.fail(str(error))))) == len(paths)
    assert sorted(decoded) == sorted(paths)
    decoded.clear()
    Detector(backbone=PAIR, exposure="keep", **SMALL).fit(paths)
    assert sorted(decoded[1:]) == sorted(paths), "the first is decoded before, to see whether there is contrast"


def test_members_of_one_geometry_share_a_view(paths: list[Path]) -> None:
    detector = Detector(backbone=f"{LITE}+efficientnet-lite2+{LITE}@1.5", **SMALL).fit(paths[:4])
    inspector = detector._ready()
    assert [scorer.view for scorer in inspector.scorers] == [0, 0, 1]
    assert len(inspector.views) == 2
    assert len({member.backbone.digest for member in detector.model.members}) == 2


def test_evidence_is_that_of_the_member_whose_map_is_highest_at_the_peak(pair: Detector) -> None:
    named = set()
    for seed in range(60, 66):
        image = damaged(seed)[0]
        found, maps = pair.inspect(image, evidence=True), maps_of(pair, image)
        assert found.regions
        for region in found.regions:
            at = [float(one[position_at(region.peak_at, one.shape, image.shape[:2])]) for one in maps]
            member = pair.model.members[int(np.argmax(at))]
            evidence = found.evidence(region)
            assert evidence.member == member.name
            assert set(evidence.layer_shares) == set(member.backbone.layers)
            first = evidence.nearest[0]
            in_sd = (first.distance - member.normal.mean[DISTANCE]) / member.normal.deviation[DISTANCE]
            assert first.distance_in_sd == pytest.approx(float(in_sd), rel=1e-4)
            named.add(evidence.member)
    assert named <= set(PAIR.split("+"))


def test_shares_of_the_layers_of_all_members_sum_to_one(pair: Detector, singles: list[Detector]) -> None:
    image = damaged(70)[0]
    found = pair.inspect(image, maps=True)
    assert found.layer_maps is not None
    assert set(found.layer_maps) == {f"{name}:{layer}" for name in PAIR.split("+") for layer in ("blocks.2", "blocks.4")}
    total = np.sum(list(found.layer_maps.values()), axis=0)
    assert total == pytest.approx(np.ones(image.shape[:2]), abs=1e-3)
    for single in singles:
        alone = single.inspect(image, maps=True).layer_maps
        assert alone is not None
        for layer, shares in alone.items():
            name = f"{single.model.members[0].name}:{layer}"
            assert found.layer_maps[name] == pytest.approx(shares / 2, abs=1e-3)
    assert found.noise_map is not None
    assert found.noise_map.shape == image.shape[:2]


def test_each_member_can_be_explained_and_the_file_keeps_both(pair: Detector, tmp_path: Path) -> None:
    image = damaged(71)[0]
    shown = [pair.explain(image, member) for member in (0, 1)]
    assert [one.member for one in shown] == PAIR.split("+")
    assert shown[0].grid[0] < shown[1].grid[0]
    pair.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert [member.name for member in again.model.members] == PAIR.split("+")
    assert again.inspect(image).score == pytest.approx(pair.inspect(image).score, abs=1e-5)
