"""Commands with gates, zones and sizes in mm."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from test_cli import run

from conftest import texture

SIZE = (128, 128)
OPTIONS = ["--preset", "fast", "--image-size", "128", "--bank", "200", "--false-alarm-rate", "0.1"]


def spotted(seed: int, at: tuple[int, int], side: int = 16) -> np.ndarray:
    image = texture(seed, SIZE)
    row, column = at
    image[row : row + side, column : column + side] = np.random.default_rng(seed).integers(0, 255, (side, side, 3))
    return image


def test_commands_report_zones_and_sizes(tmp_path: Path) -> None:
    rows = ["path,mm_per_pixel"]
    (tmp_path / "new").mkdir()
    (tmp_path / "good").mkdir()
    for seed in range(12):
        cv2.imwrite(str(tmp_path / "good" / f"{seed:02d}.png"), texture(seed, SIZE))
        rows.append(f"good/{seed:02d}.png,0.1")
    (tmp_path / "good.csv").write_text("\n".join(rows))
    cv2.imwrite(str(tmp_path / "new" / "a.png"), spotted(50, (50, 10)))
    cv2.imwrite(str(tmp_path / "new" / "b.png"), spotted(51, (50, 100)))
    zone = {"name": "left", "polygon": [[0, 0], [63, 0], [63, 127], [0, 127]]}
    (tmp_path / "zones.json").write_text(json.dumps({"width": 128, "height": 128, "zones": [zone]}))
    model, gates = tmp_path / "part", ["--zones", tmp_path / "zones.json", "--min-length", "6mm"]
    missing = run("fit", tmp_path / "good", "--out", model, *gates, *OPTIONS)
    assert missing.returncode == 2
    assert "a gate is in mm and the size of a pixel is not known; give mm_per_pixel, such as 0.02" in missing.stderr
    assert run("fit", tmp_path / "good.csv", "--out", model, *gates, *OPTIONS).returncode == 0
    shown = json.loads(run("info", model, "--json").stdout)
    assert shown["gate"] == {"min_area": None, "min_length": "6mm"}
    assert [zone["name"] for zone in shown["zones"]] == ["left"]
    ran = run("inspect", model, tmp_path / "new", "--out", tmp_path / "out", "--mm-per-pixel", "0.1", "--report", "--json")
    first, second = json.loads(ran.stdout)
    assert first["anomalous"]
    assert first["regions"][0]["zone"] == "left"
    assert first["regions"][0]["area_mm2"] > 0
    assert first["zones"][0]["score"] == first["score"]
    assert not second["anomalous"]
    assert second["zones"][0]["name"] == "left"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Zone left" in page
    assert "length from 6mm outside of the zones" in page
    unknown = run("inspect", model, tmp_path / "new", "--out", tmp_path / "out2")
    assert unknown.returncode == 4
    assert "give mm_per_pixel" in unknown.stderr
