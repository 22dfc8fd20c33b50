"""Evaluation on a cluster: the figures of one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.conftest import BUCKET
from offnominal import load
from offnominal.cluster.connection import Cluster
from offnominal.cluster.evaluating import inspect_on, labelled_set
from offnominal.cluster.places import Place
from offnominal.errors import InputError

TIMES = ("ms_per_image", "images_per_second")


@pytest.mark.parametrize("bucket", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_figures_are_those_of_one_machine(bucket: bool, cluster: Cluster, store: str, model_file: Path, parts: Path) -> None:
    data = str(parts)
    if bucket:
        data = f"s3://{BUCKET}/labelled{store}"
        for file in (path for path in parts.rglob("*") if path.is_file()):
            (Place(data) / file.relative_to(parts).as_posix()).write(file.read_bytes())
    detector = load(model_file)
    alone = detector.evaluate(parts, evidence=True)
    with labelled_set(data) as labelled:
        inspect = inspect_on(cluster, detector, model_file, labelled)
        remote = detector.evaluate(labelled.path, evidence=True, inspect=inspect)
        assert Path(labelled.path, "train").exists() is not bucket
    figures = [{name: value for name, value in one.as_json().items() if name not in TIMES} for one in (alone, remote)]
    assert figures[0] == figures[1]
    for one, other in zip(alone.images, remote.images, strict=True):
        assert (one.item.name, one.item.label) == (other.item.name, other.item.label)
        assert one.inspection.regions == other.inspection.regions
        assert (one.inspection.anomaly_map == other.inspection.anomaly_map).all()
        assert (other.inspection.path or "").startswith("s3://" if bucket else str(parts))


def test_a_manifest_in_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match="reads MVTec roots in buckets, but no manifests"), labelled_set("s3://parts/list.csv"):
        pass
