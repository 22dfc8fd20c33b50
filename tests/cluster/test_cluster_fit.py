"""Fits and audits on a cluster: with one shard the model of one machine, byte by byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from offnominal import Detector
from offnominal.cluster import workers
from offnominal.cluster.connection import Cluster
from offnominal.cluster.fitting import audit_on_cluster, fit_on_cluster
from offnominal.cluster.inspecting import inspect_on_cluster

SETTINGS = {"image_size": 96, "bank": 100, "false_alarm_rate": 0.1}


@pytest.fixture(scope="session")
def good(camera: Path) -> str:
    return str(camera / "0*.png")


@pytest.mark.parametrize("calibration", ["leave-one-out", pytest.param("split", marks=pytest.mark.slow)])
def test_a_fit_with_one_shard_is_that_of_one_machine(cluster: Cluster, good: str, calibration: str, tmp_path: Path) -> None:
    alone, remote = (Detector(**SETTINGS, calibration=calibration) for _ in range(2))  # type: ignore[arg-type]
    alone.fit(good).save(tmp_path / "alone.safetensors")
    fit_on_cluster(cluster, remote, good, shards=1).save(tmp_path / "remote.safetensors")
    assert (tmp_path / "alone.safetensors").read_bytes() == (tmp_path / "remote.safetensors").read_bytes()


def test_a_fit_with_two_shards_detects(cluster: Cluster, bucket: str, camera: Path, tmp_path: Path) -> None:
    pattern = bucket.replace("/camera", "/camera/0*.png")
    detector = fit_on_cluster(cluster, Detector(**SETTINGS), pattern, shards=2)  # type: ignore[arg-type]
    assert detector.model.sources[0].name.startswith("s3://")
    assert detector.inspect(camera / "200.png").anomalous
    detector.save(tmp_path / "model.safetensors")
    assert (
        inspect_on_cluster(cluster, tmp_path / "model.safetensors", [str(camera / "20*.png")], str(tmp_path / "o")).anomalous
        == 6
    )


@pytest.mark.slow
def test_an_audit_finds_the_damaged_images(cluster: Cluster, camera: Path) -> None:
    images = str(camera / "*0[0-9].png")
    audit = audit_on_cluster(cluster, Detector(**SETTINGS), images, shards=2)  # type: ignore[arg-type]
    names = [suspect.name for suspect in audit.listed(audit.suspects("auto"))]
    assert {Path(name).name for name in names} >= {f"{seed}.png" for seed in range(200, 206)}


@pytest.mark.slow
@pytest.mark.parametrize("before", ["coreset", "leave_one_out", "scores"])
def test_a_lost_worker_does_not_change_the_model(
    cluster: Cluster, good: str, before: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker is killed before a pass; the one that replaces it repeats the earlier passes."""
    fit_on_cluster(cluster, Detector(**SETTINGS), good, shards=2).save(tmp_path / "whole.safetensors")  # type: ignore[arg-type]
    original = workers._ActorShards._called
    killed: list[str] = []

    def called(self: workers._ActorShards, name: str, arguments: Any) -> list[Any]:
        if name == before and not killed:
            killed.append(name)
            ray.kill(self._hosts[0], no_restart=False)
        return original(self, name, arguments)

    monkeypatch.setattr(workers._ActorShards, "_called", called)
    fit_on_cluster(cluster, Detector(**SETTINGS), good, shards=2).save(tmp_path / "lost.safetensors")  # type: ignore[arg-type]
    assert killed
    assert (tmp_path / "lost.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
