"""The preset `auto`: what it tries, what decides, and what is told of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from conftest import texture
from offnominal import Detector, load
from offnominal.config import DEFAULT_BACKBONE, Settings, settings_from
from offnominal.detector.learning.choice import _candidates, _decided, chosen_preset
from offnominal.detector.learning.trial import Verdict, sure_gain
from offnominal.detector.model import PresetChoice
from offnominal.detector.outputs.run import facts

KINDS, IMAGES = 6, 10


def verdict(better: float, *, wavering: float = 0.0, worst: float = 0.0) -> Verdict:
    """Detection and localisation of 0.5 + `better` +- `wavering`; one kind is detected `worst` less."""
    values = np.full((KINDS, IMAGES), 0.5 + better, np.float32)
    values[:, ::2] += wavering
    values[:, 1::2] -= wavering
    detection = values.copy()
    detection[2] -= worst
    return Verdict(detection, values)


CANDIDATES = _candidates(settings_from(preset="auto"), None)
TOOK = {"balanced": 40.0, "fast": 25.0, "accurate": 70.0}


@pytest.mark.parametrize(
    ("fast", "accurate", "most", "chosen", "said"),
    [
        (verdict(0), verdict(0), None, "balanced", "no other shows a sure gain"),
        (verdict(-0.1), verdict(0.1), None, "accurate", r"\+0\.100"),
        (verdict(0.05), verdict(0.1), None, "accurate", r"\+0\.100"),
        (verdict(0.2), verdict(0.1), None, "fast", r"\+0\.200"),
        (verdict(0), verdict(0.01, wavering=0.2), None, "balanced", "no other shows"),
        (verdict(0), verdict(0.1, worst=0.2), None, "balanced", "no other shows"),
        (verdict(0), verdict(0.1), 50.0, "balanced", "no other shows"),
        (verdict(-0.1), verdict(0.1), 30.0, "fast", "balanced takes 40 ms an image, 30 are allowed"),
        (verdict(-0.1), verdict(0.1), 10.0, "fast", "none keeps to that, fast is the fastest"),
    ],
)
def test_what_decides(fast: Verdict, accurate: Verdict, most: float | None, chosen: str, said: str) -> None:
    verdicts = {"balanced": verdict(0), "fast": fast, "accurate": accurate}
    settings, choice = _decided(CANDIDATES, verdicts, TOOK, most)
    assert choice.chosen == chosen
    assert settings == CANDIDATES[chosen]
    assert [one.name for one in choice.tried] == list(CANDIDATES)
    assert re.search(said, choice.reason)


def test_a_gain_is_sure_by_the_same_rule_as_that_of_a_head() -> None:
    assert sure_gain(verdict(0), verdict(0.1)).sure
    assert not sure_gain(verdict(0), verdict(0)).sure
    kind = sure_gain(verdict(0), verdict(0.1, worst=0.2))
    assert not kind.sure
    assert "blurred ones detected -0.100" in kind.told


def test_what_was_set_by_hand_stays_and_equal_candidates_are_tried_once() -> None:
    assert list(CANDIDATES) == ["balanced", "fast", "accurate"]
    by_hand = _candidates(settings_from(preset="auto", image_size=128, seed=3), None)
    assert list(by_hand) == ["balanced", "fast", "accurate"]
    assert list(_candidates(settings_from(preset="auto", image_size=192, backbone="efficientnet-lite0"), None)) == ["balanced"]
    assert {(one.image_size, one.resize, one.seed, one.preset) for one in by_hand.values()} == {((128, 128), "area", 3, "auto")}
    assert {one.resize for one in _candidates(settings_from(preset="auto", image_size="96x128"), None).values()} == {"squash"}
    assert list(_candidates(settings_from(preset="auto", layers=["blocks.2"]), None)) == ["balanced", "fast"]
    assert list(_candidates(settings_from(preset="auto"), Path("w.pth"))) == ["balanced", "fast"]


def test_given_settings_go_before_the_preset() -> None:
    assert settings_from(preset="fast").image_size == (192, 192)
    assert settings_from(preset="fast", image_size=320).image_size == (320, 320)
    assert settings_from(preset="fast").resize == "area"


def test_too_few_images_are_no_evidence() -> None:
    settings, choice = chosen_preset([texture(seed) for seed in range(5)], settings_from(preset="auto"))
    assert (choice.chosen, choice.tried) == ("balanced", ())
    assert "too few" in choice.reason
    assert settings.backbone == DEFAULT_BACKBONE


def test_a_second_fit_chooses_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def chosen(sources: object, settings: Settings, *rest: object) -> tuple[Settings, PresetChoice]:
        asked.append(settings)
        return settings.model_copy(update={"image_size": (64, 64)}), PresetChoice("fast", "a test says so", ())

    monkeypatch.setattr("offnominal.detector.chosen_preset", chosen)
    detector = Detector(preset="auto", bank=50)
    for _ in range(2):
        detector.fit([texture(seed) for seed in range(3)])
    assert asked[0] == asked[1]
    assert detector.settings.image_size == (64, 64)


def test_the_choice_is_told_and_kept(tmp_path: Path) -> None:
    told: list[str] = []
    detector = Detector(preset="auto", image_size=64, bank=100).fit([texture(seed) for seed in range(14)], tell=told.append)
    choice = detector.model.choice
    assert choice is not None
    assert told == [f"preset {choice.chosen}: {choice.reason}"]
    assert all(one.milliseconds > 0 for one in choice.tried)
    detector.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.model.choice == choice
    assert again.settings == detector.settings
    known = facts(again.model)["preset"]
    assert (known["asked"], known["used"]) == ("auto", choice.chosen)
    assert [one["name"] for one in known["tried"]] == ["balanced", "fast", "accurate"]
