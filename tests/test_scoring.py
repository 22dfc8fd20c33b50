"""What is usual, place by place, and how patches at the border count."""

from __future__ import annotations

import numpy as np
import torch

from offnominal.config import settings_from
from offnominal.detector.engine import FeatureEngine
from offnominal.features import ChannelStandard
from offnominal.scoring import SIGNALS, NormalSignalsBuilder


def test_restless_places_have_their_own_level_and_calm_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    builder = NormalSignalsBuilder()
    for _ in range(400):
        spread = np.ones((32, 32, len(SIGNALS)))
        spread[:, :10], spread[:, 28:] = 0.1, 5.0  # a calm background, a restless edge
        builder.add((10 * spread + spread * rng.normal(size=spread.shape)).astype(np.float32))
    usual = builder.build()
    assert np.allclose(usual.mean[:, :6], np.median(usual.mean[:, 14:24], axis=(0, 1)), rtol=0.05)
    assert (usual.deviation[:, :6] >= 0.9 * np.median(usual.deviation[:, 14:24])).all()
    assert (usual.mean[:, 30:] > 2 * usual.mean[:, 14:15]).all()


def test_patches_at_the_border_are_drawn_to_the_mean() -> None:
    engine = FeatureEngine(settings_from(image_size=128, runtime="torch"))
    standard = ChannelStandard(torch.full((152,), 3.0), torch.full((152,), 2.0))
    drawn = engine.standardise(torch.full((1, 256, 152), 7.0), standard, (128, 128)).reshape(16, 16, 152)
    assert torch.allclose(drawn[5:11, 5:11], torch.tensor(2.0))
    assert torch.allclose(drawn[0, 8, :40], torch.tensor(2 * 2 / 3))
    assert torch.allclose(drawn[0, 0], torch.tensor(2 * 4 / 9))


def test_height_and_width_mean_squash_unless_said_otherwise() -> None:
    assert settings_from(image_size="256x640").resize == "squash"
    assert settings_from(image_size=(256, 640)).resize == "squash"
    assert settings_from(image_size="256").resize == settings_from().resize == "keep"
    assert settings_from(image_size="256x640", resize="keep").resize == "keep"
