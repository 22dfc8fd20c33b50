"""Comparison of two runs: intervals against naive resampling and scipy, changed verdicts, and incompatible folders."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from offnominal import Detector
from offnominal.cli import main
from offnominal.comparison import read_run
from offnominal.datasets import any_images
from offnominal.metrics import Verdicts, paired_figures
from offnominal.metrics.paired import weighted_figures
from offnominal.outputs.evaluations import write_evaluation
from offnominal.outputs.inspections import write_inspections


def test_weighted_metrics_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, 40).astype(float)
    defect = rng.random(40) < 0.4
    flagged = scores > 5
    weights = np.vstack([np.ones(40), rng.integers(0, 4, (3, 40))]).astype(float)
    metrics = weighted_figures(scores, flagged, defect, weights)
    for row, weight in enumerate(weights):
        sample = np.repeat(np.arange(40), weight.astype(int))
        s, d, f = scores[sample], defect[sample], flagged[sample]
        assert metrics["image_auroc"][row] == pytest.approx(roc_auc_score(d, s))
        assert metrics["image_ap"][row] == pytest.approx(average_precision_score(d, s))
        assert metrics["image_f1_max"][row] == pytest.approx(max(f1_score(d, s >= level) for level in np.unique(s)))
        assert metrics["false_alarm_rate"][row] == pytest.approx(f[~d].mean())
        assert metrics["detection_rate"][row] == pytest.approx(f[d].mean())


def test_bootstrap_intervals_against_scipy() -> None:
    rng = np.random.default_rng(1)
    defect = np.r_[np.zeros(60, bool), np.ones(40, bool)]
    base = rng.normal(size=100) + defect
    a = Verdicts(base, base > 1)
    b = Verdicts(base + 0.5 * rng.normal(size=100) + 0.4 * defect, base > 0.8)
    auroc = paired_figures(a, b, defect, seed=3)["image_auroc"]

    def naive_auroc(scores: np.ndarray, good: np.ndarray, bad: np.ndarray) -> float:
        return float((scores[bad][:, None] > scores[good]).mean())  # no ties here

    def difference(good: np.ndarray, bad: np.ndarray) -> float:
        return naive_auroc(b.scores, good, bad) - naive_auroc(a.scores, good, bad)

    expected = bootstrap(
        (np.flatnonzero(~defect), np.flatnonzero(defect)), difference, vectorized=False, n_resamples=3000, method="percentile",
        rng=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    assert auroc.difference.value == pytest.approx(difference(np.flatnonzero(~defect), np.flatnonzero(defect)))
    assert auroc.difference.low == pytest.approx(expected.low, abs=0.01)
    assert auroc.difference.high == pytest.approx(expected.high, abs=0.01)
    # Both runs share each resample, so the interval of the difference is narrower than for independent samples.
    spread = auroc.difference.high - auroc.difference.low
    assert spread < np.hypot(auroc.a.high - auroc.a.low, auroc.b.high - auroc.b.low)


def test_a_run_does_not_differ_from_itself() -> None:
    rng = np.random.default_rng(2)
    verdicts = Verdicts(rng.normal(size=50), rng.random(50) < 0.3)
    for figure in paired_figures(verdicts, verdicts, rng.random(50) < 0.5).values():
        assert (figure.difference.value, figure.difference.low, figure.difference.high) == (0, 0, 0)
        assert figure.a.low <= figure.a.value <= figure.a.high
    assert list(paired_figures(verdicts, verdicts, None)) == ["flagged_rate"]
    assert list(paired_figures(verdicts, verdicts, np.ones(50, bool))) == ["detection_rate"]
    with pytest.raises(ValueError, match="same images"):
        paired_figures(verdicts, Verdicts(verdicts.scores[1:], verdicts.flagged[1:]), None)


@pytest.fixture(scope="module")
def runs(detector: Detector, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_evaluation(detector.model, detector.evaluate(parts), folder / "a", "A")
    # Change two scores, so that exactly these verdicts change: a good image scores higher, a bad one lower.
    write_evaluation(detector.model, detector.evaluate(parts), folder / "b", "B")
    lines = (folder / "b" / "scores.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    first = {label: next(row for row in rows if row[1] == label) for label in ("good", "blotch")}
    for label, row in first.items():
        row[2], row[4] = str(float(row[2]) + (1000 if label == "good" else -1000)), str(1 - int(row[4]))
    (folder / "b" / "scores.csv").write_text("\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n")
    (folder / "changed.json").write_text(json.dumps({row[0]: row[4] for row in first.values()}))
    write_inspections(detector, any_images([parts / "test"]), folder / "inspected")
    return folder


def run(words: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["offnominal", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


def test_changed_verdicts_are_listed_by_kind(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["compare", runs / "a", runs / "b", "--out", tmp_path, "--json"], monkeypatch, capsys)
    assert code == 0
    comparison = json.loads((tmp_path / "compare.json").read_text())
    assert comparison == json.loads(out)
    changed = json.loads((runs / "changed.json").read_text())
    assert {entry["path"]: str(int(entry["b"]["anomalous"])) for entry in comparison["changed"]} == changed
    kinds = {entry["label"]: entry["kind"] for entry in comparison["changed"]}
    assert kinds["good"] in ("new false alarm", "no longer a false alarm")
    assert kinds["blotch"] in ("now found", "now missed")
    metrics = json.loads((runs / "a" / "metrics.json").read_text())
    for name, figure in comparison["figures"].items():
        assert figure["a"]["value"] == pytest.approx(metrics[name])
        assert figure["difference"]["value"] == pytest.approx(figure["b"]["value"] - figure["a"]["value"])
    assert comparison["figures"]["image_auroc"]["difference"]["value"] < 0
    assert comparison["pixel_figures"]["pixel_auroc"]["difference"] == 0
    page = (tmp_path / "compare.html").read_text()
    assert page.count('src="data:image/webp') == 4  # two images from each of the two runs
    assert "http" not in page.replace("http-equiv", "")


def test_pictures_match_their_images_if_a_mask_is_unreadable(
    detector: Detector, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(parts, tmp_path / "parts")
    first = min((tmp_path / "parts" / "ground_truth").rglob("*.png"))
    first.write_bytes(b"no picture")
    write_evaluation(detector.model, detector.evaluate(tmp_path / "parts"), tmp_path / "run", "A")
    lines = (tmp_path / "run" / "scores.csv").read_text().splitlines()[1:]
    assert any(line.split(",")[5] for line in lines[:-1]), "the image without a mask is not the last"
    images = read_run(tmp_path / "run").images
    pictures = [tmp_path / "run" / "report_files" / f"{index:05d}-heat.jpg" for index in range(len(lines))]
    assert [images[line.split(",")[0]].picture for line in lines] == pictures


def test_runs_of_inspect_are_compared(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["compare", runs / "inspected", runs / "inspected", "--out", tmp_path, "--json"], monkeypatch, capsys)
    assert code == 0
    comparison = json.loads(out)
    assert (comparison["images"], comparison["changed"], comparison["pixel_figures"]) == (10, [], {})
    assert "None: both runs flag the same images." in (tmp_path / "compare.html").read_text()


def test_incompatible_folders_are_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    change: Callable[[str], str]
    for name, change in (
        ("others", lambda text: text.replace("test/", "elsewhere/")),
        ("damaged", lambda text: text.replace("score", "sc0re")),
        ("relabelled", lambda text: text.replace(",blotch,", ",dent,")),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}" if name == "empty" else '{"n_good": 5}')
        (tmp_path / name / "scores.csv").write_text(change((runs / "a" / "scores.csv").read_text()))
    a = runs / "a"
    for second, message in (
        (tmp_path / "nowhere", "is not a folder"),
        (tmp_path / "empty", "holds neither metrics.json"),
        (tmp_path / "others", "no image in common"),
        (tmp_path / "damaged", "is damaged"),
        (tmp_path / "relabelled", "5 images have different labels"),
        (runs / "inspected", "compare two runs of the same command"),
    ):
        code, out, err = run(["compare", a, second, "--out", tmp_path / "out"], monkeypatch, capsys)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert message in line
    (tmp_path / "file").write_text("")
    code, _, err = run(["compare", a, a, "--out", tmp_path / "file" / "x"], monkeypatch, capsys)
    assert code == 2
    assert "cannot be written" in err
