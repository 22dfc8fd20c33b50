"""The command line: parses, calls the detector, prints. Everything heavy is imported inside the commands."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from offnominal import __version__, errors
from offnominal.cli import learning
from offnominal.cli.console import emit, progress_bars, say
from offnominal.cli.settings import (
    BatchOption,
    DeviceOption,
    Json,
    MemoryOption,
    PagesOption,
    PrecisionOption,
    RuntimeOption,
    Weights,
    detector_from,
    pages_from,
)
from offnominal.machine import kernel_facts, kernel_lines, kernels
from offnominal.stopping import stoppable, stopped

app = typer.Typer(
    help="Learns from images of good parts alone; detects, localises and explains anomalies in new images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        print("\n".join([f"offnominal {__version__}", *kernel_lines(kernels())]))
        raise typer.Exit


@app.callback(help=app.info.help)
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Show the version and the kernels in use, and exit."
        ),
    ] = False,
) -> None:
    """What stands before every command."""


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="MVTec root, folder of good images, glob in quotes, or manifest.")],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    preset: Annotated[
        str | None, typer.Option(help="Defaults for the options below: fast, balanced or accurate. [default: balanced]")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Members of the model, joined by +, each with a memory bank of its own: efficientnet-lite0, -lite2 (-lite1 "
            "once installed) or a timm name; NAME@1.5 runs at 1.5 times the image size. [default: "
            "efficientnet-lite0+efficientnet-lite0@1.5]"
        ),
    ] = None,
    weights: Weights = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Feature maps, comma-separated. [default: strides 8 and 16; of a vision transformer two middle blocks]"
        ),
    ] = None,
    dimensions: Annotated[int | None, typer.Option(help="Reduce channels to this number by average pooling.")] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Network pixels: the short side of usual images, or height x width. [default: 256; vision transformers: up to "
            "448]"
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            help="area: keep the aspect, all images with as many pixels; keep: the aspect, with one short side; squash: to "
            "height x width. [default: area]"
        ),
    ] = None,
    exposure: Annotated[
        str | None,
        typer.Option(
            help="auto: correct the exposure if the lighting of the normal images varies; keep: never. [default: auto]"
        ),
    ] = None,
    bank: Annotated[
        str | None,
        typer.Option(help="Patches in each memory bank: a share (0.01) or a number (5000). [default: 1 %, at least 1000]"),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="greedy or random. [default: greedy]")] = None,
    neighbors: Annotated[int | None, typer.Option(help="Neighbours of the influence. [default: 9]")] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of good images that may be flagged. [default: 0.01]")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="How scores of normal images are held out: folds (the bank is chosen again without each fifth), leave-one-out "
            "(faster, more approximate), split (exact; a fifth of the images only calibrates), or auto by their number. "
            "[default: auto]"
        ),
    ] = None,
    contamination: Annotated[
        str | None, typer.Option(help="Leave out suspect images: auto, or a share such as 0.05. [default: 0]")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory of one image, and of patches before they go to disk. [default: 2GB]")
    ] = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler. [default: 0]")] = None,
    thumbnails: Annotated[
        bool | None,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            help="Keep small pictures of the training images in the model file, to show them beside a finding. [default: yes]",
        ),
    ] = None,
    pages: PagesOption = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these settings; options win.")] = None,
    json: Json = False,
) -> None:
    """Learn what is normal from good images and write a model file."""
    not_settings = ("data", "out", "weights", "pages", "config", "json")
    options = {name: value for name, value in locals().items() if name not in (*not_settings, "not_settings")}
    from offnominal.datasets import find_normal
    from offnominal.fitting import Plan
    from offnominal.model.file import require_writable
    from offnominal.outputs.run import facts, kernels_of, warnings_of

    require_writable(out)

    def announce(plan: Plan) -> None:
        place = " on disk" if plan.on_disk else ""
        say(f"{plan.images} images, {plan.bytes / 1e6:.0f} MB of patches{place}")
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

    detector = detector_from(options, config, weights)
    used = kernels_of(detector.settings)
    as_pages = pages_from(pages)
    for note in find_normal(data).notes:
        say(f"note: {note}")
    with progress_bars() as progress:
        detector.fit(data, progress=progress, announce=announce, tell=say, pages=as_pages)
    detector.save(out)
    known = facts(detector.model)
    for warning in warnings_of(detector.model):
        say(f"note: {warning}")
    if json:
        emit({**known, "kernels": kernel_facts(used), "seconds": detector.seconds, "model": str(out)})
    else:
        promised = known["calibration"]
        say(f"{out}: threshold {promised['threshold']:.3f} at {promised['alpha']:.2%} false alarms")
        say(f"promise: {known['promise']}")
    if detector.model.skipped:
        raise typer.Exit(errors.SOME_UNREADABLE)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Model file that fit wrote.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Images, folders, globs in quotes, manifests, or an MVTec root (its test images).")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl, overlays and what else is asked for.")],
    report: Annotated[bool, typer.Option("--report", help="Write report.html too, a page that needs no network.")] = False,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option("--fail-on-anomaly", help="Exit with 3 when something is off-nominal, even if some cannot be read."),
    ] = False,
    evidence: Annotated[
        bool | None,
        typer.Option(
            "--evidence/--no-evidence",
            help="Include evidence for each region in results.jsonl (slightly slower). [default: with --report]",
        ),
    ] = None,
    receipts: Annotated[
        bool, typer.Option("--receipts", help="With evidence, as a picture of each flagged image in receipts/.")
    ] = False,
    maps: Annotated[
        str | None, typer.Option(help="Maps to write, comma-separated: anomaly, influence, noise, layers. [default: none]")
    ] = None,
    map_format: Annotated[str | None, typer.Option(help="png (8-bit), tiff (16-bit) or npy (float32). [default: png]")] = None,
    masks: Annotated[
        str | None, typer.Option(help="Masks of the regions: png (masks/), coco (masks.json), or png,coco. [default: none]")
    ] = None,
    lot: Annotated[bool, typer.Option("--lot", help="Judge all images as one lot; lot.json says which parts to pull.")] = False,
    fdr: Annotated[
        float | None,
        typer.Option(help="With --lot: share of good parts among those pulled, on average over lots. [default: 0.1]"),
    ] = None,
    no_drift: Annotated[
        bool, typer.Option("--no-drift", help="Do not watch whether images still look like those fitted on.")
    ] = False,
    reset_drift: Annotated[
        bool, typer.Option("--reset-drift", help="Forget the images inspected so far (MODEL.drift.json).")
    ] = False,
    false_warning_rate: Annotated[
        float, typer.Option(help="Probability that the watch ever warns although nothing changed.")
    ] = 0.01,
    pages: PagesOption = None,
    memory: MemoryOption = None,
    weights: Weights = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    json: Json = False,
) -> None:
    """Score, judge and locate: one line an image in results.jsonl, and an overlay each; watch the stream in drift.json."""
    from offnominal.datasets import RUN_FOLDERS, find_any, in_pages
    from offnominal.detector import load
    from offnominal.monitoring.drift_monitor import DriftWatch, report_drift, state_path
    from offnominal.outputs.alarms import require_lot, write_lot
    from offnominal.outputs.extras import extras_from
    from offnominal.outputs.run import unlike_as_a_whole, write_inspections

    if fdr is not None and not lot:
        raise errors.SettingsError(f"--fdr {fdr:g} without --lot: give that too, to judge the images as one lot")
    fdr = 0.1 if fdr is None else fdr
    evidence = True if evidence is None and report else evidence
    extras = extras_from(evidence, maps, map_format, masks, receipts)
    found = find_any(inputs, leave_out=[out / name for name in RUN_FOLDERS])
    items = in_pages(found.items, pages_from(pages))
    for note in found.notes:
        say(f"note: {note}")
    detector = load(
        model, weights=weights, runtime=runtime, precision=precision, device=device, batch_size=batch_size, memory=memory
    )
    calibration = detector.model.calibration
    if lot:
        require_lot(calibration, fdr)
    watch = None
    if not no_drift and detector.model.appearance is not None:
        watch = DriftWatch(detector.model, state_path(model), false_warning_rate, reset=reset_drift)
    with progress_bars() as progress:
        run, rows = write_inspections(
            detector, items, out, progress, extras, watch, report=_title(inputs[0]) if report else None
        )
    if not no_drift:
        for line in report_drift(watch, out):
            if run.done:
                say(line)
    if lot:
        judged = write_lot(rows, calibration, fdr, out)
        say(f"lot of {judged['images']}: {len(judged['flagged'])} to pull, about {judged['estimated_bad']:.0f} bad in all")
        for path in judged["flagged"]:
            say(f"pull: {path}")
        if judged["note"]:
            say(f"note: {judged['note']}")
    if json:
        emit(rows)
    else:
        say(f"{out}: {run.done} inspected, {run.anomalous} off-nominal, {run.unreadable} unreadable")
        for line in unlike_as_a_whole(
            [(row["path"], row["anomalous"], row["whole_p_value"]) for row in rows], calibration.rate
        ):
            say(line)
        for row in rows:
            if row["error"]:
                say(f"unreadable: {row['error']}")
    if fail_on_anomaly and run.anomalous:
        raise typer.Exit(errors.OFF_NOMINAL)
    if run.unreadable:
        raise typer.Exit(errors.SOME_UNREADABLE)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file that fit wrote.")],
    data: Annotated[str, typer.Argument(help="MVTec root with test/, or a manifest with label (and mask).")],
    out: Annotated[Path, typer.Option(help="Folder for metrics.json, scores.csv and report.html.")],
    plots: Annotated[Path | None, typer.Option(help="Folder for the plots as PNG files.")] = None,
    evidence: Annotated[
        bool,
        typer.Option("--evidence/--no-evidence", help="Include evidence for each region in the report (slightly slower)."),
    ] = True,
    pages: PagesOption = None,
    memory: MemoryOption = None,
    weights: Weights = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    json: Json = False,
) -> None:
    """Measure a model on labelled images and write a report."""
    from offnominal.datasets import find_labelled
    from offnominal.detector import load
    from offnominal.outputs.run import begin_evaluation, write_evaluation

    begin_evaluation(out, plots)
    undrawn: list[str] = []
    detector = load(
        model, weights=weights, runtime=runtime, precision=precision, device=device, batch_size=batch_size, memory=memory
    )
    for note in find_labelled(data).notes:
        say(f"note: {note}")
    with progress_bars() as progress:
        result = detector.evaluate(data, evidence=evidence, progress=progress, pages=pages_from(pages))
        metrics = write_evaluation(detector, result, out, _title(data), plots, undrawn.append)
    if json:
        emit(metrics)
    else:
        shown = {name: "-" if metrics[name] is None else f"{metrics[name]:.3f}" for name in ("image_auroc", "pixel_auroc")}
        say(f"{out / 'report.html'}: image AUROC {shown['image_auroc']}, pixel AUROC {shown['pixel_auroc']}")
        if result.without_mask:
            say(f"note: defective images without a mask that can be read: {result.without_mask}; pixel figures leave them out")
        if result.unlabelled:
            say(f"note: rows of {data} left out for want of a label: {result.unlabelled}")
    for reason in (*(reason for _, reason in result.unreadable), *undrawn):
        say(f"unreadable: {reason}")
    if result.unreadable or undrawn:
        raise typer.Exit(errors.SOME_UNREADABLE)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder that evaluate (or inspect) wrote.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of the other run, on the same images.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.html and compare.json.")],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json: Json = False,
) -> None:
    """Compare two runs: figures with intervals, and the images whose verdict changed."""
    from offnominal.comparison import compare as compared
    from offnominal.comparison import read_run, write_comparison

    told = write_comparison(compared(read_run(run_a), read_run(run_b), seed=seed), out)
    if json:
        emit(told)
    else:
        say(f"{out / 'compare.html'}: {told['images']} images in both, {len(told['changed'])} verdicts changed")


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="Model file that fit wrote.")],
    plots: Annotated[Path | None, typer.Option(help="Folder for plots of the bank: coverage, covering radius.")] = None,
    json: Json = False,
) -> None:
    """Show what a model was fitted on, its members, and which false-alarm rate is guaranteed."""
    from offnominal.model import load_model
    from offnominal.outputs.run import facts, kernels_of, warnings_of

    loaded = load_model(model)
    used = kernels_of(loaded.settings)
    known: dict[str, Any] = {**facts(loaded), "kernels": kernel_facts(used)}
    if plots is not None:
        from offnominal.outputs.charts import model_charts, write_charts

        for path in write_charts(model_charts(loaded), plots):
            say(f"{path}")
    if json:
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo-out"),
) -> None:
    """Real solar cells, from the package elpv-dataset: fit, inspect, evaluate, report."""
    from offnominal.demo import run

    with progress_bars() as progress:
        run(out, progress, say)


learning.register(app, fit)


def _title(data: str) -> str:
    return Path(data).absolute().stem.replace("_", " ")


def main() -> None:
    """Run the command line; every known error becomes one line and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what no encoding has
    try:
        with stoppable():
            app()
    except errors.OffnominalError as error:
        say(f"offnominal: {error}")
        sys.exit(errors.WRONG_INPUT)
    except OSError as error:  # such as a folder that is closed to this user
        if error.filename is None:
            raise
        say(f"offnominal: {error.filename}: cannot be used ({error.strerror}); check the path and your access to it")
        sys.exit(errors.WRONG_INPUT)
    except KeyboardInterrupt:  # a second one, while the first was seen to
        _end_stopped()
    except SystemExit as stop:
        if stop.code == errors.STOPPED:  # typer has made that of Ctrl-C
            _end_stopped()
        raise


def _end_stopped() -> None:
    """End a stopped process at once: all is written, and a native thread still at work would abort the interpreter's exit."""
    stopped()
    say("offnominal: stopped")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(errors.STOPPED)
