"""The commands with `--cluster`, on data in a bucket."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.conftest import BUCKET
from offnominal.cli import app
from offnominal.cluster.connection import Cluster
from offnominal.cluster.places import Place

SMALL = ("--image-size", "96", "--bank", "100", "--false-alarm-rate", "0.1")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """Run a command on the cluster of the tests; returns its JSON."""
    app.main([*map(str, words), "--cluster", "auto", "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def root(store: str, parts: Path) -> str:
    """Address of an MVTec root in a bucket, without the options of the store."""
    address = f"s3://{BUCKET}/parts"
    for path in (path for path in parts.rglob("*") if path.is_file()):
        Place(f"{address}/{path.relative_to(parts).as_posix()}{store}").write(path.read_bytes())
        if "test" in path.relative_to(parts).parts:
            Place(f"s3://{BUCKET}/mixed/{path.name}{store}").write(path.read_bytes())
    return address


@pytest.mark.slow
def test_all_commands_work_on_a_bucket(
    cluster: Cluster, root: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    run(capsys, "fit", f"{root}/train/good{store}", "--out", model, *SMALL)
    audit = run(capsys, "audit", f"s3://{BUCKET}/mixed{store}", "--out", tmp_path / "audit", *SMALL[:4], "--contamination", 0.3)
    assert audit["images"] == 10
    rows = list(csv.DictReader((tmp_path / "audit/audit.csv").open(newline="")))
    assert rows[0]["path"].startswith(f"s3://{BUCKET}/mixed/20")
    assert len(list((tmp_path / "audit/suspects").iterdir())) == audit["suspects"] == 3
    metrics = run(capsys, "evaluate", model, f"{root}{store}", "--out", tmp_path / "evaluation")
    assert metrics["image_auroc"] == 1.0
    assert metrics["pixel_auroc"] > 0.9
    out = f"s3://{BUCKET}/run"
    inspected = run(capsys, "inspect", model, f"{root}/test{store}", "--out", f"{out}{store}")
    assert inspected["done"] == 10
    assert Place(f"{out}/results.jsonl{store}").exists()
