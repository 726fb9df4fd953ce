"""What the inventories render to. Golden files: run with ANVIL_GOLDEN=write to write them anew, and read the diff."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    Mount,
    service_as_dict,
    service_from_dict,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import parse_config_hash
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import build_probe, read_project
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import (
    list_rendered_files,
    render_host,
    render_serves,
)
from conftest import COLLECTIONS, REPO
from hypothesis import given
from hypothesis import strategies as st
from planning import TOPOLOGY, TOPOLOGY_FACTS

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


GOLDEN_FILES = [
    *(
        ("fakoli-dark", name)
        for name in ("router/compose.yaml", "router/config.toml", "router/edge/haproxy.cfg", "serves/compose.yaml")
    ),
    *(("adr-0002", name) for name in ("router/compose.yaml", "router/config.toml", "serves/compose.yaml")),
    *(("fleet", "gw1/router/" + name) for name in ("config.toml", "edge/haproxy.cfg")),
    ("fleet", "gpu1/router/edge/haproxy.cfg"),
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example inventories, rendered offline by the playbook itself, without any secret at hand."""
    made = {name: render_inventory(name, tmp_path_factory.mktemp(name)) for name in ("fakoli-dark", "adr-0002", "fleet")}
    return {**made, "fleet": made["fleet"].parent}  # it has several hosts


def render_inventory(name: str, folder: Path) -> Path:
    playbook = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(playbook), str(REPO / "playbooks/render.yml"), "-i", str(REPO / "inventory" / name)]
    environment = {
        **os.environ,
        "HOME": str(folder),
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
    }
    done = subprocess.run([*argv, "-e", f"output={folder}"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "fakoli-dark"


@pytest.fixture(scope="session")
def rendered(folders: dict[str, Path]) -> Path:
    return folders["fakoli-dark"]


@pytest.mark.parametrize(("inventory", "name"), GOLDEN_FILES)
def test_an_example_inventory_renders_to_its_golden_files(folders: dict[str, Path], inventory: str, name: str) -> None:
    golden = GOLDEN / inventory / name
    if os.environ.get("ANVIL_GOLDEN") == "write":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text((folders[inventory] / name).read_text())
    assert (folders[inventory] / name).read_text() == golden.read_text()


def test_the_pair_of_adr_0002_is_one_service_per_tier_on_two_engines(folders: dict[str, Path]) -> None:
    services = yaml.safe_load((folders["adr-0002"] / "serves/compose.yaml").read_text())["services"]
    heavy, fast = services["heavy"], services["fast"]
    assert heavy["command"][:3] == ["python3", "-m", "sglang.launch_server"] and heavy["shm_size"] == "16g"
    assert (fast["entrypoint"], fast["command"][:2]) == (["vllm"], ["serve", "/models/gpt-oss-20b"])
    assert (heavy["container_name"], fast["container_name"]) == ("sglang", "vllm-gptoss")
    assert [volume["read_only"] for volume in (*heavy["volumes"], *fast["volumes"])] == [True, True]


def test_all_that_adr_0002_fought_for(rendered: Path) -> None:
    document = yaml.safe_load((rendered / "serves/compose.yaml").read_text())
    assert list(document["services"]) == ["heavy", "fast"]
    for name, uuid in (
        ("heavy", "GPU-d0f446cf-1771-414c-e116-a39138798a8c"),
        ("fast", "GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1"),
    ):
        service = document["services"][name]
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": [uuid], "capabilities": ["gpu"]}
        assert service["environment"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        assert service["environment"]["VLLM_USE_V2_MODEL_RUNNER"] == "0"
        assert service["environment"]["CUDA_VISIBLE_DEVICES"] == uuid
        assert (service["ipc"], service["restart"]) == ("host", "unless-stopped")
        assert all(isinstance(word, str) for word in service["command"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert "HF_TOKEN" not in service["environment"] and service["env_file"] == [f"env/{name}.env"]
    assert document["volumes"] == {"vllm-hfcache": {"name": "vllm-hfcache", "external": True}}


@pytest.mark.parametrize("project", ["serves", "router"])
def test_docker_compose_accepts_every_file(rendered: Path, project: str) -> None:
    folder = rendered / project
    (folder / "env").mkdir(exist_ok=True)
    for name in ("heavy", "fast", "router-1", "router-2"):
        (folder / "env" / f"{name}.env").touch()
    argv = ["docker", "compose", "-f", str(folder / "compose.yaml"), "config", "--format", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs, ours = (
        json.loads(done.stdout)["services"],
        yaml.safe_load((folder / "compose.yaml").read_text())["services"],
    )
    assert {n: s["command"] for n, s in theirs.items()} == {n: s["command"] for n, s in ours.items()}


def serve(**fields: object) -> ServePlan:
    base = ServePlan("s", "c", "vllm", "i:1", "m", "served", 30000, mounts=(Mount("volume", "v", "/v"),))
    return replace(base, **fields)  # type: ignore[arg-type]


WORD = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)


@pytest.mark.slow
@given(words=st.lists(WORD, max_size=4), value=WORD, engine=st.sampled_from(["vllm", "sglang", "llama_cpp"]))
def test_any_text_survives_the_way_through_yaml(words: list[str], value: str, engine: str) -> None:
    plan = HostPlan("h", "/r", "linux", "n", {}, (serve(args=tuple(words), environment={"K": value}, engine=engine),))
    service = render_serves(plan).services["s"]
    command = service.command or ()
    assert list(command[len(command) - len(words) :]) == words
    assert service.environment == {"K": value}
    assert service_from_dict(service_as_dict(service)) == service


@pytest.mark.parametrize("name", ["no", "on", "123", "y", "null"])
def test_names_that_yaml_would_read_as_something_else(name: str) -> None:
    plan = HostPlan(
        "h",
        "/r",
        "linux",
        name,
        {},
        (serve(name=name, environment={"Y": "no"}, mounts=(Mount("volume", name, "/v"),)),),
    )
    project = render_serves(plan)
    service = project.services[name]
    assert (service.networks, service.mounts[0].source, service.environment) == ((name,), name, {"Y": "no"})


def test_the_same_plan_gives_the_same_bytes_and_a_changed_one_another_hash() -> None:
    one, other = (HostPlan("h", "/r", "linux", "n", {}, (serve(args=(arg,)),)) for arg in ("a", "b"))
    assert render_host(one) == render_host(one)
    labels = [render_serves(plan).services["s"].labels["anvil.serving.spec"] for plan in (one, other)]
    assert labels[0] != labels[1]
    assert parse_compose(yaml.safe_load(render_serves(one).compose))["s"].spec_hash() == labels[0]


FACTS = {"router_token": "file", "heavy_key": "file", "alice_key": "file", "bob_key": "file", "bob_key_2027": "file"}
SERVE = {"engine": "llama_cpp", "image": "i:1", "model": "/m", "port": 30002, "args": ["-c", "4096"]}
REPLICATED = {
    "anvil_secrets": dict.fromkeys(FACTS),
    "anvil_serves": {
        "heavy": {**SERVE, "publish": "10.0.0.5", "api_key": "heavy_key", "paths": ["POST /tokenize"]},
        "fast": {**SERVE, "port": 30003},
    },
    "anvil_router": {"image": "anvil.local/router:0.13.2", "replicas": 2, "publish": "0.0.0.0:443"},
    "anvil_edge": {
        "tls": {"certificate": "/etc/tls/host.pem", "key": "/etc/tls/host.key"},
        "health": "tiers",
        "cors": ["https://app.example.org"],
        "metrics": "127.0.0.1:8404",
    },
    "anvil_clients": {
        "alice": {"keys": ["alice_key"], "requests_per_minute": 7, "concurrent_requests": 4},
        "bob": {"keys": ["bob_key", "bob_key_2027"], "tiers": ["fast"]},
    },
}


GATEWAY = {
    "anvil_secrets": {"router_token": None},
    "anvil_serves": {"heavy": SERVE},
    "anvil_router": {"image": "anvil.local/router:2.0.2", "replicas": 2, "routes": {"llm.primary": "heavy"}},
}


@pytest.mark.parametrize("name", ["compose.yaml", "edge/haproxy.cfg", "edge/maps", "config.toml"])
@pytest.mark.parametrize(("folder", "variables"), [("twin", REPLICATED), ("gateway", GATEWAY)])
def test_two_replicas_are_as_the_golden_file_says(folder: str, variables: dict[str, Any], name: str) -> None:
    rendered = render_host(build_plan(folder, variables, FACTS))
    maps = "".join(f"# {file}\n{text}" for file, text in rendered["edge"]["maps"].items())
    texts = {"edge/haproxy.cfg": rendered["edge"]["config"], "edge/maps": maps, "config.toml": rendered["router_files"]["config"]}
    text = texts.get(name, rendered["router"]["compose"])
    golden = GOLDEN / folder / name
    if os.environ.get("ANVIL_GOLDEN") == "write":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", ["serves/compose.yaml", "router/compose.yaml", "router/config.toml"])
def test_a_topology_with_every_kind_of_serve_is_as_the_golden_file_says(name: str) -> None:
    text = list_rendered_files(render_host(build_plan("topology", TOPOLOGY, TOPOLOGY_FACTS)))[name]
    golden = GOLDEN / "topology" / name
    if os.environ.get("ANVIL_GOLDEN") == "write":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_only_the_edge_publishes_a_port_and_every_replica_reads_through_its_own_pointer() -> None:
    rendered = render_host(build_plan("twin", REPLICATED, FACTS))
    services = {name: service_from_dict(raw) for name, raw in json.loads(rendered["router"]["services"]).items()}
    assert {name: service.ports for name, service in services.items() if service.ports} == {
        "edge": (("0.0.0.0", 443, "8000/tcp"), ("10.0.0.5", 30002, "18001/tcp"), ("127.0.0.1", 8404, "8404/tcp"))
    }
    serves = {name: service_from_dict(raw) for name, raw in json.loads(rendered["serves"]["services"]).items()}
    assert [service.ports for service in serves.values()] == [
        (("127.0.0.1", 30002, "30002/tcp"),),
        (("127.0.0.1", 30003, "30003/tcp"),),
    ]
    for number in ("1", "2"):
        service = services["router-" + number]
        assert (service.command or ())[-1] == f"/etc/anvil/.anvil/live/anvil-router-{number}/config.toml"
        assert (service.stop_signal, service.stop_grace) == ("SIGINT", 30)
    assert rendered["router_names"] == {
        "containers": ["anvil-router-1", "anvil-router-2"],
        "replicas": ["anvil-router-1", "anvil-router-2"],
        "edge": "anvil-router-edge",
        "front": "anvil-router-edge",
        "asked": {"edge": "anvil-router-edge", "secret": "alice_key"},
    }


def test_the_hash_in_the_edge_configuration_is_that_of_the_rest() -> None:
    host = build_plan("twin", REPLICATED, FACTS)
    assert host.router is not None
    routers = (host.router, replace(host.router, request_timeout=301))
    texts = [render_host(replace(host, router=router))["edge"]["config"] for router in routers]
    one, other = (parse_config_hash(text) for text in texts)
    assert len(one) == len(other) == 64 and one != other


def test_a_longer_deadline_is_no_reason_to_recreate() -> None:
    one, other = (HostPlan("h", "/r", "linux", "n", {}, (serve(ready_timeout=t),)) for t in (5, 500))
    assert len({render_serves(plan).services["s"].labels["anvil.serving.spec"] for plan in (one, other)}) == 1


def test_an_edge_is_ready_when_the_front_end_of_its_router_answers() -> None:
    serves = {**REPLICATED["anvil_serves"], "heavy": {**REPLICATED["anvil_serves"]["heavy"], "publish": "0.0.0.0:300"}}
    rendered = render_host(build_plan("twin", {**REPLICATED, "anvil_serves": serves}, FACTS))
    given = {**rendered["router"], "services": json.loads(rendered["router"]["services"])}
    project = read_project(given, dict.fromkeys(FACTS, "x"), ())
    probe = build_probe(project, project.services["edge"])
    assert probe is not None and (probe.address, probe.tls) == (("127.0.0.1", 443), True)
