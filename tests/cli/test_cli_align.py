"""Commands with an alignment."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
from test_cli import run

from conftest import texture
from moved_parts import SIZE, drawn


def test_commands_report_the_pose(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    for seed in range(12):
        cv2.imwrite(str(tmp_path / "good" / f"{seed:02d}.png"), drawn(seed))
    (tmp_path / "new").mkdir()
    cv2.imwrite(str(tmp_path / "new" / "a.png"), drawn(70))
    cv2.imwrite(str(tmp_path / "new" / "b.png"), cv2.resize(texture(3), SIZE[::-1]))
    model = tmp_path / "part.safetensors"
    options = ["--preset", "fast", "--image-size", "128", "--bank", "300", "--false-alarm-rate", "0.1"]
    fitted = run("fit", tmp_path / "good", "--out", model, "--align", "rigid", *options)
    assert "alignment: rigid, to " in fitted.stderr
    shown = json.loads(run("info", model, "--json").stdout)
    assert shown["alignment"]["kind"] == "rigid"
    assert shown["alignment"]["degrees"][0] < 0 < shown["alignment"]["degrees"][1]
    ran = run("inspect", model, tmp_path / "new", "--out", tmp_path / "out", "--report", "--fail-on-anomaly")
    assert ran.returncode == 3
    assert "b.png: its correlation with the reference is" in ran.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["pose"]["problem"] is None for row in rows] == [True, False]
    assert rows[1]["anomalous"]
    assert "not_found" in (tmp_path / "out" / "report.html").read_text()
