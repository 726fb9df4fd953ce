# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render the plan of a workflow into files: build contexts, compose file, edge configuration, README. Same plan, same bytes.

The tag of an image is the hash of its build context, so the compose file is known before anything is built, and changes exactly
when the content does. The wheels are not part of the hash, because the pins in the requirements determine them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import hide_credentials
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    LABEL_SERVE,
    LABEL_SPEC,
    Mount,
)
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import Recipe, hash_content
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import CONFIG_FOLDER as EDGE_FOLDER
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import CONFIG_PATH as EDGE_CONFIG
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import SOCKET_PATH as EDGE_SOCKET
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployed_workflows import LABEL_VERSION, LABEL_WORKFLOW
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import Project
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.templating import render_template
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.file_check import MODEL_KEY, MODEL_URL, PACKAGE, RUNTIME
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.pipelines import render_pipelines
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.plan import WorkflowPlan

UID = 10001
STACK = "workflow"
PRIVATE = "/run/secrets"
# Seconds that a container has to stop: the server hands over its runs within ten, PostgreSQL writes its data to disk.
GRACE = 30
MARGIN = 20
# The size of the trimmed MLflow server in units of 10**6 bytes, with room for the next release.
MLFLOW_SIZE_LIMIT = 400
# Seconds: MLflow starts in seconds on an idle machine, and in minutes on a busy one.
MLFLOW_READY_TIMEOUT = 300
DATABASE, DATABASE_OWNER, DATABASE_USER = "jobs", "jobs", "workflow"
MLFLOW_USER = "workflow"
CERTIFICATE = "certificate"
# Where the database finds its entry point.
JOBS_FOLDER = "/etc/anvil-jobs"
DOCKERIGNORE = """# Secrets, and what the server does not read.
.env
private
mlflow
edge
wheels
README.md
docker-compose.yml
ci.sh
.ci-venv
.git
.github
.circleci
.gitlab-ci.yml
"""
# The health check of a container. It runs every ten seconds, so it imports as little as possible.
LIVE = (
    "import socket,sys\n"
    "s=socket.create_connection(('127.0.0.1',{port}),2)\n"
    "s.sendall(b'GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n')\n"
    "sys.exit(b' 200 ' not in s.recv(64))"
)


@dataclass(frozen=True)
class Image:
    """The build context of an image. name, tag: as anvil_image takes them. files: path in the context -> text."""

    name: str
    tag: str
    base: str
    dockerfile: str
    files: dict[str, str]
    requirements: str

    @property
    def reference(self) -> str:
        return f"{self.name}:{STACK}-{self.tag}"

    def as_dict(self) -> dict[str, Any]:
        plain = {"name": self.name, "tag": self.tag, "base": self.base, "dockerfile": self.dockerfile, "files": self.files}
        return {**plain, "requirements": self.requirements, "reference": self.reference}


def _healthcheck(port: int, path: str) -> list[str]:
    return ["python3", "-I", "-S", "-c", LIVE.format(port=port, path=path)]


def _read(name: str) -> str:
    return (RUNTIME / name).read_text(encoding="utf-8")


def _package() -> dict[str, str]:
    """The files of the runtime in the image: path -> text."""
    folder = RUNTIME / PACKAGE
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {f"{PACKAGE}/{path.relative_to(folder).as_posix()}": path.read_text(encoding="utf-8") for path in sorted(paths)}


def read_requirements(plan: WorkflowPlan) -> str:
    """The pinned packages of the server; the client of PostgreSQL is among them only if jobs are stored there."""
    text = _read("requirements.txt")
    return text + _read("requirements-postgres.txt") if plan.edge else text


def _name_by_content(name: str, base: str, dockerfile: str, files: dict[str, str], requirements: str) -> Image:
    recipe = Recipe(name=name, stack=STACK, dockerfile=dockerfile, base=base, network="none", files=files)
    return Image(name, hash_content(recipe)[:16], base, dockerfile, files, requirements)


def describe_server_image(plan: WorkflowPlan) -> Image:
    """The image of the workflow: runtime, requirements, workflow file."""
    requirements = read_requirements(plan)
    dockerfile = render_template(
        "workflow/Dockerfile.j2", plan=plan, uid=UID, healthcheck=_healthcheck(8000, "/livez"), variables=sorted(plan.variables)
    )
    files = {
        "build.py": _read("build.py"),
        "requirements.txt": requirements,
        "workflow.yaml": plan.text,
        "data/.keep": "",
        **_package(),
    }
    return _name_by_content(f"anvil.local/workflow-{plan.name}", plan.base, dockerfile, files, requirements)


def describe_mlflow_image(plan: WorkflowPlan) -> Image:
    """The image of the MLflow server. It is the same for every workflow on the same base."""
    requirements = _read("mlflow-requirements.txt")
    dockerfile = render_template(
        "workflow/mlflow.Dockerfile.j2",
        plan=plan,
        uid=UID,
        size_limit=MLFLOW_SIZE_LIMIT,
        healthcheck=_healthcheck(5000, "/health"),
    )
    files = {
        "build.py": _read("build.py"),
        "requirements.txt": requirements,
        "start.py": _read("mlflow_start.py"),
        "data/.keep": "",
    }
    return _name_by_content("anvil.local/mlflow", plan.base, dockerfile, files, requirements)


def list_images(plan: WorkflowPlan) -> dict[str, Image]:
    return {"server": describe_server_image(plan)} | ({"mlflow": describe_mlflow_image(plan)} if plan.mlflow else {})


# ---------------------------------------------------------------------------------------------------------- environment


def _server_environment(plan: WorkflowPlan, service: str) -> dict[str, str]:
    """The environment variables of a server, without secrets."""
    front = plan.project + "-edge" if plan.edge else plan.project
    values = {
        "WORKFLOW_HOSTS": " ".join(dict.fromkeys([front, "edge" if plan.edge else service, *plan.hosts])),
        "WORKFLOW_JOB_TTL": str(plan.job_ttl),
        "WORKFLOW_JOBS": "sqlite:////data/jobs.sqlite",
        "WORKFLOW_REPLICA": service,
        "WORKFLOW_TIMEOUT": str(plan.timeout),
    }
    if plan.model_url and not plan.has_secret_url:
        values[MODEL_URL] = plan.model_url
    if plan.concurrency:
        values["WORKFLOW_CONCURRENCY"] = str(plan.concurrency)
    if not plan.log_prompts:
        values["WORKFLOW_LOG_PROMPTS"] = "false"
    if plan.prices:
        values["WORKFLOW_PRICES"] = json.dumps(plan.prices, sort_keys=True)
    if plan.edge:
        values["WORKFLOW_PROXIES"] = plan.addresses["edge"]
        values["WORKFLOW_JOBS"] = f"postgresql://{DATABASE_USER}@{plan.project}-jobs:5432/{DATABASE}"
        values["WORKFLOW_JOBS_PASSWORD_FILE"] = f"{PRIVATE}/jobs_client_password"
    if plan.has_api_key:
        values["WORKFLOW_API_KEY_FILE"] = f"{PRIVATE}/api_key"
    if plan.has_model_key:
        values[MODEL_KEY + "_FILE"] = f"{PRIVATE}/model_key"
    if plan.mlflow:
        values["MLFLOW_TRACKING_URI"] = f"http://{plan.project}-mlflow:5000"
        values["MLFLOW_EXPERIMENT_NAME"] = plan.title
    if plan.mlflow_auth:
        values["MLFLOW_TRACKING_USERNAME"] = MLFLOW_USER
        values["MLFLOW_TRACKING_PASSWORD_FILE"] = f"{PRIVATE}/mlflow_client_password"
    if plan.tls and not plan.edge:
        values["WORKFLOW_CERTIFICATE_FILE"] = f"{PRIVATE}/{CERTIFICATE}"
    return values


def _environments(plan: WorkflowPlan) -> dict[str, dict[str, str]]:
    found = {one.service: _server_environment(plan, one.service) for one in plan.replicas}
    if plan.edge:
        found["jobs"] = {
            "CLIENT_PASSWORD_FILE": f"{PRIVATE}/jobs_client_password",
            "POSTGRES_DB": DATABASE,
            "POSTGRES_PASSWORD_FILE": f"{PRIVATE}/jobs_password",
            "POSTGRES_USER": DATABASE_OWNER,
        }
    if plan.mlflow:
        found["mlflow"] = {"MLFLOW_HOSTS": f"{plan.project}-mlflow:5000"}
    if plan.mlflow_auth:
        # Any host name is accepted, because the password protects the server.
        found["mlflow"] = {
            "MLFLOW_CLIENT_PASSWORD_FILE": f"{PRIVATE}/mlflow_client_password",
            "MLFLOW_EXPERIMENT": plan.title,
            "MLFLOW_HOSTS": "*",
            "MLFLOW_PASSWORD_FILE": f"{PRIVATE}/mlflow_password",
        }
    return found


def list_private_files(plan: WorkflowPlan) -> dict[str, list[str]]:
    """Service -> the private files that it reads. The passwords of database and MLflow are generated on the host."""
    server = [
        name
        for name, wanted in (
            ("api_key", plan.has_api_key),
            (CERTIFICATE, plan.tls and not plan.edge),
            ("jobs_client_password", plan.edge),
            ("mlflow_client_password", plan.mlflow_auth),
            ("model_key", plan.has_model_key),
        )
        if wanted
    ]
    found = {one.service: server for one in plan.replicas}
    if plan.edge:
        found["jobs"] = ["jobs_client_password", "jobs_password"]
        found["edge"] = [CERTIFICATE] if plan.tls else []
    if plan.mlflow_auth:
        found["mlflow"] = ["mlflow_client_password", "mlflow_password"]
    return found


def _mounts(plan: WorkflowPlan) -> dict[str, list[Mount]]:
    here = "." if plan.standalone else plan.directory
    found: dict[str, list[Mount]] = {
        service: [Mount("bind", f"{here}/private/{name}", f"{PRIVATE}/{name}", read_only=True) for name in names]
        for service, names in list_private_files(plan).items()
    }
    if plan.edge:
        found["edge"].append(Mount("bind", f"{here}/edge", EDGE_FOLDER, read_only=True))
        found["jobs"].append(Mount("bind", f"{here}/jobs", JOBS_FOLDER, read_only=True))
        found["jobs"].append(Mount("volume", f"{plan.project}-jobs", "/var/lib/postgresql/data"))
    else:
        found["server"].append(Mount("volume", f"{plan.project}-data", "/data"))
    if plan.mlflow:
        found.setdefault("mlflow", []).append(Mount("volume", f"{plan.project}-mlflow", "/data"))
    return found


# --------------------------------------------------------------------------------------------------------------- project


def render_edge_config(plan: WorkflowPlan) -> str:
    """haproxy.cfg with the hash of its content, which the running process reports (show info)."""

    def lay_out(revision: str) -> str:
        edge = {
            "revision": revision,
            "socket": EDGE_SOCKET,
            "longest": longest_answer_seconds(plan),
            "certificate": f"{PRIVATE}/{CERTIFICATE}" if plan.tls else "",
        }
        return render_template("workflow/haproxy.cfg.j2", plan=plan, edge=edge)

    return lay_out(hashlib.sha256(lay_out("").encode()).hexdigest())


def longest_answer_seconds(plan: WorkflowPlan) -> int:
    """Seconds that the longest answer takes: after the time-out the answer is a 202."""
    return plan.timeout + MARGIN


def render_workflow(plan: WorkflowPlan) -> Project:
    """The compose project of a workflow."""
    images = {name: image.reference for name, image in list_images(plan).items()}
    if plan.standalone:
        images = {"server": f"{plan.project}:latest", "mlflow": f"{plan.project}-mlflow:latest"}
    mounts = _mounts(plan)
    names = [*(one.service for one in plan.replicas)]
    names += ["edge", "jobs"] if plan.edge else []
    names += ["mlflow"] if plan.mlflow else []
    servers = [one.service for one in plan.replicas]
    secret_url = [MODEL_URL] * plan.has_secret_url
    variables = (
        sorted([*plan.variables, MODEL_KEY, *secret_url] if plan.model_url else plan.variables)
        if plan.standalone
        else sorted([*plan.given, *secret_url])
    )
    version = {LABEL_VERSION: plan.version} if plan.version else {}
    labels = {name: {LABEL_SERVE: name, LABEL_WORKFLOW: plan.name, **version} for name in names}
    values = {
        "plan": plan,
        "images": images,
        "labels": labels,
        "environments": _environments(plan),
        "env_files": {name: ".env" if plan.standalone else f"env/{name}.env" for name in names},
        "secrets": {name: variables if name in servers else [] for name in names},
        "mounts": mounts,
        "volumes": sorted({mount.source for several in mounts.values() for mount in several if mount.kind == "volume"}),
        "extra_hosts": ["host.docker.internal:host-gateway"] if "host.docker.internal" in plan.model_url else [],
        "edge_config": EDGE_CONFIG,
        "jobs_start": f"{JOBS_FOLDER}/start.sh",
        "grace": GRACE,
        "ready_timeout": plan.ready_timeout,
        "mlflow_ready_timeout": max(MLFLOW_READY_TIMEOUT, plan.ready_timeout),
        "uid": UID,
    }

    def lay_out() -> str:
        return render_template("workflow/compose.yaml.j2", **values)

    if not plan.standalone:
        for service in parse_compose(yaml_load(lay_out())).values():
            labels[service.name][LABEL_SPEC] = service.spec_hash()
    text = lay_out()
    files = {"edge/haproxy.cfg": render_edge_config(plan), "jobs/start.sh": _read("jobs_start.sh")} if plan.edge else {}
    return Project(plan.project, plan.directory, text, parse_compose(yaml_load(text)), files)


# ------------------------------------------------------------------------------------------------------------- artifacts


def render_artifacts(plan: WorkflowPlan) -> dict[str, str]:
    """All files that build and run the workflow without Ansible: path -> text."""
    plan = replace(plan, standalone=True)
    images, project = list_images(plan), render_workflow(plan)
    server = images["server"]
    values = {
        "plan": plan,
        "variables": {**({MODEL_URL: None} if plan.has_secret_url else {}), **plan.variables},
        "model_url": hide_credentials(plan.model_url),
        "private": sorted({name for names in list_private_files(plan).values() for name in names}),
        "body": json.dumps(sample_inputs(plan.inputs), ensure_ascii=False),
        "model_key": MODEL_KEY,
        "longest": longest_answer_seconds(plan),
    }
    found = {
        "Dockerfile": server.dockerfile,
        ".dockerignore": DOCKERIGNORE,
        "docker-compose.yml": project.compose,
        "README.md": render_template("workflow/README.md.j2", **values),
        ".env.example": render_template("workflow/env.example.j2", **values),
        "wheels/.keep": "",
        **server.files,
        **project.files,
    }
    folders = [*sorted({path.split("/")[0] for path in project.files}), *(["mlflow"] if plan.mlflow else [])]
    found.update(render_pipelines({**values, "folders": folders}))
    if plan.mlflow:
        mlflow = images["mlflow"]
        found["mlflow/Dockerfile"] = mlflow.dockerfile
        found["mlflow/wheels/.keep"] = ""
        found.update({f"mlflow/{path}": text for path, text in mlflow.files.items()})
    return found


# A value for each JSON type, for the one request that proves that the workflow works.
_SAMPLES: dict[str, Any] = {"string": "hello", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}


def sample_inputs(schema: dict[str, Any]) -> dict[str, Any]:
    """A request body for the inputs of a workflow (a JSON Schema): the required fields only, with values of the right type."""
    properties = schema.get("properties") or {}
    return {name: sample_value(properties.get(name) or {}) for name in schema.get("required") or []}


def sample_value(schema: dict[str, Any]) -> Any:
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    kind = schema.get("type")
    if kind == "object":
        return sample_inputs(schema)
    if kind == "array" and schema.get("minItems"):
        return [sample_value(schema.get("items") or {})]
    return _SAMPLES.get(str(kind), "hello")
