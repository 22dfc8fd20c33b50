"""The command line: parses, calls the detector, prints. Everything heavy is imported inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from offnominal import errors
from offnominal.cli import learning
from offnominal.cli.console import emit, progress_bars, say

app = typer.Typer(
    help="Learns from pictures of good parts alone; scores, locates and explains what is off in new ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Weights = Annotated[Path | None, typer.Option(help="Weights file of a backbone that is not embedded.")]
RuntimeOption = Annotated[str | None, typer.Option(help="auto, torch or openvino. [default: auto]")]
PrecisionOption = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16. [default: auto = float32]")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda. [default: auto]")]
BatchOption = Annotated[int | None, typer.Option(help="Images that go through the network together. [default: 16]")]


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="MVTec root, folder of good images, glob in quotes, or manifest.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    backbone: Annotated[
        str | None, typer.Option(help="efficientnet-lite0, -lite2, or a timm name. [default: efficientnet-lite0]")
    ] = None,
    weights: Weights = None,
    layers: Annotated[str | None, typer.Option(help="Feature maps, comma-separated. [default: strides 8 and 16]")] = None,
    aggregation: Annotated[
        str | None, typer.Option(help="align, or concat-patches for the benchmark. [default: align]")
    ] = None,
    dimensions: Annotated[int | None, typer.Option(help="Reduce channels to this number by average pooling.")] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Network pixels: the short side, or height x width. [default: 256]")
    ] = None,
    resize: Annotated[str | None, typer.Option(help="keep the aspect, or squash to height x width. [default: keep]")] = None,
    bank: Annotated[str | None, typer.Option(help="Share (0.01) or number (5000) of patches kept. [default: 0.01]")] = None,
    sampler: Annotated[str | None, typer.Option(help="greedy or random. [default: greedy]")] = None,
    neighbors: Annotated[int | None, typer.Option(help="Neighbours of the influence. [default: 9]")] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of good images that may be flagged. [default: 0.01]")
    ] = None,
    contamination: Annotated[
        str | None, typer.Option(help="Leave out suspect images: auto, or a share such as 0.05. [default: 0]")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Patches beyond this size wait on disk. [default: 2GB]")] = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler. [default: 0]")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these settings; options win.")] = None,
    json: Json = False,
) -> None:
    """Learn what is normal from good images and write a model file."""
    from offnominal.config import read_settings

    given = {
        name: value
        for name, value in locals().items()
        if name not in ("data", "out", "weights", "config", "json", "read_settings") and value is not None
    }
    settings = {**(read_settings(config) if config else {}), **given}
    weights = weights or (Path(settings.pop("weights")) if "weights" in settings else None)
    from offnominal.detector import Detector, Estimate, Plan
    from offnominal.detector.outputs import facts, warnings_of

    def announce(plan: Plan) -> None:
        place = " on disk" if plan.on_disk else ""
        say(
            f"{plan.images} images -> {plan.patches:,} patches x {plan.dimensions} ({plan.bytes / 1e6:.0f} MB{place}), "
            f"bank of {plan.bank:,}"
        )

    def foretell(rest: Estimate) -> None:
        say(
            f"{_about(rest.seconds)} to go, measured here: the features of {rest.measured} images took "
            f"{1000 * rest.features:.0f} ms each, a trial of what follows {1000 * rest.scoring:.0f} ms an image"
        )

    detector = Detector(weights=weights, **settings)
    with progress_bars() as progress:
        detector.fit(data, progress=progress, announce=announce, foretell=foretell)
    detector.save(out)
    known = facts(detector.model)
    for warning in warnings_of(detector.model):
        say(f"note: {warning}")
    if json:
        emit({**known, "seconds": detector.seconds, "model": str(out)})
    else:
        calibration = known["calibration"]
        say(f"{out}: threshold {calibration['threshold']:.3f} at {calibration['alpha']:.2%} false alarms")
    if detector.model.skipped:
        raise typer.Exit(errors.SOME_UNREADABLE)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Model file that fit wrote.")],
    inputs: Annotated[list[str], typer.Argument(help="Images, folders, globs in quotes, or manifests.")],
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl and overlays.")],
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with 3 when something is off-nominal.")
    ] = False,
    weights: Weights = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    json: Json = False,
) -> None:
    """Score, judge and locate: one line a image in results.jsonl, and an overlay each."""
    from offnominal.detector import load
    from offnominal.detector.outputs import write_inspections
    from offnominal.images import any_images

    items = any_images(inputs)
    detector = load(model, weights=weights, runtime=runtime, precision=precision, device=device, batch_size=batch_size)
    with progress_bars() as progress:
        run, rows = write_inspections(detector, items, out, progress)
    if json:
        emit(rows)
    else:
        say(f"{out}: {run.done} inspected, {run.anomalous} off-nominal, {run.unreadable} unreadable")
        for row in rows:
            if row["error"]:
                say(f"unreadable: {row['error']}")
    if run.unreadable:
        raise typer.Exit(errors.SOME_UNREADABLE)
    if fail_on_anomaly and run.anomalous:
        raise typer.Exit(errors.OFF_NOMINAL)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file that fit wrote.")],
    data: Annotated[str, typer.Argument(help="MVTec root with test/, or a manifest with label (and mask).")],
    out: Annotated[Path, typer.Option(help="Folder for metrics.json, scores.csv and report.html.")],
    weights: Weights = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    json: Json = False,
) -> None:
    """Measure a model on labelled images and write a report."""
    from offnominal.detector import load
    from offnominal.detector.outputs import write_evaluation

    detector = load(model, weights=weights, runtime=runtime, precision=precision, device=device, batch_size=batch_size)
    with progress_bars() as progress:
        result = detector.evaluate(data, progress=progress)
        metrics = write_evaluation(detector, result, out, Path(data).stem.replace("_", " "))
    if json:
        emit(metrics)
    else:
        shown = {name: "-" if metrics[name] is None else f"{metrics[name]:.3f}" for name in ("image_auroc", "pixel_auroc")}
        say(f"{out / 'report.html'}: image AUROC {shown['image_auroc']}, pixel AUROC {shown['pixel_auroc']}")
    if result.unreadable:
        for _, reason in result.unreadable:
            say(f"unreadable: {reason}")
        raise typer.Exit(errors.SOME_UNREADABLE)


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="Model file that fit wrote.")],
    json: Json = False,
) -> None:
    """Say what a model was fitted on, with what, and what it promises."""
    from offnominal.detector import load_model
    from offnominal.detector.outputs import facts, warnings_of

    loaded = load_model(model)
    known: dict[str, Any] = facts(loaded)
    if json:
        emit({**known, "notes": warnings_of(loaded)})
        return
    for name, value in known.items():
        inside = value.items() if isinstance(value, dict) else [("", value)]
        print(f"{name}: " + ", ".join(f"{key} {entry}".strip() for key, entry in inside))
    for warning in warnings_of(loaded):
        print(f"note: {warning}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo-out"),
) -> None:
    """Real solar cells, from the package elpv-dataset: fit, inspect, evaluate, report."""
    from offnominal.demo import run

    with progress_bars() as progress:
        run(out, progress, say)


learning.register(app, fit)


def _about(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"


def main() -> None:
    """Run the command line; every known error becomes one line and its exit code."""
    try:
        app()
    except errors.OffnominalError as error:
        say(f"offnominal: {error}")
        sys.exit(errors.WRONG_INPUT)
    except KeyboardInterrupt:
        say("offnominal: stopped")
        sys.exit(130)
