"""The documentation agrees with the program: settings, keys, files, commands, options and links."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import click

from offnominal import Detector
from offnominal.cli import app
from offnominal.config import Settings, settings_from
from offnominal.datasets import any_images
from offnominal.outputs.evaluations import write_evaluation
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.model_facts import facts
from offnominal.outputs.optional_outputs import Extras
from offnominal.station.settings import settings_table

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS = (ROOT / "docs/reference/settings.md").read_text("utf-8")
DOCUMENTED = {
    name for page in (ROOT / "docs/reference").glob("*.md") for name in re.findall(r"`([^`]+)`", page.read_text("utf-8"))
}
COMMANDS = {
    **{name: command for name, command in app.commands.items() if not isinstance(command, click.Group)},
    **{
        f"{name} {sub}": command
        for name, group in app.commands.items()
        if isinstance(group, click.Group)
        for sub, command in group.commands.items()
    },
}
PARAMETERS = {name: command.get_params(click.Context(command)) for name, command in COMMANDS.items()}


def test_every_setting_is_in_the_reference() -> None:
    shown = tomllib.loads(SETTINGS.split("```toml\n")[1].split("```")[0])
    defaults = json.loads(settings_from().model_dump_json())
    assert {**defaults, **shown} == defaults
    options = {parameter.name for parameter in PARAMETERS["fit"]}
    assert set(shown) == set(Settings.model_fields) - options
    rows = set(re.findall(r"^\| `(\w+)` \|", SETTINGS, re.MULTILINE))
    assert rows | set(shown) == set(Settings.model_fields)


def test_every_setting_of_the_station_is_in_its_reference() -> None:
    text = (ROOT / "docs/reference/station.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", text.split("## Settings")[1].split("## ")[0], re.MULTILINE))
    for name, default, _ in settings_table():
        if name.startswith("lines.NAME.sources."):
            assert f"`{name.split('.')[-1]}`" in text
        elif name != "lines":
            assert name in rows, name
            if default not in (None, ()):
                assert rows[name] == f"{default:g}" if isinstance(default, float) else json.dumps(default), name


def test_every_command_and_option_exists() -> None:
    mentioned = set()
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        lines = re.findall(r"^offnominal [^#\n]+", blocks, re.MULTILINE) + re.findall(r"`(offnominal [a-z][^`]*)`", text)
        for line in lines:
            name, *words = line.split()[1:]
            if isinstance(app.commands.get(name), click.Group):
                if not words:
                    continue  # the group as a whole
                name, words = f"{name} {words[0]}", words[1:]
            if name.startswith("--") or name.endswith("COMMAND"):
                continue
            assert name in PARAMETERS, f"{page}: {line}"
            options = {option for parameter in PARAMETERS[name] for option in (*parameter.opts, *parameter.secondary_opts)}
            assert {word for word in words if word.startswith("--")} <= options, f"{page}: {line}"
            mentioned.add(name)
    assert mentioned == set(PARAMETERS)


def test_links_of_the_root_pages_exist() -> None:
    for page in ROOT.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_every_key_and_file_is_documented(detector: Detector, parts: Path, tmp_path: Path) -> None:
    extras = Extras(evidence=True, maps=("anomaly",), masks=("png", "coco"), receipts=True)
    _, rows = write_inspections(detector, any_images([parts / "test"]), tmp_path / "i", extras, report="title")
    metrics = write_evaluation(detector.model, detector.evaluate(parts), tmp_path / "e", "title")
    flagged = next(row for row in rows if row["regions"])
    keys = {*flagged, *flagged["regions"][0], *flagged["regions"][0]["evidence"], *flagged["maps"]["anomaly"], *metrics}
    keys |= {*flagged["regions"][0]["evidence"]["nearest"][0]}
    model_facts = facts(detector.model)
    keys |= {*model_facts, *model_facts["members"][0], *model_facts["members"][0]["bank"], *model_facts["members"][0]["input"]}
    keys |= {*model_facts["calibration"], *model_facts["values"], *model_facts["updates"]}
    keys |= {*(tmp_path / "e/scores.csv").read_text().split("\n")[0].split(",")}
    assert keys <= DOCUMENTED, keys - DOCUMENTED
    written = {path.name + "/" * path.is_dir() for folder in ("i", "e") for path in (tmp_path / folder).iterdir()}
    assert written <= DOCUMENTED, written - DOCUMENTED
    assert written == {  # every documented file is written
        ".offnominal.jsonl", "results.jsonl", "overlays/", "report.html", "report_files/", "receipts/", "maps/", "masks/",
        "masks.json", "metrics.json", "scores.csv",
    }  # fmt: skip
