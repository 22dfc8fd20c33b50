"""Alignment: poses are recovered, and maps, boxes and masks come back in the pixels of the image."""

from __future__ import annotations

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import texture
from moved_parts import SIZE, part
from offnominal.errors import ImageError
from offnominal.images import EIGHT_BIT, Alignment, PoseLimits, ValueRange, aligned, covered, moved, to_image
from offnominal.images.alignment import FINE, LEAST_ENERGY, SMOOTH_COARSE, Kind, _edges, _shrunk
from offnominal.roi import Layout, RegionOfInterest
from offnominal.types import Mask, Pose


def distance(one: Pose, other: Pose, size: tuple[int, int] = SIZE) -> float:
    """Largest distance in pixels between the positions of the corners of the part."""
    corners = np.array([(90, 60), (230, 60), (90, 180), (230, 180)]) * (size[0] / SIZE[0])
    return float(np.abs(moved(corners, one, size) - moved(corners, other, size)).max())


shifts = st.floats(-24, 24)
poses = {
    "shift": st.builds(Pose, dx=shifts, dy=shifts, degrees=st.just(0.0), scale=st.just(1.0), quality=st.just(1.0)),
    "rigid": st.builds(Pose, dx=shifts, dy=shifts, degrees=st.floats(-30, 30), scale=st.just(1.0), quality=st.just(1.0)),
    "similarity": st.builds(
        Pose, dx=shifts, dy=shifts, degrees=st.floats(-30, 30), scale=st.floats(0.88, 1.12), quality=st.just(1.0)
    ),
}


@pytest.mark.parametrize("kind", ["shift", "rigid", "similarity"])
def test_a_pose_is_recovered(kind: Kind) -> None:
    alignment = Alignment.of(part(), EIGHT_BIT, kind)

    @settings(max_examples=20, deadline=None)
    @given(poses[kind])
    def recovered(pose: Pose) -> None:
        found = alignment.locate(part(pose, seed=1), EIGHT_BIT, "part.png")
        assert found.found
        assert found.quality > 0.9
        assert distance(found, pose) < 1.5  # a part that lies within 1.25 pixels of the reference stays where it is

    recovered()


def test_images_of_other_sizes_and_depths_are_located() -> None:
    alignment, pose = Alignment.of(part(), EIGHT_BIT, "rigid"), Pose(30.0, -12.0, 9.0, 1.0, 1.0)
    large = part(pose, size=(480, 640))
    found = alignment.locate(large, EIGHT_BIT, "part.png")
    assert distance(found, pose, (480, 640)) < 1.5
    values = ValueRange("16-bit", 1000, 4000)
    deep = (1000 + large.astype(np.float32) / 255 * 3000).astype(np.uint16)
    assert distance(alignment.locate(deep[:, :, :1], values, "part.png"), found, (480, 640)) < 0.5
    darker = (0.6 * large + 10).astype(np.uint8)
    assert distance(alignment.locate(darker, EIGHT_BIT, "part.png"), found, (480, 640)) < 0.5


def test_images_of_another_shape_are_refused() -> None:
    alignment = Alignment.of(part(), EIGHT_BIT, "shift")
    with pytest.raises(ImageError, match=r"part\.png: is 240 x 240, and the reference image is 320 x 240"):
        alignment.locate(np.zeros((240, 240, 3), np.uint8), EIGHT_BIT, "part.png")


def test_the_reference_pose_as_a_start_gives_the_pose_of_the_search() -> None:
    """With limits, the search is skipped for parts that lie like the reference."""
    searching = Alignment.of(part(), EIGHT_BIT, "rigid")
    limits = PoseLimits((-0.1, -0.1, -10.0, 0.9), (0.1, 0.1, 10.0, 1.1), quality=0.5)
    quick = replace(searching, limits=limits)
    for seed in range(5):
        dx, dy, degrees = np.random.default_rng(seed).uniform(-4, 4, 3)
        pose = Pose(dx, dy, degrees, 1.0, 1.0)
        image = part(pose, seed)
        one, other = (alignment.locate(image, EIGHT_BIT, "part.png") for alignment in (quick, searching))
        assert distance(one, other) < 1.5


def test_starting_points_are_the_best_of_the_naive_search() -> None:
    alignment = Alignment.of(part(), EIGHT_BIT, "shift")
    grey = _shrunk(part(Pose(20.0, -12.0, 0.0, 1.0, 1.0)).mean(2).astype(np.float32) / 255, 64)
    start, *_ = alignment._starts(grey)
    template, edges = (_edges(image, SMOOTH_COARSE) for image in (_shrunk(alignment._shown, 64), grey))
    height, width = edges.shape

    def correlation(shift: tuple[int, int]) -> float:
        """The image counts as flat outside of its frame."""
        under = np.zeros((height, width))
        for row in range(max(0, -shift[0]), min(height, height - shift[0])):
            for column in range(max(0, -shift[1]), min(width, width - shift[1])):
                under[row, column] = edges[row + shift[0], column + shift[1]]
        energy = max(under.var(), LEAST_ENERGY * float((edges**2).mean()))
        return float((under * (template - template.mean())).sum() / np.sqrt(energy))

    best = max(((dy, dx) for dy in range(-12, 13) for dx in range(-12, 13)), key=correlation)
    factor = FINE / 64
    assert (start[1, 2] / factor, start[0, 2] / factor) == pytest.approx(best, abs=0.05)


def test_poses_beyond_the_limits_are_problems() -> None:
    limits = PoseLimits((-0.05, -0.05, -5.0, 0.95), (0.05, 0.05, 5.0, 1.05), quality=0.6)
    alignment = replace(Alignment.of(part(), EIGHT_BIT, "rigid"), limits=limits)
    assert alignment.locate(part(Pose(8.0, 8.0, 2.0, 1.0, 1.0)), EIGHT_BIT, "part.png").found
    for pose, message in (
        (Pose(30.0, 0.0, 0.0, 1.0, 1.0), "shifted horizontally by 30 pixels, normal images by -16 to 16"),
        (Pose(0.0, -25.0, 0.0, 1.0, 1.0), "shifted vertically by -25 pixels"),
        (Pose(0.0, 0.0, 20.0, 1.0, 1.0), r"rotated by (20.0|19.9|20.1) degrees, normal images by -5.0 to 5.0"),
    ):
        problem = alignment.locate(part(pose), EIGHT_BIT, "part.png").problem
        assert problem is not None
        assert re.match(message, problem)
    for other in (cv2.resize(texture(3), SIZE[::-1]), np.full((*SIZE, 3), 90, np.uint8), np.zeros((*SIZE, 3), np.uint8)):
        problem = alignment.locate(other, EIGHT_BIT, "other.png").problem
        assert problem is not None


def test_only_the_region_is_compared() -> None:
    """The background holds more edges than the part, and stays where it is."""
    background = np.kron(np.random.default_rng(0).integers(0, 255, (15, 20), np.uint8), np.ones((16, 16), np.uint8))
    pose = Pose(14.0, 9.0, 4.0, 1.0, 1.0)

    def scene(pose: Pose | None) -> np.ndarray:
        shown = part(pose)
        cover = np.zeros(SIZE, np.uint8)
        cv2.rectangle(cover, (80, 50), (240, 190), 1, cv2.FILLED)
        if pose is not None:
            cover = cv2.warpAffine(cover, pose.matrix(SIZE), SIZE[::-1], flags=cv2.INTER_NEAREST)
        return np.where(cover[:, :, None] > 0, shown, background[:, :, None]).astype(np.uint8)

    mask = np.zeros(SIZE, np.bool_)
    mask[55:186, 85:236] = True
    alignment = Alignment.of(scene(None), EIGHT_BIT, "rigid", region=RegionOfInterest.of(mask))
    assert distance(alignment.locate(scene(pose), EIGHT_BIT, "part.png"), pose) < 1


def test_an_aligned_image_is_the_reference_and_maps_come_back() -> None:
    pose = Pose(11.0, -7.0, 6.0, 1.05, 1.0)
    image = part(pose)
    difference = np.abs(aligned(image, pose).astype(int) - part().astype(int))[40:200, 60:260]
    assert difference.mean() < 6
    spot = np.zeros(SIZE, np.float32)
    spot[80:100, 110:130] = 1
    back = to_image(spot, pose)
    rows, columns = np.nonzero(back > 0.5)
    x, y = moved(np.array([[120.0, 90.0]]), pose, SIZE)[0]
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((x, y), abs=0.5)
    assert to_image(spot > 0, pose).dtype == np.bool_
    for channels in (1, 3):
        for kind in (np.uint8, np.uint16, np.float32):
            assert aligned(np.ones((40, 30, channels), kind), pose).shape == (40, 30, channels)


@settings(deadline=None)
@given(st.integers(4, 20), st.integers(4, 20), poses["similarity"])
def test_covered_positions_are_those_of_the_naive_loop(height: int, width: int, pose: Pose) -> None:
    inside = covered((height, width), pose, SIZE)
    found = np.ones((height, width), np.bool_) if inside is None else inside
    for row in range(height):
        for column in range(width):
            rows = np.clip([row - 1, row + 2], 0, height) * SIZE[0] / height
            columns = np.clip([column - 1, column + 2], 0, width) * SIZE[1] / width
            corners = moved(np.array([(x, y) for x in columns for y in rows]), pose, SIZE)
            margin = np.minimum(corners, np.array(SIZE[::-1]) - corners).min() + 0.5
            if abs(margin) > 1e-6:
                assert found[row, column] == (margin > 0)


@settings(deadline=None)
@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_patches_outside_repeat_the_nearest_one_inside(height: int, width: int, seed: int) -> None:
    inside: Mask = np.random.default_rng(seed).random((height, width)) < 0.6
    layout = Layout((height, width))
    shown = layout.shown(inside)
    positions = layout.at(np.arange(len(layout)))
    known = [at for at, (row, column) in enumerate(positions) if inside[row, column]]
    if not known:
        assert shown.tolist() == list(range(len(layout)))
        return
    for at, number in enumerate(shown):
        assert number in known
        away = np.hypot(*(positions[number] - positions[at]))
        assert away <= 1.1 * min(np.hypot(*(positions[other] - positions[at])) for other in known) + 0.5
