"""Generated images and one small fitted detector, shared by the tests."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from offnominal import Detector
from offnominal.images import ImageBatch, Preprocessing
from offnominal.inference import Inspector
from offnominal.model import Model
from offnominal.observer import Observer

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def network_batch(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """`index`: the indices of the images that the current thread last passed to a network."""
    network_batch, network_input = threading.local(), ImageBatch.network_input

    def recording(self: ImageBatch, view: int) -> np.ndarray:
        network_batch.index = self.index
        return network_input(self, view)

    monkeypatch.setattr(ImageBatch, "network_input", recording)
    return network_batch


@pytest.fixture(scope="session", autouse=True)
def _fresh_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use an empty cache in each session. The user's own cache is not touched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not REAL_DATA.is_dir():
        for item in items:
            if "realdata" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="the image sets are missing beside the checkout"))


class Notes(Observer):
    """An observer that stores the notes of a detector."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, text: str) -> None:
        self.texts.append(text)


def with_model(detector: Detector, model: Model) -> Detector:
    """A copy of `detector` with the same networks and another model."""
    other = copy.copy(detector)
    other._use(Inspector(model, detector._ready().engines))
    return other


def with_spy(spy: Callable[..., object], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which passes its arguments to `spy` before it runs."""

    def spied(*args: Any, **kwargs: Any) -> Any:
        spy(*args, **kwargs)
        return function(*args, **kwargs)

    return spied


def texture(seed: int, size: tuple[int, int] = (96, 120)) -> np.ndarray:
    """A striped, noisy part, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    stripes = 120 + 40 * np.sin(np.arange(size[1]) / 5 + rng.uniform(0, 6))
    image = stripes[None, :, None] + rng.normal(0, 8, (*size, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def damaged(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A part with a blotch of random colours, and the mask of the blotch."""
    image = texture(seed)
    mask = np.zeros(image.shape[:2], bool)
    mask[30:60, 40:75] = True
    image[mask] = np.random.default_rng(seed).integers(0, 255, (int(mask.sum()), 3))
    return image, mask


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MVTec root of generated parts: 12 training images, 5 good and 5 damaged test images."""
    root = tmp_path_factory.mktemp("parts")
    for folder, seeds in (("train/good", range(12)), ("test/good", range(100, 105))):
        (root / folder).mkdir(parents=True)
        for seed in seeds:
            cv2.imwrite(str(root / folder / f"{seed:03d}.png"), texture(seed))
    for folder in ("test/blotch", "ground_truth/blotch"):
        (root / folder).mkdir(parents=True)
    for seed in range(200, 205):
        image, mask = damaged(seed)
        cv2.imwrite(str(root / "test/blotch" / f"{seed}.png"), image)
        cv2.imwrite(str(root / "ground_truth/blotch" / f"{seed}_mask.png"), mask.astype(np.uint8) * 255)
    return root


@pytest.fixture(scope="session")
def detector(parts: Path) -> Detector:
    return Detector(image_size=128, bank=300, false_alarm_rate=0.1).fit(parts)


@pytest.fixture(scope="session")
def model_file(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "parts.safetensors"
    detector.save(path)
    return path


os.environ.setdefault("COLUMNS", "120")


@pytest.fixture(scope="session")
def real() -> tuple[np.ndarray, np.ndarray]:
    """Standardised patches of two photographs, and a memory bank from five others."""
    from offnominal.config import Settings
    from offnominal.datasets import normal_images
    from offnominal.features import channel_standard
    from offnominal.images import EIGHT_BIT, batches, read_header
    from offnominal.inference import member_engines

    def fail(index: int, error: Exception) -> None:
        raise error

    (engine,) = member_engines(Settings(backbone="efficientnet-lite0", image_size=(128, 128)))
    paths = [item.path for item in normal_images(REAL_DATA / "aws_cookies")[:7]]
    geometry = engine.geometry([read_header(path).size for path in paths])
    by_index = {
        index: image
        for batch in batches(paths, Preprocessing([geometry], EIGHT_BIT), batch_size=16, failed=fail)
        for index, image in zip(batch.index, engine.patches(batch.network_input(0)), strict=True)
    }
    patches = [by_index[index] for index in range(len(paths))]
    standard = channel_standard(torch.cat(patches))
    patches = [standard(image) for image in patches]
    return torch.cat(patches[:2]).numpy(), torch.cat(patches[2:]).numpy()
