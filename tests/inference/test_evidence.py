"""Each number of the evidence, recomputed with NumPy from the model file and the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_evidence import NaiveEvidence

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal.errors import InputError
from offnominal.images import box_of, position_at
from offnominal.inference import Inspector, PatchSignals, SignalEngine, member_engines
from offnominal.inference.evidence import LEADING, SHOWN, EvidenceMaker
from offnominal.scoring import SIGNALS
from offnominal.types import Evidence, Region

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one member": {"backbone": "efficientnet-lite0@1.5", "fusion": {"response": 1.0}},
    "pooled channels": {"dimensions": 63, "neighbors": 2},
    "few in the bank": {"bank": 4},
    "one in the bank": {"bank": 1},
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, NaiveEvidence], Any]:
    """The naive evidence of each member by name, and an inspection."""
    settings = {"image_size": 128, "bank": 200, "false_alarm_rate": 0.1, "runtime": "torch", **SETTINGS[request.param]}
    path = tmp_path_factory.mktemp("evidence") / "m.safetensors"
    Detector(**settings).fit([texture(i) for i in range(10)]).save(path)
    image = damaged(50)[0]
    image[70:90, 95:115] = 255  # a second region
    detector = load(path)
    inspection = detector.inspect(image, evidence=True, maps=True)
    assert inspection.regions
    return {member.name: NaiveEvidence(path, image, number) for number, member in enumerate(detector.model.members)}, inspection


def test_every_number_equals_the_naive_one(case: tuple[dict[str, NaiveEvidence], Any]) -> None:
    members, inspection = case
    for region in inspection.regions:
        evidence = inspection.evidence(region)
        naive = members[evidence.member]
        x = naive.at(region.peak_at)
        _assert_same_neighbours(naive, evidence, x, region)
        _assert_same_shares(naive, evidence, x)
        gradient, noise = naive.gradient(x), naive.noise(x)
        _assert_leading(evidence.influence, gradient, 1e-4)
        assert evidence.noise_std == pytest.approx(np.sqrt((noise**2).mean()), rel=1e-4)
        distances, order = naive.nearest(x, naive.settings.neighbors)
        curvature = sum((1 - ((x - naive.bank[at]) / d) ** 2) / d for at, d in zip(order, distances, strict=True)) / len(order)
        assert evidence.response == pytest.approx(0.5 * (noise**2 * curvature).sum(), rel=1e-3)
        higher = sum(score >= np.float32(region.peak) for score in naive.scores)
        assert evidence.p_value == (1 + higher) / (len(naive.scores) + 1)
        assert np.array(evidence.curve) == pytest.approx(np.array(naive.curve(x)), rel=1e-4)


def _assert_same_neighbours(naive: NaiveEvidence, evidence: Evidence, x: np.ndarray, region: Region) -> None:
    count = max(SHOWN, naive.settings.distance_neighbors)
    distances, order = naive.nearest(x, count)
    assert len(evidence.nearest) == len(order) == min(count, len(naive.bank))
    assert [near.distance for near in evidence.nearest] == pytest.approx(distances, rel=1e-5)
    mean, deviation = naive.tensors["normal.mean"][0], naive.tensors["normal.deviation"][0]
    assert [near.distance_in_sd for near in evidence.nearest] == pytest.approx(
        (distances - mean) / deviation, rel=1e-3, abs=1e-3
    )
    for near, at in zip(evidence.nearest, order, strict=True):
        name, height, width, _ = naive.description["sources"][int(naive.tensors["bank.image"][at])]
        row, column = naive.tensors["bank.position"][at]
        grid = naive.engine.grid(naive.geometry.network_size((height, width)))
        left, top, right, bottom = near.box
        assert near.image == name
        assert left <= column * width / grid[1] < left + 1
        assert right - 1 < (column + 1) * width / grid[1] <= right
        assert top <= row * height / grid[0] < top + 1
        assert bottom - 1 < (row + 1) * height / grid[0] <= bottom
    x0, y0, x1, y1 = evidence.box
    x_patch, y_patch = naive.patch_at(region.peak_at)
    assert x0 <= x_patch < x1
    assert y0 <= y_patch < y1


def _assert_same_shares(naive: NaiveEvidence, evidence: Evidence, x: np.ndarray) -> None:
    squares = (x - naive.bank[naive.nearest(x, 1)[1][0]]) ** 2
    layers = naive.layer_parts() @ squares
    _assert_leading(evidence.channel_shares, squares / squares.sum(), 1e-5)
    assert list(evidence.layer_shares) == naive.member["backbone"]["layers"]
    assert list(evidence.layer_shares.values()) == pytest.approx(layers / layers.sum(), rel=1e-5)
    assert sum(evidence.layer_shares.values()) == pytest.approx(1, abs=1e-9)


def _assert_leading(shown: tuple[tuple[int, float], ...], values: np.ndarray, tolerance: float) -> None:
    """The shown values are correct and sorted by size, and no other value is larger."""
    assert len(shown) == min(LEADING, np.count_nonzero(values))
    sizes = [abs(value) for _, value in shown]
    assert sizes == sorted(sizes, reverse=True)
    assert [value for _, value in shown] == pytest.approx([values[channel] for channel, _ in shown], abs=tolerance)
    assert np.delete(np.abs(values), [channel for channel, _ in shown]).max() <= sizes[-1] + tolerance


def test_the_typical_patch_has_the_median_distance(case: tuple[dict[str, NaiveEvidence], Any]) -> None:
    members, inspection = case
    evidence = inspection.evidence(inspection.regions[0])
    naive = members[evidence.member]
    distances = {
        (row, column): naive.nearest(x, naive.settings.distance_neighbors)[0].mean()
        for row, line in enumerate(naive.on_grid())
        for column, x in enumerate(line)
        if 0 < row < naive.grid[0] - 1 and 0 < column < naive.grid[1] - 1
    }
    position = next(at for at in distances if box_of(at, naive.grid, naive.original) == evidence.typical_box)
    assert distances[position] == pytest.approx(sorted(distances.values())[(len(distances) - 1) // 2], rel=1e-4)
    assert np.array(evidence.typical_curve) == pytest.approx(np.array(naive.curve(naive.on_grid()[position])), rel=1e-4)


def test_noise_and_layer_maps_equal_the_naive_ones(case: tuple[dict[str, NaiveEvidence], Any]) -> None:
    """Maps are interpolated from the positions and averaged over the members.

    The layer maps sum to 1.
    """
    members, inspection = case
    several = len(members) > 1
    names = [
        f"{name}:{layer}" if several else layer
        for name, naive in members.items()
        for layer in naive.member["backbone"]["layers"]
    ]
    assert inspection.noise_map.shape == inspection.anomaly_map.shape
    assert list(inspection.layer_maps) == names
    assert sum(inspection.layer_maps.values()) == pytest.approx(np.ones(inspection.anomaly_map.shape), abs=1e-4)
    noise, shares = [], []
    for naive in members.values():
        patches = naive.on_grid()
        noise.append(np.array([[np.sqrt((naive.noise(x) ** 2).mean()) for x in line] for line in patches], dtype=np.float32))
        squares = np.array([[(x - naive.bank[naive.nearest(x, 1)[1][0]]) ** 2 for x in line] for line in patches])
        shares += list(np.einsum("ld,hwd->lhw", naive.layer_parts(), squares) / squares.sum(2) / len(members))
    size = inspection.anomaly_map.shape
    for values, map_ in zip(shares, inspection.layer_maps.values(), strict=True):
        assert map_ == pytest.approx(_interpolated(values, size), abs=2e-3)
    finest = max((values.shape for values in noise), key=np.prod)
    average = np.mean([_interpolated(values, finest) for values in noise], axis=0)
    assert inspection.noise_map == pytest.approx(_interpolated(average, size), abs=2e-3)


def _interpolated(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation with aligned pixel centres, constant beyond the edges."""
    for axis, count in enumerate(size):
        at = np.clip((np.arange(count) + 0.5) * values.shape[axis] / count - 0.5, 0, values.shape[axis] - 1)
        low = np.minimum(at.astype(int), values.shape[axis] - 2)
        share = (at - low).reshape(-1, 1) if axis == 0 else at - low
        values = np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share
    return values


def test_the_mean_neighbour_distance_is_the_distance_signal(detector: Detector) -> None:
    inspection = detector.inspect(damaged(7)[0], evidence=True)
    region = inspection.regions[0]
    evidence = inspection.evidence(region)
    (number,) = (at for at, member in enumerate(detector.model.members) if member.name == evidence.member)
    explanation = detector.explain(damaged(7)[0], number)
    row, column = position_at(region.peak_at, explanation.grid, inspection.anomaly_map.shape)
    k = detector.settings.distance_neighbors
    signals = np.zeros((*explanation.grid, len(SIGNALS)), np.float32)
    signals[:, :, 0] = explanation.distances[:, :k].mean(1).reshape(explanation.grid)
    standardised = detector.model.members[number].normal.standardise(signals)[row, column, 0]
    nearest = evidence.nearest[:k]
    assert np.mean([near.distance_in_sd for near in nearest]) == pytest.approx(standardised, rel=1e-4)


def test_evidence_comes_from_the_member_with_the_highest_map_at_the_peak(detector: Detector) -> None:
    image = damaged(7)[0]
    image[70:74, 100:104] = 255  # small, so that the larger scale detects it better
    inspection = detector.inspect(image, evidence=True)
    inspector, maps = detector._ready(), []
    for member, engine in zip(detector.model.members, inspector.engines, strict=True):
        single = Inspector(replace(detector.model, members=(member,), appearance=None), (engine,))
        ((_, of_member, _),) = single.inspect([image], lambda index, error: None)
        maps.append(of_member.anomaly_map)
    distinct = 0
    for region in inspection.regions:
        x, y = region.peak_at
        heights = [float(map_[y, x]) for map_ in maps]
        if abs(heights[0] - heights[1]) > 0.1 * max(heights):  # the maps are interpolated to pixels
            distinct += 1
            assert inspection.evidence(region).member == detector.model.members[int(np.argmax(heights))].name
    assert distinct


def test_the_distance_curve_falls_more_for_an_anomalous_patch(detector: Detector) -> None:
    inspection = detector.inspect(damaged(8)[0], evidence=True)
    evidence = inspection.evidence(inspection.regions[0])
    curve, typical = dict(evidence.curve), dict(evidence.typical_curve)
    assert curve[-1.0] < curve[0.0] < curve[1.0]
    assert curve[0.0] > typical[0.0]
    assert curve[0.0] - min(curve.values()) > typical[0.0] - min(typical.values())


def test_evidence_is_optional_and_does_not_change_the_results(detector: Detector) -> None:
    image = damaged(9)[0]
    plain, full = detector.inspect(image), detector.inspect(image, evidence=True, maps=True)
    assert plain.score == pytest.approx(full.score, abs=1e-5)
    assert plain.regions == tuple(replace(region, evidence=None) for region in full.regions)
    assert plain.noise_map is None
    assert plain.layer_maps is None
    with pytest.raises(InputError, match="evidence=True"):
        plain.evidence(plain.regions[0])
    with pytest.raises(InputError, match="not one of"):
        plain.evidence(Region((0, 0, 1, 1), 1, 0.0, (0, 0), 1.0))
    normal = detector.inspect(texture(100), evidence=True)
    assert normal.regions == ()


def test_evidence_of_several_images_equals_that_of_each_image(detector: Detector) -> None:
    images = [damaged(20)[0], texture(21), damaged(22)[0]]

    def fail(index: int, error: Exception) -> None:
        raise error

    for index, inspection in detector.inspect_many(images, failed=fail, evidence=True):
        single = detector.inspect(images[index], evidence=True)
        for region, other in zip(inspection.regions, single.regions, strict=True):
            evidence, expected = inspection.evidence(region), single.evidence(other)
            assert [near.box for near in evidence.nearest] == [near.box for near in expected.nearest]
            assert np.array(evidence.curve) == pytest.approx(np.array(expected.curve), rel=1e-3)


def maker_of(detector: Detector, number: int, bank: torch.Tensor | None = None) -> tuple[EvidenceMaker, SignalEngine]:
    """The evidence maker of one member on torch, optionally with another bank."""
    model = detector.model
    member = model.members[number]
    if bank is not None:
        member = replace(member, bank=replace(member.bank, patches=bank))
    engine = member_engines(model.settings.model_copy(update={"runtime": "torch"}))[number]
    signals = SignalEngine(member.bank.patches, model.settings, member.distance_scale, engine.device)
    return EvidenceMaker(model, member, engine, signals), signals


def explained_by(
    maker: EvidenceMaker,
    regions: tuple[Region, ...],
    patches: torch.Tensor,
    signals: PatchSignals,
    network: tuple[int, int],
    original: tuple[int, int],
) -> tuple[Region, ...]:
    """The regions with evidence."""
    indices = signals.neighbourhood.indices
    return maker.regions(regions, lambda rows: patches[list(rows)], signals.values, indices, network, original)


def test_a_patch_in_the_bank_has_distance_zero_and_no_shares(detector: Detector) -> None:
    maker, signals = maker_of(detector, 0)
    patches = detector.model.members[0].bank.patches[: 14 * 14]  # the interior of a grid of 16 x 16
    region = Region((0, 0, 8, 8), 64, 1.0, (3, 3), 1.0)
    (explained,) = explained_by(maker, (region,), patches, signals(patches), (128, 128), (128, 128))
    evidence = explained.evidence
    assert evidence is not None
    assert evidence.nearest[0].distance == 0
    assert (evidence.layer_shares, evidence.channel_shares) == ({}, ())
    assert np.isfinite([evidence.noise_std, evidence.response, *(distance for _, distance in evidence.curve)]).all()
    assert (maker.layer_shares(patches, signals(patches).neighbourhood.indices) == 0).all()


def test_identical_patches_have_no_influence_and_a_flat_curve(detector: Detector) -> None:
    """All bank patches and the patch are equal. Every number is finite."""
    shape = detector.model.members[1].bank.patches.shape
    maker, signals = maker_of(detector, 1, torch.zeros(shape))
    patches = torch.zeros(100, shape[1])
    regions = (Region((0, 0, 8, 8), 64, 1.0, (3, 3), 1.0),)
    (region,) = explained_by(maker, regions, patches, signals(patches), (96, 96), (64, 64))
    assert region.evidence is not None
    assert region.evidence.influence == ()
    assert {distance for _, distance in region.evidence.curve} == {0.0}


@pytest.mark.parametrize(
    ("grid", "original"), [((16, 20), (96, 120)), ((32, 32), (33, 500)), ((7, 9), (640, 481)), ((8, 8), (5, 3))]
)
def test_boxes_cover_the_image_and_contain_their_pixels(grid: tuple[int, int], original: tuple[int, int]) -> None:
    covered = np.zeros(original, bool)
    for row in range(grid[0]):
        for column in range(grid[1]):
            left, top, right, bottom = box_of((row, column), grid, original)
            assert 0 <= left < right <= original[1]
            assert 0 <= top < bottom <= original[0]
            covered[top:bottom, left:right] = True
    assert covered.all()
    for y in range(original[0]):
        for x in range(0, original[1], 7):
            left, top, right, bottom = box_of(position_at((x, y), grid, original), grid, original)
            assert left <= x < right
            assert top <= y < bottom


def test_evidence_of_intermediate_scores_equals_the_naive_one(detector: Detector, model_file: Path) -> None:
    """Noise and p-values inside their ranges. In a blotch, both are at the ends of their ranges."""
    for number, member in enumerate(detector.model.members):
        naive = NaiveEvidence(model_file, texture(70), number)
        calibration = detector.model.calibration
        signals = SignalEngine(member.bank.patches, detector.settings, member.distance_scale, naive.engine.device)
        patches = torch.from_numpy(naive.patches).float()
        regions = tuple(
            Region((0, 0, 8, 8), 64, peak, (9 * at + 5, 8 * at + 3), calibration.p_value(peak))
            for at, peak in enumerate(calibration.scores[:-2].tolist())
        )
        maker = EvidenceMaker(detector.model, member, naive.engine, signals)
        explained = explained_by(maker, regions, patches, signals(patches), naive.network, naive.original)
        for region in explained:
            assert region.evidence is not None
            noise = naive.noise(naive.at(region.peak_at))
            assert noise.std() > 0.01
            assert region.evidence.noise_std == pytest.approx(np.sqrt((noise**2).mean()), rel=1e-4)
            higher = sum(score >= region.peak for score in naive.scores)
            assert region.evidence.p_value == (1 + higher) / (len(naive.scores) + 1)
        assert len({region.evidence.p_value for region in explained if region.evidence}) > 3


def test_evidence_refers_to_interior_positions() -> None:
    images = [texture(seed) for seed in range(6)]
    detector = Detector(image_size=96, bank=200, false_alarm_rate=0.2).fit(images)
    image = images[0].copy()
    image[:10, :10] = 255 - image[:10, :10]
    (region, *_) = detector.inspect(image, evidence=True).regions
    assert region.evidence is not None
    for engine, member in zip(detector._ready().engines, detector.model.members, strict=True):
        height, width = engine.grid(member.geometry.network_size(images[0].shape[:2]))
        assert member.bank.position.min() == 1
        assert (member.bank.position.max(0) == (height - 2, width - 2)).all()
        if member.name == region.evidence.member:
            position_size = min(image.shape[0] // height, image.shape[1] // width)
            for box in (region.evidence.box, region.evidence.typical_box):
                assert box is not None
                assert min(box[:2]) >= position_size
