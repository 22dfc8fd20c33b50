"""Wrong input, unwritable output and exit codes of the commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_cli import SMALL, run


def test_exit_code_of_anomalies_wins_over_unreadable_images(model_file: Path, parts: Path, tmp_path: Path) -> None:
    shutil.copy(parts / "test/blotch/200.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    words = ["inspect", model_file, tmp_path, "--out", tmp_path / "out", "--no-drift"]
    assert run(*words).returncode == 4
    assert run(*words, "--fail-on-anomaly").returncode == 3
    shutil.copy(parts / "test/good/100.png", tmp_path / "a.png")
    assert run(*words, "--fail-on-anomaly").returncode == 4


def test_unwritable_output_is_reported_before_the_work(model_file: Path, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for words in (
        ["evaluate", model_file, parts, "--out", tmp_path / "file"],
        ["evaluate", model_file, parts, "--out", tmp_path / "e", "--plots", tmp_path / "file"],
        ["audit", parts, "--out", tmp_path / "file"],
    ):
        done = run(*words)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            f"offnominal: {tmp_path / 'file'}: cannot be written (File exists); choose another place"
        ]
    assert not list((tmp_path / "e").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "nowhere", "--out", "m"], "does not exist"),
        (["fit", ".", "--out", "m", "--layers", "nope"], "no image|no good image"),
        (["info", "nowhere"], "no such model file"),
        (["info", "."], "is a folder; name the model file in it"),
        (["inspect", "m", ".", "--out", "o", "--fdr", "0.2"], "--fdr needs --lot; add --lot or remove --fdr"),
        (["inspect", "m", ".", "--out", "o", "--receipts", "--no-evidence"], "--receipts shows the evidence"),
        (["inspect", "nowhere", ".", "--out", "o"], "contains no image"),
    ],
)
def test_wrong_input_is_a_one_line_error_with_exit_code_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert any(part in line for part in message.split("|"))


@pytest.mark.parametrize("out", [".", "folder"])
def test_unwritable_output_fails_before_the_fit(parts: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "folder").mkdir()
    result = run("fit", parts, "--out", tmp_path / out if out == "folder" else out, *SMALL)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "is a folder; name a file in it" in result.stderr
    assert not list((tmp_path / "folder").iterdir())


def test_an_unusable_path_is_a_one_line_error() -> None:
    result = run("info", "x" * 300)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "cannot be used (File name too long)" in result.stderr
