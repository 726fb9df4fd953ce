"""The pipelines among the artifacts of a workflow: each fits the schema of its service, pins its parts, and holds no secret."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow import render
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.options import WorkflowOptions
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.plan import plan_workflow
from conftest import REPO

pytestmark = pytest.mark.slow

SCHEMAS = {
    ".github/workflows/workflow.yml": "github-workflows",
    ".gitlab-ci.yml": "gitlab-ci",
    ".circleci/config.yml": "circle-ci",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "large": {"replicas": 3, "has_api_key": True, "bind": "0.0.0.0", "mlflow_bind": "0.0.0.0", "insecure": True},
    "bare": {"no_mlflow": True, "name": "other"},
}


@pytest.fixture(params=VARIANTS)
def artifacts(request: pytest.FixtureRequest) -> dict[str, str]:
    workflow = str(REPO / "examples" / "workflows" / "linear.yaml")
    options = WorkflowOptions(workflow=workflow, standalone=True, no_env_file=True, **VARIANTS[request.param])
    return render.render_artifacts(plan_workflow(options, "/opt/anvil", None))


@pytest.mark.parametrize("path", SCHEMAS)
def test_each_pipeline_fits_the_schema_of_its_service(artifacts: dict[str, str], path: str) -> None:
    document = yaml.safe_load(artifacts[path])
    pytest.importorskip("check_jsonschema", reason="requirements/test.txt names it; this environment is older")
    text = (files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{SCHEMAS[path]}.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    checker = jsonschema.validators.validator_for(schema)(schema)
    assert not [f"{error.json_path}: {error.message}"[:300] for error in checker.iter_errors(document)]
    broken = {**document, ("jobs" if "jobs" in document else "image"): 7}
    assert list(checker.iter_errors(broken)), "the schema judges"


@pytest.mark.parametrize("path", SCHEMAS)
def test_each_pipeline_checks_builds_pushes_and_deploys_with_pinned_parts(artifacts: dict[str, str], path: str) -> None:
    text = artifacts[path]
    assert [verb for verb in ("check", "build", "push", "deploy") if f"ci.sh {verb}" not in text] == []
    used = re.findall(r"^\s*-? ?(?:uses|image): (?!\$)(\S+)", text, re.MULTILINE)
    assert used and not [
        one for one in used if not re.search(r"[@:](v?\d|ubuntu-)", one) or one.endswith((":latest", "@main", "@master"))
    ]
    secret = re.compile(r"^\s*\w*(KEY|PASSWORD|TOKEN)\w*: (?!\$)\S", re.MULTILINE)
    assert not secret.findall(text)


def test_the_ignored_files_are_those_with_secrets(artifacts: dict[str, str], tmp_path: Path) -> None:
    for path, text in artifacts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "private").mkdir()
    made = [".env", "private/api_key", "image.txt", "wheels/httpx-1.whl"]
    for path in made:
        (tmp_path / path).write_text("secret")
    run = ["git", "-C", str(tmp_path)]
    subprocess.run([*run, "init", "--quiet"], check=True)
    listed = subprocess.run(
        [*run, "ls-files", "--others", "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout
    assert not set(made) & set(listed.split()) and set(artifacts) == set(listed.split())


def script(artifacts: dict[str, str], folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "ci.sh").write_text(artifacts["ci.sh"])
    (folder / "workflow.yaml").write_text(artifacts["workflow.yaml"])
    environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), **variables}
    return subprocess.run(["sh", "ci.sh", *words], cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_the_script_of_the_pipelines_checks_the_workflow_with_its_own_program(artifacts: dict[str, str], tmp_path: Path) -> None:
    runtime = {"PYTHON": sys.executable, "PYTHONPATH": str(REPO / "roles" / "workflow" / "files")}
    done = script(artifacts, tmp_path, "check", **runtime)
    assert done.returncode == 0 and "workflow linear" in done.stdout, done
    artifacts = {**artifacts, "workflow.yaml": artifacts["workflow.yaml"].replace("{topic}", "{topik}")}
    done = script(artifacts, tmp_path, "check", **runtime)
    assert done.returncode == 2 and "topik" in done.stderr


def test_the_script_names_what_is_missing_and_keeps_secrets_off_command_lines(artifacts: dict[str, str], tmp_path: Path) -> None:
    """Stand-ins for docker, ssh and its agent, which write down how they were called."""
    (tmp_path / "bin").mkdir()
    for name in ("docker", "ssh", "ssh-add", "ssh-agent"):
        tool = tmp_path / "bin" / name
        answers = 'case "$*" in *inspect*) echo r.io/x@sha256:ab;; -*) cat >/dev/null;; esac'
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >>"$HOME/called"\n{answers}\n')
        tool.chmod(0o755)
    (tmp_path / "bin" / "tar").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "tar").chmod(0o755)
    done = script(artifacts, tmp_path, "push")
    assert done.returncode == 2 and "set REGISTRY" in done.stderr
    secrets = {"REGISTRY_PASSWORD": "hush-1", "DEPLOY_KEY": "hush-2"}
    where = {"IMAGE": "r.io/Team/X:1", "REGISTRY": "r.io", "REGISTRY_USER": "ci", "DEPLOY_HOST": "h", "DEPLOY_FOLDER": "/srv/x"}
    where["DEPLOY_KNOWN_HOSTS"] = "h ssh-ed25519 AAAA"
    for verb in ("build", "push", "deploy"):
        done = script(artifacts, tmp_path, verb, **secrets, **where)
        assert done.returncode == 0, (verb, done)
    called = (tmp_path / "called").read_text()
    assert "hush" not in called and "docker push r.io/team/x:1" in called and "WORKFLOW_IMAGE='r.io/x@sha256:ab'" in called
    assert (tmp_path / "image.txt").read_text() == "r.io/x@sha256:ab\n"
    assert script(artifacts, tmp_path, "dance").returncode == 2
