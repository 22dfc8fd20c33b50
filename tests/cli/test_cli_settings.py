"""Settings: the file, options that override it, and defaults in the help."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_cli import run

from offnominal.cli.options import detector_from
from offnominal.errors import BackboneError


def test_weights_come_from_the_settings_file_unless_given_as_option(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in (a, b):
        save_file({"x": np.zeros(3, np.float32)}, path)
    config.write_text(f'weights = "{a.as_posix()}"\nimage-size = 128\n')
    assert detector_from({}, config, None)._weights == a
    detector = detector_from({"image_size": "96"}, config, b)
    assert (detector._weights, detector.settings.image_size) == (b, (96, 96))
    a.unlink()
    with pytest.raises(BackboneError, match="does not exist; check --weights"):
        detector_from({}, config, None)


def test_options_override_the_settings_file(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('image-size = "96"\nbank = 50\nseed = 3\n')
    fitted = run("fit", parts, "--out", tmp_path / "m", "--config", tmp_path / "c.toml", "--bank", "60", "--json")
    summary = json.loads(fitted.stdout)
    assert [member["bank"]["patches"] for member in summary["members"]] == [60, 60]
    assert summary["settings"]["seed"] == 3
    assert "A false-alarm rate of 1.00% needs at least 99 images" in fitted.stderr
    (tmp_path / "c.toml").write_text("bannk = 50\n")
    wrong = run("fit", parts, "--out", tmp_path / "m", "--config", tmp_path / "c.toml")
    assert wrong.returncode == 2
    assert "did you mean 'bank'" in wrong.stderr


def test_defaults_in_the_help_equal_the_settings() -> None:
    from offnominal.config import Settings

    text = " ".join(run("fit", "--help").stdout.split()).replace("- ", "-")  # lines break after hyphens
    settings = Settings()
    defaults = (
        settings.backbone,
        str(settings.image_size[0]),
        settings.resize,
        settings.exposure,
        settings.sampler,
        str(settings.neighbors),
    )
    for default in (*defaults, settings.calibration, settings.preset):
        assert f"[default: {default}" in text
    assert f"[default: {settings.false_alarm_rate}]" in text
    assert np.isclose(settings.memory, 2e9)
