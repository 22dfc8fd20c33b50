"""Fits in several shards: the merged coreset keeps its bound, and the model is about that of one shard."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import damaged, texture
from fitting.several_shards import SeveralShards
from offnominal import Detector
from offnominal.errors import InputError, SettingsError
from offnominal.features import ChannelMoments, channel_standard
from offnominal.images import raise_unreadable
from offnominal.inference import member_engines
from offnominal.memory import Coreset, farthest_from_mean, kcenter, merge_coresets
from offnominal.scoring import NormalSignalsBuilder

SMALL: dict[str, Any] = {"image_size": 96, "bank": 100, "false_alarm_rate": 0.1}


def fitted(images: list[np.ndarray], shards: int, **settings: Any) -> Detector:
    detector = Detector(**{**SMALL, **settings})
    return detector.fit(images, workers=SeveralShards(member_engines(detector.settings), shards))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_merged_moments_are_those_of_all_patches(sizes: list[int], seed: int) -> None:
    patches = torch.randn((sum(sizes), 6), generator=torch.Generator().manual_seed(seed)) * 3 + 50
    merged = ChannelMoments.merged([ChannelMoments.of(part) for part in patches.split(sizes)]).standard()
    whole = channel_standard(patches)
    assert torch.allclose(merged.mean, whole.mean, rtol=1e-6)
    assert torch.allclose(merged.scale, whole.scale, rtol=1e-5)


def smallest_radius(patches: torch.Tensor, size: int) -> float:
    """The covering radius of the best coreset of a size, by trying all of them."""
    distances = torch.cdist(patches.double(), patches.double()).numpy()
    return min(float(distances[:, chosen].min(1).max()) for chosen in combinations(range(len(patches)), size))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_certified_bound_holds(sizes: list[int], size: int, multiple: int, seed: int) -> None:
    """The covering radius stays below the bound, and below the certified ratio times the smallest possible radius."""
    patches = torch.randn((sum(sizes), 3), generator=torch.Generator().manual_seed(seed))
    size = min(size, len(patches))
    shards = patches.split(sizes)
    of_shard = size if len(sizes) == 1 else multiple * size
    coresets = [kcenter(shard, min(of_shard, len(shard)), farthest_from_mean(shard)) for shard in shards]
    chosen = [shard[torch.from_numpy(coreset.indices)] for shard, coreset in zip(shards, coresets, strict=True)]
    merged = merge_coresets(chosen, coresets, size)
    firsts = np.cumsum([0, *sizes[:-1]])
    assert torch.equal(merged.patches, patches[torch.from_numpy(firsts[merged.shard] + merged.row)])
    radius = float(torch.cdist(patches.double(), merged.patches.double()).amin(1).max())
    bound = merged.bound if len(sizes) > 1 else coresets[0].radius
    assert radius <= bound * (1 + 1e-6) + 1e-6
    assert radius <= merged.ratio * smallest_radius(patches, size) * (1 + 1e-6) + 1e-6
    assert all(
        merged.rows_of(shard)[merged.shard == other].max(initial=-1) == -1
        for shard in range(len(sizes))
        for other in range(len(sizes))
        if other != shard
    )


def test_coresets_without_a_radius_have_no_ratio() -> None:
    merged = merge_coresets([torch.zeros(1, 2)], [Coreset(np.array([0]), radius=0.0)], 1)
    assert merged.ratio == 1.0


def test_merged_statistics_are_those_of_all_images() -> None:
    images = [np.random.default_rng(seed).normal(size=(4, 5, 3)).astype(np.float32) for seed in range(6)]
    builders = []
    for part in (images[:2], images[2:]):
        builder = NormalSignalsBuilder()
        for image in part:
            builder.add(image)
        builders.append(builder)
    whole = NormalSignalsBuilder()
    for image in images:
        whole.add(image)
    builders[0].merge(builders[1])
    assert builders[0].build().mean == pytest.approx(whole.build().mean)
    assert builders[0].build().deviation == pytest.approx(whole.build().deviation)


@pytest.mark.parametrize("calibration", ["folds", "leave-one-out", "split"])
def test_models_of_several_shards_are_about_that_of_one(calibration: str) -> None:
    images = [texture(seed) for seed in range(36)]
    images.append(images[3])  # a duplicate
    alone, several = (fitted(images, shards, calibration=calibration) for shards in (1, 3))
    one, three = alone.model, several.model
    assert [source.name for source in three.sources] == [source.name for source in one.sources]
    assert three.calibration.count == one.calibration.count
    for member, expected in zip(three.members, one.members, strict=True):
        assert torch.allclose(member.standard.mean, expected.standard.mean, atol=1e-5)
        assert member.bank.radius is not None
        assert member.bank.radius <= 1.15 * (expected.bank.radius or 0)
        assert len(member.bank.patches) == len(expected.bank.patches)
    require_close_distances(several, alone)
    assert all(several.inspect(damaged(seed)[0]).anomalous for seed in range(200, 204))


def require_close_distances(detector: Detector, other: Detector) -> None:
    """Each bank covers the patches of the other within its radius, so distances differ by the larger radius at most."""
    new = [texture(seed) for seed in range(300, 304)]
    banks = list(zip(detector.model.members, other.model.members, strict=True))
    for _, _, of_members, _ in detector._ready().patches(new, raise_unreadable):
        for patches, (member, expected) in zip(of_members, banks, strict=True):
            one, two = (torch.cdist(patches.double(), each.bank.patches.double()).amin(1) for each in (member, expected))
            assert float((one - two).abs().max()) <= max(member.bank.radius or 0, expected.bank.radius or 0) * (1 + 1e-4)


def test_bank_patches_are_located_in_their_images() -> None:
    images = [texture(seed) for seed in range(30)]
    detector = fitted(images, 3)
    inspector = detector._ready()
    names = [int(source.name.removeprefix("array ")) for source in detector.model.sources]
    extracted = inspector.patches([images[at] for at in names], raise_unreadable)
    patches = {index: of_members for index, _, of_members, _ in extracted}
    for number, (member, engine) in enumerate(zip(detector.model.members, inspector.engines, strict=True)):
        width = engine.grid(member.geometry.network_size(detector.model.sources[0].size))[1] - 2
        for patch, image, (row, column) in zip(member.bank.patches, member.bank.image, member.bank.position, strict=True):
            assert torch.allclose(patches[image][number][(row - 1) * width + column - 1], patch, atol=1e-4)
    assert detector.model.thumbnails is not None
    in_banks = np.unique(np.concatenate([member.bank.image for member in detector.model.members]))
    assert detector.model.thumbnails.kept == len(in_banks)


def test_an_audit_in_shards_finds_the_damaged_images() -> None:
    images = [texture(seed) for seed in range(40)] + [damaged(200)[0], damaged(201)[0]]
    for shards in (1, 4):
        detector = Detector(**SMALL)
        audit = detector.audit(images, workers=SeveralShards(member_engines(detector.settings), shards))
        suspects = [suspect.name for suspect in audit.listed(audit.suspects("auto"))]  # highest score first
        assert set(suspects[:2]) == {"array 40", "array 41"}
        assert len(suspects) <= 3, "at most one good image"
    model = fitted(images, 4, contamination="auto").model
    assert {image.name for image in model.left_out} >= {"array 40", "array 41"}
    assert len(model.sources) == 42 - len(model.left_out)


def test_folds_may_leave_a_shard_without_patches() -> None:
    """With more shards than folds, some shards lie in one fold."""
    model = fitted([texture(seed) for seed in range(64)], 8, calibration="folds").model
    assert model.calibration.count == 64
    assert all(np.isfinite(signals).all() for member in model.members for signals in member.held_out.signals)


def test_shards_are_not_smaller_than_they_may_be() -> None:
    workers = SeveralShards(member_engines(Detector(**SMALL).settings), 16)
    Detector(**SMALL).fit([texture(seed) for seed in range(20)], workers=workers)
    assert workers.tasks == 2


def test_shards_that_cannot_work_are_refused() -> None:
    images: list[Any] = [texture(seed) for seed in range(18)]
    with pytest.raises(SettingsError, match="only a greedy coreset can be merged"):
        fitted(images, 2, sampler="random")
    with pytest.raises(InputError, match="all 18 images are duplicates or belong to one group"):
        fitted([images[0]] * 18, 2)
