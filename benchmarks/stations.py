"""Shared by the benchmarks of the station: a small model of generated parts."""

from __future__ import annotations

from pathlib import Path

from offnominal import Detector
from station.servers import image_bytes


def small_model(folder: Path, *, images: int = 40) -> Path:
    """Fit a model of generated parts and return its file: small images, so that the service counts, not the network."""
    parts = folder / "parts"
    parts.mkdir()
    for seed in range(1000, 1000 + images):
        (parts / f"{seed}.png").write_bytes(image_bytes(seed))
    path = folder / "parts.safetensors"
    Detector(image_size=128, bank=300, false_alarm_rate=0.05).fit(parts).save(path)
    return path
