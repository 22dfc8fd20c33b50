"""Inspect many images on a cluster: parts of a list, each inspected by one worker and recorded as one Parquet file.

A part is finished when its file exists. A run that was stopped continues with the parts that are missing, so no image is left
out or inspected twice. Ray Data distributes the parts, and repeats those whose worker was lost; a repeated part replaces its
file by an equal one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import numpy.typing as npt

from offnominal.cluster.connection import Cluster, errors_of_workers
from offnominal.cluster.lists import Listed, part_of, parts_of, write_list
from offnominal.cluster.places import Place
from offnominal.cluster.rows import as_parquet, rows_of
from offnominal.datasets import Pages
from offnominal.detector import Detector, load
from offnominal.errors import ImageError, InputError, SettingsError, raise_if_fatal, reason_of
from offnominal.images import Source, path_of
from offnominal.observer import SILENT, Observer
from offnominal.outputs.inspections import InspectionRun, inspection_row
from offnominal.outputs.optional_outputs import Extras, ExtraWriter
from offnominal.outputs.report_writer import picture_name
from offnominal.outputs.result_rows import Row, error_row
from offnominal.quiet import without_warnings

#: Files of a run: what it inspects, the list of its images, and the folder of its parts.
RUN, LIST, PARTS = "run.json", "images.parquet", "parts"
#: Only receipts need the picture of an image, and a cluster writes none.
NO_PICTURE = np.empty((0, 0, 3), np.uint8)
#: Times that workers may be lost in a row without a part that was finished, and seconds before the next attempt.
ATTEMPTS, REST = 5, 5.0
#: Runs of at most this many images also get `results.jsonl`.
SMALL = 100_000


@dataclass(frozen=True)
class Job:
    """What a worker needs to inspect the parts of a run.

    Attributes
    ----------
    model, weights
        Content of the model file, and of the weights file if the backbone needs one; references to the object store.
    out
        Folder of the run.
    run_settings
        Settings that differ from those of the fit.
    extras
        Optional outputs; only maps are supported.
    """

    model: Any
    weights: Any
    out: str
    run_settings: dict[str, Any]
    extras: Extras


class PartInspector:
    """Inspects parts in a worker. The networks are loaded once."""

    def __init__(self, job: Job) -> None:
        import ray

        self._job, self._out = job, Place(job.out)
        self._detector = load_content(
            ray.get(job.model), None if job.weights is None else ray.get(job.weights), job.run_settings
        )

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Inspect the parts with these numbers; returns the counts of each."""
        runs = [self._inspect(int(part)) for part in batch["part"]]
        counts = {name: np.array([getattr(run, name) for run in runs]) for name in ("done", "anomalous", "unreadable")}
        return {"part": batch["part"], **counts}

    def _inspect(self, part: int) -> InspectionRun:
        first, sources = part_of(self._out / LIST, part)
        with tempfile.TemporaryDirectory(prefix="offnominal-") as scratch:
            rows = inspect_part(self._detector, sources, first, Path(scratch), self._job.extras)
            for path in sorted(Path(scratch).glob("maps/*")):
                (self._out / f"maps/{path.name}").write(path.read_bytes())
        (self._out / PARTS / part_name(part)).write(as_parquet(rows))
        return counted(rows)


def inspect_part(detector: Detector, sources: Sequence[Source], first: int, scratch: Path, extras: Extras) -> list[Row]:
    """Inspect images; returns their rows in order.

    Parameters
    ----------
    first
        Number of the first image in the run.
    scratch
        Folder for maps.
    extras
        Which maps to write.
    """
    writer, rows = ExtraWriter(scratch, detector.model, extras), dict[int, Row]()

    def failed(at: int, error: ImageError) -> None:
        rows[at] = error_row(str(error))

    for at, inspection in detector.inspect_many(sources, failed=failed, maps=extras.needs_noise_or_layer_maps):
        path = inspection.path or ""
        try:
            entries = writer.add(first + at, picture_name(f"{first + at:08d}", Path(path).name), path, inspection, NO_PICTURE)
            rows[at] = {**inspection_row(inspection), "map": None, **entries, "error": None}
        except Exception as error:  # noqa: BLE001 - any failure costs this image alone
            raise_if_fatal(error)
            rows[at] = error_row(f"{path}: cannot be drawn ({reason_of(error)})")
    return [{"index": first + at, "path": path_of(source), **rows[at]} for at, source in enumerate(sources)]


def inspect_on_cluster(
    cluster: Cluster,
    model: Path,
    inputs: Sequence[str],
    out: str,
    *,
    weights: Path | None = None,
    run_settings: dict[str, Any] | None = None,
    extras: Extras | None = None,
    pages: Pages = "one",
    observer: Observer = SILENT,
) -> InspectionRun:
    """Inspect images on a cluster, and write their rows to parts in a folder or bucket.

    The nodes must reach the images and `out` at the addresses given. An unfinished run with the same model, inputs and settings
    is continued.

    Parameters
    ----------
    model
        Model file on this machine.
    inputs
        Images, folders, globs and manifests on storage that all nodes share, or in buckets.
    out
        Folder on such storage, or a prefix in a bucket.
    weights
        Weights file, if the backbone needs one.
    run_settings
        Settings that differ from those of the fit.
    extras
        Optional outputs; only maps are supported.
    observer
        Receives progress and notes.

    Raises
    ------
    InputError
        An input has no image, or the folder holds another run.
    OutputError
        The folder or bucket cannot be written.
    """
    import ray

    extras, place = extras or Extras(), Place(out if "://" in out else str(Path(out).absolute()))
    content = model.read_bytes()
    weights_content = None if weights is None else weights.read_bytes()
    for given in inputs:
        Place(given)  # refuses keys before anything is written
    listed_inputs = [given if "://" in given else str(Path(given).absolute()) for given in inputs]
    run = {
        "format": "offnominal-run",
        "model": sha256(content).hexdigest(),
        "weights": None if weights_content is None else sha256(weights_content).hexdigest(),
        "inputs": listed_inputs,
        "pages": pages,
        "settings": {name: str(value) for name, value in sorted((run_settings or {}).items())},
        "extras": asdict(extras),
    }
    listed = _begin(place, json.loads(json.dumps(run)))
    if listed is None:
        with (place / LIST).output() as target:
            listed = write_list(listed_inputs, place, target, pages)
    for note in listed.notes:
        observer.on_note(note)
    parts, images = parts_of(place / LIST)
    job = Job(
        model=ray.put(content),
        weights=None if weights_content is None else ray.put(weights_content),
        out=place.address,
        run_settings=run_settings or {},
        extras=extras,
    )
    total = _finish(cluster, place, job, parts, images, observer)
    if images <= SMALL:
        lines = (row for part in range(parts) for row in rows_of((place / PARTS / part_name(part)).read()))
        texts = (json.dumps({name: row[name] for name in row if name != "index"}, allow_nan=False) for row in lines)
        (place / "results.jsonl").write("".join(f"{text}\n" for text in texts).encode())
    return total


def _finish(cluster: Cluster, place: Place, job: Job, parts: int, images: int, observer: Observer) -> InspectionRun:
    """Inspect the missing parts; begin again with those still missing while the cluster loses workers but finishes parts."""
    from ray.exceptions import RayError, RayTaskError

    attempts, before = 0, parts + 1
    while True:
        finished = {name for name in (place / PARTS).names() if name.endswith(".parquet")}
        missing = [part for part in range(parts) if part_name(part) not in finished]
        total = _earlier(place, [part for part in range(parts) if part_name(part) in finished])
        observer.on_progress("inspect", total.done + total.unreadable, images)
        attempts, before = 1 if len(missing) < before else attempts + 1, len(missing)
        try:
            for of_part in run_parts(cluster, PartInspector, job, missing):
                total = InspectionRun(
                    *(getattr(total, name) + int(of_part[name]) for name in ("done", "anomalous", "unreadable"))
                )
                observer.on_progress("inspect", total.done + total.unreadable, images)
            return total
        except RayTaskError:
            raise
        except RayError as error:
            if attempts == ATTEMPTS:
                raise SettingsError(
                    f"the cluster lost its workers {ATTEMPTS} times before they finished a part ({type(error).__name__}); "
                    "check it with: ray status, and start the command again to continue"
                ) from None
            sleep(REST)


def run_parts(cluster: Cluster, work: type, job: Any, parts: Sequence[int]) -> Any:
    """Run `work(job)` on parts, in actors of the cluster; yields the results as they come."""
    import ray

    if not parts:
        return
    with without_warnings(), errors_of_workers():  # Ray warns of its own deprecated options
        ray.data.DataContext.get_current().enable_progress_bars = False
        numbers = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        results = numbers.map_batches(
            work,
            fn_constructor_args=(job,),
            batch_size=1,
            # As many workers as the nodes have space for now: to cancel one that waits for a lost node ends the run.
            compute=ray.data.ActorPoolStrategy(size=min(len(parts), cluster.workers, cluster.workers_now())),
            num_cpus=cluster.worker_cpus,
        )
        yield from results.iter_rows()


def load_content(model: bytes, weights: bytes | None, run_settings: dict[str, Any]) -> Detector:
    """A detector from the contents of its files."""
    with tempfile.TemporaryDirectory(prefix="offnominal-") as folder:
        path, weights_path = Path(folder) / "model.safetensors", None
        path.write_bytes(model)
        if weights is not None:
            weights_path = Path(folder) / "weights"
            weights_path.write_bytes(weights)
        return load(path, weights=weights_path, **run_settings)


def counted(rows: Sequence[Row]) -> InspectionRun:
    """Counts of rows."""
    unreadable = sum(row["error"] is not None for row in rows)
    return InspectionRun(len(rows) - unreadable, sum(bool(row["anomalous"]) for row in rows), unreadable)


def part_name(part: int) -> str:
    """File of a part.

    Examples
    --------
    >>> part_name(7)
    'part-000007.parquet'
    """
    return f"part-{part:06d}.parquet"


def _begin(place: Place, run: dict[str, Any]) -> Listed | None:
    """Begin a run, or continue the same one: its list of images, if it was written. Raises `InputError` for another run."""
    record = place / RUN
    if record.exists():
        try:
            earlier = json.loads(record.read())
        except ValueError:
            earlier = None
        if earlier != run:
            raise InputError(f"{place.shown}: holds another run (see its {RUN}); give another --out, or remove it")
        if (place / LIST).exists():
            return Listed(parts_of(place / LIST)[1], ())
        return None
    if (place / LIST).exists() or (place / PARTS).names():
        raise InputError(f"{place.shown}: holds parts of a run without its {RUN}; give another --out, or remove them")
    record.write((json.dumps(run, indent=2) + "\n").encode())
    return None


def _earlier(place: Place, parts: Sequence[int]) -> InspectionRun:
    """Counts of finished parts."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    total = InspectionRun(0, 0, 0)
    for part in parts:
        with (place / PARTS / part_name(part)).open() as file:
            table = pq.read_table(file, columns=["anomalous", "error"])
        unreadable = table.num_rows - table["error"].null_count
        anomalous = pc.sum(table["anomalous"]).as_py() or 0
        total = InspectionRun(
            total.done + table.num_rows - unreadable, total.anomalous + anomalous, total.unreadable + unreadable
        )
    return total
