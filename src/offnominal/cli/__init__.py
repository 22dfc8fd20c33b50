"""The command line: parses, calls the detector, prints. Everything heavy is imported inside the commands."""

from __future__ import annotations

import io
import os
import sys

import click

from offnominal import __version__, errors
from offnominal.cli.audit import audit
from offnominal.cli.compare import compare
from offnominal.cli.console import say
from offnominal.cli.demo import demo
from offnominal.cli.evaluate import evaluate
from offnominal.cli.fit import fit
from offnominal.cli.info import info
from offnominal.cli.inspect import inspect
from offnominal.cli.roi import roi
from offnominal.cli.serve import serve
from offnominal.cli.station import station
from offnominal.cli.update import update
from offnominal.machine import kernel_lines, kernels
from offnominal.stopping import ignore_stop, stoppable


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        print("\n".join([f"offnominal {__version__}", *kernel_lines(kernels())]))
        context.exit()


#: The commands, in the order of a first session.
COMMANDS = (fit, inspect, evaluate, compare, audit, update, roi, info, demo, serve, station)


@click.group(
    commands={command.name or "": command for command in COMMANDS},
    help="Learns from images of good parts alone; detects, localises and explains anomalies in new images.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and the kernels in use, and exit.",
)
def app() -> None:
    """The program itself."""


def main() -> None:
    """Run the command line; every known error becomes one line and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may contain undecodable bytes
    try:
        with stoppable():
            sys.exit(app.main(standalone_mode=False) or 0)
    except click.Abort:  # click turns Ctrl-C into Abort
        _end_stopped()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except errors.OffnominalError as error:
        say(f"offnominal: {error}")
        sys.exit(errors.WRONG_INPUT)
    except OSError as error:  # such as a folder that is closed to this user
        if error.filename is None:
            raise
        say(f"offnominal: {error.filename}: cannot be used ({error.strerror}); check the path and your access to it")
        sys.exit(errors.WRONG_INPUT)
    except KeyboardInterrupt:  # a second Ctrl-C during cleanup
        _end_stopped()


def _end_stopped() -> None:
    """End a stopped process at once: all is written, and a native thread still at work would abort the interpreter's exit."""
    ignore_stop()
    say("offnominal: stopped")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(errors.STOPPED)
