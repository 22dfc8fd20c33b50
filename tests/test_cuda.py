"""The GPU returns the results of the CPU up to rounding. Skipped without a CUDA GPU."""

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
from offnominal.roi import Layout

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible to torch")

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def random_patches(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, dimensions), generator=torch.Generator().manual_seed(seed))


def pixels_of(images: int, side: int = 128) -> np.ndarray:
    return np.random.default_rng(0).random((images, 3, side, side), np.float32)


def fail(index: int, error: Exception) -> None:
    raise error


def test_auto_selects_the_gpu_and_openvino_refuses_it() -> None:
    assert {engine.device.type for engine in member_engines(Settings())} == {"cuda"}
    with pytest.raises(SettingsError, match="CPU only"):
        member_engines(settings_from(runtime="openvino", device="cuda"))


@pytest.mark.parametrize(("patches", "bank", "k"), [(1000, 700, 9), (3, 1, 9), (1, 40, 1), (2000, 5000, 3)])
def test_neighbour_search_equals_brute_force(patches: int, bank: int, k: int) -> None:
    points, normal = random_patches(patches, 24), random_patches(bank, 24, seed=1)
    normal[-1] = normal[0]
    points[0] = normal[0]
    squared, rows = NearestPatches(normal.to(GPU))(points.to(GPU), k)
    distances = torch.cdist(points.double(), normal.double()).square()
    expected = distances.topk(min(k, bank), largest=False).values
    assert squared.device.type == "cuda"
    assert torch.allclose(squared.cpu().double(), expected, atol=2e-4)
    assert torch.allclose(distances.gather(1, rows.cpu()), expected, atol=2e-4)


def test_influence_noise_and_response_equal_the_cpu() -> None:
    points, bank = random_patches(600, 40), random_patches(300, 40, seed=1)
    points[:20] = bank[:20]  # distance 0
    points[20:40] = bank[20:40] + 1e-3
    squared, rows = NearestPatches(bank)(points, 5)
    on_cpu = neighbourhood(points, bank, squared, rows, curvature=True)
    on_gpu = neighbourhood(points.to(GPU), bank.to(GPU), squared.to(GPU), rows.to(GPU), curvature=True)
    for name in ("distances", "gradient", "curvature"):
        assert torch.allclose(getattr(on_gpu, name).cpu(), getattr(on_cpu, name), rtol=1e-4, atol=1e-4), name
    in_sd = on_cpu.distances.mean(1) - 5
    noise, noise_on_gpu = propose_noise(on_cpu.gradient, in_sd), propose_noise(on_cpu.gradient.to(GPU), in_sd.to(GPU))
    assert torch.allclose(noise_on_gpu.cpu(), noise, atol=1e-5)
    assert on_cpu.curvature is not None
    response = noise_response(on_cpu.curvature.to(GPU), noise_on_gpu).cpu()
    assert torch.allclose(response, noise_response(on_cpu.curvature, noise), rtol=1e-4, atol=1e-4)


def test_held_out_banks_equal_the_cpu() -> None:
    patches, starts, centres = random_patches(400, 6), np.arange(0, 400, 50), np.arange(0, 400, 7)
    on_cpu, on_gpu = (HeldOutBanks(patches, starts, centres, 2.5, device) for device in (CPU, GPU))
    for image in range(8):
        (a, rows), (b, rows_on_gpu) = on_cpu.neighbours(image, 4), on_gpu.neighbours(image, 4)
        assert torch.allclose(a, b.cpu(), atol=1e-4)
        assert float((rows == rows_on_gpu.cpu()).float().mean()) > 0.99
    for image in range(8):
        assert len(on_cpu.replacement_rows(image)) > 0
        assert on_cpu.replacement_rows(image).tolist() == on_gpu.replacement_rows(image).tolist()


@pytest.mark.parametrize("backbone", ["efficientnet-lite0", "efficientnet-lite2@1.5"])
def test_float32_features_do_not_use_tf32(backbone: str) -> None:
    before = torch.backends.cudnn.allow_tf32
    on_cpu, on_gpu = (
        member_engines(settings_from(backbone=backbone, runtime="torch", device=device))[0].patches(pixels_of(3))
        for device in ("cpu", "cuda")
    )
    assert on_gpu.device.type == "cuda"
    assert float((on_gpu.cpu() - on_cpu).abs().max() / on_cpu.square().mean().sqrt()) < 1e-4
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_features_are_close_to_float32(precision: str) -> None:
    single, half = (
        member_engines(settings_from(runtime="torch", device="cuda", precision=name))[0].patches(pixels_of(2))
        for name in ("float32", precision)
    )
    assert half.dtype == torch.float32
    relative_error = float((half - single).square().mean().sqrt() / single.square().mean().sqrt())
    assert 0 < relative_error < 0.1


def has_tie(one: Detector, other: Detector, image: np.ndarray) -> bool:
    """Whether the two detectors choose different neighbours for a patch.

    The distances must be equal nevertheless: only rounding may decide between equally distant neighbours.
    """
    inspector = one._ready()
    ((_, _, patches_by_member, _),) = inspector.patches([image], fail)
    tie = False
    for number, (member, patches) in enumerate(zip(inspector.model.members, patches_by_member, strict=True)):
        a, b = one.explain(image, number), other.explain(image, number)
        assert np.allclose(a.distances, b.distances, rtol=1e-5, atol=1e-5)
        points = Layout(a.grid).fill(patches.cpu().double().numpy()).reshape(-1, patches.shape[1])
        for explanation in (a, b):  # the reported distances are those of the reported neighbours
            distances = np.linalg.norm(points[:, None] - member.bank.patches.double().numpy()[explanation.neighbours], axis=2)
            assert np.allclose(distances, explanation.distances, rtol=1e-4, atol=1e-4)
        tie |= not np.array_equal(np.sort(a.neighbours, axis=1), np.sort(b.neighbours, axis=1))
    return tie


def assert_same_results(one: Detector, other: Detector, images: list[np.ndarray], min_images: int) -> None:
    """Compare the distances of all images, and the results of the images without ties.

    At least `min_images` images must have no ties.
    """
    images = [image for image in images if not has_tie(one, other, image)]
    assert len(images) >= min_images
    results = [dict(detector.inspect_many(images, failed=fail, evidence=True, maps=True)) for detector in (one, other)]
    for index in range(len(images)):
        a, b = results[0][index], results[1][index]
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
def test_models_score_alike_on_cpu_and_gpu_wherever_they_were_fitted(
    parts: Path, tmp_path: Path, further: dict[str, Any]
) -> None:
    images = [texture(seed) for seed in range(100, 118)] + [damaged(seed)[0] for seed in range(200, 218)]
    for fitted_on in ("cpu", "cuda"):
        fitted = Detector(image_size=128, bank=300, false_alarm_rate=0.1, device=fitted_on, runtime="torch", **further).fit(
            parts
        )
        path = tmp_path / f"{fitted_on}.safetensors"
        fitted.save(path)
        on_cpu, on_gpu = (load(path, runtime="torch", device=device) for device in ("cpu", "cuda"))
        assert_same_results(on_cpu, on_gpu, images, 30)
        assert_same_results(on_gpu, on_gpu, images[::4], 9)
        single = on_gpu.inspect(images[0])
        assert single.score == pytest.approx(on_cpu.inspect(images[0]).score, rel=1e-3)
        explained = [detector.explain(images[-1]) for detector in (on_cpu, on_gpu)]
        assert np.allclose(explained[0].distances, explained[1].distances, rtol=1e-3)
        assert np.allclose(explained[0].noise, explained[1].noise, atol=1e-3)


def test_fits_on_cpu_and_gpu_have_the_same_threshold_and_radius(parts: Path) -> None:
    on_cpu, on_gpu = (
        Detector(image_size=128, bank=300, false_alarm_rate=0.1, device=device, runtime="torch").fit(parts)
        for device in ("cpu", "cuda")
    )
    assert on_cpu.model.calibration.threshold == pytest.approx(on_gpu.model.calibration.threshold, rel=0.02)
    for one, other in zip(on_cpu.model.members, on_gpu.model.members, strict=True):
        assert one.bank.radius == pytest.approx(other.bank.radius, rel=1e-3)


def test_audit_update_and_evaluate_run_on_the_gpu(parts: Path, tmp_path: Path) -> None:
    audits = [Detector(image_size=128, bank=300, device=device, runtime="torch").audit(parts) for device in ("cpu", "cuda")]
    assert np.allclose(audits[0].scores, audits[1].scores, rtol=0.02)
    assert np.corrcoef(audits[0].scores, audits[1].scores)[0, 1] > 0.99
    detector = Detector(image_size=128, bank=300, false_alarm_rate=0.1, device="cuda", contamination="auto").fit(parts)
    detector.update(add=[texture(seed) for seed in range(300, 303)])
    assert detector.evaluate(parts).figures["image_auroc"] == 1.0


@pytest.mark.realdata
def test_metrics_on_real_images_equal_the_cpu() -> None:
    root = REAL_DATA / "aws_cookies"
    on_cpu = Detector(runtime="torch", device="cpu").fit(root)
    on_gpu = Detector(runtime="torch", device="cuda").fit(root)
    figures = [detector.evaluate(root).figures for detector in (on_cpu, on_gpu)]
    for name in ("image_auroc", "pixel_auroc"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=0.01)
