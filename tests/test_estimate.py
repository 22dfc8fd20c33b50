"""How long the rest of a fit will take is told once, from what this very run measured."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import texture
from offnominal import Detector
from offnominal.cli import console
from offnominal.cli.console import seconds_to_go
from offnominal.detector import Estimate, Plan
from offnominal.detector.learning import fit
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


@pytest.mark.parametrize(("settings", "spacing"), [({"image_size": 96}, 16.0), ({"image_size": "96x96"}, 32.0)])
def test_the_plan_says_how_far_apart_patches_are(settings: dict[str, Any], spacing: float) -> None:
    """Of a picture of 192 x 384 pixels the patches lie 16 pixels apart where its aspect is kept, 32 across where not."""
    told: list[Plan] = []
    images = [texture(i, (192, 384)) for i in range(3)]
    Detector(bank=20, **settings).fit(images, announce=told.append)
    assert [plan.spacing for plan in told] == [spacing]


def test_what_is_left_grows_with_the_work() -> None:
    assert seconds_to_go("features", 10, 0, 20, 80) == pytest.approx(30)
    assert seconds_to_go("features", 10, 20, 40, 80) == pytest.approx(20)
    # A centre costs as the square root of how many there are: the first quarter is an eighth of the work.
    assert seconds_to_go("memory bank", 10, 0, 20, 80) == pytest.approx(70)
    assert seconds_to_go("memory bank", 10, 20, 80, 80) == 0


def test_a_bar_tells_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 0.0, 7.5, 0.0, 10.0, 0.0, 10.0])
    monkeypatch.setattr(console, "monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shown: list[str] = []
    monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, *, rest, **_: shown.append(rest))
    with console.progress_bars() as progress:
        for done in (0, 10, 20, 80):
            progress("memory bank", done, 80)
    assert shown == ["0:02:42", "0:01:10", "0:00:00"]


def test_a_stage_that_comes_again_is_timed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shown: list[str] = []
    monkeypatch.setattr("rich.progress.Progress.update", lambda self, task, *, rate, **_: shown.append(rate))
    with console.progress_bars() as progress:
        for start in (0.0, 1000.0):
            for after, done in ((0.0, 0), (10.0, 20), (20.0, 40)):
                monkeypatch.setattr(console, "monotonic", lambda at=start + after: at)
                progress("features", done, 40)
    assert shown == ["2/s"] * 4
