"""Compose files as others publish them (tests/layouts), interpreted by the real Docker Compose and planned as experiments."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker import compose_config
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount, Service
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan import compose_interpretation
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_compose import read_compose_document
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_options import ExperimentOptions
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import Project
from conftest import REPO

LAYOUTS = sorted(path for path in (REPO / "tests" / "layouts").iterdir() if path.is_dir())
SMALL = "GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1"
COMPOSE = compose_config.find_compose()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMPOSE, reason="this machine has no Docker Compose"),
]


@pytest.fixture(scope="module")
def base() -> HostPlan:
    return build_plan("h", {"anvil_gpus": {"small": {"uuid": SMALL, "vram_mib": 32607}}}, {})


def never(_name: str, _files: dict[str, str]) -> dict[str, Any]:
    raise AssertionError("the host is asked although the controller has Docker Compose")


@functools.cache
def interpret(folder: Path) -> compose_interpretation.InterpretedFile:
    return compose_interpretation.interpret_file(folder / "compose.yaml", never)


def plan(folder: Path, base: HostPlan, **options: Any) -> tuple[Project, list[str]]:
    found = interpret(folder)
    given: dict[str, Any] = {"gpu": "small", "profiles": ("gpu",), **options}
    return read_compose_document(found, ExperimentOptions("trial", **given), base)


def as_compose_reads(project: Project, folder: Path) -> dict[str, Any]:
    """The services of the rendered file as Docker Compose itself reads them."""
    (folder / "compose.yaml").write_text(project.compose)
    argv = [*COMPOSE, "--file", "compose.yaml", "config", "--format", "json"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, check=True)
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def undollar(value: Any) -> Any:
    return json.loads(json.dumps(value).replace("$$", "$"))


def assert_same(service: Service, read: dict[str, Any]) -> None:
    """What would be compared with the container is what Compose would put into the container."""
    read = undollar(read)
    assert service.environment == (read.get("environment") or {})
    assert list(service.command or ()) == (read.get("command") or [])
    assert list(service.entrypoint or ()) == (read.get("entrypoint") or [])
    ports = {
        (port["host_ip"], int(port["published"]), f"{port['target']}/{port['protocol']}") for port in read.get("ports") or ()
    }
    assert set(service.ports) == ports
    mounts = {(mount["type"], mount["target"]) for mount in read.get("volumes") or ()}
    assert {(mount.kind, mount.target) for mount in service.mounts} == mounts
    assert service.memory_bytes == int(read.get("mem_limit") or 0) and service.pids_limit == int(read.get("pids_limit") or 0)
    devices = read.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    assert list(service.gpu_uuids) == [uuid for device in devices for uuid in device["device_ids"]]
    assert service.labels == read["labels"] and list(read["networks"]) == ["anvil-experiments"] and read["restart"] == "no"


@pytest.mark.parametrize("folder", LAYOUTS, ids=lambda path: path.name)
def test_a_public_layout_is_planned_twice_the_same_and_read_by_compose_as_by_us(
    folder: Path, base: HostPlan, tmp_path: Path
) -> None:
    project, _notes = plan(folder, base)
    interpret.cache_clear()
    assert plan(folder, base)[0] == project
    read = as_compose_reads(project, tmp_path)
    assert set(read) == set(project.services)
    for name, service in project.services.items():
        assert_same(service, read[name])


def service_of(name: str, base: HostPlan, service: str = "", **options: Any) -> Service:
    services = plan(REPO / "tests" / "layouts" / name, base, **options)[0].services
    return services[service] if service else next(iter(services.values()))


def test_booleans_and_numbers_are_those_of_yaml_1_2(base: HostPlan) -> None:
    found = service_of("07-ollama", base, "ollama").environment
    assert found["OLLAMA_FLASH_ATTENTION"] == "true" and found["OLLAMA_DEBUG"] == "off" and found["OLLAMA_NUM_PARALLEL"] == "10"


def test_variables_env_files_and_quotes(base: HostPlan) -> None:
    found = service_of("03-env-file", base)
    assert found.image == "vllm/vllm-openai:v0.11.0" and found.ports == (("127.0.0.1", 8010, "8000/tcp"),)
    assert found.environment == {"HF_HUB_OFFLINE": "0", "VLLM_CACHE_ROOT": "/cache/org/model", "QUOTED": "$literal"}


def test_extends_include_and_tags(base: HostPlan) -> None:
    assert service_of("09-extends", base).environment == {"EXTRA": "yes", "KEPT": "1", "FROM_BASE": "1"}
    assert set(plan(REPO / "tests" / "layouts" / "10-include", base)[0].services) == {"model", "redis"}
    tags = service_of("11-tags", base)
    assert tags.environment == {"ONLY": "this"} and tags.mounts == () and tags.ports == (("127.0.0.1", 8040, "8000/tcp"),)


def test_profiles_choose_services(base: HostPlan) -> None:
    folder = REPO / "tests" / "layouts" / "12-profiles"
    assert set(plan(folder, base)[0].services) == {"server-gpu"}
    with pytest.raises(AnvilError, match="-e profiles=…: all, cpu, gpu"):
        plan(folder, base, profiles=())


def test_cards_by_every_form_are_pinned_by_uuid_and_without_a_choice_refused(base: HostPlan) -> None:
    for name in ("01-vllm", "04-sglang", "06-tgi", "08-opea", "11-tags", "02-anchors"):
        service = "vllm-service" if name == "08-opea" else ""
        assert service_of(name, base, service).gpu_uuids == (SMALL,), name
        with pytest.raises(AnvilError, match="-e gpu=ALIAS"):
            plan(REPO / "tests" / "layouts" / name, base, gpu="")
    assert {one.gpu_uuids for one in plan(REPO / "tests" / "layouts" / "14-cdi", base, gpu="")[0].services.values()} == {(SMALL,)}


def test_long_forms_keep_their_meaning(base: HostPlan) -> None:
    found = service_of("13-long-forms", base)
    assert found.stop_grace == 90 and found.memory_bytes == 2 << 30 and found.user == "1000:1000" and found.working_dir == "/srv"
    assert found.mounts == (Mount("volume", "shared-data", "/data"), Mount("bind", "/srv/shared", "/shared"))
    assert {"/scratch", "/tmp"} <= {entry.split(":")[0] for entry in found.tmpfs}
    assert found.command == ("exec serve --port $PORT --name 'a b' --served-model-name long",)


def test_what_is_changed_is_told(base: HostPlan) -> None:
    _project, notes = plan(REPO / "tests" / "layouts" / "04-sglang", base)
    assert any("restart is left out" in note for note in notes) and any("127.0.0.1 only" in note for note in notes)
    _project, notes = plan(REPO / "tests" / "layouts" / "10-include", base)
    assert any("depends_on is left out" in note for note in notes)


def test_the_host_interprets_where_the_controller_cannot_and_gets_no_secret(
    base: HostPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("TAG=v1\nHF_TOKEN=my-own-secret\n")
    (tmp_path / "more.env").write_text("export API_KEY='my-own-secret'\nPLAIN=1\n")
    text = {"services": {"x": {"image": "i:${TAG}", "env_file": "more.env", "environment": {"HF_TOKEN": "${HF_TOKEN}"}}}}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(text))
    sent: dict[str, str] = {}

    def on_host(name: str, files: dict[str, str]) -> dict[str, Any]:
        sent.update(files)
        return compose_config.run_config_of_texts(COMPOSE, name, files)

    monkeypatch.setattr(compose_interpretation, "find_compose", list)
    found = compose_interpretation.interpret_file(tmp_path / "compose.yaml", on_host)
    assert set(sent) == {"compose.yaml", ".env", "more.env"} and "my-own-secret" not in str(sent)
    assert found.document["services"]["x"]["image"] == "i:v1"
    with pytest.raises(AnvilError) as caught:
        read_compose_document(found, ExperimentOptions("trial"), base)
    assert {"HF_TOKEN", "API_KEY"} == {problem.what.split()[0] for problem in caught.value.problems}
    (tmp_path / "compose.yaml").write_text("services: {x: {image: i, environment: {API_KEY: my-own-secret}}}")
    with pytest.raises(AnvilError, match="secret in clear text: API_KEY"):
        compose_interpretation.interpret_file(tmp_path / "compose.yaml", never)
