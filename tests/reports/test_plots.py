"""Charts: the data they show, as SVG and as files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import texture
from offnominal import Detector
from offnominal.memory import greedy_kcenter
from offnominal.outputs.charts import evaluation_charts, model_charts, write_charts
from offnominal.reports.plots import Chart, bank_coverage, class_boxes, drawn, kcenter_radii, score_histogram, svg

_SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(svg(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_radii_equal_the_naive_covering_radii() -> None:
    patches = np.random.default_rng(0).normal(size=(600, 7)).astype(np.float32)
    chosen = greedy_kcenter(patches, 80, start=3)
    radii = kcenter_radii(patches[chosen])
    assert radii.shape == (79,)
    for count in (1, 2, 17, 79):
        distances = np.linalg.norm(patches[:, None].astype(float) - patches[chosen[:count]][None], axis=2)
        assert radii[count - 1] == pytest.approx(distances.min(1).max(), rel=1e-5)
    with pytest.raises(ValueError, match="M > 1"):
        kcenter_radii(patches[:1])


def test_radii_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    expected = kcenter_radii(bank)
    monkeypatch.setitem(kcenter_radii.__globals__, "_CELLS", 150)
    assert kcenter_radii(bank) == pytest.approx(expected)


def test_coverage_equals_pca() -> None:
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(2)
    bank = (rng.normal(size=(200, 12)) * np.r_[9, 5, np.ones(10)]).astype(np.float32)
    chart = bank_coverage(bank)
    points = np.asarray(chart.marks[-1].points)  # type: ignore[union-attr]
    pca = PCA(2, svd_solver="full").fit(bank)
    assert np.abs(points) == pytest.approx(np.abs(pca.transform(bank)), abs=1e-3)
    assert f"{pca.explained_variance_ratio_[0]:.0%}" in chart.x_label
    assert bank_coverage(bank[:2]).marks  # fewer patches than features
    assert bank_coverage(bank[:5, :1]).marks


def test_the_histogram_counts_every_image() -> None:
    rng = np.random.default_rng(3)
    good, defect = rng.normal(1, 1, 300).astype(np.float32), rng.normal(4, 2, 100).astype(np.float32)
    chart = score_histogram({"good": good, "defect": defect}, 3.0)
    assert [mark.heights.sum() for mark in chart.marks[:2]] == [300, 100]  # type: ignore[union-attr]
    assert chart.x_range[0] == min(good.min(), defect.min())
    assert score_histogram({"all": np.full(4, 2.0, np.float32)}, 2.0).x_range[0] == 2.0
    (rule,) = [line for line in parsed(chart).iter(f"{_SVG}line") if "follows" in line.get("class", "")]
    root = parsed(chart)
    low, high, left, right = (float(root.get(f"data-{name}", "")) for name in ("x0", "x1", "left", "right"))
    assert float(rule.get("x1", "")) == pytest.approx(left + (3.0 - low) / (high - low) * (right - left), abs=0.1)


def test_count_axes_have_integer_ticks() -> None:
    for count in (1, 2, 5, 400):
        scores = np.concatenate([np.full(count, 1.0), np.linspace(0, 3, 7)]).astype(np.float32)
        texts = parsed(score_histogram({"all": scores}, 2.0)).iter(f"{_SVG}text")
        ticks = [float(text.text.replace(",", "")) for text in texts if text.text and text.get("text-anchor") == "end"]
        assert len(ticks) > 1
        assert all(tick % 1 == 0 for tick in ticks), count


def test_boxes_span_the_quartiles() -> None:
    values = np.random.default_rng(4).normal(size=101).astype(np.float32)
    root = parsed(class_boxes([("good", values), ("<crack>", values + 5)], 2.0))
    boxes = [box for box in root.iter(f"{_SVG}rect") if "box" in box.get("class", "")]
    low, high, left, right = (float(root.get(f"data-{name}", "")) for name in ("x0", "x1", "left", "right"))
    first, third = np.percentile(values, [25, 75])
    assert float(boxes[0].get("x", "")) == pytest.approx(left + (first - low) / (high - low) * (right - left), abs=0.1)
    assert float(boxes[0].get("width", "")) == pytest.approx((third - first) / (high - low) * (right - left), abs=0.1)
    assert any(text.text == "<crack> (101)" for text in root.iter(f"{_SVG}text"))


def test_charts_of_a_run_and_a_model(detector: Detector, parts: Path, tmp_path: Path) -> None:
    result = detector.evaluate(parts)
    charts = evaluation_charts(detector.model.calibration, result)
    names = ["scores", "roc", "precision-recall", "pro", "pixel-precision-recall", "calibration", "classes"]
    assert [chart.name for chart in charts] == names
    of_model = model_charts(detector.model)
    assert [chart.name for chart in of_model] == ["coverage-1", "radius-1", "coverage-2", "radius-2"]
    for member, coverage, radius in zip(detector.model.members, of_model[::2], of_model[1::2], strict=True):
        assert coverage.title.endswith(f": {member.name}")
        radii = np.asarray(radius.marks[0].points)[:, 1]  # type: ignore[union-attr]
        assert radii[-1] == member.bank.radius
        assert np.all(np.diff(radii) <= 1e-4 * radii[:-1])  # the covering radius of a greedy coreset never increases
    for chart in (*charts, *of_model):
        root = parsed(chart)
        assert root.get("role") == "img"
        assert chart.title in root.get("aria-label", "")
        coordinates = [
            float(number) for number in re.findall(r"-?[\d.]+", " ".join(p.get("d", "") for p in root.iter(f"{_SVG}path")))
        ]
        assert all(-1 <= coordinate <= 700 for coordinate in coordinates), chart.name
    for path in write_charts([*charts, *of_model], tmp_path / "deep" / "plots"):
        picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.std() > 5
    assert len(list((tmp_path / "deep" / "plots").iterdir())) == 11


def test_the_radius_chart_needs_a_bank_in_greedy_order(detector: Detector) -> None:
    model = detector.model
    assert [chart.name for chart in model_charts(replace(model, added=1))] == ["coverage-1", "coverage-2"]
    single = replace(model, members=model.members[:1])
    assert [chart.name for chart in model_charts(single)] == ["coverage", "radius"]
    few = Detector(image_size=96, bank=1).fit([texture(seed) for seed in range(3)])
    assert model_charts(few.model) == []


def test_the_same_chart_gives_the_same_file() -> None:
    chart = score_histogram({"all": np.arange(9, dtype=np.float32)}, 4.0)
    for kind in ("png", "svg"):
        assert drawn(chart, kind) == drawn(chart, kind)
