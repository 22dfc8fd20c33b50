"""The command `info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from offnominal.cli.console import emit, say
from offnominal.cli.options import Command, json_option, model_argument, path_option
from offnominal.machine import kernel_facts, kernel_lines


@click.command(cls=Command)
@model_argument
@path_option("--plots", "Folder for plots of the bank: coverage, covering radius.")
@json_option
def info(model: Path, plots: Path | None, as_json: bool) -> None:
    """Show what a model was fitted on and what it guarantees."""
    from offnominal.model import load_model
    from offnominal.outputs.model_facts import facts, kernels_of, warnings_of

    loaded = load_model(model)
    used = kernels_of(loaded.settings)
    known: dict[str, Any] = {**facts(loaded), "kernels": kernel_facts(used)}
    if plots is not None:
        from offnominal.outputs.charts import model_charts, write_charts

        for path in write_charts(model_charts(loaded), plots):
            say(f"{path}")
    if as_json:
        emit({**known, "notes": warnings_of(loaded)})
        return
    for name, value in known.items():
        if name == "kernels":
            print("kernels: " + ", ".join(kernel_lines(used)))
            continue
        if name == "members":
            for member in value:
                network, size, bank = member["backbone"], member["input"]["size"], member["bank"]
                print(
                    f"member: {member['name']}, layers {', '.join(network['layers'])}, sha256 {network['sha256']}, input "
                    f"{size[0]} x {size[1]} ({member['input']['resize']}), bank of {bank['patches']} patches with "
                    f"{bank['dimensions']} features, radius {bank['radius']}"
                )
            continue
        inside = value.items() if isinstance(value, dict) else [("", value)]
        print(f"{name}: " + ", ".join(f"{key} {entry}".strip() for key, entry in inside))
    for warning in warnings_of(loaded):
        print(f"note: {warning}")
