"""The files of clusters in `deploy/`."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_launcher_accepts_the_file_for_machines() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((DEPLOY / "ray-vms.yaml").read_text("utf-8")))
    validate_config(config)
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)


def test_all_files_name_the_version_of_ray_that_is_tested() -> None:
    for name in ("ray-vms.yaml", "kuberay.yaml", "README.md", "Containerfile"):
        text = (DEPLOY / name).read_text("utf-8")
        assert set(re.findall(r'(?:ray\[default\]==|rayVersion: ")([0-9.]+[0-9])', text)) == {version("ray")}


def test_every_node_of_kubernetes_asks_for_a_token_and_has_limits() -> None:
    spec: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text("utf-8"))["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        probe = container["livenessProbe"]["exec"]["command"]
        assert probe[0] == "python"
        compile(probe[2], "probe", "exec")
