"""Every command in the README that generate_only writes works with plain docker compose."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.images.wheels import WheelSet
from workflowsite import FILES, WHEELS, Chain, ask, wait_for


def commands(readme: str) -> list[str]:
    """The indented lines of a README."""
    return [line.strip() for line in readme.splitlines() if line.startswith("    ")]


def unpack(names: list[str], name: str, folder: Path, version: str) -> None:
    requirements = "".join((FILES / one).read_text() for one in names)
    folder.mkdir(parents=True, exist_ok=True)
    packed = WHEELS / WheelSet(name, requirements, version, "x86_64").file
    subprocess.run(["tar", "--extract", "--file", packed, "--directory", folder], check=True)


# The usual deployment on other ports, and one with every option off.
@pytest.mark.parametrize(
    "wish",
    [
        {"port": 9010, "mlflow_port": 9011, "timeout": 7},
        {"port": 9012, "mlflow_port": 0, "model_url": "http://anvil-heavy:30002/v1", "workflow_networks": ["anvil-serve-heavy"]},
    ],
    ids=["traced", "bare"],
)
def test_every_command_of_the_readme_works(chain: Chain, tmp_path: Path, wish: dict[str, Any]) -> None:
    folder = tmp_path / "deploy"
    version = chain.bed.docker(
        "run", "--rm", "anvil.local/base:1", "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"
    )
    chain.environment = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}  # generate_only does not contact the engine
    try:
        options = {"generate_only": True, "output": str(folder), "workflow_base": "anvil.local/base:1", **wish}
        chain.deploy("linear", workflow_project_name="artifacts", **options)
    finally:
        chain.environment = {}
    unpack(["requirements.txt"], "server", folder / "wheels", version)
    if wish["mlflow_port"]:
        unpack(["mlflow-requirements.txt"], "mlflow", folder / "mlflow" / "wheels", version)
    config = subprocess.run(["docker", "compose", "config", "--quiet"], cwd=folder, capture_output=True, text=True, check=False)
    assert "env file" in config.stderr or config.returncode == 0, config.stderr
    (folder / ".env").write_text("OPENAI_API_KEY=a-token-of-the-tests\n")
    try:
        for command in commands((folder / "README.md").read_text()):
            if command == "docker compose down" or command.startswith("curl"):
                wait_for("ready", lambda: ask(wish["port"], "GET", "/readyz").status == 200, 60)
            done = subprocess.run(
                ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False, env={**os.environ}, timeout=300
            )
            assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
            if "/run" in command:
                assert '"status": "completed"' in done.stdout or '"status":"completed"' in done.stdout, done.stdout
            if command.startswith("docker compose ps"):
                assert f":{wish['port']}->8000/tcp" in done.stdout
                assert ("mlflow" in done.stdout) == bool(wish["mlflow_port"])
    finally:
        subprocess.run(["docker", "compose", "down", "--volumes"], cwd=folder, capture_output=True, check=False)
    image = chain.bed.docker("image", "inspect", "anvil-workflow-artifacts:latest")
    assert "a-token-of-the-tests" not in image
    if not wish["mlflow_port"]:
        listed = chain.bed.docker(
            "run", "--rm", "--entrypoint", "sh", "anvil-workflow-artifacts:latest", "-c", "ls /opt/anvil/packages; env"
        )
        assert "mlflow" not in listed.lower()
