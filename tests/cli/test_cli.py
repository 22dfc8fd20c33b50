"""The commands, as a user runs them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest

from conftest import texture
from offnominal import Detector
from offnominal.cli import main

SMALL = ["--image-size", "128", "--bank", "300", "--false-alarm-rate", "0.1"]


def run_subprocess(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process."""
    return subprocess.run(
        [sys.executable, "-m", "offnominal.cli", *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command in this process. Modules and converted models are reused, so it takes a tenth of the time."""
    texts, code = [str(word) for word in words], 0
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err, patch("sys.argv", ["offnominal", *texts]):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    return subprocess.CompletedProcess(texts, code, out.getvalue(), err.getvalue())


def test_version_and_kernels_are_printed() -> None:
    first, *kernels = run("--version").stdout.splitlines()
    assert first == f"offnominal {version('offnominal')}"
    assert [line.partition(":")[0] for line in kernels] == ["search", "network", "cache"]


def test_help_imports_no_heavy_modules() -> None:
    heavy = {
        "offnominal.cli": ("torch", "cv2", "numpy", "matplotlib"),
        "offnominal.outputs.inspections": ("matplotlib", "timm", "openvino", "scipy.stats"),
    }
    for module, names in heavy.items():
        code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in {names}))"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, module
    text = run_subprocess("--help").stdout
    for command in ("fit", "inspect", "evaluate", "compare", "info", "demo", "audit", "update"):
        assert command in text


def test_fit_inspect_evaluate_and_info(parts: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    fitted = run_subprocess("fit", parts, "--out", model, *SMALL, "--json")
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout)["images"] == 12
    assert "12 images, " in fitted.stderr
    assert "one every" in fitted.stderr

    (parts / "test" / "blotch" / "broken.png").write_bytes(b"")
    try:
        inspected = run_subprocess("inspect", model, parts / "test", "--out", tmp_path / "i")
        evaluated = run_subprocess("evaluate", model, parts, "--out", tmp_path / "e", "--plots", tmp_path / "e/plots", "--json")
    finally:
        (parts / "test" / "blotch" / "broken.png").unlink()
    assert inspected.returncode == 4
    rows = [json.loads(line) for line in (tmp_path / "i" / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 11
    (failed,) = [row for row in rows if row["error"]]
    assert "empty" in failed["error"]
    readable = [row for row in rows if not row["error"]]
    for row in readable:
        keys = {
            "path",
            "score",
            "p_value",
            "anomalous",
            "threshold",
            "whole_p_value",
            "regions",
            "pose",
            "zones",
            "map",
            "error",
        }
        assert set(row) == keys
        assert bool(row["regions"]) == row["anomalous"] == (row["score"] > row["threshold"])
        assert (tmp_path / "i" / row["map"]).is_file()
    assert evaluated.returncode == 4
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert metrics == json.loads(evaluated.stdout)
    names = "image_auroc image_ap image_f1_max pixel_auroc pixel_ap pixel_f1_max aupro_0.30 aupro_0.05"
    names += " false_alarm_rate detection_rate n_good n_defect ms_per_image images_per_second classes"
    assert set(names.split()) <= set(metrics)
    assert 'src="data:image' in (tmp_path / "e" / "report.html").read_text()
    assert len((tmp_path / "e" / "scores.csv").read_text().splitlines()) == 12

    info = json.loads(run("info", model, "--json").stdout)
    assert {"method", "n", "alpha", "threshold", "smallest_alpha", "fpr_bound_95"} <= set(info["calibration"])
    assert info["drift"]["watched"]
    assert "with 95 % confidence" in info["promise"]
    assert run("info", model).returncode == 0
    options = ["--receipts", "--maps", "noise,layers", "--map-format", "npy", "--masks", "png,coco", "--fail-on-anomaly"]
    assert len(list((tmp_path / "e" / "plots").glob("*.png"))) == 7
    assert run("inspect", model, parts / "test/blotch", "--out", tmp_path / "i2", "--report", *options).returncode == 3
    assert '"evidence": {' in (tmp_path / "i2" / "report.html").read_text()
    for row in map(json.loads, (tmp_path / "i2" / "results.jsonl").read_text().splitlines()):
        assert all(region["evidence"]["nearest"] for region in row["regions"])
        assert set(row["maps"]) == {
            "noise",
            *(f"layer-efficientnet-lite0{scale}:blocks.{at}" for at in (2, 4) for scale in ("", "@1.5")),
        }
        written = [row["receipt"], row["mask"], "masks.json", *(entry["path"] for entry in row["maps"].values())]
        assert all((tmp_path / "i2" / name).is_file() for name in written)

    # The drift monitor continues from the first inspection to the second. With --no-drift, it is unchanged.
    assert json.loads((tmp_path / "i" / "drift.json").read_text())["images"] == 10
    assert json.loads((tmp_path / "i2" / "drift.json").read_text())["images"] == 15
    assert (tmp_path / "m.safetensors.drift.json").is_file()
    lot = run("inspect", model, parts / "test", "--out", tmp_path / "lot", "--lot", "--fdr", "0.2", "--no-drift")
    assert lot.returncode == 0, lot.stderr
    judged = json.loads((tmp_path / "lot" / "lot.json").read_text())
    assert {"flagged", "fdr", "estimated_bad"} <= set(judged)
    rows = [json.loads(line) for line in (tmp_path / "lot" / "results.jsonl").read_text().splitlines()]
    ranked = sorted(row["p_value"] for row in rows)  # the step-up procedure of Benjamini and Hochberg
    cut = max(p for rank, p in enumerate(ranked, 1) if p <= 0.2 * rank / len(ranked))
    pulled = {row["path"] for row in rows if row["p_value"] <= cut}
    assert {path for path in pulled if "blotch" in path} == {row["path"] for row in rows if "blotch" in row["path"]}
    assert set(judged["flagged"]) == pulled
    assert lot.stderr.count("pull: ") == len(pulled) < len(rows)
    assert not (tmp_path / "lot" / "drift.json").exists()
    refused = run("inspect", model, parts / "test", "--out", tmp_path / "lot", "--lot", "--fdr", "0.01")
    assert refused.returncode == 2
    assert "not attainable with 12 calibration images" in refused.stderr


def test_a_run_replaces_only_the_files_of_the_previous_run(model_file: Path, parts: Path, tmp_path: Path) -> None:
    """Also if the output folder holds the images, or files of the user in subfolders of a run."""
    lot = tmp_path / "lot"
    shutil.copytree(parts / "test" / "blotch", lot)
    (lot / "maps").mkdir()
    (lot / "maps" / "mine.txt").write_text("kept")
    options = ["--report", "--maps", "anomaly", "--masks", "png,coco", "--receipts", "--lot", "--fdr", "0.3", "--no-drift"]
    for _ in range(2):
        assert run("inspect", model_file, lot, "--out", lot, *options).returncode == 0
        assert len((lot / "results.jsonl").read_text().splitlines()) == 5
    assert run("inspect", model_file, parts / "test/good/100.png", "--out", lot, "--no-drift").returncode == 0
    remaining = sorted(path.relative_to(lot).as_posix() for path in lot.rglob("*") if path.is_file())
    images = [f"{seed}.png" for seed in range(200, 205)]
    assert remaining == sorted([*images, ".offnominal.jsonl", "maps/mine.txt", "overlays/00000-100.jpg", "results.jsonl"])
    (row,) = map(json.loads, (lot / "results.jsonl").read_text().splitlines())
    outside = tmp_path / "outside.jpg"
    outside.write_text("not ours")
    (lot / "results.jsonl").write_text(json.dumps({**row, "map": "../outside.jpg"}) + "\n")
    (lot / "lot.json").write_text("from an earlier run")
    assert run("inspect", model_file, parts / "test/good/100.png", "--out", lot, "--no-drift").returncode == 0
    assert outside.exists()
    assert (lot / "lot.json").read_text() == "from an earlier run"  # not recorded as written by a run
    for foreign in ("no JSON\n", "[]\n", json.dumps({"map": "200.png"}) + "\n", ""):
        (lot / "results.jsonl").write_text(foreign)
        (lot / "lot.json").write_text("somebody else's")
        assert run("inspect", model_file, parts / "test/good/100.png", "--out", lot, "--no-drift").returncode == 0
        assert (lot / "lot.json").exists()
        assert (lot / "200.png").exists()


def test_a_global_change_is_detected_by_the_image_level_p_value(tmp_path: Path) -> None:
    """Stripes with less contrast: no patch is anomalous, but the image as a whole is.

    `inspect` reports these images. `evaluate` counts them by class.
    """
    for kind, contrast in (("good", 1.0), ("soft", 0.7)):
        (tmp_path / "parts/test" / kind).mkdir(parents=True)
        for seed in range(100, 110):
            image = 120 + contrast * (texture(seed).astype(np.float32) - 120)
            cv2.imwrite(str(tmp_path / "parts/test" / kind / f"{seed}.png"), image.round().astype(np.uint8))
    model = tmp_path / "m.safetensors"
    detector = Detector(backbone="efficientnet-lite0", image_size=96, bank=200, false_alarm_rate=0.05)
    detector.fit([texture(seed) for seed in range(60)]).save(model)
    inspected = run("inspect", model, tmp_path / "parts/test", "--out", tmp_path / "i", "--no-drift")
    evaluated = run("evaluate", model, tmp_path / "parts", "--out", tmp_path / "e", "--json")
    rows = {row["path"]: row for row in map(json.loads, (tmp_path / "i/results.jsonl").read_text().splitlines())}
    flagged = [name for name, row in rows.items() if row["whole_p_value"] <= 0.05]
    assert len([name for name in flagged if "soft" in name]) == 10
    without_region = [name for name in flagged if not rows[name]["anomalous"]]
    assert len(without_region) >= 5
    assert f"note: {len(without_region)} images differ from normal images as a whole" in inspected.stderr
    assert without_region[0] in inspected.stderr
    whole_image = json.loads(evaluated.stdout)["whole_image"]
    assert whole_image["classes"] == {"soft": whole_image["detection_rate"]} == {"soft": 1.0}
    assert whole_image["false_alarm_rate"] == len([name for name in flagged if "good" in name]) / 10
    with (tmp_path / "e/scores.csv").open() as file:
        scores = [(row["path"], row["whole_p_value"]) for row in csv.DictReader(file)]
    assert len(scores) == 20
    for name, p_value in scores:
        (row,) = [row for path, row in rows.items() if path.endswith(name)]
        assert float(p_value) == pytest.approx(row["whole_p_value"], rel=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows, Ctrl-C also reaches the process of the tests")
def test_ctrl_c_keeps_the_results_so_far(model_file: Path, parts: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(1500):
        (many / f"{number:04d}.png").hardlink_to(parts / "test" / "good" / f"{100 + number % 5}.png")
    # A shell lets background processes ignore Ctrl-C, and these tests may run in the background.
    restore = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = [sys.executable, "-c", f"{restore}; from offnominal.cli import main; main()"]
    words += ["inspect", str(model_file), str(many), "--out", str(tmp_path / "out")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as running:
        try:
            overlays = tmp_path / "out" / "overlays"
            for _ in range(600):
                if overlays.is_dir() and len(list(overlays.iterdir())) > 20:
                    break
                time.sleep(0.1)
            running.send_signal(signal.SIGINT)
            _, stderr = running.communicate(timeout=60)
        finally:
            running.kill()  # a process that does not stop must not block the tests
    assert running.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "offnominal: stopped"
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert 15 < len(rows) < 1500
    assert all((tmp_path / "out" / row["map"]).is_file() for row in rows)


def test_audit_fit_with_contamination_and_update(parts: Path, tmp_path: Path) -> None:
    audited = run("audit", parts, "--out", tmp_path / "a", "--contamination", "0.2", *SMALL[:4], "--json")
    assert audited.returncode == 0, audited.stderr
    audit = json.loads(audited.stdout)
    assert (audit["images"], audit["suspects"]) == (12, 2)
    assert [row["suspect"] for row in audit["rows"]] == [True] * 2 + [False] * 10
    assert (tmp_path / "a" / audit["rows"][0]["picture"]).is_file()
    assert (tmp_path / "a" / "audit.csv").read_text().startswith("path,score,p_value,suspect\n")

    model = tmp_path / "m.safetensors"
    fitted = run("fit", parts, "--out", model, *SMALL, "--contamination", "0.2", "--json")
    left_out = json.loads(fitted.stdout)["left_out"]
    assert [entry["name"] for entry in left_out] == [row["path"] for row in audit["rows"][:2]]
    assert "2 of 12 images were left out as suspects" in fitted.stderr

    assert len(list((tmp_path / "a" / "suspects").iterdir())) == 2
    assert run("audit", parts, "--out", tmp_path / "a", "--contamination", "0.1", *SMALL[:4]).returncode == 0
    assert len(list((tmp_path / "a" / "suspects").iterdir())) == 1, "pictures of an earlier audit are gone"
    none_suspect = run("audit", parts, "--out", tmp_path / "a", "--contamination", "0", *SMALL[:4])
    assert "0 of 12 images are suspect" in none_suspect.stderr
    assert run("audit", parts, "--out", tmp_path / "a", "--preset", "auto").returncode == 2
    assert run("audit", parts, "--out", tmp_path / "a", "--calibration", "split").returncode == 2, "an audit has no calibration"

    source = next(row["path"] for row in audit["rows"][2:])
    words = [
        "update",
        model,
        "--add",
        parts / "test" / "good",
        *(2 * ["--remove", source]),
        "--out",
        tmp_path / "n",
        "--json",
    ]
    changed = json.loads(run(*words).stdout)
    assert len(changed["update"]["added"]) == 5
    assert changed["update"]["removed"] == [source]
    assert changed["images"] == changed["calibration"]["n"] == 14
    assert json.loads(run("info", model, "--json").stdout)["images"] == 10
    wrong = run("update", model, "--remove", source.replace("train", "tain"))
    assert (wrong.returncode, wrong.stderr.strip()) == (
        2,
        f"offnominal: the model was not fitted on '{source.replace('train', 'tain')}': did you mean '{source}'?",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names with arbitrary bytes")
def test_file_names_outside_utf_8_are_written_as_escapes(parts: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(parts, root)
    name = os.fsdecode(b"pi\xe8ce.png")
    good = sorted((root / "train" / "good").iterdir())[0]
    for folder in ("train/good", "test/blotch"):
        shutil.copy(good, root / folder / name)
    model = tmp_path / "m.safetensors"
    assert run("fit", root, "--out", model, *SMALL).returncode == 0
    assert run("audit", root, "--out", tmp_path / "a", "--image-size", "128", "--bank", "300").returncode == 0
    inspected = run_subprocess("inspect", model, root / "test", "--out", tmp_path / "i", "--report")
    assert inspected.returncode == 0, inspected.stderr
    assert name in [Path(json.loads(line)["path"]).name for line in (tmp_path / "i" / "results.jsonl").read_text().splitlines()]
    shutil.copytree(tmp_path / "i", tmp_path / "j")
    rows = [json.loads(line) for line in (tmp_path / "j" / "results.jsonl").read_text().splitlines()]
    changed = [json.dumps({**row, "anomalous": not row["anomalous"]}) + "\n" for row in rows]
    (tmp_path / "j" / "results.jsonl").write_text("".join(changed))
    compared = run("compare", tmp_path / "i", tmp_path / "j", "--out", tmp_path / "c")
    assert compared.returncode == 0, compared.stderr
    (root / "train" / "good" / name).write_bytes(b"")
    assert run("fit", root, "--out", model, *SMALL).returncode == 4
    info = run_subprocess("info", model)
    assert info.returncode == 0, info.stderr
    assert "pi\\udce8ce.png" in info.stdout
    assert run_subprocess("evaluate", model, root, "--out", tmp_path / "e").returncode == 0
    assert "pi\\udce8ce.png" in (tmp_path / "e" / "scores.csv").read_text()
