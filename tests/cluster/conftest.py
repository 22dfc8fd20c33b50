"""A Ray cluster of this machine, and an S3-compatible server, shared by the tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import cv2
import pytest

from conftest import damaged, texture
from offnominal.cluster.connection import Cluster, connected
from offnominal.cluster.places import Place

#: Seconds that the S3-compatible server may take to start.
PATIENCE = 60.0
BUCKET = "parts"


@pytest.fixture(scope="session")
def cluster(store: str) -> Iterator[Cluster]:
    """Two local workers with one CPU each, which know the keys of the store."""
    with connected("auto", worker_cpus=1) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """Options of an address in an S3-compatible server on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        code = (
            "import sys; from moto.server import ThreadedMotoServer\n"
            "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False); server.start()\n"
            "print('port', server.get_host_and_port()[1], flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        port = next(int(line.split()[1]) for line in process.stdout if line.startswith("port "))
        try:
            options = f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1&allow_bucket_creation=true"
            _create_bucket(options)
            yield options
        finally:
            process.kill()
            process.wait()


def _create_bucket(options: str) -> None:
    import pyarrow.fs

    end = monotonic() + PATIENCE
    while True:
        try:
            system, _ = pyarrow.fs.FileSystem.from_uri(f"s3://{BUCKET}/x{options}")
            system.create_dir(BUCKET)
            return
        except OSError:
            if monotonic() > end:
                raise
            sleep(0.2)


@pytest.fixture(scope="session")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 normal and 6 damaged images of two sizes, and one file that is no image."""
    root = tmp_path_factory.mktemp("camera")
    for seed in range(30):
        cv2.imwrite(str(root / f"{seed:03d}.png"), texture(seed, (96, 120) if seed % 3 else (120, 96)))
    for seed in range(200, 206):
        cv2.imwrite(str(root / f"{seed}.png"), damaged(seed)[0])
    (root / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="session")
def bucket(store: str, camera: Path) -> str:
    """Address of the images of `camera` in a bucket."""
    folder = f"s3://{BUCKET}/camera"
    for path in camera.iterdir():
        Place(f"{folder}/{path.name}{store}").write(path.read_bytes())
    return folder + store
