"""Updates of models with groups of images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import damaged, texture
from fitting.test_update import SMALL, number_of, patches_of, scores_of
from offnominal import Detector
from offnominal.scoring import DISTANCE


def write_grouped_images(tmp_path: Path, groups: str) -> Path:
    """Write images and a manifest. Each letter is the group of one image; a dot is an image without a group."""
    lines = ["path,group"]
    for seed, group in enumerate(groups):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), texture(seed))
        lines.append(f"{seed}.png,{'' if group == '.' else group}")
    (tmp_path / "parts.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "parts.csv"


def test_a_removed_group_gets_its_held_out_distances(tmp_path: Path) -> None:
    """The images of a group are held out together, so they must be removed together for equal distances."""
    data = write_grouped_images(tmp_path, "aabb....")
    detector = Detector(**SMALL).fit(data)
    model = detector.model
    indices = [number_of(model, name) for name in ("0.png", "1.png")]
    assert abs(indices[0] - indices[1]) == 1
    assert {model.sources[at].group for at in indices} == {"a"}
    detector.update(remove=["1.png", "0.png"])
    assert detector.model.calibration.count == 6
    for seed, at in enumerate(indices):
        for number, member in enumerate(model.members):
            explanation = detector.explain(tmp_path / f"{seed}.png", number)
            distance = explanation.distances[:, : model.settings.distance_neighbors].mean(1).reshape(explanation.grid)
            assert distance == pytest.approx(member.held_out.signals[at][:, :, DISTANCE], rel=2e-3, abs=1e-3)


def test_images_of_a_group_do_not_hide_each_other(tmp_path: Path) -> None:
    """Two images of one damaged part hide each other unless they are held out together."""
    for seed in range(8):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), texture(seed))
    part = damaged(60)[0]
    cv2.imwrite(str(tmp_path / "8.png"), part)
    cv2.imwrite(str(tmp_path / "9.png"), np.roll(part, 8, axis=1))
    scores = {}
    for name, group in (("separate", ""), ("together", "one part")):
        lines = ["path,group", *(f"{seed}.png,{group if seed > 7 else ''}" for seed in range(10))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
        model = Detector(**SMALL).fit(tmp_path / f"{name}.csv").model
        scores[name] = scores_of(model)[number_of(model, "8.png")]
    assert scores["together"] > scores["separate"] + 1


def test_images_of_a_group_are_removed_one_at_a_time(tmp_path: Path) -> None:
    data = write_grouped_images(tmp_path, "aaa....")
    detector = Detector(**SMALL).fit(data)
    for remaining, name in ((6, "1.png"), (5, "0.png"), (4, "2.png")):
        image = cv2.imread(str(tmp_path / name))
        assert image is not None
        own = patches_of(detector, image[:, :, ::-1])
        detector.update(remove=[name])
        assert len(detector.model.sources) == detector.model.calibration.count == remaining
        for patches, member in zip(own, detector.model.members, strict=True):
            assert float(torch.cdist(patches, member.bank.patches).min()) > 1e-2
    for member in detector.model.members:
        assert set(member.held_out.replacements.replaces.tolist()) <= set(range(4))
