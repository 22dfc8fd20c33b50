"""Fits and audits on a cluster: with one shard the model of one machine, byte by byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.conftest import BUCKET
from offnominal import Detector
from offnominal.cluster import workers
from offnominal.cluster.connection import Cluster
from offnominal.cluster.fitting import good_images, workers_on
from offnominal.cluster.inspecting import inspect_on_cluster
from offnominal.cluster.places import Place
from offnominal.errors import InputError
from offnominal.observer import SILENT, Observer

SETTINGS: dict[str, Any] = {"image_size": 96, "bank": 100, "false_alarm_rate": 0.1}


class Steps(Observer):
    """Records which stages were finished."""

    def __init__(self) -> None:
        self.finished: set[str] = set()

    def on_progress(self, stage: str, done: int, total: int) -> None:
        if done == total:
            self.finished.add(stage)


def fitted(data: str, shards: int, observer: Observer = SILENT, **settings: Any) -> Detector:
    """A detector that was fitted on the cluster."""
    detector = Detector(**{**SETTINGS, **settings})
    with workers_on("auto", detector, shards, observer, worker_cpus=1) as connection:
        return detector.fit(good_images(data), observer=observer, workers=connection)


@pytest.fixture(scope="session")
def good(camera: Path) -> str:
    return str(camera / "0*.png")


@pytest.mark.parametrize("calibration", ["leave-one-out", pytest.param("split", marks=pytest.mark.slow)])
def test_a_fit_with_one_shard_is_that_of_one_machine(cluster: Cluster, good: str, calibration: str, tmp_path: Path) -> None:
    Detector(**SETTINGS, calibration=calibration).fit(good).save(tmp_path / "alone.safetensors")
    fitted(good, 1, calibration=calibration).save(tmp_path / "remote.safetensors")
    assert (tmp_path / "alone.safetensors").read_bytes() == (tmp_path / "remote.safetensors").read_bytes()


def test_a_fit_with_two_shards_detects(cluster: Cluster, bucket: str, camera: Path, tmp_path: Path) -> None:
    pattern = bucket.replace("/camera", "/camera/0*.png")
    steps = Steps()
    detector = fitted(pattern, 2, steps)
    assert {"survey", "features", "memory bank", "held-out scores"} <= steps.finished
    assert detector.model.sources[0].name.startswith("s3://")
    assert detector.inspect(camera / "200.png").anomalous
    detector.save(tmp_path / "model.safetensors")
    run = inspect_on_cluster(cluster, tmp_path / "model.safetensors", [str(camera / "20*.png")], str(tmp_path / "out"))
    assert run.anomalous == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [("good.parquet", "reads no manifests"), ("scratch/*.png", "contains no image"), ("broken/*.png", "may show a defect")],
)
def test_images_that_may_not_be_good_are_refused(store: str, name: str, message: str) -> None:
    Place(f"s3://{BUCKET}/broken/1.png{store}").write(b"")
    with pytest.raises(InputError, match=message):
        good_images(f"s3://{BUCKET}/{name}{store}")


@pytest.mark.slow
def test_an_audit_finds_the_damaged_images(cluster: Cluster, camera: Path) -> None:
    images = str(camera / "*0[0-9].png")
    detector = Detector(**SETTINGS)
    with workers_on("auto", detector, 2, SILENT, worker_cpus=1) as connection:
        audit = detector.audit(images, workers=connection)
    names = [suspect.name for suspect in audit.listed(audit.suspects("auto"))]
    assert {Path(name).name for name in names} >= {f"{seed}.png" for seed in range(200, 206)}


@pytest.mark.slow
@pytest.mark.parametrize("before", ["coreset", "leave_one_out", "scores"])
def test_a_lost_worker_does_not_change_the_model(
    cluster: Cluster, good: str, before: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker is killed before a pass; the one that replaces it repeats the earlier passes."""
    fitted(good, 2).save(tmp_path / "whole.safetensors")
    original = workers._ActorShards._called
    killed: list[str] = []

    def called(self: workers._ActorShards, name: str, arguments: Any) -> list[Any]:
        if name == before and not killed:
            killed.append(name)
            ray.kill(self._hosts[0], no_restart=False)
        return original(self, name, arguments)

    monkeypatch.setattr(workers._ActorShards, "_called", called)
    fitted(good, 2).save(tmp_path / "lost.safetensors")
    assert killed
    assert (tmp_path / "lost.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
