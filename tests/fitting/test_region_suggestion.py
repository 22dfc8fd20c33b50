"""The suggested region of interest: the part, wherever it lies, or nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import REAL_DATA, texture
from offnominal.datasets import normal_images
from offnominal.errors import InputError
from offnominal.fitting.region_suggestion import suggest_region


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    program = [sys.executable, "-m", "offnominal.cli"]
    return subprocess.run([*program, *map(str, words)], capture_output=True, text=True, check=False)


def disc(seed: int, size: tuple[int, int] = (192, 256)) -> tuple[np.ndarray, np.ndarray]:
    """A round textured part on a plain background, and its mask."""
    rng = np.random.default_rng(seed)
    background = np.full((*size, 3), 40, np.uint8) + rng.integers(0, 6, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, np.uint8)
    centre = 128 + int(rng.integers(-12, 13)), 96 + int(rng.integers(-12, 13))
    cv2.circle(mask, centre, 55, 1, cv2.FILLED)
    return np.where(mask[:, :, None] > 0, texture(seed, size), background), mask.astype(bool)


def test_the_region_covers_the_part_in_every_image() -> None:
    images = [disc(seed) for seed in range(12)]
    region = suggest_region([image for image, _ in images]).at((192, 256))
    everywhere = np.any([mask for _, mask in images], axis=0)
    assert (region & everywhere).sum() >= 0.98 * everywhere.sum()
    assert region.sum() <= 2 * everywhere.sum()


def test_a_texture_has_no_part() -> None:
    with pytest.raises(InputError, match="no part can be told from the background; draw the region of interest by hand"):
        suggest_region([np.random.default_rng(seed).integers(0, 255, (192, 256, 3), dtype=np.uint8) for seed in range(8)])


def test_too_few_images_and_two_shapes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2 of 3 images can be read, a suggestion needs 3; the first that cannot: .*broken"):
        suggest_region([disc(0)[0], disc(1)[0], tmp_path / "broken.png"])
    with pytest.raises(InputError, match="images of 256 x 192 and 256 x 256: a region needs images of one aspect ratio"):
        suggest_region([disc(0)[0], disc(1)[0], disc(2)[0], disc(3, (256, 256))[0]])


@pytest.mark.realdata
def test_the_cookies_lie_in_their_region() -> None:
    region = suggest_region([item.path for item in normal_images(REAL_DATA / "aws_cookies")])
    assert 0.3 < region.share < 0.8
    height, width = region.size
    assert region.mask[height // 4 : -height // 4, width // 4 : -width // 4].all()
    with pytest.raises(InputError, match="no part can be told"):
        suggest_region([item.path for item in normal_images(REAL_DATA / "mvtec_leather_mini")])


def test_the_command_writes_a_mask_and_a_preview(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    for seed in range(6):
        cv2.imwrite(str(tmp_path / "good" / f"{seed}.png"), disc(seed)[0])
    done = run("roi", tmp_path / "good", "--suggest", "--out", tmp_path / "roi.png")
    assert done.returncode == 0, done.stderr
    assert "fit with --roi" in done.stderr
    mask = cv2.imread(str(tmp_path / "roi.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    assert set(np.unique(mask)) == {0, 255}
    assert cv2.imread(str(tmp_path / "roi-preview.jpg")) is not None
    fitted = run(
        "fit", tmp_path / "good", "--roi", tmp_path / "roi.png", "--out", tmp_path / "m", "--image-size", "96", "--json"
    )
    assert fitted.returncode == 0, fitted.stderr
    assert '"share"' in fitted.stdout
    for words, message in (
        ((), "give either --suggest, or the region"),
        (("--suggest", "--roi", tmp_path / "roi.png"), "give either --suggest"),
        (("--roi", tmp_path / "missing.png"), "missing.png"),
    ):
        refused = run("roi", tmp_path / "good", "--out", tmp_path / "other.png", *words)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1
    named = run("roi", tmp_path / "good", "--suggest", "--out", tmp_path / "roi.jpg")
    assert "a mask is a PNG file" in named.stderr
