"""The Python interface: it accepts every reasonable form of input, and reports a wrong one in a single line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Notes, texture
from offnominal import Detector, load
from offnominal.errors import ImageError, InputError, SettingsError


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [texture(seed) for seed in range(8)]


def small(**settings: Any) -> Detector:
    return Detector(image_size=96, bank=100, false_alarm_rate=0.2, **settings)


def test_duplicates_are_reported_by_fit_and_audit(images: list[np.ndarray]) -> None:
    notes = Notes()
    small().fit([*images, images[3], images[0]], observer=notes)
    (line,) = notes.texts
    assert line.startswith("2 of 10 images are duplicates (the first: 'array 8' of 'array 3')")
    notes = Notes()
    small().audit([*images, images[3], images[0]], observer=notes)
    (line,) = notes.texts
    assert line.startswith("2 of 10 images are duplicates (the first: 'array 8' of 'array 3')")
    notes = Notes()
    small().fit(images, observer=notes)
    small().audit(images, observer=notes)
    assert not notes.texts


def test_names_to_remove_are_any_iterable_but_not_a_single_name(images: list[np.ndarray]) -> None:
    detector = small().fit(images)
    assert detector.update(remove=(f"array {number}" for number in (1, 2))).removed == ("array 1", "array 2")
    assert detector.update(remove=[Path("array 3")]).removed == ("array 3",)
    for name in ("array 4", Path("array 4")):
        with pytest.raises(InputError, match="put the names in a list"):
            detector.update(remove=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", ["", " ", None, 3, [None, None]])
def test_empty_or_missing_data_is_refused(data: Any) -> None:
    with pytest.raises(InputError) as caught:
        small().fit(data)
    assert "\n" not in str(caught.value)


def test_wrong_kinds_of_data_are_refused(images: list[np.ndarray], tmp_path: Path) -> None:
    detector = small().fit(images)
    with pytest.raises(InputError, match="is a folder; list its images"):
        detector.predict(str(tmp_path))
    with pytest.raises(InputError, match="name a folder, an MVTec root"):
        detector.evaluate([tmp_path])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected several images"):
        detector.update(add=None)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="got a tuple"):
        detector.score_samples([(images[0], 0)])


@pytest.mark.parametrize("settings", [{"bank": float("inf")}, {"bank": float("nan")}, {"bank": np.nan}])
def test_non_finite_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="bank must be"):
        Detector(**settings)


def test_numpy_numbers_are_accepted_as_settings() -> None:
    of_numpy: dict[str, Any] = {
        "image_size": np.int64(128),
        "neighbors": np.int32(5),
        "bank": np.float64(0.1),
        "contamination": np.float64(0.1),
    }
    plain: dict[str, Any] = {"image_size": 128, "neighbors": 5, "bank": 0.1, "contamination": 0.1}
    assert Detector(**of_numpy).settings == Detector(**plain).settings
    assert Detector(image_size=(np.int64(96), np.int64(128))).settings == Detector(image_size=(96, 128)).settings
    assert Detector(bank=np.int64(100)).settings.bank_size(5000) == 100


def test_load_distinguishes_misspelt_and_fixed_settings(images: list[np.ndarray], tmp_path: Path) -> None:
    small().fit(images).save(tmp_path / "m")
    with pytest.raises(SettingsError, match="unknown setting 'runtim': did you mean 'runtime'"):
        load(tmp_path / "m", runtim="torch")
    with pytest.raises(SettingsError, match="neighbors is fixed in the model"):
        load(tmp_path / "m", neighbors=3)


def test_audit_uses_the_weights_that_the_model_was_loaded_with(images: list[np.ndarray], tmp_path: Path) -> None:
    import timm
    import torch

    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "r.pth")
    small(backbone="resnet10t", weights=tmp_path / "r.pth").fit(images).save(tmp_path / "m")
    detector = load(tmp_path / "m", weights=tmp_path / "r.pth")
    assert len(detector.audit(images).names) == len(images)
