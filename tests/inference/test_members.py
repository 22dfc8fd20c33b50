"""Members of a model: their names, and that a model with two members averages the maps of two models."""

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
def test_member_names_are_parsed(text: str, members: list[tuple[str, float]]) -> None:
    assert parse_members(text) == tuple(MemberName(*one) for one in members)


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_wrong_member_names_are_a_one_line_error(text: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message) as caught:
        parse_members(text)
    assert "\n" not in str(caught.value)


names = st.text("abc_.0123", min_size=1, max_size=6)
quarters = st.integers(1, 16).map(lambda number: number / 4)


@given(st.lists(st.builds(MemberName, names, quarters), min_size=1, max_size=4, unique=True))
def test_member_names_round_trip(members: list[MemberName]) -> None:
    assert parse_members("+".join(map(str, members))) == tuple(members)


def test_layers_and_weights_need_a_single_backbone(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="belong to one backbone"):
        member_engines(settings_from(backbone=f"{LITE}+efficientnet-lite2", layers="blocks.2"))
    with pytest.raises(BackboneError, match="belong to one backbone"):
        member_engines(settings_from(backbone=f"{LITE}+resnet18"), tmp_path / "w.pth")
    engines = member_engines(settings_from(backbone=PAIR, layers="blocks.2"))
    assert [engine.identity.layers for engine in engines] == [("blocks.2",)] * 2


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("normal")
    files = [folder / f"{seed}.png" for seed in range(9)]
    for seed, path in enumerate(files):
        cv2.imwrite(str(path), texture(seed))
    return files


@pytest.fixture(scope="module")
def pair(paths: list[Path]) -> Detector:
    return Detector(backbone=PAIR, **SMALL).fit(paths)


@pytest.fixture(scope="module")
def singles(paths: list[Path]) -> list[Detector]:
    return [Detector(backbone=name, **SMALL).fit(paths) for name in PAIR.split("+")]


def maps_of(detector: Detector, image: Any) -> list[np.ndarray]:
    """The anomaly map of each member, before it is resized to the image."""
    inspector = detector._ready()
    (batch,) = batches(
        [image],
        inspector.preprocessing,
        batch_size=1,
        failed=lambda at, error: pytest.fail(str(error)),
    )
    return [scorer.score(batch, False)[1][0].anomaly for scorer in inspector.scorers]


def test_each_member_equals_a_model_of_that_member(pair: Detector, singles: list[Detector]) -> None:
    assert [member.name for member in pair.model.members] == PAIR.split("+")
    for member, single in zip(pair.model.members, singles, strict=True):
        (expected,) = single.model.members
        assert member.name == expected.name
        assert member.geometry == expected.geometry
        assert len(member.bank.patches) == len(expected.bank.patches) == SMALL["bank"]
        assert torch.allclose(member.bank.patches, expected.bank.patches, atol=1e-5)
        assert np.array_equal(member.bank.image, expected.bank.image)
        assert np.array_equal(member.bank.position, expected.bank.position)
        assert member.normal.mean == pytest.approx(expected.normal.mean, rel=1e-5)
    assert pair.model.members[0].geometry.size != pair.model.members[1].geometry.size


def test_two_members_score_the_mean_of_their_maps(pair: Detector, singles: list[Detector]) -> None:
    for image in (texture(50), damaged(51)[0], texture(52, (80, 150))):
        maps = [maps_of(single, image)[0] for single in singles]
        for map_, expected in zip(maps_of(pair, image), maps, strict=True):
            assert map_ == pytest.approx(expected, abs=1e-4)
        mean = average_maps(maps)
        assert pair.inspect(image).score == pytest.approx(float(mean.max()), abs=1e-4)
    held_out = [
        (single.model.members[0].held_out.signals, single.model.networks(single.model.members[0])) for single in singles
    ]
    scores = np.sort(held_out_scores(held_out, pair.settings, pair.model.sources))
    assert pair.model.calibration.scores == pytest.approx(scores, abs=1e-4)


def test_the_influence_map_is_the_mean_over_members(pair: Detector, singles: list[Detector]) -> None:
    image = damaged(51)[0]
    inspection = pair.inspect(image)
    maps = [single.inspect(image).influence_map for single in singles]
    assert 0 <= inspection.influence_map.min() <= inspection.influence_map.max() <= 1.001
    # Maps are interpolated twice: to the finer grid, then to the image.
    assert np.abs(inspection.influence_map - np.mean(maps, axis=0)).mean() < 0.02


def test_members_share_decoded_images(pair: Detector, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    decoded: list[Path] = []
    module = sys.modules["offnominal.images.image_source"]
    decode = module.decode
    monkeypatch.setattr(module, "decode", with_spy(lambda path, *args: decoded.append(path), decode))
    assert len(list(pair.inspect_many(paths, failed=lambda at, error: pytest.fail(str(error))))) == len(paths)
    assert sorted(decoded) == sorted(paths)
    decoded.clear()
    Detector(backbone=PAIR, exposure="keep", **SMALL).fit(paths)
    assert sorted(decoded[1:]) == sorted(paths), "the first image is also decoded to check the contrast"


def test_members_with_equal_geometry_share_a_view(paths: list[Path]) -> None:
    detector = Detector(backbone=f"{LITE}+efficientnet-lite2+{LITE}@1.5", **SMALL).fit(paths[:4])
    inspector = detector._ready()
    assert [scorer.view for scorer in inspector.scorers] == [0, 0, 1]
    assert len(inspector.preprocessing.geometries) == 2
    assert len({member.backbone.digest for member in detector.model.members}) == 2


def test_evidence_comes_from_the_member_with_the_highest_map(pair: Detector) -> None:
    members = set()
    for seed in range(60, 66):
        image = damaged(seed)[0]
        inspection, maps = pair.inspect(image, evidence=True), maps_of(pair, image)
        assert inspection.regions
        for region in inspection.regions:
            peaks = [float(map_[position_at(region.peak_at, map_.shape, image.shape[:2])]) for map_ in maps]
            member = pair.model.members[int(np.argmax(peaks))]
            evidence = inspection.evidence(region)
            assert evidence.member == member.name
            assert set(evidence.layer_shares) == set(member.backbone.layers)
            first = evidence.nearest[0]
            in_sd = (first.distance - member.normal.mean[DISTANCE]) / member.normal.deviation[DISTANCE]
            assert first.distance_in_sd == pytest.approx(float(in_sd), rel=1e-4)
            members.add(evidence.member)
    assert members <= set(PAIR.split("+"))


def test_layer_shares_of_all_members_sum_to_one(pair: Detector, singles: list[Detector]) -> None:
    image = damaged(70)[0]
    inspection = pair.inspect(image, maps=True)
    assert inspection.layer_maps is not None
    assert set(inspection.layer_maps) == {f"{name}:{layer}" for name in PAIR.split("+") for layer in ("blocks.2", "blocks.4")}
    total = np.sum(list(inspection.layer_maps.values()), axis=0)
    assert total == pytest.approx(np.ones(image.shape[:2]), abs=1e-3)
    for single in singles:
        layer_maps = single.inspect(image, maps=True).layer_maps
        assert layer_maps is not None
        for layer, shares in layer_maps.items():
            name = f"{single.model.members[0].name}:{layer}"
            assert inspection.layer_maps[name] == pytest.approx(shares / 2, abs=1e-3)
    assert inspection.noise_map is not None
    assert inspection.noise_map.shape == image.shape[:2]


def test_each_member_is_explained_and_stored(pair: Detector, tmp_path: Path) -> None:
    image = damaged(71)[0]
    explanations = [pair.explain(image, member) for member in (0, 1)]
    assert [explanation.member for explanation in explanations] == PAIR.split("+")
    assert explanations[0].grid[0] < explanations[1].grid[0]
    pair.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert [member.name for member in loaded.model.members] == PAIR.split("+")
    assert loaded.inspect(image).score == pytest.approx(pair.inspect(image).score, abs=1e-5)
