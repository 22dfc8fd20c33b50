"""Search on the coarse map of upsampled features, against search with the patches."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import texture, with_spy
from offnominal import Detector
from offnominal.config import DEFAULT_BACKBONE
from offnominal.features import channel_standard
from offnominal.images import Preprocessing, ValueRange, batches
from offnominal.inference import FeatureEngine, member_engines
from offnominal.memory import HeldOutBanks, NearestPatches, Upsampling, compiled, search
from offnominal.memory.upsampled import PART_SIZE, UpsampledBank, nearest
from offnominal.types import interior

pytestmark = pytest.mark.skipif(not compiled.compiled(), reason="installed without a compiler")
GRIDS = [(2, 2), (2, 8), (6, 4), (32, 44)]


@pytest.fixture(autouse=True)
def _without_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "uses_pruning", lambda count, dimensions: False)


def upsampled_patches(
    grid: tuple[int, int], seed: int = 0, fine: int = 5, coarse: int = 7
) -> tuple[torch.Tensor, torch.Tensor, Upsampling]:
    """(N, D) patches, the coarse map (h w / 4, coarse), and the `Upsampling` that describes them."""
    draw = torch.Generator().manual_seed(seed)
    share = 0.4 + 0.6 * torch.rand(grid, generator=draw)
    low = torch.randn((1, coarse, grid[0] // 2, grid[1] // 2), generator=draw)
    high = F.interpolate(low, size=grid, mode="bilinear", align_corners=False)[0] * share
    own = torch.randn((fine, *grid), generator=draw)
    inside = interior(grid)
    patches = torch.cat([own, high])[:, *inside].flatten(1).T.contiguous()
    return patches, low[0].flatten(1).T, Upsampling(fine, grid, share[inside])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, PART_SIZE - 1, PART_SIZE, 2 * PART_SIZE + 3])
def test_neighbours_and_distances_equal_brute_force(grid: tuple[int, int], count: int) -> None:
    patches, low, upsampling = upsampled_patches(grid)
    bank = torch.randn((count, patches.shape[1]), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(upsampling.map(patches), low, atol=1e-5)
    squared, rows = UpsampledBank(bank)(patches, min(count, 60), upsampling)
    all_squared = (patches[:, None].double() - bank.double()).square().sum(2)
    assert torch.allclose(squared.double(), all_squared.sort(dim=1).values[:, : squared.shape[1]], atol=2e-4)
    assert torch.allclose(squared.double(), all_squared.gather(1, rows), atol=2e-4)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


@pytest.mark.parametrize("grid", GRIDS)
def test_corners_and_weights_equal_bilinear_interpolation(grid: tuple[int, int]) -> None:
    _, low, upsampling = upsampled_patches(grid)
    high = F.interpolate(low.T.unflatten(1, upsampling.half)[None], size=grid, mode="bilinear", align_corners=False)[0]
    expected = (high[:, *interior(grid)] * upsampling.share).flatten(1).T
    interpolated = (low[upsampling.corners] * upsampling.weights[:, :, None]).sum(1)
    assert torch.allclose(interpolated, expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_neighbours_do_not_depend_on_threads(threads: int) -> None:
    patches, _, upsampling = upsampled_patches((32, 44))
    bank = UpsampledBank(upsampled_patches((32, 44), 2)[0][:700])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        squared, rows = bank(patches, 9, upsampling)
        torch.set_num_threads(threads)
        others = bank(patches, 9, upsampling)
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(squared, others[0], atol=1e-4)
    assert (rows == others[1]).float().mean() > 0.999


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("count", [1, 3, 700])
def test_upsampled_search_equals_plain_search(grid: tuple[int, int], count: int) -> None:
    patches, _, upsampling = upsampled_patches(grid)
    nearest = NearestPatches(upsampled_patches((32, 44), 2)[0][:count] + 0.1)
    (squared, rows), (plain, plain_rows) = nearest(patches, 4, upsampling), nearest(patches, 4)
    assert torch.allclose(squared, plain, atol=1e-4)
    assert (rows == plain_rows).float().mean() > 0.999
    assert (squared.diff(dim=1) >= 0).all()


def test_equal_and_infinite_patches() -> None:
    patches, _, upsampling = upsampled_patches((6, 4))
    nearest = NearestPatches(patches[:1].expand(600, -1))
    squared, rows = nearest(patches, 3, upsampling)
    assert torch.allclose(squared, nearest(patches, 3)[0], atol=1e-4)
    assert all(len(set(row)) == 3 for row in rows.tolist())
    patches[5] = torch.inf
    squared, rows = nearest(patches, 3, upsampling)
    assert squared.shape == rows.shape == (8, 3)
    assert ((rows >= 0) & (rows < 600)).all()


def test_invalid_arguments_are_refused() -> None:
    products, corners = (torch.zeros(4, 10), torch.zeros(20, 10)), torch.zeros((20, 4), dtype=torch.int64)
    neighbours = torch.full((20, 3), torch.inf), torch.full((20, 3), -1)
    nearest(products, (corners, torch.zeros(20, 4)), 0, neighbours)
    with pytest.raises(ValueError, match=r"expected .*float32 \(20, 4\)"):
        nearest(products, (corners, torch.zeros(20, 3)), 0, neighbours)
    with pytest.raises(ValueError, match="at most 512 bank patches at once, got 600"):
        nearest((torch.zeros(4, 600), torch.zeros(20, 600)), (corners, torch.zeros(20, 4)), 0, neighbours)
    assert importlib.import_module(compiled.UPSAMPLED).MOST_AT_ONCE == PART_SIZE


def test_odd_grids_and_wrong_share_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be even, got 3 x 4"):
        Upsampling(2, (3, 4), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"share must be \(2, 4\), got \(4, 6\)"):
        Upsampling(2, (4, 6), torch.ones(4, 6))


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"backbone": "efficientnet-lite0"}, 40),
        ({"backbone": "efficientnet-lite2"}, 48),
        ({"backbone": "efficientnet-lite0", "layers": ("blocks.2",)}, None),
        ({"backbone": "efficientnet-lite0", "layers": ("blocks.1", "blocks.4")}, None),
        ({"backbone": "efficientnet-lite0", "dimensions": 96}, None),
        ({"backbone": "efficientnet-lite0@1.5"}, 40),
    ],
)
def test_engine_patches_match_their_upsampling(settings: dict[str, Any], first: int | None) -> None:
    (engine,) = member_engines(Detector(image_size=96, resize="keep", **settings).settings)
    (batch,) = batches(
        [texture(0)],
        Preprocessing([engine.geometry([])], ValueRange("8-bit", 0, 255)),
        batch_size=1,
        failed=lambda index, error: None,
    )
    pixels = batch.network_input(0)
    network = (pixels.shape[2], pixels.shape[3])
    upsampling = engine.upsampling(network)
    assert (upsampling and upsampling.first) == first
    if upsampling is None:
        return
    raw = engine.patches(pixels)
    patches = engine.standardise(raw, channel_standard(raw[0]), network)[0]
    low = upsampling.map(patches).T.unflatten(1, upsampling.half)
    high = F.interpolate(low[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    high = high[:, *interior((high.shape[1], high.shape[2]))] * upsampling.share
    assert torch.allclose(high.flatten(1).T, patches[:, upsampling.first :], atol=1e-4)


def test_inspections_use_upsampled_search(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    products = UpsampledBank.__call__
    monkeypatch.setattr(UpsampledBank, "__call__", with_spy(lambda *args: calls.append(args), products))
    images = [texture(seed) for seed in range(12)]
    detector = Detector(image_size=96, bank=200, false_alarm_rate=0.1).fit(images)
    calls.clear()
    maps, explained = [detector.inspect(image).anomaly_map for image in images[:2]], detector.explain(images[0]).distances
    assert len(calls) == 5  # two images with two members, and one explanation
    monkeypatch.setattr(FeatureEngine, "upsampling", lambda self, network: None)
    plain_maps, plain_explained = (
        [detector.inspect(image).anomaly_map for image in images[:2]],
        detector.explain(images[0]).distances,
    )
    assert len(calls) == 5
    assert np.allclose(explained, plain_explained, rtol=1e-4)
    assert np.allclose(maps[1], plain_maps[1], rtol=1e-4)
    assert np.allclose(maps[0], plain_maps[0], rtol=0, atol=1e-5)  # the map has zeros, so the tolerance is absolute


#: Rounding grows with the number of features. Scores are in standard deviations.
@pytest.mark.parametrize(("backbone", "tolerance"), [("efficientnet-lite0", {"rel": 1e-4}), (DEFAULT_BACKBONE, {"abs": 1e-4})])
def test_fits_use_upsampled_search(backbone: str, tolerance: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    products = UpsampledBank.__call__
    monkeypatch.setattr(UpsampledBank, "__call__", with_spy(lambda *args: calls.append(args), products))
    images = [texture(seed) for seed in range(12)]
    model = Detector(backbone=backbone, image_size=96, bank=200, false_alarm_rate=0.1).fit(images).model
    assert len(calls) >= 12
    calls.clear()
    monkeypatch.setattr(FeatureEngine, "upsampling", lambda self, network: None)
    plain = Detector(backbone=backbone, image_size=96, bank=200, false_alarm_rate=0.1).fit(images).model
    assert not calls
    assert model.calibration.scores == pytest.approx(plain.calibration.scores, **tolerance)
    for member, other in zip(model.members, plain.members, strict=True):
        for signals, others in zip(member.held_out.signals, other.held_out.signals, strict=True):
            assert np.allclose(signals, others, rtol=1e-3, atol=1e-3)


def test_audits_and_updates_use_upsampled_search(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    products = UpsampledBank.__call__
    images = [texture(seed) for seed in range(14)]
    detector = Detector(image_size=96, bank=200, false_alarm_rate=0.1)
    fitted = Detector(image_size=96, bank=200, false_alarm_rate=0.1).fit(images[:12])
    monkeypatch.setattr(UpsampledBank, "__call__", with_spy(lambda *args: calls.append(args), products))
    audit = detector.audit(images[:12])
    assert len(calls) >= 12
    calls.clear()
    fitted.update(add=images[12:])
    assert len(calls) == 4
    monkeypatch.setattr(FeatureEngine, "upsampling", lambda self, network: None)
    assert audit.scores == pytest.approx(detector.audit(images[:12]).scores, rel=1e-3)
    assert len(calls) == 4


def held_out_pair(dtype: torch.dtype = torch.float32) -> list[HeldOutBanks]:
    """Held-out banks of images of two shapes, with and without their upsampling."""
    images = [upsampled_patches((6, 4), seed) for seed in range(3)] + [upsampled_patches((4, 8), seed) for seed in range(2)]
    patches = torch.cat([image[0] for image in images])
    starts = np.cumsum([0, *(len(image[0]) for image in images[:-1])])
    centres = np.arange(0, len(patches), 2)
    return [
        HeldOutBanks(patches.to(dtype), starts, centres, 1.0, torch.device("cpu"), upsamplings)
        for upsamplings in ([image[2] for image in images], [None] * 5)
    ]


def test_held_out_banks_give_the_same_neighbours() -> None:
    banks, plain = held_out_pair()
    for image in range(5):
        (squared, rows), (expected, expected_rows) = banks.neighbours(image, 3), plain.neighbours(image, 3)
        assert torch.allclose(squared, expected, atol=1e-4)
        assert torch.equal(rows, expected_rows)
    assert all(torch.equal(banks.replacement_rows(image), plain.replacement_rows(image)) for image in range(5))


def test_float16_held_out_patches_are_searched_without_upsampling(monkeypatch: pytest.MonkeyPatch) -> None:
    banks, plain = held_out_pair(torch.float16)
    monkeypatch.delattr(UpsampledBank, "__call__")
    for image in range(5):
        for actual, expected in zip(banks.neighbours(image, 3), plain.neighbours(image, 3), strict=True):
            assert torch.equal(actual, expected)


def test_held_out_banks_need_one_upsampling_per_image() -> None:
    with pytest.raises(ValueError, match="2 images, 1 upsamplings"):
        HeldOutBanks(torch.eye(8), np.array([0, 4]), np.array([0, 5]), 1.0, torch.device("cpu"), [None])


def test_half_precision_engines_have_no_upsampling() -> None:
    (engine,) = member_engines(Detector(preset="fast", image_size=96, runtime="torch", precision="bfloat16").settings)
    assert engine.upsampling((96, 96)) is None


def test_gpu_engines_have_no_upsampling() -> None:
    (engine,) = member_engines(Detector(preset="fast", image_size=96).settings)
    engine.device = torch.device("cuda")
    assert engine.upsampling((96, 96)) is None
