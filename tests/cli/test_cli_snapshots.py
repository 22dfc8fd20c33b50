"""The output of the commands, compared with the stored text in `tests/cli/snapshots`.

After an intended change, write the files again and read their diff before the commit:

    OFFNOMINAL_UPDATE_SNAPSHOTS=1 pytest tests/cli/test_cli_snapshots.py

click decides the layout of the help. If a new version changes the layout, write the files again in the same way.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from offnominal import detector
from offnominal.cli import main, options

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = os.environ.get("OFFNOMINAL_UPDATE_SNAPSHOTS") == "1"
#: Runs like the installed script, because the help contains the program name.
_PROGRAM = "import sys; sys.argv[0] = 'offnominal'; from offnominal.cli import main; main()"
_PLAIN = {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100"}

COMMANDS = ("fit", "inspect", "evaluate", "compare", "info", "demo", "audit", "update", "roi")
WRONG = (
    "fit nowhere --out m",
    "fit nothing --out m",
    "fit parts.csv --out m",
    "fit parts --out m --image-size big",
    "fit parts --out m --bank many",
    "fit parts --out m --false-alarm-rate 2",
    "fit parts --out m --config typo.toml",
    "fit parts --out m --config broken.toml",
    "fit parts --out m --preset auto",
    "fit parts --out m --calibration leave",
    "fit parts --out m --layers nope",
    "fit parts --out m --backbone efficientnet-lite0+efficientnet-lite0",
    "fit parts --out m --backbone efficientnet-lite0@9",
    "fit parts --out m --backbone efficientnet-lite0++",
    "fit parts --out m --backbone efficientnet-lite0+efficientnet-lite2 --layers blocks.2",
    "fit parts --out m",
    "fit parts --out m --contamination much",
    "fit parts --out m --pages some",
    "fit columns.csv --out m",
    "inspect nowhere columns.csv --out o --pages 2",
    "audit nowhere --out o",
    "audit parts --out o --contamination 0.6",
    "update nowhere --remove a.png",
    "inspect nowhere nothing --out o",
    "inspect nowhere nothing --out o --maps anomaly,infuence",
    "inspect nowhere nothing --out o --map-format tiff",
    "inspect nowhere nothing --out o --masks jpeg",
    "evaluate nowhere parts --out o",
    "compare nowhere nothing --out o",
    "compare nothing nothing --out o",
    "info nowhere",
    "info text.safetensors",
    "info foreign.safetensors",
)


def compare(name: str, text: str) -> None:
    path = SNAPSHOTS / name
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text("utf-8"), f"{path.name} differs; see the docstring of this file"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_equals_the_snapshot(command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *filter(None, [command]), "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **_PLAIN},
    )
    assert (result.returncode, result.stderr) == (0, "")
    compare(f"help-{command or 'offnominal'}.txt", result.stdout)


def test_wrong_input_equals_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "parts").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "parts" / name).write_bytes(b"")
    (tmp_path / "parts.csv").write_text("part_no,label\na.png,good\n")
    (tmp_path / "columns.csv").write_text("path,verdict\na.png,ok\nb.png,ng\n")
    (tmp_path / "typo.toml").write_text("bannk = 50\n")
    (tmp_path / "broken.toml").write_text("bank =\n")
    (tmp_path / "text.safetensors").write_text("a model, honestly")
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "foreign.safetensors")
    blocks = []
    for words in WRONG:
        monkeypatch.setattr(sys, "argv", ["offnominal", *shlex.split(words)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert (stop.value.code, printed.out) == (2, "")
        (line,) = printed.err.splitlines()
        blocks.append(f"$ offnominal {words}\n{line}\n")
    compare("wrong-input.txt", "\n".join(blocks))


def test_info_equals_the_snapshot(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["offnominal", "info", str(model_file)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    compare("info.txt", mask_machine(capsys.readouterr().out))


def mask_machine(text: str) -> str:
    """Mask everything that depends on the machine or the libraries: hashes, versions and measured numbers."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", text)
    text = re.sub(r"^kernels: .*$", "kernels: <machine>", text, flags=re.MULTILINE)
    text = re.sub(r"^versions: .*$", lambda line: re.sub(r" \S+(?=,|$)", " <version>", line[0]), text, flags=re.MULTILINE)
    return re.sub(r"(\bradius|\bthreshold|'level':|'spread':) -?[\d.e+-]+", r"\1 <number>", text)


def test_the_cli_and_load_accept_the_same_run_settings() -> None:
    assert options.RUN_SETTINGS == detector.RUN_SETTINGS
