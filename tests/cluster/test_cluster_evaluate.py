"""Evaluation on a cluster: the figures of one machine."""

from __future__ import annotations

from pathlib import Path

from offnominal import load
from offnominal.cluster.connection import Cluster
from offnominal.cluster.evaluating import evaluate_on_cluster

TIMES = ("ms_per_image", "images_per_second")


def test_figures_are_those_of_one_machine(cluster: Cluster, model_file: Path, parts: Path) -> None:
    detector = load(model_file)
    alone = detector.evaluate(parts, evidence=True)
    remote = evaluate_on_cluster(cluster, detector, model_file, str(parts), evidence=True)
    figures = [{name: value for name, value in one.as_json().items() if name not in TIMES} for one in (alone, remote)]
    assert figures[0] == figures[1]
    for one, other in zip(alone.images, remote.images, strict=True):
        assert one.item == other.item
        assert one.inspection.regions == other.inspection.regions
        assert (one.inspection.anomaly_map == other.inspection.anomaly_map).all()
