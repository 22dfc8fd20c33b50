"""Every number of a receipt, worked out anew from the model file and the image by plain NumPy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evidence_twin import Twin

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal.errors import InputError
from offnominal.images import box_of, position_at
from offnominal.inference import Inspector, SignalEngine, member_engines
from offnominal.inference.evidence import LEADING, SHOWN, EvidenceMaker
from offnominal.scoring import SIGNALS
from offnominal.types import Evidence, Region

WAYS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one member": {"backbone": "efficientnet-lite0@1.5", "fusion": {"response": 1.0}},
    "pooled channels": {"dimensions": 63, "neighbors": 2},
    "few in the bank": {"bank": 4},
    "one in the bank": {"bank": 1},
}


@pytest.fixture(scope="module", params=list(WAYS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Twin], Any]:
    """The members by their names, and an inspection."""
    settings = {"image_size": 128, "bank": 200, "false_alarm_rate": 0.1, "runtime": "torch", **WAYS[request.param]}
    path = tmp_path_factory.mktemp("evidence") / "m.safetensors"
    Detector(**settings).fit([texture(i) for i in range(10)]).save(path)
    image = damaged(50)[0]
    image[70:90, 95:115] = 255  # a second place
    detector = load(path)
    found = detector.inspect(image, evidence=True, maps=True)
    assert found.regions
    return {member.name: Twin(path, image, number) for number, member in enumerate(detector.model.members)}, found


def test_every_number_can_be_worked_out_anew(case: tuple[dict[str, Twin], Any]) -> None:
    twins, found = case
    for region in found.regions:
        evidence = found.evidence(region)
        twin = twins[evidence.member]
        x = twin.at(region.peak_at)
        _same_neighbours(twin, evidence, x, region)
        _same_shares(twin, evidence, x)
        pull, noise = twin.gradient(x), twin.noise(x)
        _same_leading(evidence.influence, pull, 1e-4)
        assert evidence.noise_std == pytest.approx(np.sqrt((noise**2).mean()), rel=1e-4)
        away, order = twin.nearest(x, twin.settings.neighbors)
        curvature = sum((1 - ((x - twin.bank[at]) / d) ** 2) / d for at, d in zip(order, away, strict=True)) / len(order)
        assert evidence.response == pytest.approx(0.5 * (noise**2 * curvature).sum(), rel=1e-3)
        higher = sum(score >= np.float32(region.peak) for score in twin.scores)
        assert evidence.p_value == (1 + higher) / (len(twin.scores) + 1)
        assert np.array(evidence.curve) == pytest.approx(np.array(twin.curve(x)), rel=1e-4)


def _same_neighbours(twin: Twin, evidence: Evidence, x: np.ndarray, region: Region) -> None:
    wanted = max(SHOWN, twin.settings.distance_neighbors)
    away, order = twin.nearest(x, wanted)
    assert len(evidence.nearest) == len(order) == min(wanted, len(twin.bank))
    assert [near.distance for near in evidence.nearest] == pytest.approx(away, rel=1e-5)
    mean, deviation = twin.tensors["normal.mean"][0], twin.tensors["normal.deviation"][0]
    assert [near.distance_in_sd for near in evidence.nearest] == pytest.approx((away - mean) / deviation, rel=1e-3, abs=1e-3)
    for near, at in zip(evidence.nearest, order, strict=True):
        name, height, width, _ = twin.told["sources"][int(twin.tensors["bank.image"][at])]
        row, column = twin.tensors["bank.position"][at]
        grid = twin.engine.grid(twin.geometry.network_size((height, width)))
        left, top, right, bottom = near.box
        assert near.image == name
        assert left <= column * width / grid[1] < left + 1
        assert right - 1 < (column + 1) * width / grid[1] <= right
        assert top <= row * height / grid[0] < top + 1
        assert bottom - 1 < (row + 1) * height / grid[0] <= bottom
    x0, y0, x1, y1 = evidence.box
    across, down = twin.patch_at(region.peak_at)
    assert x0 <= across < x1
    assert y0 <= down < y1


def _same_shares(twin: Twin, evidence: Evidence, x: np.ndarray) -> None:
    squares = (x - twin.bank[twin.nearest(x, 1)[1][0]]) ** 2
    layers = twin.layer_parts() @ squares
    _same_leading(evidence.channel_shares, squares / squares.sum(), 1e-5)
    assert list(evidence.layer_shares) == twin.member["backbone"]["layers"]
    assert list(evidence.layer_shares.values()) == pytest.approx(layers / layers.sum(), rel=1e-5)
    assert sum(evidence.layer_shares.values()) == pytest.approx(1, abs=1e-9)


def _same_leading(shown: tuple[tuple[int, float], ...], values: np.ndarray, tolerance: float) -> None:
    """The shown are right, in order, and none that is left out is larger."""
    assert len(shown) == min(LEADING, np.count_nonzero(values))
    sizes = [abs(value) for _, value in shown]
    assert sizes == sorted(sizes, reverse=True)
    assert [value for _, value in shown] == pytest.approx([values[channel] for channel, _ in shown], abs=tolerance)
    assert np.delete(np.abs(values), [channel for channel, _ in shown]).max() <= sizes[-1] + tolerance


def test_the_typical_patch_is_the_one_of_median_distance(case: tuple[dict[str, Twin], Any]) -> None:
    twins, found = case
    evidence = found.evidence(found.regions[0])
    twin = twins[evidence.member]
    away = {
        (row, column): twin.nearest(x, twin.settings.distance_neighbors)[0].mean()
        for row, line in enumerate(twin.on_grid())
        for column, x in enumerate(line)
        if 0 < row < twin.grid[0] - 1 and 0 < column < twin.grid[1] - 1
    }
    position = next(at for at in away if box_of(at, twin.grid, twin.original) == evidence.typical_box)
    assert away[position] == pytest.approx(sorted(away.values())[(len(away) - 1) // 2], rel=1e-4)
    assert np.array(evidence.typical_curve) == pytest.approx(np.array(twin.curve(twin.on_grid()[position])), rel=1e-4)


def test_maps_of_noise_and_layers(case: tuple[dict[str, Twin], Any]) -> None:
    """A pixel in the centre of a position has that position's value, the mean of the members; the layers sum to 1."""
    twins, found = case
    several = len(twins) > 1
    names = [
        f"{name}:{layer}" if several else layer for name, twin in twins.items() for layer in twin.member["backbone"]["layers"]
    ]
    assert found.noise_map.shape == found.anomaly_map.shape
    assert list(found.layer_maps) == names
    assert sum(found.layer_maps.values()) == pytest.approx(np.ones(found.anomaly_map.shape), abs=1e-4)
    noise, shares = [], []
    for twin in twins.values():
        patches = twin.on_grid()
        noise.append(np.array([[np.sqrt((twin.noise(x) ** 2).mean()) for x in line] for line in patches], dtype=np.float32))
        squares = np.array([[(x - twin.bank[twin.nearest(x, 1)[1][0]]) ** 2 for x in line] for line in patches])
        shares += list(np.einsum("ld,hwd->lhw", twin.layer_parts(), squares) / squares.sum(2) / len(twins))
    size = found.anomaly_map.shape
    for values, map_ in zip(shares, found.layer_maps.values(), strict=True):
        assert map_ == pytest.approx(_interpolated(values, size), abs=2e-3)
    finest = max((values.shape for values in noise), key=np.prod)
    average = np.mean([_interpolated(values, finest) for values in noise], axis=0)
    assert found.noise_map == pytest.approx(_interpolated(average, size), abs=2e-3)


def _interpolated(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, pixel centres aligned, edges held."""
    for axis, count in enumerate(size):
        at = np.clip((np.arange(count) + 0.5) * values.shape[axis] / count - 0.5, 0, values.shape[axis] - 1)
        low = np.minimum(at.astype(int), values.shape[axis] - 2)
        share = (at - low).reshape(-1, 1) if axis == 0 else at - low
        values = np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share
    return values


def test_the_mean_of_the_neighbours_is_the_distance_that_the_score_is_made_of(detector: Detector) -> None:
    found = detector.inspect(damaged(7)[0], evidence=True)
    region = found.regions[0]
    evidence = found.evidence(region)
    (number,) = (at for at, one in enumerate(detector.model.members) if one.name == evidence.member)
    shown = detector.explain(damaged(7)[0], number)
    row, column = position_at(region.peak_at, shown.grid, found.anomaly_map.shape)
    counted = detector.settings.distance_neighbors
    signals = np.zeros((*shown.grid, len(SIGNALS)), np.float32)
    signals[:, :, 0] = shown.distances[:, :counted].mean(1).reshape(shown.grid)
    standard = detector.model.members[number].normal.standardise(signals)[row, column, 0]
    nearest = evidence.nearest[:counted]
    assert np.mean([near.distance_in_sd for near in nearest]) == pytest.approx(standard, rel=1e-4)


def test_evidence_is_of_the_member_whose_map_is_highest_at_the_peak(detector: Detector) -> None:
    image = damaged(7)[0]
    image[70:74, 100:104] = 255  # small: seen better at the larger scale
    found = detector.inspect(image, evidence=True)
    inspector, alone = detector._ready(), []
    for member, engine in zip(detector.model.members, inspector.engines, strict=True):
        one = Inspector(replace(detector.model, members=(member,), appearance=None), (engine,))
        ((_, of_member, _),) = one.inspect([image], lambda index, error: None)
        alone.append(of_member.anomaly_map)
    clear = 0
    for region in found.regions:
        x, y = region.peak_at
        heights = [float(one[y, x]) for one in alone]
        if abs(heights[0] - heights[1]) > 0.1 * max(heights):  # the maps are interpolated to pixels
            clear += 1
            assert found.evidence(region).member == detector.model.members[int(np.argmax(heights))].name
    assert clear


def test_the_curve_starts_as_the_influence_says_and_falls_for_a_bad_patch(detector: Detector) -> None:
    found = detector.inspect(damaged(8)[0], evidence=True)
    evidence = found.evidence(found.regions[0])
    curve, usual = dict(evidence.curve), dict(evidence.typical_curve)
    assert curve[-1.0] < curve[0.0] < curve[1.0]
    assert curve[0.0] > usual[0.0]
    assert curve[0.0] - min(curve.values()) > usual[0.0] - min(usual.values())


def test_evidence_changes_nothing_and_must_be_asked_for(detector: Detector) -> None:
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
    calm = detector.inspect(texture(100), evidence=True)
    assert calm.regions == ()


def test_several_images_give_what_each_gives_alone(detector: Detector) -> None:
    images = [damaged(20)[0], texture(21), damaged(22)[0]]

    def fail(index: int, error: Exception) -> None:
        raise error

    for index, found in detector.inspect_many(images, failed=fail, evidence=True):
        alone = detector.inspect(images[index], evidence=True)
        for region, other in zip(found.regions, alone.regions, strict=True):
            ours, theirs = found.evidence(region), alone.evidence(other)
            assert [near.box for near in ours.nearest] == [near.box for near in theirs.nearest]
            assert np.array(ours.curve) == pytest.approx(np.array(theirs.curve), rel=1e-3)


def maker_of(detector: Detector, number: int, bank: torch.Tensor | None = None) -> tuple[EvidenceMaker, SignalEngine]:
    """Of one member, on torch; `bank` in place of its own."""
    model = detector.model
    member = model.members[number]
    if bank is not None:
        member = replace(member, bank=replace(member.bank, patches=bank))
    engine = member_engines(model.settings.model_copy(update={"runtime": "torch"}))[number]
    signals = SignalEngine(member.bank.patches, model.settings, member.distance_scale, engine.device)
    return EvidenceMaker(model, member, engine, signals), signals


def test_a_patch_of_the_bank_has_distance_zero_and_nothing_to_share(detector: Detector) -> None:
    maker, signals = maker_of(detector, 0)
    patches = detector.model.members[0].bank.patches[: 14 * 14]  # the interior of a grid of 16 x 16
    region = Region((0, 0, 8, 8), 64, 1.0, (3, 3), 1.0)
    (found,) = maker.regions((region,), patches, signals(patches), (128, 128), (128, 128))
    evidence = found.evidence
    assert evidence is not None
    assert evidence.nearest[0].distance == 0
    assert (evidence.layer_shares, evidence.channel_shares) == ({}, ())
    assert np.isfinite([evidence.noise_std, evidence.response, *(distance for _, distance in evidence.curve)]).all()
    maps = maker.layer_maps(patches, signals(patches), (128, 128))
    assert all((values == 0).all() for values in maps.values())


def test_identical_patches_leave_no_influence_and_a_flat_curve(detector: Detector) -> None:
    """All of the bank at one point, and the patch there too: every number is finite, and no direction leads away."""
    shape = detector.model.members[1].bank.patches.shape
    maker, signals = maker_of(detector, 1, torch.zeros(shape))
    patches = torch.zeros(100, shape[1])
    (found,) = maker.regions((Region((0, 0, 8, 8), 64, 1.0, (3, 3), 1.0),), patches, signals(patches), (96, 96), (64, 64))
    assert found.evidence is not None
    assert found.evidence.influence == ()
    assert {distance for _, distance in found.evidence.curve} == {0.0}


@pytest.mark.parametrize(
    ("grid", "original"), [((16, 20), (96, 120)), ((32, 32), (33, 500)), ((7, 9), (640, 481)), ((8, 8), (5, 3))]
)
def test_boxes_cover_the_image_and_hold_their_pixels(grid: tuple[int, int], original: tuple[int, int]) -> None:
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


def test_a_position_between_good_and_bad(detector: Detector, model_file: Path) -> None:
    """Noise and p-value where neither is at an end of its range, as both are in a blotch."""
    for number, member in enumerate(detector.model.members):
        twin = Twin(model_file, texture(70), number)
        calibration = detector.model.calibration
        signals = SignalEngine(member.bank.patches, detector.settings, member.distance_scale, twin.engine.device)
        patches = torch.from_numpy(twin.patches).float()
        regions = tuple(
            Region((0, 0, 8, 8), 64, peak, (9 * at + 5, 8 * at + 3), calibration.p_value(peak))
            for at, peak in enumerate(calibration.scores[:-2].tolist())
        )
        maker = EvidenceMaker(detector.model, member, twin.engine, signals)
        found = maker.regions(regions, patches, signals(patches), twin.network, twin.original)
        for region in found:
            assert region.evidence is not None
            noise = twin.noise(twin.at(region.peak_at))
            assert noise.std() > 0.01
            assert region.evidence.noise_std == pytest.approx(np.sqrt((noise**2).mean()), rel=1e-4)
            higher = sum(score >= region.peak for score in twin.scores)
            assert region.evidence.p_value == (1 + higher) / (len(twin.scores) + 1)
        assert len({region.evidence.p_value for region in found if region.evidence}) > 3


def test_what_is_shown_has_a_patch_of_its_own() -> None:
    images = [texture(seed) for seed in range(6)]
    detector = Detector(image_size=96, bank=200, false_alarm_rate=0.2).fit(images)
    bad = images[0].copy()
    bad[:10, :10] = 255 - bad[:10, :10]
    (region, *_) = detector.inspect(bad, evidence=True).regions
    assert region.evidence is not None
    for engine, member in zip(detector._ready().engines, detector.model.members, strict=True):
        height, width = engine.grid(member.geometry.network_size(images[0].shape[:2]))
        assert member.bank.position.min() == 1
        assert (member.bank.position.max(0) == (height - 2, width - 2)).all()
        if member.name == region.evidence.member:
            position = min(bad.shape[0] // height, bad.shape[1] // width)
            for box in (region.evidence.box, region.evidence.typical_box):
                assert box is not None
                assert min(box[:2]) >= position
