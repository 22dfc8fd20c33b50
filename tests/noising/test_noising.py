"""Influence in three forms, proposed noise, and the response against Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offnominal.config import settings_from
from offnominal.inference import SignalEngine
from offnominal.model import DistanceScale
from offnominal.noising import influence, nearest, neighbourhood, noise_response, propose_noise


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 24)), rng.normal(size=(90, 24))


@pytest.mark.parametrize("k", [1, 3, 9, 500])
def test_the_three_forms_of_influence_agree(data: tuple[np.ndarray, np.ndarray], k: int) -> None:
    patches, bank = data
    closed = influence(patches, bank, k)
    for method in ("autograd", "perturbation"):
        other = influence(patches, bank, k, method=method)
        assert np.linalg.norm(other - closed) <= 1e-4 * np.linalg.norm(closed)


def test_the_closed_form_equals_the_definition(data: tuple[np.ndarray, np.ndarray]) -> None:
    patches, bank = data
    for i, x in enumerate(patches):
        near = bank[np.argsort(np.linalg.norm(bank - x, axis=1))[:9]]
        units = (x - near) / np.linalg.norm(x - near, axis=1, keepdims=True)
        assert influence(patches, bank, 9)[i] == pytest.approx(np.abs(units.mean(0)), abs=1e-6)


def test_influence_has_length_1_for_one_neighbour_and_less_for_more(data: tuple[np.ndarray, np.ndarray]) -> None:
    patches, bank = data
    assert np.linalg.norm(influence(patches, bank, 1), axis=1) == pytest.approx(1, abs=1e-5)
    assert (np.linalg.norm(influence(patches, bank, 9), axis=1) < 1).all()


@pytest.mark.parametrize("method", ["closed_form", "autograd", "perturbation"])
def test_influence_is_zero_at_distance_zero(method: str) -> None:
    bank = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    assert influence(bank, bank, 1, method=method).tolist() == np.zeros((5, 4)).tolist()  # type: ignore[call-overload]
    same = np.ones((3, 4), np.float32)
    assert np.isfinite(influence(same, same, 3, method=method)).all()  # type: ignore[call-overload]


def test_influence_keeps_the_type_and_shape_of_its_input(data: tuple[np.ndarray, np.ndarray]) -> None:
    patches, bank = data
    batch = torch.from_numpy(patches).float().reshape(4, 10, 24)
    result = influence(batch, torch.from_numpy(bank).float(), 9)
    assert isinstance(result, torch.Tensor)
    assert result.shape == (4, 10, 24)
    with pytest.raises(ValueError, match="bank must be"):
        influence(patches, bank[:, :5])


def test_neighbourhoods_are_sorted_and_have_the_curvature_of_autograd(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, m = (torch.from_numpy(part) for part in data)
    around = neighbourhood(x, m, *nearest(x, m, 9), curvature=True)
    assert (around.distances.diff(dim=1) >= 0).all()
    leaf = x[:1].clone().requires_grad_(True)

    def mean_distance(point: torch.Tensor) -> torch.Tensor:
        mean: torch.Tensor = torch.linalg.vector_norm(point - m[around.indices[0]], dim=1).mean()
        return mean

    hessian = torch.autograd.functional.hessian(mean_distance, leaf[0])
    assert around.curvature is not None
    assert torch.allclose(around.curvature[0], torch.diagonal(hessian), atol=1e-8)


def test_distances_near_a_neighbour_are_exact_for_large_features() -> None:
    rng = np.random.default_rng(0)
    bank = 100 * rng.normal(size=(50, 20))
    patches = bank + 0.05 * rng.normal(size=bank.shape)
    bank, patches = bank.astype(np.float32).astype(np.float64), patches.astype(np.float32).astype(np.float64)
    expected = np.linalg.norm(patches - bank, axis=1)
    x, m, squared = (torch.from_numpy(one).float() for one in (patches, bank, expected[:, None] ** 2 + 0.02))
    around = neighbourhood(x, m, squared, _each(50))
    assert around.distances[:, 0].numpy() == pytest.approx(expected, rel=1e-4)
    assert around.gradient.numpy() == pytest.approx((patches - bank) / expected[:, None], abs=1e-3)


def _each(count: int) -> torch.Tensor:
    return torch.arange(count)[:, None]


def test_noise_is_within_its_range_and_increases_with_distance_and_influence() -> None:
    rng = np.random.default_rng(2)
    gradient = torch.from_numpy(rng.normal(size=(6, 50)))
    near = propose_noise(gradient, torch.full((6,), -3.0), low=0.01, high=0.5)
    far = propose_noise(gradient, torch.full((6,), 3.0), low=0.01, high=0.5)
    assert ((near >= 0.01) & (far <= 0.5)).all()
    assert (far > near).all()
    order = gradient[0].abs().argsort()
    assert (far[0][order].diff() >= 0).all()
    assert torch.isfinite(propose_noise(torch.zeros(2, 5), torch.zeros(2))).all()


def test_response_agrees_with_monte_carlo(data: tuple[np.ndarray, np.ndarray]) -> None:
    """The second-order response is within 5 % of 80,000 Monte Carlo draws if the noise is a tenth of the distance."""
    x, m = (torch.from_numpy(part) for part in data)
    around = neighbourhood(x[:5], m, *nearest(x[:5], m, 9), curvature=True)
    noise = propose_noise(around.gradient, torch.zeros(5, dtype=torch.float64), low=0.05, high=0.2)
    assert around.curvature is not None
    expected = noise_response(around.curvature, noise)
    generator = torch.Generator().manual_seed(0)
    for i in range(5):
        draws = torch.randn(40_000, 24, generator=generator, dtype=torch.float64) * noise[i]
        draws = torch.cat([draws, -draws])
        distances = torch.cdist(x[i] + draws, m[around.indices[i]]).mean(1)
        assert float(expected[i]) == pytest.approx(float(distances.mean() - around.distances[i].mean()), rel=0.05)


@pytest.mark.realdata
@pytest.mark.parametrize("k", [1, 3, 9])
def test_the_three_forms_of_influence_agree_on_real_patches(real: tuple[np.ndarray, np.ndarray], k: int) -> None:
    """Compared for each patch. Patches with ties are excluded.

    If the K-th and the next neighbour are equally distant, rounding decides between them.
    """
    patches, bank = real
    squared = (
        (patches.astype(float) ** 2).sum(1)[:, None] + (bank.astype(float) ** 2).sum(1) - 2 * patches.astype(float) @ bank.T
    )
    distance = np.sqrt(np.sort(squared, axis=1)[:, : k + 1])
    patches = patches[(distance[:, 0] > 1e-2) & (distance[:, k] > (1 + 1e-4) * distance[:, k - 1])]
    assert len(patches) > 200
    closed = influence(patches, bank, k)
    for method in ("autograd", "perturbation"):
        other = influence(patches, bank, k, method=method)
        assert (np.linalg.norm(other - closed, axis=1) <= 1e-4 * np.linalg.norm(closed, axis=1)).all()


@pytest.mark.parametrize("with_noise", [False, True])
def test_signals_of_a_batch_equal_those_of_each_image(with_noise: bool) -> None:
    """A GPU receives several images at once."""
    draw = torch.Generator().manual_seed(0)
    images, bank = torch.randn((3, 50, 12), generator=draw), torch.randn((40, 12), generator=draw)
    images[1, :5] = bank[:5]  # computed from differences
    engine = SignalEngine(bank, settings_from(), DistanceScale(3.0, 0.5), torch.device("cpu"))
    all_signals = engine(images.flatten(0, 1), with_noise=with_noise).split(3)
    for image, batched in zip(images, all_signals, strict=True):
        single = engine(image, with_noise=with_noise)
        assert np.allclose(batched.values, single.values, atol=1e-5)
        assert torch.equal(batched.neighbourhood.indices, single.neighbourhood.indices)
        for name in ("distances", "gradient", "curvature"):
            a, b = getattr(batched.neighbourhood, name), getattr(single.neighbourhood, name)
            assert (a is None) == (b is None) == (name == "curvature" and not with_noise)
            assert a is None or torch.allclose(a, b, atol=1e-4)
        assert (batched.noise is None) == (single.noise is None) == (not with_noise)
        if batched.noise is not None:
            assert single.noise is not None
            assert torch.allclose(batched.noise, single.noise, atol=1e-5)
