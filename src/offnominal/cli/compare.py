"""The command `compare`."""

from __future__ import annotations

from pathlib import Path

import click

from offnominal.cli.console import emit, say
from offnominal.cli.options import Command, json_option, path_option


@click.command(cls=Command)
@click.argument("run_a", help="Folder that evaluate (or inspect) wrote.", type=click.Path(path_type=Path))
@click.argument("run_b", help="Folder of the other run, on the same images.", type=click.Path(path_type=Path))
@path_option("--out", "Folder for compare.html and compare.json.", required=True)
@click.option("--seed", type=int, default=0, help="Seed of the bootstrap. [default: 0]")
@json_option
def compare(run_a: Path, run_b: Path, out: Path, seed: int, as_json: bool) -> None:
    """Compare two runs on the same images."""
    from offnominal.comparison import compare as compared
    from offnominal.comparison import read_run, write_comparison

    comparison = write_comparison(compared(read_run(run_a), read_run(run_b), seed=seed), out)
    if as_json:
        emit(comparison)
    else:
        say(f"{out / 'compare.html'}: {comparison['images']} images in both, {len(comparison['changed'])} verdicts changed")
