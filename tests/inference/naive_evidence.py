"""A naive reference for the evidence, computed from the model file alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from offnominal.config import Settings
from offnominal.features import ChannelStandard
from offnominal.images import Exposure, Geometry, Preprocessing, ValueRange, batches
from offnominal.inference import member_engines
from offnominal.inference.evidence import STEPS


class NaiveEvidence:
    """The evidence of one member of a model file for an image, with plain loops over its patches."""

    def __init__(self, path: Path, image: np.ndarray, number: int) -> None:
        with safe_open(str(path), framework="numpy") as file:
            self.description = json.loads(file.metadata()["description"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.scores = tensors["calibration.scores"]
        prefix = f"member.{number}."
        self.tensors = {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
        self.settings = Settings.model_validate_json(json.dumps(self.description["settings"]))
        self.member = self.description["members"][number]
        engine = member_engines(self.settings)[number]
        shape = self.member["geometry"]
        geometry = Geometry(tuple(shape["size"]), shape["resize"], shape["multiple"], shape["longest"])

        def fail(index: int, error: Exception) -> None:
            raise error

        exposure = self.description["values"]["exposure"]
        values = {**self.description["values"], "exposure": None if exposure is None else Exposure(**exposure)}
        (batch,) = batches([image], Preprocessing((geometry,), ValueRange(**values)), batch_size=1, failed=fail)
        pixels = batch.network_input(0)
        self.network = pixels.shape[2], pixels.shape[3]
        standard = ChannelStandard(*(torch.from_numpy(self.tensors[f"standard.{name}"]) for name in ("mean", "scale")))
        self.patches = engine.standardise(engine.patches(pixels), standard, self.network)[0].double().numpy()
        self.grid = engine.grid(self.network)
        self.original = image.shape[:2]
        self.bank = self.tensors["bank.patches"].astype(float)
        self.engine, self.geometry = engine, geometry

    def on_grid(self) -> np.ndarray:
        """(h, w, D) patches. Positions at the border repeat the nearest interior position."""
        height, width = self.grid
        return np.pad(self.patches.reshape(height - 2, width - 2, -1), ((1, 1), (1, 1), (0, 0)), mode="edge")

    def nearest(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        distances = np.array([np.sqrt(((x - m) ** 2).sum()) for m in self.bank])
        order = np.argsort(distances, kind="stable")[:k]
        return distances[order], order

    def gradient(self, x: np.ndarray) -> np.ndarray:
        distances, order = self.nearest(x, self.settings.neighbors)
        mean: np.ndarray = sum((x - self.bank[at]) / d for at, d in zip(order, distances, strict=True) if d > 0) / len(order)
        return mean

    def noise(self, x: np.ndarray) -> np.ndarray:
        scale = self.member["distance_scale"]
        in_sd = (self.nearest(x, self.settings.neighbors)[0].mean() - scale["mean"]) / scale["deviation"]
        size = np.abs(self.gradient(x))
        low, high = self.settings.noise_range
        noise: np.ndarray = low + (high - low) / (1 + np.exp(-((size - size.mean()) / size.std() + in_sd)))
        return noise

    def curve(self, x: np.ndarray) -> list[tuple[float, float]]:
        gradient = self.gradient(x)
        direction = self.noise(x) * gradient / np.sqrt((gradient**2).mean())
        return [(t, self.nearest(x + t * direction, self.settings.neighbors)[0].mean()) for t in STEPS]

    def at(self, pixel: tuple[int, int]) -> np.ndarray:
        height, width = self.grid
        row = int((pixel[1] + 0.5) / self.original[0] * height)
        column = int((pixel[0] + 0.5) / self.original[1] * width)
        patch: np.ndarray = self.on_grid()[row, column]
        return patch

    def patch_at(self, pixel: tuple[int, int]) -> tuple[float, float]:
        """The pixel, moved to the centre of the nearest interior position along each axis on which it is at the border."""
        coordinates = []
        for at, side, positions in zip(pixel, self.original[::-1], self.grid[::-1], strict=True):
            position = int((at + 0.5) / side * positions)
            inside = min(max(position, 1), positions - 2)
            coordinates.append(float(at) if inside == position else (inside + 0.5) * side / positions)
        return coordinates[0], coordinates[1]

    def layer_parts(self) -> np.ndarray:
        """(L, D) share of each feature that comes from each layer."""
        counts = self.engine._extractor.layer_channels
        owner = np.repeat(np.arange(len(counts)), counts)
        size = self.settings.dimensions or len(owner)
        parts = np.zeros((len(counts), size))
        for j in range(size):
            inside = owner[j * len(owner) // size : -(-(j + 1) * len(owner) // size)]
            for layer in inside:
                parts[layer, j] += 1 / len(inside)
        return parts
