"""The head trained on noise: its noise, its training, who is told by which, and when it is kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import damaged, texture
from offnominal import Detector, load
from offnominal import detector as room
from offnominal.config import settings_from
from offnominal.detector.engine import FeatureEngine
from offnominal.detector.learning import fit, hold_out, trial
from offnominal.detector.learning.hold_out import cross_fitted_heads, held_out_signals, usual_distance
from offnominal.detector.learning.trial import Trial, Verdict, judged_head
from offnominal.detector.learnt import usual_and_scores
from offnominal.detector.model import HeadVerdict
from offnominal.errors import InputError
from offnominal.images import PSEUDO_ANOMALIES
from offnominal.memory import HeldOutBanks
from offnominal.noising import Head, head, nearest, train_head
from offnominal.scoring import SIGNALS

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"image_size": 96, "bank": 300, "false_alarm_rate": 0.1}
KEPT = HeadVerdict(True, "told so by the test", 0.1)


def test_the_spread_follows_the_influence_at_one_energy() -> None:
    gradient = torch.randn(50, 8)
    gradient[0] = 0
    sigma = head.spread(gradient, 0.7)
    assert torch.allclose(sigma.square().mean(1), torch.ones(50), atol=1e-5)
    naive = (0.3 + 0.7 * 8 * gradient[1] ** 2 / gradient[1].square().sum()).sqrt()
    assert torch.allclose(sigma[1], naive)
    assert torch.allclose(sigma[0], torch.ones(8))
    assert torch.allclose(head.spread(gradient, 0.0), torch.ones(50, 8))


def test_noise_has_the_length_of_its_radius() -> None:
    patches, gradient = torch.randn(400, 8), torch.randn(400, 8)
    moved = head.noised(patches, gradient, 2.0, torch.Generator().manual_seed(0))
    length = (moved - patches).norm(dim=1) / 2.0
    low, high = head.RADII
    assert low <= float(length.min()) <= low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) <= float(length.max()) <= high + 1e-4


def _trained(seed: int, steps: int = 200) -> tuple[Head, torch.Tensor, torch.Tensor]:
    """A head for normal patches that lie on a line in eight dimensions, their bank, and new normal ones."""
    random = torch.Generator().manual_seed(1)
    along = torch.rand(900, 1, generator=random) * 10
    patches = along * torch.ones(8) + 0.1 * torch.randn(900, 8, generator=random)
    bank, learn, new = patches[:200], patches[200:600], patches[600:]
    distances, rows = nearest(learn, bank, 5)
    return train_head(learn, bank, distances.square(), rows, seed=seed, steps=steps), bank, new


def test_a_head_is_what_its_weights_say_and_tells_noise_from_normal() -> None:
    told, bank, new = _trained(0)
    off = new + torch.tensor([1.0, -1] * 4)
    residuals = [x - bank[(x[:, None] - bank).square().sum(2).argmin(1)] for x in (new, off)]
    naive = torch.nn.functional.gelu(torch.cat([new, residuals[0].abs()], 1) @ told.inner.T + told.inner_bias) @ told.outer
    assert torch.allclose(told(new, residuals[0]), naive + told.outer_bias, atol=1e-4)
    above = (told(off, residuals[1])[:, None] > told(new, residuals[0])[None]).float().mean()
    assert float(above) > 0.95


def test_training_is_repeatable_and_the_seed_counts() -> None:
    first, again, other = _trained(0, 5)[0], _trained(0, 5)[0], _trained(1, 5)[0]
    assert torch.equal(first.inner, again.inner)
    assert not torch.equal(first.inner, other.inner)


def test_a_head_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="inner is"):
        Head(torch.zeros(3, 4), torch.zeros(2), torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match="outer is"):
        Head(torch.zeros(3, 4), torch.zeros(3), torch.zeros(2), torch.zeros(1))


def _banks(changed: int | None = None) -> tuple[HeldOutBanks, int]:
    """Six images of 40 patches with a bank of the first ten of each; `changed` has other patches outside the bank."""
    patches = torch.randn(6, 40, 8, generator=torch.Generator().manual_seed(2))
    if changed is not None:
        patches[changed, 10:] += 3
    starts = np.arange(0, 240, 40)
    centres = np.concatenate([start + np.arange(10) for start in starts])
    return HeldOutBanks(patches.flatten(0, 1), starts, centres, float("nan"), CPU), 6


def test_the_head_of_a_fold_has_not_seen_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_out, "train_head", partial(train_head, steps=4))
    settings = settings_from(neighbors=3)
    before, after = (cross_fitted_heads(*_banks(changed), settings) for changed in (None, 2))
    assert torch.equal(before[0].inner, after[0].inner)  # image 2 belongs to fold 0
    assert not torch.equal(before[1].inner, after[1].inner)


def test_held_out_patches_are_told_by_the_head_that_missed_them() -> None:
    banks, images = _banks()
    settings = settings_from(neighbors=3)
    usual = usual_distance(banks, images, settings, CPU)
    heads = [
        Head(torch.randn(4, 16, generator=torch.Generator().manual_seed(n)), torch.zeros(4), torch.ones(4), torch.zeros(1))
        for n in range(2)
    ]
    found = held_out_signals(banks, images, settings, usual, CPU, heads=heads)
    for image in range(images):
        patches, others = banks.patches(image), banks.bank[torch.arange(60) // 10 != image]
        _, rows = nearest(patches, others, 1)
        told = heads[image % 2](patches, patches - others[rows[:, 0]])
        assert found[image][:, SIGNALS.index("head")] == pytest.approx(told.numpy(), abs=1e-3)


@pytest.fixture(scope="module")
def with_head() -> Detector:
    """Fitted with heads, whatever a trial would say of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "judged_head", lambda *given: KEPT)
        patch.setattr(hold_out, "train_head", partial(train_head, steps=40))
        return Detector(**SMALL, head="noise").fit([texture(seed) for seed in range(14)])


def test_a_kept_head_scores_and_is_saved(with_head: Detector, tmp_path: Path) -> None:
    model = with_head.model
    assert len(model.heads) == hold_out.FOLDS
    assert model.fusion_weights[3] > 0
    networks = [model.geometry.network_size(source.size) for source in model.bank.sources]
    scores = usual_and_scores(model.learnt.signals, networks, model.settings, head=True)[1]
    assert np.sort(model.calibration.scores) == pytest.approx(np.sort(scores))  # calibrated with the head
    assert with_head.inspect(damaged(200)[0]).anomalous
    with_head.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.model.head == KEPT
    assert again.inspect(texture(300)).score == with_head.inspect(texture(300)).score
    assert all(np.array_equal(a, b) for a, b in zip(again.model.learnt.signals, model.learnt.signals, strict=True))
    plain = Detector(**SMALL).fit([texture(seed) for seed in range(14)])
    assert plain.model.fusion_weights[3] == 0
    assert plain.inspect(texture(300)).score != with_head.inspect(texture(300)).score


def test_where_no_head_can_be_trained_none_is_said_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "judged_head", lambda *given: KEPT)
    monkeypatch.setattr(fit, "cross_fitted_heads", lambda *given: ())
    model = Detector(**SMALL, head="noise").fit([texture(seed) for seed in range(4)]).model
    assert (model.heads, model.head.kept) == ((), False)
    assert "one image's own" in model.head.reason


def test_a_model_with_heads_learns_on(with_head: Detector, tmp_path: Path) -> None:
    with_head.save(tmp_path / "m")
    more = load(tmp_path / "m")
    more.update(add=[texture(50)], remove=["array 3"])
    assert more.model.calibration.count == 14
    assert all(np.abs(one[:, :, 3]).max() > 0 for one in more.model.learnt.signals)
    networks = [more.model.geometry.network_size(one.size) for one in more.model.bank.sources]
    for counted in (True, False):
        _, scores = usual_and_scores(more.model.learnt.signals, networks, more.model.settings, head=counted)
        assert np.allclose(np.sort(scores), np.sort(more.model.calibration.scores)) is counted


def test_good_parts_are_flagged_no_more_often_than_promised(with_head: Detector) -> None:
    flagged = [with_head.inspect(texture(seed)).anomalous for seed in range(1000, 1060)]
    bound = with_head.model.calibration.bound_95
    assert np.mean(flagged) <= bound


def _verdict(detection: float, kinds: float | None = None) -> Verdict:
    found = np.full((len(PSEUDO_ANOMALIES), 8), detection, np.float32)
    found += np.linspace(0, 0.01, 8, dtype=np.float32)
    if kinds is not None:
        found[0] = kinds
    return Verdict(found, np.full((len(PSEUDO_ANOMALIES), 8), 0.5, np.float32))


@pytest.mark.parametrize(
    ("with_it", "without", "kept", "says"),
    [
        (_verdict(0.9), _verdict(0.8), True, "with it made defects are found"),
        (_verdict(0.8), _verdict(0.8), False, "no sure gain"),
        (_verdict(0.7), _verdict(0.8), False, "no sure gain"),
        (_verdict(0.99, kinds=0.6), _verdict(0.8, kinds=0.7), False, "pasted ones detected -0.100"),
    ],
)
def test_a_head_is_kept_only_for_a_sure_gain(
    monkeypatch: pytest.MonkeyPatch, with_it: Verdict, without: Verdict, kept: bool, says: str
) -> None:
    settings = settings_from(**SMALL, head="noise")
    monkeypatch.setattr(hold_out, "train_head", partial(train_head, steps=2))
    monkeypatch.setattr(Trial, "judge", lambda self, inspector: with_it if inspector.model.heads else without)
    found = judged_head([texture(seed) for seed in range(14)], settings, FeatureEngine(settings))
    assert found.kept is kept
    assert found.reason.startswith(says)
    assert found.gain == pytest.approx(float((with_it.merits - without.merits).mean()))


def test_too_few_images_and_no_wish_are_said() -> None:
    for wish, images, says in (("noise", 5, "too few for a trial"), ("auto", 20, "from 50 on"), ("none", 20, "not asked for")):
        settings = settings_from(**SMALL, head=wish)
        found = judged_head([texture(seed) for seed in range(images)], settings, FeatureEngine(settings))
        assert not found.kept
        assert found.gain is None
        assert says in found.reason


def test_images_of_another_depth_do_not_end_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_out, "train_head", partial(train_head, steps=2))
    settings = settings_from(**SMALL, head="noise")
    wide = [texture(seed).astype(np.uint16) * 257 for seed in range(20, 22)]
    sources = [texture(seed) for seed in range(7)] + wide + [texture(seed) for seed in range(7, 14)]
    found = judged_head(sources, settings, FeatureEngine(settings))
    assert "not tried" not in found.reason
    assert {pixels.dtype.name for pixels in Trial(sources, 0).clean} == {"uint8"}


def test_a_trial_finds_what_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MOST_JUDGED", 5)
    settings = settings_from(**SMALL)
    monkeypatch.setattr(trial, "MOST_PIXELS", 64)
    images: list[Any] = [texture(seed) for seed in range(24)]
    images[3] = "missing.png"
    tried = Trial(images, 0)
    assert all(min(pixels.shape[:2]) == 64 for pixels in tried.clean)
    verdict = tried.judge(tried.fit(settings, FeatureEngine(settings)))
    assert verdict.detection.shape == verdict.localisation.shape == (len(PSEUDO_ANOMALIES), len(tried.clean))
    assert verdict.detection.mean() > 0.6
    assert verdict.merits == pytest.approx((verdict.detection + verdict.localisation).mean(0) / 2)
    with pytest.raises(InputError, match="6 good images are too few for a trial: 12 or more"):
        Trial([texture(seed) for seed in range(6)], 0)
    with pytest.raises(InputError, match="of 4 good images to judge by 0 can be read"):
        Trial(["missing.png"] * 12, 0)
