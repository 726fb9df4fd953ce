"""A workflow and its operator's optionses: what is refused, what is decided, what it renders to."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.images import wheels
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import parse_config_hash
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow import env_file, file_check, render
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.options import WorkflowOptions
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.plan import WorkflowPlan, plan_workflow
from conftest import REPO

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "workflow"
LINEAR = str(REPO / "examples" / "workflows" / "linear.yaml")
# Four mistakes of four kinds, and two variables.
WRONG = """schema_version: "1.0"
flow: {name: wrong}
state: {fields: {topic: {type: strr, required: true}, text: {type: str}}}
nodes:
  - {id: one, prompt: "Write about {topik}", outputs: [text], output_schema: {type: str}}
edges:
  - {from: START, to: one}
  - {from: one, to: nowhere}
confg: {}
"""
WEATHER = """schema_version: "1.0"
flow: {name: Weather Report!}
state: {fields: {town: {type: str, required: true}, days: {type: int, required: true}, text: {type: str}}}
nodes:
  - {id: one, prompt: "Report on {town} for {days} days", outputs: [text], output_schema: {type: str},
     llm: {api_base: "${WEATHER_URL}", model: "w"}}
  - {id: two, prompt: "Again {text}", outputs: [text], output_schema: {type: str},
     llm: {api_base: "${OTHER_URL:-http://o/v1}", model: "w"}}
edges: [{from: START, to: one}, {from: one, to: two}, {from: two, to: END}]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An operator's folder without an env file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(**options: Any) -> WorkflowPlan:
    return plan_workflow(WorkflowOptions(**{"workflow": LINEAR, "no_env_file": True, **options}), "/opt/anvil", None)


def refusals(**options: Any) -> dict[str, str]:
    with pytest.raises(AnvilError) as caught:
        plan(**options)
    return {problem.where: problem.what for problem in caught.value.problems}


def test_each_container_of_a_workflow_has_the_limits_that_were_typed(here: Path) -> None:
    services = render.render_workflow(plan(replicas=2, mem_limit="2g", pids_limit=300)).services
    assert {(one.memory_bytes, one.pids_limit) for one in services.values()} == {(2 << 30, 300)} and len(services) == 5
    assert set(refusals(mem_limit="5m", pids_limit=1)) == {"mem_limit", "pids_limit"}


# ------------------------------------------------------------------------------------------------------------- refused


def test_every_mistake_of_the_file_with_its_line_and_those_of_the_options_at_once(here: Path) -> None:
    path = here / "wrong.yaml"
    path.write_text(WRONG)
    told = refusals(workflow=str(path), port=0, replicas=99, bind="0.0.0.0", env_file="nowhere.env", no_env_file=False)
    for line in (3, 5, 8, 9):
        assert any(where.startswith(f"{path}:{line}:") for where in told), (line, told)
    assert {"port", "replicas", "bind", "env_file nowhere.env"} <= set(told)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"name": "No Name"}, "name"),
        ({"name": "-a"}, "name"),
        ({"port": 70000}, "port"),
        ({"mlflow_port": -1}, "mlflow_port"),
        ({"mlflow_port": 8100}, "mlflow_port"),
        ({"bind": "everybody"}, "bind"),
        ({"bind": "0.0.0.0"}, "bind"),
        ({"bind": "::"}, "bind"),
        ({"bind": "0.0.0.0", "has_api_key": True}, "bind"),
        ({"bind": "0.0.0.0", "has_api_key": True, "tls": True, "standalone": True}, "bind"),
        ({"mlflow_bind": "10.0.0.1"}, "mlflow_bind"),
        ({"hosts": ("http://flow.example.org",)}, "hosts"),
        ({"hosts": ("flow.example.org:8100",)}, "hosts"),
        ({"timeout": 0}, "timeout"),
        ({"job_ttl": 1}, "job_ttl"),
        ({"subnet": "10.1.2.3"}, "subnet"),
        ({"subnet": "8.8.8.0/24"}, "subnet"),
        ({"subnet": "10.1.2.0/29", "replicas": 3}, "subnet"),
        ({"model_url": "router:8000"}, "model_url"),
        ({"size_limit": 0}, "size_limit"),
        ({"workflow": ""}, "workflow"),
        ({"workflow": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_what_is_refused(here: Path, options: dict[str, Any], where: str) -> None:
    assert list(refusals(**options)) == [where]


def test_a_missing_package_of_the_controller_is_named_with_its_pin(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("anvil_workflow")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(AnvilError) as caught:
        plan()
    text = caught.value.as_text()
    assert "the Python package pydantic is missing on the controller" in text and "-m pip install pydantic==" in text


# ------------------------------------------------------------------------------------------------------------ env file


def test_the_env_file_beside_the_workflow_is_found_and_every_missing_variable_listed(here: Path) -> None:
    path = here / "weather.yaml"
    path.write_text(WEATHER.replace("${OTHER_URL:-http://o/v1}", "${OTHER_URL}"))
    with pytest.raises(AnvilError) as caught:
        plan(workflow=str(path), no_env_file=False)
    assert [problem.what.split()[-1] for problem in caught.value.problems] == ["OTHER_URL", "WEATHER_URL"]
    (here / ".env").write_text("export WEATHER_URL='http://w/v1'\n# a comment\nOTHER_URL=http://o/v1 # why\nUNUSED=x\n")
    made = plan(workflow=str(path), no_env_file=False)
    assert made.env_file == str(here / ".env") and made.given == ("OTHER_URL", "WEATHER_URL")
    assert "UNUSED" in made.notes[0] and "http" not in made.notes[0]


def test_a_default_counts_and_no_env_file_only_warns(here: Path) -> None:
    path = here / "weather.yaml"
    path.write_text(WEATHER)
    made = plan(workflow=str(path))
    assert made.variables == {"OTHER_URL": "http://o/v1", "WEATHER_URL": None}
    assert made.notes == ("no env file was read: the workflow runs without WEATHER_URL until it is deployed with an env file",)
    assert "no env file .env was found" in plan(no_env_file=False).notes[0]


def test_lines_that_are_no_variables_are_told_without_their_values() -> None:
    with pytest.raises(AnvilError) as caught:
        env_file.parse_env_file("GOOD=1\nhunter2\nBAD='hunter2\n1X=hunter2\n", "x.env")
    assert [problem.where for problem in caught.value.problems] == ["x.env:2", "x.env:3", "x.env:4"]
    assert "hunter2" not in caught.value.as_text()
    assert env_file.parse_env_file("A='x # y'\nB=x # y\nC=\"q\"\nD=a=b\n", "x") == {"A": "x # y", "B": "x", "C": "q", "D": "a=b"}


# ------------------------------------------------------------------------------------------------------------- decided


def test_models_are_asked_through_the_router_of_the_inventory(here: Path) -> None:
    serve = {"engine": "llama_cpp", "image": "i:1", "model": "/m", "port": 30002, "args": ["-c", "4096"]}
    variables: dict[str, Any] = {
        "anvil_secrets": {"tok": None},
        "anvil_serves": {"heavy": serve},
        "anvil_router": {"image": "r:1", "token": "tok", "publish": "127.0.0.1:8000"},
    }
    options = WorkflowOptions(LINEAR, no_env_file=True)
    one = plan_workflow(options, "/opt/anvil", build_plan("h", variables, {"tok": "file"}))
    assert (one.model_url, one.networks, one.model_secret) == ("http://anvil-router:8000/v1", ("anvil",), "tok")
    assert one.has_model_key
    artifacts = plan_workflow(replace(options, standalone=True), "/opt/anvil", build_plan("h", variables, {"tok": "file"}))
    assert artifacts.model_url == one.model_url and not artifacts.has_model_key
    variables["anvil_router"]["replicas"] = 2
    two = plan_workflow(options, "/opt/anvil", build_plan("h", variables, {"tok": "file"}))
    assert (two.model_url, two.networks) == ("http://anvil-router-edge:8000/v1", ("anvil-router-edge",))
    named = plan_workflow(replace(options, model_url="http://x/v1"), "/opt/anvil", build_plan("h", variables, {"tok": "file"}))
    assert (named.model_url, named.networks, named.has_model_key) == ("http://x/v1", (), False)


def test_a_workflow_is_a_client_of_its_own(here: Path) -> None:
    serve = {"engine": "llama_cpp", "image": "i:1", "model": "/m", "port": 30002, "args": ["-c", "4096"]}
    facts = dict.fromkeys(("tok", "own_key", "all_key", "alice_key"), "file")
    variables: dict[str, Any] = {
        "anvil_secrets": dict.fromkeys(facts),
        "anvil_serves": {"heavy": serve},
        "anvil_router": {"image": "r:1", "token": "tok", "publish": "0.0.0.0:443"},
        "anvil_edge": {"tls": {"certificate": "/etc/tls/host.pem"}},
    }
    options = WorkflowOptions(LINEAR, no_env_file=True)

    def secret(**clients: Any) -> str:
        variables["anvil_clients"] = {name.replace("_", "-"): {"keys": [key]} for name, key in clients.items()}
        made = plan_workflow(options, "/opt/anvil", build_plan("h", variables, facts))
        # No certificate names the edge's container: it takes requests of containers of its host without TLS.
        assert (made.model_url, made.networks) == ("http://anvil-router-edge:8001/v1", ("anvil-router-edge",))
        return made.model_secret

    name = plan_workflow(options, "/opt/anvil", None).name
    assert secret() == "tok"
    assert secret(alice="alice_key", workflows="all_key") == "all_key"
    assert secret(workflows="all_key", **{"workflow_" + name: "own_key"}) == "own_key"
    with pytest.raises(AnvilError) as raised:
        secret(alice="alice_key")
    assert "no client for this workflow" in raised.value.as_text()


def test_a_request_is_made_from_the_schema(here: Path) -> None:
    path = here / "weather.yaml"
    path.write_text(WEATHER)
    made = plan(workflow=str(path))
    assert made.name == "weather-report" and render.sample_inputs(made.inputs) == {"town": "hello", "days": 1}


def test_the_subnet_follows_from_the_name_and_holds_every_replica(here: Path) -> None:
    one, other = plan(replicas=2), plan(replicas=2, name="other")
    assert one.subnet != other.subnet and one.subnet == plan(replicas=2).subnet
    assert set(one.addresses) == {"edge", "server-1", "server-2"} and len(set(one.addresses.values())) == 3
    sixteen = plan(replicas=16)
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network(sixteen.subnet) for address in sixteen.addresses.values())


# ------------------------------------------------------------------------------------------------------------ rendered

VARIANTS: dict[str, dict[str, Any]] = {
    # everything off, every port another one
    "small.yaml": {
        "port": 9000,
        "mlflow_port": 0,
        "name": "small",
        "timeout": 5,
        "model_url": "http://host.docker.internal:1/v1",
    },
    "default.yaml": {},
    "large.yaml": {
        "port": 9001,
        "mlflow_port": 9002,
        "bind": "0.0.0.0",
        "mlflow_bind": "0.0.0.0",
        "has_api_key": True,
        "tls": True,
        "insecure": True,
        "replicas": 2,
        "concurrency": 7,
    },
    "standalone.yaml": {"standalone": True, "replicas": 2, "port": 9003, "mlflow_port": 9004},
}


class Indented(yaml.SafeDumper):
    """Lists are indented below their key, as yamllint wants it of every file."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def steady(text: str) -> str:
    """Without the hash of what the images are built from: it changes with every line of the runtime."""
    document = yaml.safe_load(text)
    for service in document["services"].values():
        name, _colon, tag = service["image"].rpartition(":workflow-")
        service["image"] = f"{name}:workflow-CONTENT" if name else service["image"]
        if "labels" in service and service["image"].endswith("CONTENT"):
            service["labels"]["anvil.serving.spec"] = "SPEC"
        assert not name or len(tag) == 16
    return yaml.dump(document, Dumper=Indented, explicit_start=True, sort_keys=True, width=130)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_compose_file_is_as_the_golden_file_says(here: Path, name: str) -> None:
    text = steady(render.render_workflow(plan(**VARIANTS[name])).compose)
    if os.environ.get("ANVIL_GOLDEN") == "write":
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


@pytest.mark.parametrize("name", VARIANTS)
def test_docker_compose_accepts_every_file(here: Path, name: str) -> None:
    project = render.render_workflow(plan(**VARIANTS[name]))
    (here / "compose.yaml").write_text(project.compose)
    for service in project.services.values():
        for name_of_file in service.env_files:
            (here / name_of_file).parent.mkdir(exist_ok=True)
            (here / name_of_file).touch()
    argv = ["docker", "compose", "-f", str(here / "compose.yaml"), "config", "--format", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"].values()
    ports = {port["published"]: port["target"] for service in services for port in service.get("ports", [])}
    # The port inside never moves, whatever is published.
    assert set(ports.values()) <= {8000, 8443, 5000} and "0" not in ports


def test_without_mlflow_nothing_of_it_is_left(here: Path) -> None:
    made = plan(mlflow_port=0)
    project, images = render.render_workflow(made), render.list_images(made)
    assert "mlflow" not in project.compose.lower() and list(images) == ["server"]
    assert "mlflow" not in (images["server"].dockerfile + images["server"].requirements).lower()
    artifacts = render.render_artifacts(made)
    assert not [path for path in artifacts if "mlflow" in path]
    assert "mlflow" not in (artifacts["README.md"] + artifacts[".env.example"] + artifacts["docker-compose.yml"]).lower()


def test_the_client_of_postgresql_is_installed_only_for_replicas(here: Path) -> None:
    assert "asyncpg" not in render.read_requirements(plan())
    assert "asyncpg" in render.read_requirements(plan(replicas=2))


def test_every_container_is_guarded_and_only_the_front_publishes(here: Path) -> None:
    for options in VARIANTS.values():
        project = render.render_workflow(plan(**options))
        for service in project.services.values():
            assert (service.read_only, service.cap_drop, service.init) == (True, ("ALL",), True), service.name
            assert service.security_opt == ("no-new-privileges:true",)
        published = {name for name, service in project.services.items() if service.ports}
        networks = {name: set(service.networks) for name, service in project.services.items()}
        assert not networks.get("jobs", set()) & (networks.get("mlflow", set()) | networks.get("edge", set()))
        assert all(len(networks[name]) == 1 for name in ("jobs", "mlflow", "edge") if name in networks)
        assert published <= {"server", "edge", "mlflow"} and ("edge" in published) == (options.get("replicas", 1) > 1)


def test_a_change_of_the_workflow_changes_the_images_name_and_nothing_else_does(here: Path) -> None:
    path = here / "one.yaml"
    path.write_text(Path(LINEAR).read_text())
    one = render.describe_server_image(plan(workflow=str(path), name="one")).reference
    assert render.describe_server_image(plan(workflow=str(path), name="one", port=9000, timeout=3)).reference == one
    path.write_text(path.read_text() + "# a comment is content too\n")
    assert render.describe_server_image(plan(workflow=str(path), name="one")).reference != one


def test_the_env_example_has_exactly_the_variables_in_use(here: Path) -> None:
    path = here / "weather.yaml"
    path.write_text(WEATHER)
    text = render.render_artifacts(plan(workflow=str(path)))[".env.example"]
    names = [line.lstrip("# ").split("=")[0] for line in text.splitlines() if "=" in line]
    assert names == ["OTHER_URL", "WEATHER_URL"] and "WEATHER_URL=\n" in text and "# OTHER_URL=http://o/v1" in text


def test_the_edge_configuration_carries_its_own_hash_and_never_sends_a_run_twice(here: Path) -> None:
    one, other = (render.render_edge_config(plan(replicas=count)) for count in (2, 3))
    assert parse_config_hash(one) != parse_config_hash(other)
    assert "disable-l7-retry if METH_POST" in one


# --------------------------------------------------------------------------------------------------------------- wheels


def test_wheels_are_asked_for_the_images_python_and_unpinned_requirements_are_refused() -> None:
    wanted = wheels.WheelSet("server", "httpx==0.28.1\n", "3.13", "aarch64")
    words = wheels.build_pip_argv(wanted, "r.txt", "out")
    assert words[words.index("--python-version") + 1] == "3.13" and "cp313" in words and "manylinux2014_aarch64" in words
    assert not [word for word in words if "x86_64" in word]
    assert wanted.file != replace(wanted, python="3.12").file
    with pytest.raises(AnvilError) as caught:
        wheels.check_pins("httpx==1\nfastapi\npydantic>=2\n# a comment\n")
    assert [problem.where for problem in caught.value.problems] == ["requirements, line 2", "requirements, line 3"]


def test_the_runtimes_own_requirements_are_pinned() -> None:
    for name in ("requirements.txt", "requirements-postgres.txt", "mlflow-requirements.txt"):
        wheels.check_pins((file_check.RUNTIME / name).read_text())


def test_the_same_wheels_give_the_same_tar(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "b.whl").write_bytes(b"b")
    (folder / "a.whl").write_bytes(b"a")
    wheels.pack_folder(str(folder), str(tmp_path / "one.tar"))
    os.utime(folder / "a.whl", (1, 1))
    wheels.pack_folder(str(folder), str(tmp_path / "two.tar"))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_tls_is_published_and_the_plain_port_stays_inside(here: Path) -> None:
    """A wide address without TLS needs the word insecure."""
    wide = {"bind": "0.0.0.0", "has_api_key": True, "mlflow_port": 0}
    for options, inner in (({"tls": True}, 8443), ({"insecure": True}, 8000)):
        single = render.render_workflow(plan(**wide, **options)).services["server"]
        assert single.ports == (("0.0.0.0", 8100, f"{inner}/tcp"),)
        assert ("WORKFLOW_CERTIFICATE_FILE" in single.environment) == (inner == 8443)
        several = plan(**wide, **options, replicas=2)
        assert render.render_workflow(several).services["edge"].ports == (("0.0.0.0", 8100, f"{inner}/tcp"),)
        assert ("bind :8443 ssl crt /run/secrets/certificate" in render.render_edge_config(several)) == (inner == 8443)
        assert (render.list_private_files(several).get("edge") == ["certificate"]) == (inner == 8443)


def test_a_key_in_the_env_file_goes_only_to_the_url_beside_it(here: Path) -> None:
    (here / ".env").write_text("OPENAI_BASE_URL=http://a/v1\nOPENAI_API_KEY=k\n")
    for url, sent in (("", True), ("http://a/v1", True), ("http://b/v1", False)):
        made = plan(no_env_file=False, model_url=url)
        assert (made.env_key, made.has_model_key) == (sent, sent) and any("is not sent" in note for note in made.notes) != sent


def test_servers_have_no_secret_of_a_superuser(here: Path) -> None:
    made = plan(**VARIANTS["large.yaml"])
    private = render.list_private_files(made)
    assert private["server-1"] == ["api_key", "jobs_client_password", "mlflow_client_password"]
    environment = render.render_workflow(made).services["server-1"].environment
    assert (
        environment["WORKFLOW_JOBS"].startswith("postgresql://workflow@")
        and environment["MLFLOW_TRACKING_USERNAME"] == "workflow"
    )


def test_credentials_in_the_url_of_the_models_are_in_the_env_file_only(here: Path) -> None:
    made = plan(model_url="http://user:s3cret@models/v1")
    project = render.render_workflow(made)
    assert "s3cret" not in project.compose + json.dumps(made.as_dict()) and made.has_secret_url
    service = project.services["server"]
    assert "OPENAI_BASE_URL" not in service.environment and service.anvil["secrets"] == {"OPENAI_BASE_URL": "OPENAI_BASE_URL"}
    artifacts = render.render_artifacts(made)
    assert "s3cret" not in "".join(artifacts.values()) and "OPENAI_BASE_URL=\n" in artifacts[".env.example"]
    assert not plan(model_url="http://models/v1").has_secret_url
