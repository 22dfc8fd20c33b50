"""How long the rest of a fit will take is told once, from what this very run measured."""

from __future__ import annotations

import pytest

from conftest import texture
from offnominal import Detector
from offnominal.detector import Estimate, fit
from offnominal.types import silent


@pytest.mark.parametrize("settled", [0.0, 1000.0])
def test_the_rest_is_estimated_once(settled: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SETTLED", settled)
    told: list[Estimate] = []
    images = [texture(i) for i in range(8)]
    Detector(image_size=96, bank=50, batch_size=4).fit(images, progress=silent, foretell=told.append)
    (estimate,) = told
    assert estimate.measured == (4 if settled == 0 else 8)
    assert min(estimate.features, estimate.scoring) > 0
    to_go = (8 - estimate.measured) * estimate.features + 8 * estimate.scoring
    assert estimate.seconds == pytest.approx(to_go)
