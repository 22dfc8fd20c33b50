"""Inspection on a cluster: the rows of one machine, continued runs, buckets, wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.conftest import BUCKET
from conftest import Notes
from offnominal import load
from offnominal.cluster import lists
from offnominal.cluster.connection import Cluster
from offnominal.cluster.inspecting import PARTS, inspect_on_cluster, part_name
from offnominal.cluster.places import Place
from offnominal.cluster.rows import rows_of
from offnominal.datasets import any_images
from offnominal.errors import InputError
from offnominal.outputs.inspections import write_inspections
from offnominal.outputs.optional_outputs import extras_from


def rows(folder: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read().splitlines()]


@pytest.fixture(scope="session")
def expected(model_file: Path, camera: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of `inspect` on one machine, without the pictures that a cluster does not write."""
    _, found = write_inspections(load(model_file), any_images([camera]), tmp_path_factory.mktemp("alone"))
    return [{**row, "map": None} for row in json.loads(json.dumps(found))]


def test_rows_are_those_of_one_machine(
    cluster: Cluster, model_file: Path, camera: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = inspect_on_cluster(cluster, model_file, [str(camera)], str(tmp_path / "out"))
    assert (run.done, run.unreadable) == (36, 1)
    assert rows(Place(str(tmp_path / "out"))) == expected
    part = rows_of((tmp_path / "out" / PARTS / part_name(0)).read_bytes())
    assert [row.pop("index") for row in part] == list(range(37))
    assert part == expected
    assert run.anomalous == sum(bool(row["anomalous"]) for row in expected)


@pytest.mark.slow
def test_a_stopped_run_continues_with_the_missing_parts(
    cluster: Cluster, model_file: Path, camera: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    manifest, out = tmp_path / "many.parquet", str(tmp_path / "out")
    links = tmp_path / "links"
    links.mkdir()
    paths = []
    for number in range(3 * lists.PART // 2):
        source = sorted(camera.iterdir())[number % 37]
        (links / f"{number:04d}{source.suffix}").symlink_to(source)
        paths.append(f"links/{number:04d}{source.suffix}")
    pq.write_table(pa.table({"path": paths}), manifest)
    run = inspect_on_cluster(cluster, model_file, [str(manifest)], out)
    assert run.done + run.unreadable == len(paths)
    whole = (tmp_path / "out" / "results.jsonl").read_bytes()
    parts = sorted((tmp_path / "out" / PARTS).iterdir())
    assert len(parts) == 2
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    (tmp_path / "out" / "results.jsonl").unlink()
    assert inspect_on_cluster(cluster, model_file, [str(manifest)], out) == run
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == whole
    assert parts[0].stat().st_mtime_ns == kept
    scores = [row["score"] for row in rows(Place(out))]
    assert scores[:37] == [row["score"] for row in expected]


def test_images_and_results_in_a_bucket(
    cluster: Cluster, model_file: Path, bucket: str, store: str, expected: list[dict[str, Any]]
) -> None:
    out = f"s3://{BUCKET}/out{store}"
    run = inspect_on_cluster(cluster, model_file, [bucket], out, extras=extras_from(maps="anomaly", map_format="tiff"))
    assert (run.done, run.unreadable) == (36, 1)
    found = rows(Place(out))
    for row, alone in zip(found, expected, strict=True):
        assert row["path"] == f"s3://{BUCKET}/camera/{Path(alone['path']).name}"
        assert [row[name] for name in ("score", "p_value", "anomalous", "regions")] == [
            alone[name] for name in ("score", "p_value", "anomalous", "regions")
        ]
        if row["error"] is None:
            assert (Place(out) / row["maps"]["anomaly"]["path"]).exists()
        else:
            assert row["error"].startswith(row["path"])
    pattern = f"s3://{BUCKET}/camera/20*.png{store}"
    assert inspect_on_cluster(cluster, model_file, [pattern], f"s3://{BUCKET}/some{store}").done == 6


@pytest.mark.slow
def test_lists_leave_out_duplicates(cluster: Cluster, model_file: Path, camera: Path, tmp_path: Path) -> None:
    notes = Notes()
    inputs = [str(camera), str(camera / "001.png")]
    run = inspect_on_cluster(cluster, model_file, inputs, str(tmp_path / "out"), observer=notes)
    assert run.done == 36
    assert notes.texts == ["duplicates left out: 1"]


def test_another_run_in_the_folder_is_kept(cluster: Cluster, model_file: Path, camera: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text("{}")
    with pytest.raises(InputError, match="holds another run"):
        inspect_on_cluster(cluster, model_file, [str(camera)], str(out))
    assert sorted(path.name for path in out.iterdir()) == ["run.json"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing", "does not exist"),
        (f"s3://{BUCKET}/nothing", "contains no image"),
        (f"s3://{BUCKET}/list.csv", "must be a Parquet file"),
        (f"s3://{BUCKET}/nothing.parquet", "cannot be read"),
        ("http://example.org/images", "unknown store http; known: s3"),
        ("s3://key:secret@bucket/images", r"^s3://...@bucket/images.*: holds a key"),
    ],
)
def test_inputs_without_images_are_refused(
    cluster: Cluster, model_file: Path, store: str, given: str, message: str, tmp_path: Path
) -> None:
    address = given + store if "://" in given else str(tmp_path / given)
    with pytest.raises(InputError, match=message):
        inspect_on_cluster(cluster, model_file, [address], str(tmp_path / "out"))
