"""The command `fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from offnominal import errors
from offnominal.cli.cluster import cluster_option, normal_of, require_shards, shards_option, workers_of
from offnominal.cli.console import Console, emit, say
from offnominal.cli.options import (
    FIT_SETTINGS,
    Command,
    config_option,
    data_argument,
    detector_from,
    given_settings,
    json_option,
    pages_option,
    path_option,
    weights_option,
)
from offnominal.machine import Kernel, kernel_facts, kernel_lines

if TYPE_CHECKING:
    from offnominal.datasets import Pages
    from offnominal.observer import Plan


@click.command(cls=Command, settings=FIT_SETTINGS)
@data_argument
@path_option("--out", "Model file to write (.safetensors).", required=True)
@cluster_option
@shards_option
@weights_option
@pages_option
@config_option
@json_option
@click.pass_context
def fit(
    context: click.Context,
    data: str,
    out: Path,
    cluster: str | None,
    shards: int | None,
    weights: Path | None,
    pages: Pages,
    config: Path | None,
    as_json: bool,
) -> None:
    """Learn from good images and write a model file."""
    from offnominal.model import require_writable
    from offnominal.outputs.model_facts import alignment_text, facts, kernels_of, warnings_of

    require_shards(cluster, shards)
    require_writable(out)
    detector = detector_from(given_settings(context), config, weights)
    used = kernels_of(detector.settings)
    images = normal_of(cluster, data, pages)
    with (
        Console(on_plan=lambda plan: _say_plan(plan, used)) as console,
        workers_of(cluster, shards, detector, console) as workers,
    ):
        detector.fit(images, observer=console, pages=pages, workers=workers)
    detector.save(out)
    model_facts = facts(detector.model)
    for warning in warnings_of(detector.model):
        say(f"note: {warning}")
    if as_json:
        emit({**model_facts, "kernels": kernel_facts(used), "seconds": detector.seconds, "model": str(out)})
    else:
        calibration = model_facts["calibration"]
        say(f"{out}: threshold {calibration['threshold']:.3f} at {calibration['alpha']:.2%} false alarms")
        say(f"promise: {model_facts['promise']}")
        if detector.model.alignment is not None:
            say(f"alignment: {alignment_text(detector.model.alignment)}")
        for member in detector.model.members:
            if member.merge is not None:
                merge = member.merge
                say(
                    f"{member.name}: bank merged from {merge.shards} shards; covering radius {member.bank.radius:.3f}, at most "
                    f"{merge.ratio:.2f} times the smallest possible (merge {merge.merge_radius:.3f}, largest shard "
                    f"{merge.shard_radius:.3f})"
                )
    if detector.model.skipped:
        raise click.exceptions.Exit(errors.SOME_UNREADABLE)


def _say_plan(plan: Plan, used: dict[str, Kernel]) -> None:
    where = " on disk" if plan.on_disk else ""
    say(f"{plan.images} images, {plan.bytes / 1e6:.0f} MB of patches{where}")
    for member in plan.members:
        say(
            f"{member.name}: {member.patches:,} patches x {member.dimensions}, one every {member.spacing:.0f} pixels, "
            f"bank of {member.bank:,}"
        )
    enlarged = max(plan.members, key=lambda member: member.enlarged)
    if enlarged.enlarged > 1:
        say(
            f"note: {enlarged.name} enlarges the images {enlarged.enlarged:.1f} times, which takes time and may gain "
            "nothing; compare with --preset fast or a smaller --image-size"
        )
    for line in kernel_lines(used):
        say(line)
