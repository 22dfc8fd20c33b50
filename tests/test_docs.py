"""What `docs/files.md` says of files and settings is so."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import click

from offnominal import Detector
from offnominal.cli.fit import fit
from offnominal.config import Settings
from offnominal.datasets import any_images
from offnominal.outputs.evaluations import write_evaluation
from offnominal.outputs.extras import Extras
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.model_facts import facts

FILES = (Path(__file__).parents[1] / "docs" / "files.md").read_text("utf-8")
NAMED = set(re.findall(r"`([^`]+)`", FILES))


def test_the_settings_file_holds_the_defaults_of_what_has_no_option() -> None:
    told = tomllib.loads(FILES.split("```toml\n")[1].split("```")[0])
    assert {**json.loads(Settings().model_dump_json()), **told} == json.loads(Settings().model_dump_json())
    options = {parameter.name for parameter in fit.get_params(click.Context(fit))}
    assert set(told) == set(Settings.model_fields) - options


def test_every_key_and_file_is_named(detector: Detector, parts: Path, tmp_path: Path) -> None:
    extras = Extras(evidence=True, maps=("anomaly",), masks=("png", "coco"), receipts=True)
    _, rows = write_inspections(detector, any_images([parts / "test"]), tmp_path / "i", extras, report="title")
    metrics = write_evaluation(detector.model, detector.evaluate(parts), tmp_path / "e", "title")
    flagged = next(row for row in rows if row["regions"])
    keys = {*flagged, *flagged["regions"][0], *flagged["regions"][0]["evidence"], *flagged["maps"]["anomaly"], *metrics}
    keys |= {*flagged["regions"][0]["evidence"]["nearest"][0]}
    told = facts(detector.model)
    keys |= {*told, *told["members"][0], *told["members"][0]["bank"], *told["members"][0]["input"]}
    keys |= {*told["calibration"], *told["values"], *told["updates"]}
    keys |= {*(tmp_path / "e/scores.csv").read_text().split("\n")[0].split(",")}
    assert keys <= NAMED, keys - NAMED
    left = {path.name + "/" * path.is_dir() for folder in ("i", "e") for path in (tmp_path / folder).iterdir()}
    assert left <= NAMED, left - NAMED
    assert left == {  # and nothing is named that is not written
        ".offnominal.jsonl", "results.jsonl", "overlays/", "report.html", "report_files/", "receipts/", "maps/", "masks/",
        "masks.json", "metrics.json", "scores.csv",
    }  # fmt: skip
