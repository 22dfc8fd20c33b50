"""A fit whose choice of the bank was stopped goes on from the file that it left, to the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import texture
from offnominal import Detector
from offnominal.detector.learning import partial
from offnominal.memory import coreset
from offnominal.types import silent

IMAGES = [texture(seed) for seed in range(6)]


@pytest.fixture(autouse=True)
def always_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "WORTH_KEEPING", -1.0)
    monkeypatch.setattr(coreset, "EXACT", 8)


def fitted(path: Path | None, told: list[str], stop_at: int | None = None, **settings: object) -> Detector:
    seen: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "memory bank":
            seen.append(done)
            if stop_at is not None and done >= stop_at:
                raise KeyboardInterrupt

    asked = {"image_size": 96, "bank": 60, "batch_size": 4, **settings}
    return Detector(**asked).fit(IMAGES, progress=progress if stop_at else silent, partial=path, tell=told.append)


def bytes_of(detector: Detector, folder: Path) -> bytes:
    detector.save(folder / "model.safetensors")
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("settings", [{}, {"memory": 1000}, {"contamination": 0.2}])
def test_a_stopped_fit_goes_on_to_the_same_model(settings: dict[str, object], tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "model.partial"
    with pytest.raises(KeyboardInterrupt):
        fitted(path, told, stop_at=20, **settings)
    assert path.is_file()
    assert len(told) == 1
    assert "the same command goes on" in told[0]
    state, _ = partial.unpacked(path)
    assert 20 <= len(state.indices) < 60
    found = fitted(path, told, **settings)
    assert told[1:] == [f"{path}: the choice of the bank goes on from {len(state.indices)} of 60 patches"]
    assert path.is_file(), "until the model is kept"
    whole = bytes_of(found, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["model.safetensors"]
    assert whole == bytes_of(fitted(None, told, **settings), tmp_path)


def test_the_second_choice_after_suspects_has_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "KEPT_EVERY", -1.0)
    told: list[str] = []
    path = tmp_path / "model.partial"
    chosen = partial.PartialBank.kcenter

    def second_stopped(self: partial.PartialBank, *given: object) -> object:
        if self._paths:
            monkeypatch.setattr(coreset._Greedy, "_take_block", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        return chosen(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(partial.PartialBank, "kcenter", second_stopped)
        taken = coreset._Greedy._take_block
        with pytest.raises(KeyboardInterrupt):
            fitted(path, told, contamination=0.2)
    monkeypatch.setattr(coreset._Greedy, "_take_block", taken)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model.partial", "model.partial2"]
    told.clear()
    found = fitted(path, told, contamination=0.2)
    assert [line.split(": ")[0] for line in told] == [str(path), f"{path}2"]
    assert "from 60 of 60" in told[0]
    whole = bytes_of(found, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["model.safetensors"]
    assert whole == bytes_of(fitted(None, told, contamination=0.2), tmp_path)


def test_a_file_of_other_data_or_damaged_is_ignored_with_one_line(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "model.partial"
    with pytest.raises(KeyboardInterrupt):
        fitted(path, told, stop_at=20)
    content = path.read_bytes()
    whole = bytes_of(fitted(None, []), tmp_path)
    for broken, word in (
        (content[:-100], "not a readable"),
        (content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "digest"),
        (content[:400].replace(b"bank 1", b"bank 7") + content[400:], "another format"),
        (b"", "not a readable"),
    ):
        path.write_bytes(broken)
        told.clear()
        found = fitted(path, told)
        assert len(told) == 1
        assert word in told[0]
        assert "begins anew" in told[0]
        assert bytes_of(found, tmp_path) == whole
        assert not path.exists()
    path.write_bytes(content)
    told.clear()
    fitted(path, told, seed=1)
    assert told == [f"{path}: is of other images, settings or versions; the choice of the bank begins anew"]


def test_a_place_that_cannot_be_written_does_not_end_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "KEPT_EVERY", -1.0)
    (tmp_path / "file").write_text("")
    told: list[str] = []
    fitted(tmp_path / "file" / "model.partial", told)
    assert len(told) == 1
    assert "could not be resumed" in told[0]


def test_short_work_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "WORTH_KEEPING", 1000.0)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "model.partial", told := [], stop_at=20)
    assert list(tmp_path.iterdir()) == []
    assert told == []


def test_the_key_is_of_every_patch_and_the_start() -> None:
    import torch

    from offnominal.memory import PatchRows

    patches = np.random.default_rng(0).normal(size=(9000, 3)).astype(np.float32)
    key = partial.key_of(PatchRows(torch.from_numpy(patches)), 0)
    assert key == partial.key_of(PatchRows(torch.from_numpy(patches.copy())), 0)
    assert key != partial.key_of(PatchRows(torch.from_numpy(patches)), 1)
    patches[8500, 1] = -patches[8500, 1]
    assert key != partial.key_of(PatchRows(torch.from_numpy(patches)), 0)
