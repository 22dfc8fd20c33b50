"""Gates: the score is the highest level at which a region is large enough."""

from __future__ import annotations

import math
from collections import deque

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offnominal.decisions import calibrate, find_regions
from offnominal.gates import Area, Gate, Gates, Zone, diameters, image_score, outline, parse_limit
from offnominal.roi import RegionOfInterest
from offnominal.types import Float, Mask

SIZE = (64, 96)


def regions_of(mask: Mask) -> list[list[tuple[int, int]]]:
    """The 8-connected regions of a mask, by flood fill."""
    left, regions = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        waiting, region = deque([left.pop()]), []
        while waiting:
            row, column = waiting.popleft()
            region.append((int(row), int(column)))
            for other in ((row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)):
                if other in left:
                    left.remove(other)
                    waiting.append(other)
        regions.append(region)
    return regions


def length_of(region: list[tuple[int, int]], cell: tuple[float, float]) -> float:
    """Largest distance between two corners of the cells of a region."""
    corners = {(x + dx, y + dy) for y, x in region for dx in (0, 1) for dy in (0, 1)}
    return max(math.hypot((x - u) * cell[0], (y - v) * cell[1]) for x, y in corners for u, v in corners)


def naive_level(scores: Float, area: Area) -> float:
    """The highest value of the map at which a region is large enough; the lowest if there is none."""
    inside = np.ones(scores.shape, np.bool_) if area.inside is None else area.inside
    levels = sorted(set(scores[inside].tolist()), reverse=True)
    for level in levels:
        for region in regions_of((scores >= level) & inside):
            if len(region) >= area.cells and length_of(region, area.cell) >= area.length - 1e-9:
                return float(level)
    return float(levels[-1])


maps = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**32 - 1), st.booleans()).map(
    lambda drawn: (
        np.random.default_rng(drawn[2]).integers(0, 12, drawn[:2]).astype(np.float32),
        np.random.default_rng(drawn[2] + 1).random(drawn[:2]) < 0.8 if drawn[3] else None,
    )
)


@hypothesis.settings(deadline=None)
@given(maps, st.integers(1, 12), st.sampled_from([0.0, 2.0, 3.5, 5.0]), st.sampled_from([(1.0, 1.0), (0.5, 1.5)]))
def test_the_level_is_that_of_the_naive_search(
    drawn: tuple[Float, Mask | None], cells: int, length: float, cell: tuple[float, float]
) -> None:
    scores, inside = drawn
    if inside is not None and not inside.any():
        return
    area = Area(None, inside, cells, length, cell)
    assert area.level(scores) == naive_level(scores, area)


@hypothesis.settings(deadline=None)
@given(maps, st.sampled_from(["3px2", "6px2", None]), st.sampled_from(["3px", None]), st.floats(0, 12))
def test_an_image_is_anomalous_exactly_if_it_has_regions(
    drawn: tuple[Float, Mask | None], min_area: str | None, min_length: str | None, threshold: float
) -> None:
    scores, _ = drawn
    gates = Gates(Gate(min_area, min_length))
    if gates.problem(scores.shape, scores.shape) is not None:
        return
    areas = gates.areas(scores.shape, (scores.shape[0], scores.shape[1]))
    calibration = calibrate(np.array([threshold, -1.0], np.float32), rate=0.4)
    score = image_score(scores, areas)
    regions = find_regions(scores, calibration, (scores.shape[0], scores.shape[1]), areas)
    assert bool(regions) == calibration.anomalous(score)
    if regions:
        assert regions[0].p_value == min(region.p_value for region in regions) == calibration.p_value(score)
        for region in regions:
            assert region.area >= areas[0].cells
            assert region.length >= areas[0].length


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_diameters_are_those_of_the_naive_search(points: list[tuple[int, int]]) -> None:
    mask = np.zeros((10, 10), np.bool_)
    for x, y in points:
        mask[y, x] = True
    length, width = diameters(outline(mask).astype(float))
    assert length == pytest.approx(length_of([(y, x) for x, y in points], (1, 1)))
    corners = np.array([(x + dx, y + dy) for x, y in points for dx in (0, 1) for dy in (0, 1)])
    angles = np.linspace(0, np.pi, 2000)
    along = corners @ np.stack([np.cos(angles), np.sin(angles)])
    assert width == pytest.approx((along.max(axis=0) - along.min(axis=0)).min(), abs=0.05)


def test_limits_are_read_with_their_unit() -> None:
    for text, power in (("0.3mm2", 2), ("0.3 mm²", 2), (".3mm^2", 2)):
        limit = parse_limit(text, power)
        assert (limit.value, limit.unit) == (0.3, "mm")
    assert parse_limit("40px", 2) == parse_limit("40px2", 2)
    for text, power in (("0.3mm", 2), ("1mm2", 1), ("3", 1), ("1e999mm", 1), ("-1mm", 1), ("mm", 1)):
        with pytest.raises(ValueError, match="such as"):
            parse_limit(text, power)


def test_a_gate_in_mm_depends_on_the_pixels() -> None:
    gates = Gates(Gate(min_area="4mm2"), mm_per_pixel=(0.5, 0.25))
    assert gates.areas((64, 64), (64, 64))[0].cells == 32
    assert gates.areas((64, 64), (64, 64), (1.0, 1.0))[0].cells == 4
    assert gates.areas((32, 32), (64, 64))[0].cells == 8
    problem = Gates(Gate(min_length="4mm")).problem((64, 64), (64, 64))
    assert problem == "a gate is in mm and the size of a pixel is not known; give mm_per_pixel, such as 0.02"


def zone(name: str, columns: slice, gate: Gate | None = None) -> Zone:
    mask = np.zeros(SIZE, np.bool_)
    mask[:, columns] = True
    return Zone(name, RegionOfInterest.of(mask), gate or Gate())


def test_each_zone_has_its_own_gate() -> None:
    gates = Gates(Gate("20px2"), (zone("a", slice(0, 30), Gate("4px2")), zone("b", slice(30, 60))))
    scores = np.zeros(SIZE, np.float32)
    scores[10, 5:8] = 9  # too small for a
    scores[20, 40] = 7  # b takes everything
    scores[30:34, 70:74] = 8  # too small for the rest
    a, b, rest = gates.areas(SIZE, SIZE)
    assert [area.name for area in (a, b, rest)] == ["a", "b", None]
    assert [area.level(scores) for area in (a, b, rest)] == [0, 7, 0]
    regions = find_regions(scores, calibrate(np.array([1.0, 2.0, 3.0]), rate=0.25), SIZE, (a, b, rest))
    assert [(region.zone, region.area) for region in regions] == [("b", 1)]


def test_zones_that_cover_the_image_leave_no_rest() -> None:
    gates = Gates(zones=(zone("all", slice(None)),))
    assert [area.name for area in gates.areas(SIZE, SIZE)] == ["all"]


def test_a_zone_ends_at_the_region_of_interest() -> None:
    roi = np.zeros(SIZE, np.bool_)
    roi[:, :20] = True
    gates = Gates(zones=(zone("a", slice(10, 40)),), region=RegionOfInterest.of(roi))
    a, rest = gates.areas(SIZE, SIZE)
    assert a.inside is not None
    assert rest.inside is not None
    assert np.flatnonzero(a.inside[0]).tolist() == list(range(10, 20))
    assert np.flatnonzero(rest.inside[0]).tolist() == list(range(10))
    outside = Gates(zones=(zone("a", slice(30, 40)),), region=RegionOfInterest.of(roi))
    assert "the zone 'a' lies outside of the region of interest" in str(outside.problem(SIZE, SIZE))


def test_a_gate_that_nothing_can_pass_is_a_problem() -> None:
    assert Gates(Gate("7000px2")).problem(SIZE, SIZE) == "the image is smaller than its own gate; give a smaller gate"
    assert Gates(Gate("6000px2")).problem(SIZE, SIZE) is None
    narrow = Gates(zones=(zone("seam", slice(0, 4), Gate(min_length="80px")),))
    assert "the zone 'seam' is smaller than its own gate" in str(narrow.problem(SIZE, SIZE))
    other = Gates(zones=(zone("a", slice(0, 40)),)).problem((64, 64), (64, 64))
    assert other == "is 64 x 64, and the zones were drawn for 96 x 64; draw them on an image of this shape"
