"""A GPU gives what the CPU gives, but for rounding. Where there is none all of this is skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import REAL_DATA, damaged, texture
from offnominal import Detector, load
from offnominal.config import Settings, settings_from
from offnominal.errors import SettingsError
from offnominal.inference import member_engines
from offnominal.memory import HeldOutBanks, NearestPatches
from offnominal.noising import neighbourhood, noise_response, propose_noise
from offnominal.scoring import to_grid

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible to torch")

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def made(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, dimensions), generator=torch.Generator().manual_seed(seed))


def pixels_of(images: int, side: int = 128) -> np.ndarray:
    return np.random.default_rng(0).random((images, 3, side, side), np.float32)


def fail(index: int, error: Exception) -> None:
    raise error


def test_auto_takes_the_gpu_unless_openvino_is_asked_for() -> None:
    assert {engine.device.type for engine in member_engines(Settings())} == {"cuda"}
    with pytest.raises(SettingsError, match="CPU only"):
        member_engines(settings_from(runtime="openvino", device="cuda"))


@pytest.mark.parametrize(("patches", "bank", "k"), [(1000, 700, 9), (3, 1, 9), (1, 40, 1), (2000, 5000, 3)])
def test_the_search_is_the_naive_one(patches: int, bank: int, k: int) -> None:
    points, normal = made(patches, 24), made(bank, 24, seed=1)
    normal[-1] = normal[0]
    points[0] = normal[0]
    squared, rows = NearestPatches(normal.to(GPU))(points.to(GPU), k)
    away = torch.cdist(points.double(), normal.double()).square()
    right = away.topk(min(k, bank), largest=False).values
    assert squared.device.type == "cuda"
    assert torch.allclose(squared.cpu().double(), right, atol=2e-4)
    assert torch.allclose(away.gather(1, rows.cpu()), right, atol=2e-4)


def test_influence_noise_and_response_are_those_of_the_cpu() -> None:
    points, bank = made(600, 40), made(300, 40, seed=1)
    points[:20] = bank[:20]  # distance 0
    points[20:40] = bank[20:40] + 1e-3
    squared, rows = NearestPatches(bank)(points, 5)
    here = neighbourhood(points, bank, squared, rows, curvature=True)
    there = neighbourhood(points.to(GPU), bank.to(GPU), squared.to(GPU), rows.to(GPU), curvature=True)
    for name in ("distances", "gradient", "curvature"):
        assert torch.allclose(getattr(there, name).cpu(), getattr(here, name), rtol=1e-4, atol=1e-4), name
    in_sd = here.distances.mean(1) - 5
    noise, moved = propose_noise(here.gradient, in_sd), propose_noise(here.gradient.to(GPU), in_sd.to(GPU))
    assert torch.allclose(moved.cpu(), noise, atol=1e-5)
    assert here.curvature is not None
    response = noise_response(here.curvature.to(GPU), moved).cpu()
    assert torch.allclose(response, noise_response(here.curvature, noise), rtol=1e-4, atol=1e-4)


def test_held_out_banks_are_the_same() -> None:
    patches, starts, centres = made(400, 6), np.arange(0, 400, 50), np.arange(0, 400, 7)
    here, there = (HeldOutBanks(patches, starts, centres, 2.5, device) for device in (CPU, GPU))
    for image in range(8):
        (a, rows), (b, found) = here.neighbours(image, 4), there.neighbours(image, 4)
        assert torch.allclose(a, b.cpu(), atol=1e-4)
        assert float((rows == found.cpu()).float().mean()) > 0.99
    for image in range(8):
        assert len(here.replacement_rows(image)) > 0
        assert here.replacement_rows(image).tolist() == there.replacement_rows(image).tolist()


@pytest.mark.parametrize("backbone", ["efficientnet-lite0", "efficientnet-lite2@1.5"])
def test_features_in_float32_are_not_rounded_further(backbone: str) -> None:
    before = torch.backends.cudnn.allow_tf32
    here, there = (
        member_engines(settings_from(backbone=backbone, runtime="torch", device=device))[0].patches(pixels_of(3))
        for device in ("cpu", "cuda")
    )
    assert there.device.type == "cuda"
    assert float((there.cpu() - here).abs().max() / here.square().mean().sqrt()) < 1e-4
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near(precision: str) -> None:
    here, there = (
        member_engines(settings_from(runtime="torch", device="cuda", precision=kind))[0].patches(pixels_of(2))
        for kind in ("float32", precision)
    )
    assert there.dtype == torch.float32
    off = float((there - here).square().mean().sqrt() / here.square().mean().sqrt())
    assert 0 < off < 0.1


def at_a_tie(one: Detector, other: Detector, image: np.ndarray) -> bool:
    """Whether a patch has other neighbours on the two: that may only be where rounding decides between equally far ones."""
    inspector = one._ready()
    ((_, _, of_members, _),) = inspector.patches([image], fail)
    tie = False
    for number, (member, patches) in enumerate(zip(inspector.model.members, of_members, strict=True)):
        a, b = one.explain(image, number), other.explain(image, number)
        assert np.allclose(a.distances, b.distances, rtol=1e-5, atol=1e-5)
        points = to_grid(patches.cpu().double().numpy(), a.grid).reshape(-1, patches.shape[1])
        for shown in (a, b):  # whichever neighbours each has, they are as far as it says
            away = np.linalg.norm(points[:, None] - member.bank.patches.double().numpy()[shown.neighbours], axis=2)
            assert np.allclose(away, shown.distances, rtol=1e-4, atol=1e-4)
        tie |= not np.array_equal(np.sort(a.neighbours, axis=1), np.sort(b.neighbours, axis=1))
    return tie


def same(one: Detector, other: Detector, images: list[np.ndarray], least: int) -> None:
    """Distances of all images agree; scores, maps, regions and their evidence of those without a tie, at least so many."""
    images = [image for image in images if not at_a_tie(one, other, image)]
    assert len(images) >= least
    found = [dict(detector.inspect_many(images, failed=fail, evidence=True, maps=True)) for detector in (one, other)]
    for index in range(len(images)):
        a, b = found[0][index], found[1][index]
        assert b.score == pytest.approx(a.score, rel=1e-3)
        assert np.abs(a.anomaly_map - b.anomaly_map).max() < 2e-3 * np.abs(a.anomaly_map).max()
        assert np.abs(a.influence_map - b.influence_map).max() < 2e-3
        assert a.noise_map is not None
        assert b.noise_map is not None
        assert np.abs(a.noise_map - b.noise_map).max() < 2e-3
        assert len(a.regions) == len(b.regions)
        for left, right in zip(a.regions, b.regions, strict=True):
            assert left.evidence is not None
            assert right.evidence is not None
            assert left.evidence.member == right.evidence.member
            assert left.evidence.layer_shares == pytest.approx(right.evidence.layer_shares, abs=1e-3)
            assert left.evidence.noise_std == pytest.approx(right.evidence.noise_std, rel=1e-3)
            assert left.evidence.nearest[0].distance == pytest.approx(right.evidence.nearest[0].distance, rel=1e-3)


@pytest.mark.parametrize(
    "further",
    [
        {},
        {"preset": "fast"},
        {"dimensions": 40},
        {"fusion": {"distance": 1, "response": 1}},
        {"calibration": "leave-one-out"},
    ],
)
def test_a_model_of_the_cpu_says_the_same_on_the_gpu_and_back(parts: Path, tmp_path: Path, further: dict[str, Any]) -> None:
    images = [texture(seed) for seed in range(100, 118)] + [damaged(seed)[0] for seed in range(200, 218)]
    for fitted_on in ("cpu", "cuda"):
        fitted = Detector(image_size=128, bank=300, false_alarm_rate=0.1, device=fitted_on, runtime="torch", **further).fit(
            parts
        )
        place = tmp_path / f"{fitted_on}.safetensors"
        fitted.save(place)
        here, there = (load(place, runtime="torch", device=device) for device in ("cpu", "cuda"))
        same(here, there, images, 30)
        same(there, there, images[::4], 9)
        one = there.inspect(images[0])
        assert one.score == pytest.approx(here.inspect(images[0]).score, rel=1e-3)
        explained = [detector.explain(images[-1]) for detector in (here, there)]
        assert np.allclose(explained[0].distances, explained[1].distances, rtol=1e-3)
        assert np.allclose(explained[0].noise, explained[1].noise, atol=1e-3)


def test_a_fit_promises_the_same(parts: Path) -> None:
    here, there = (
        Detector(image_size=128, bank=300, false_alarm_rate=0.1, device=device, runtime="torch").fit(parts)
        for device in ("cpu", "cuda")
    )
    assert here.model.calibration.threshold == pytest.approx(there.model.calibration.threshold, rel=0.02)
    for one, other in zip(here.model.members, there.model.members, strict=True):
        assert one.bank.radius == pytest.approx(other.bank.radius, rel=1e-3)


def test_audit_update_and_evaluate_run_there(parts: Path, tmp_path: Path) -> None:
    audits = [Detector(image_size=128, bank=300, device=device, runtime="torch").audit(parts) for device in ("cpu", "cuda")]
    assert np.allclose(audits[0].scores, audits[1].scores, rtol=0.02)
    assert np.corrcoef(audits[0].scores, audits[1].scores)[0, 1] > 0.99
    detector = Detector(image_size=128, bank=300, false_alarm_rate=0.1, device="cuda", contamination="auto").fit(parts)
    detector.update(add=[texture(seed) for seed in range(300, 303)])
    assert detector.evaluate(parts).figures["image_auroc"] == 1.0


@pytest.mark.realdata
def test_real_images_score_the_same() -> None:
    root = REAL_DATA / "aws_cookies"
    here = Detector(runtime="torch", device="cpu").fit(root)
    there = Detector(runtime="torch", device="cuda").fit(root)
    figures = [detector.evaluate(root).figures for detector in (here, there)]
    for name in ("image_auroc", "pixel_auroc"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=0.01)
