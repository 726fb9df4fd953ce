"""examples/experiment: the harness that needs only Docker Compose."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_config import find_compose
from conftest import REPO

FOLDER = REPO / "examples" / "experiment"
CARD = "GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1"
VARIABLES = {"MODEL": "org/m", "SERVED_NAME": "trial", "PORT": "30010", "GPU_UUID": CARD}
COMPOSE = find_compose()
pytestmark = pytest.mark.skipif(not COMPOSE, reason="this machine has no Docker Compose")


def config(**variables: str) -> subprocess.CompletedProcess[str]:
    argv = [*COMPOSE, "--file", "docker-compose.yml", "config", "--format", "json"]
    return subprocess.run(
        argv, cwd=FOLDER, env={"PATH": "/usr/bin:/bin", **variables}, capture_output=True, text=True, check=False
    )


def test_the_five_variables_drive_the_service_and_everything_else_is_a_default() -> None:
    done = config(**VARIABLES, EXTRA_ARGS="--max-model-len 32768 --override-generation-config '{\"temperature\": 0}'")
    document: dict[str, Any] = json.loads(done.stdout)
    service = document["services"]["vllm"]
    assert service["command"][:4] == ["--model", "org/m", "--served-model-name", "trial"]
    assert service["command"][-4:] == ["--max-model-len", "32768", "--override-generation-config", '{"temperature": 0}']
    assert [(port["host_ip"], port["published"]) for port in service["ports"]] == [("127.0.0.1", "30010")]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == [CARD]
    assert service["environment"]["CUDA_VISIBLE_DEVICES"] == CARD and service["environment"]["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert service["restart"] == "no" and service["ipc"] == "host" and document["name"] == "anvil-trial"
    assert document["volumes"]["hfcache"] == {"name": "vllm-hfcache", "external": True}


@pytest.mark.parametrize("missing", VARIABLES)
def test_a_variable_that_is_not_set_is_named(missing: str) -> None:
    done = config(**{name: value for name, value in VARIABLES.items() if name != missing})
    assert done.returncode and missing in done.stderr


def test_the_readme_has_ten_lines() -> None:
    assert len((FOLDER / "README.md").read_text().splitlines()) <= 10
