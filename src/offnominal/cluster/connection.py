"""Connect to a Ray cluster, and check that its nodes can do the work."""

from __future__ import annotations

import logging
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

from offnominal.errors import OffnominalError, SettingsError
from offnominal.quiet import without_warnings

#: Seconds within which an address must answer, and a node must report its versions.
ANSWER, REPORT = 10.0, 120.0
#: Packages that must have the same version on all nodes, because they affect the numbers.
SAME = ("offnominal", "torch", "numpy", "openvino", "faiss-cpu", "opencv-python-headless", "pillow")
#: Settings of Ray, unless the environment has others: no usage statistics, no log messages but errors, workers with the
#: priority of this process, and time to start on a busy machine (20 s are not always enough).
DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_worker_niceness": "0",
    "RAY_gcs_server_port_wait_time_s": "120",
}
#: CPUs of a worker, if no node has fewer: a worker loads the networks once and inspects an image per CPU.
CPUS_PER_WORKER = 4


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes
    ----------
    nodes
        Number of nodes.
    cpus
        CPUs of all nodes.
    worker_cpus
        CPUs of one worker.
    """

    nodes: int
    cpus: int
    worker_cpus: int

    @property
    def workers(self) -> int:
        """Number of workers that the cluster had space for when it was connected."""
        return max(1, self.cpus // self.worker_cpus)

    def workers_now(self) -> int:
        """Number of workers that the present nodes have space for."""
        import ray

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return max(1, int(resources.get("CPU", 1)) // self.worker_cpus)


@contextmanager
def connected(address: str, *, worker_cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to a cluster, and disconnect at the end.

    Parameters
    ----------
    address
        `auto` for the cluster of this machine, or for new local workers if there is none; otherwise HOST:PORT of a cluster that
        this machine is a node of.
    worker_cpus
        CPUs of one worker; by default `CPUS_PER_WORKER`, or what the smallest node has.

    Raises
    ------
    SettingsError
        The extra is missing, the address does not answer, or a node lacks a package or has another version of it.
    """
    if find_spec("ray") is None:
        raise SettingsError("a cluster needs Ray: pip install 'offnominal[ray]'")
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if address != "auto":
        _require_answer(address)
        os.environ.update(_access_to(address))  # read when Ray is imported
    import ray

    started = not ray.is_initialized()
    if started:
        _initialise(ray, address)
    try:
        yield _checked(ray, worker_cpus)
    finally:
        if started:
            ray.shutdown()


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Raise errors for the user as they were raised in the worker."""
    from ray.exceptions import RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, OffnominalError):
            raise error.cause from None
        raise


def _initialise(ray: Any, address: str) -> None:
    try:
        with without_warnings(), _without_native_output():
            ray.init(None if address == "auto" else address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # noqa: BLE001 - Ray raises many kinds, each with a long text
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SettingsError(f"--cluster {address}: cannot connect ({reason[:200]})") from None


@contextmanager
def _without_native_output() -> Iterator[None]:
    """Hide what native code prints on standard error: Ray reports its log level there. Failures are exceptions."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:
        saved = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _require_answer(address: str) -> None:
    parts = urlsplit(f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise SettingsError(f"--cluster {address}: give auto or HOST:PORT")
    try:
        socket.create_connection((host, port), ANSWER).close()
    except OSError as error:
        raise SettingsError(
            f"--cluster {address}: does not answer ({error.strerror or error}); check the address, and that the cluster runs "
            "(ray status)"
        ) from None


def _access_to(address: str) -> dict[str, str]:
    """Variables of the environment that a connection needs: none, or that the token of this user is sent.

    Ray ends the process that connects to another service, so other processes ask.

    Raises
    ------
    SettingsError
        No cluster answers, or it refuses this user.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    variables: list[dict[str, str]] = [{}] if "RAY_AUTH_MODE" in os.environ else [{}, {"RAY_AUTH_MODE": "token"}]
    asked = [
        (
            of_process,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | of_process),
        )
        for of_process in variables
    ]
    try:
        end = monotonic() + 3 * ANSWER
        while monotonic() < end:
            for of_process, process in asked:
                if process.poll() == 0:
                    return of_process
            if all(process.poll() is not None for _, process in asked):
                break
            sleep(0.1)
    finally:
        for _, process in asked:
            process.kill()
            process.wait()
    raise SettingsError(
        f"--cluster {address}: cannot connect, since no Ray cluster answers there or it asks for another token; check the "
        "address, and RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )


def _checked(ray: Any, worker_cpus: int | None) -> Cluster:
    """The cluster, after each node reported its versions."""
    from ray.exceptions import TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    names = SAME

    def versions() -> dict[str, str | None]:  # sent by value, since a node may lack offnominal
        import importlib.metadata
        import platform

        found: dict[str, str | None] = {"python": platform.python_version()}
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        return found

    probe = ray.remote(num_cpus=0)(versions)
    asked = [
        (node, probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote())
        for node in nodes
    ]
    own: dict[str, str | None] = {"python": platform.python_version(), **{name: version(name) for name in SAME}}
    nodes = []
    for node, answer in asked:
        address = node["NodeManagerAddress"]
        try:
            found = ray.get(answer, timeout=REPORT)
        except TaskUnschedulableError:  # the node has left the cluster since it was listed
            continue
        except Exception as error:  # noqa: BLE001 - a node that is gone, or a worker that cannot start
            raise SettingsError(
                f"node {address}: does not run tasks ({type(error).__name__}); check it with: ray status"
            ) from None
        for name, wanted in own.items():
            if found[name] is None:
                raise SettingsError(
                    f"node {address}: has no {name}; install offnominal {own['offnominal']} with the extra ray there"
                )
            if found[name] != wanted:
                raise SettingsError(
                    f"node {address}: has {name} {found[name]}, this machine {wanted}; install the same version"
                )
        nodes.append(node)
    if not nodes:
        raise SettingsError("the cluster has no node with CPUs; start one with: ray start")
    smallest = min(int(node["Resources"]["CPU"]) for node in nodes)
    cpus = max(1, min(worker_cpus or CPUS_PER_WORKER, smallest))
    return Cluster(len(nodes), sum(int(node["Resources"]["CPU"]) for node in nodes), cpus)
