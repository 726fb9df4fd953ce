"""Experiments: what is typed, and what a compose file may say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_config import find_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan import experiment, experiment_compose, experiment_options
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.compose_interpretation import interpret_file
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_options import ExperimentOptions
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import Project, render_experiment

pytestmark = pytest.mark.slow

BIG, SMALL = "GPU-d0f446cf-1771-414c-e116-a39138798a8c", "GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1"
INVENTORY = {
    "anvil_platform": "wsl2",
    "anvil_gpus": {"big": {"uuid": BIG, "vram_mib": 97887, "reserve_mib": 2048}, "small": {"uuid": SMALL, "vram_mib": 32607}},
    "anvil_engines": {"vllm": {"image": "vllm/vllm-openai:v1", "volumes": ["vllm-hfcache:/root/.cache/huggingface"]}},
    "anvil_serves": {
        "heavy": {"engine": "vllm", "model": "m", "port": 30002, "gpus": ["big"]},
        "fast": {"engine": "vllm", "model": "n", "port": 30003, "gpus": ["small"]},
    },
    "anvil_router": {"image": "router:1", "publish": "127.0.0.1:8000", "tiers": [{"id": "heavy", "serve": "heavy"}]},
}


@pytest.fixture(scope="module")
def base() -> HostPlan:
    return build_plan("h", {**INVENTORY, "anvil_router": None}, {})


def plan_of(options: ExperimentOptions, base: HostPlan) -> HostPlan:
    return build_plan("h", {**INVENTORY, **experiment.experiment_variables(options, base)}, {})


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 0), ("never", 0), ("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1D", 86400)]
)
def test_time_to_live(text: str, seconds: int) -> None:
    assert experiment_options.parse_ttl(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "2 h", "1w", "h", "1.5h", "٣m"])
def test_what_is_no_time_to_live(text: str) -> None:
    with pytest.raises(AnvilError, match="is not a time to live"):
        experiment_options.parse_ttl(text)


def test_words_are_split_as_a_shell_would_and_nothing_expands() -> None:
    assert experiment_options.split_words("--a 'b c' --d=\"$HOME\" `x`") == ("--a", "b c", "--d=$HOME", "`x`")
    with pytest.raises(AnvilError, match="extra_args"):
        experiment_options.split_words("--a 'b")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("/models/Tiny Model.GGUF", "tiny-model"),
        ("x/compose.yaml", "compose"),
        ("Qwen/Q3.6", "q3-6"),
    ],
)
def test_a_name_for_what_nobody_named(text: str, name: str) -> None:
    assert experiment_options.check_name(experiment_options.derive_name(text)) == name


@pytest.mark.parametrize(
    ("words", "cards"),
    [
        ("big", ["big"]),
        (SMALL, ["small"]),
        (SMALL.upper(), ["small"]),
        ("fast", ["small"]),
        ("heavy,small", ["big", "small"]),
        ("", []),
    ],
)
def test_a_gpu_by_alias_uuid_or_the_serve_that_has_it(base: HostPlan, words: str, cards: list[str]) -> None:
    assert experiment_options.choose_gpus(words, base) == cards


def test_a_card_that_the_inventory_lacks_is_found_on_the_host(base: HostPlan) -> None:
    new = BIG.replace("d0f4", "0000")
    assert experiment_options.list_unknown_uuids(f"small, {new},{BIG.upper()}", base) == [new]
    cards = [{"uuid": new, "vram_total_mib": 81920, "mig_devices": None}]
    gpus = experiment_options.add_cards([new], cards, base)
    more = build_plan("h", {**INVENTORY, "anvil_router": None, "anvil_gpus": gpus}, {})
    assert experiment_options.choose_uuids(f"small,{new}", more) == [SMALL, new]
    assert [gpu.vram_mib for gpu in more.gpus.values()] == [97887, 32607, 81920]
    with pytest.raises(AnvilError, match="is not on this host"):
        experiment_options.add_cards([new], [], base)


def test_an_unknown_gpu_is_refused_with_what_there_is(base: HostPlan) -> None:
    with pytest.raises(AnvilError, match="big, small, heavy, fast"):
        experiment_options.choose_gpus("medium", base)


def test_an_experiment_has_the_defaults_of_its_host_and_nothing_of_its_serves(base: HostPlan) -> None:
    options = ExperimentOptions(
        "trial", model="o/m", port="30010", gpu="fast", extra_args=("--x", "$y"), served_name="s", vram_mib="9000",
        mem_limit="2g", pids_limit="300",
    )  # fmt: skip
    project = render_experiment(plan_of(options, base), options.name, 7200)
    (service,) = project.services.values()
    assert (project.name, service.container, service.restart) == ("anvil-experiment-trial", "anvil-experiment-trial", "no")
    assert service.networks == ("anvil-experiments",) and service.gpu_uuids == (SMALL,)
    assert service.ports == (("127.0.0.1", 30010, "30010/tcp"),)
    assert (service.image, service.mounts[0].source) == ("vllm/vllm-openai:v1", "vllm-hfcache")
    assert service.environment == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": SMALL,
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    assert (service.command or ())[-2:] == ("--x", "$y")
    labels = {key.removeprefix("anvil.serving."): value for key, value in service.labels.items()}
    assert (labels["experiment"], labels["ttl"], labels["vram_mib"], labels["served_name"]) == ("trial", "7200", "9000", "s")
    assert labels["spec"] == service.spec_hash()
    assert (service.memory_bytes, service.pids_limit) == (2 << 30, 300)


def test_mistakes_are_told_under_the_names_that_were_typed(base: HostPlan) -> None:
    options = ExperimentOptions("trial", model="o/m", port="99999", extra_args=("--port", "1"), engine="sglangg")
    with pytest.raises(AnvilError) as caught:
        plan_of(options, base)
    where = {problem.where.partition("[")[0] for problem in experiment.rename_to_options(caught.value.problems, "trial")}
    assert {"port", "engine"} <= where and not any(word.startswith("anvil_serves") for word in where), where


def test_what_the_inventory_claims_is_refused_even_while_it_is_down() -> None:
    base = build_plan("h", INVENTORY, {})
    for port, owner in (("30002", "serve heavy"), ("8000", "the router")):
        project = render_experiment(plan_of(ExperimentOptions("trial", model="m", port=port), base), "trial", 0)
        assert [owner in problem.what for problem in experiment.find_conflicts(project.services.values(), base)] == [True]
    free = render_experiment(plan_of(ExperimentOptions("trial", model="m", port="30010"), base), "trial", 0)
    assert experiment.find_conflicts(free.services.values(), base) == []
    (service,) = free.services.values()
    twins = experiment.find_conflicts([service, replace(service, name="other")], base)
    assert [problem.what for problem in twins] == [
        f"trial has the container name {service.container} too",
        "trial publishes port 127.0.0.1:30010 too",
    ]


def test_replicas_and_the_edge_keep_their_names_and_ports() -> None:
    router = {"image": "anvil.local/router:2.0.2", "replicas": 2}
    base = build_plan("h", {**INVENTORY, "anvil_router": router, "anvil_edge": {"metrics": "127.0.0.1:8404"}}, {})
    (service,) = render_experiment(
        plan_of(ExperimentOptions("trial", model="m", port="30010"), base), "trial", 0
    ).services.values()
    for name, owner in (("anvil-router-1", "the router"), ("anvil-router-edge", "the edge")):
        (problem,) = experiment.find_conflicts([replace(service, container=name)], base)
        assert f"container name {name} for {owner}" in problem.what
    for port, owner in ((8404, "the edge"), (8000, "the router")):
        (problem,) = experiment.find_conflicts([replace(service, ports=(("127.0.0.1", port, "8000/tcp"),))], base)
        assert f"port {port} for {owner}" in problem.what


COMPOSE = """
services:
  model:
    image: some/server:1
    command: serve m --served-model-name mine
    environment: [A=1, "B=$$x"]
    ports: ["127.0.0.1:30010:8000"]
    volumes: ["cache:/cache", "shared:/shared", "/data:/data:ro"]
    shm_size: 1g
    deploy: {resources: {reservations: {devices: [{driver: nvidia, device_ids: [UUID], capabilities: [gpu]}]}}}
volumes: {cache: {}, shared: {external: true}}
""".replace("UUID", SMALL)


def never(_name: str, _files: dict[str, str]) -> dict[str, Any]:
    raise AssertionError("the host is asked although the controller has Docker Compose")


def read(text: str, folder: Path, base: HostPlan, **options: Any) -> tuple[Project, list[str]]:
    (folder / "compose.yaml").write_text(text)
    found = interpret_file(folder / "compose.yaml", never)
    return experiment_compose.read_compose_document(found, ExperimentOptions("trial", **options), base)


needs_compose = pytest.mark.skipif(not find_compose(), reason="this machine has no Docker Compose")


@needs_compose
def test_a_compose_file_becomes_a_project_like_ours(base: HostPlan, tmp_path: Path) -> None:
    project, notes = read(COMPOSE, tmp_path, base, ttl=60)
    (service,) = project.services.values()
    assert notes == []
    assert service.command == ("serve", "m", "--served-model-name", "mine")
    assert service.environment == {"A": "1", "B": "$x"}
    assert [mount.source for mount in service.mounts] == ["anvil-experiment-trial_cache", "/data", "shared"]
    assert (service.restart, service.networks, service.container) == ("no", ("anvil-experiments",), "anvil-experiment-trial")
    assert service.labels["anvil.serving.vram_mib"] == "32607" and service.labels["anvil.serving.ttl"] == "60"
    assert service.anvil["ready"] == {"kind": "models", "timeout": 600, "key": ""} and service.anvil["served_name"] == "mine"
    assert parse_compose(yaml.safe_load(project.compose)) == project.services
    assert service.labels["anvil.serving.spec"] == replace(service, labels={}).spec_hash()


@needs_compose
def test_limits_that_were_typed_hold_where_a_compose_file_sets_none(base: HostPlan, tmp_path: Path) -> None:
    text = "services: {a: {image: i:1}, b: {image: i:1, mem_limit: 1g, pids_limit: 70}}"
    project, _notes = read(text, tmp_path, base, mem_limit="2g", pids_limit="300")
    found = {name: (one.memory_bytes, one.pids_limit) for name, one in project.services.items()}
    assert found == {"a": (2 << 30, 300), "b": (1 << 30, 70)}


def test_secrets_by_name_take_the_place_of_those_in_the_environment(base: HostPlan, tmp_path: Path) -> None:
    text = """services:
  model:
    image: vllm/vllm-openai:v1
    command: --model org/m
    ports: ["127.0.0.1:30010:8000"]
    environment: {HF_TOKEN: "${HF_TOKEN}", VLLM_API_KEY: sk-aaaabbbbccccddddeeee}
    x-anvil: {secrets: {HF_TOKEN: hub, VLLM_API_KEY: key}}
"""
    (service,) = read(text, tmp_path, base)[0].services.values()
    assert service.environment == {} and service.env_files == ("env/model.env",)
    assert service.anvil["secrets"] == {"HF_TOKEN": "hub", "VLLM_API_KEY": "key"}
    assert service.anvil["ready"]["key"] == "key" and service.anvil["served_name"] == "org/m"


# A key of a service, and a word of what is said about it.
REFUSED: list[tuple[str, str]] = [
    ("build: .", "build the image first"),
    ("network_mode: host", "cannot have network_mode: host"),
    ("network_mode: 'container:x'", "network_mode"),
    ("privileged: true", "cannot have privileged"),
    ("cap_add: [SYS_PTRACE]", "cap_add: SYS_PTRACE"),
    ("pid: host", "cannot have pid: host"),
    ("ipc: 'container:other'", "that of another container"),
    ("userns_mode: host", "userns_mode"),
    ("uts: host", "uts"),
    ("cgroup_parent: /x", "cgroup_parent"),
    ("security_opt: ['seccomp:unconfined']", "seccomp:unconfined"),
    ("security_opt: ['apparmor=unconfined']", "apparmor=unconfined"),
    ("devices: ['/dev/kfd', '/dev/dri']", "the device /dev/dri"),
    ("devices: ['/dev/fuse']", "the device /dev/fuse"),
    ("device_cgroup_rules: ['c 1:3 mr']", "device_cgroup_rules"),
    ("runtime: runsc", "runtime: runsc"),
    ("volumes_from: [other]\n  other: {image: i}", "volumes_from"),
    ("ports: ['0.0.0.0:8080:80']", "published on 0.0.0.0"),
    ("ports: ['192.168.1.5:8080:80']", "published on 192.168.1.5"),
    ("ports: ['[::]:8080:80']", "published on ::"),
    ("ports: ['80']", "has no number on the host"),
    ("ports: ['8000-8010:80']", "choose one of them"),
    ("ports: ['localhost:8000:80']", "on an IP address"),
    ("environment: {PGPASSWORD: abc}", "PGPASSWORD holds a secret"),
    ("environment: {GRADIO_AUTH: 'me:abc'}", "GRADIO_AUTH holds a secret"),
    ("command: [--api-keys, 'abc,def']", "at --api-keys"),
    ("volumes: ['./here:/x']", "./here is relative"),
    ("volumes: ['~/.cache:/x']", "home folder"),
    ("volumes: ['C:\\\\models:/x']", "Windows path"),
    ("volumes: ['/x']", "has no name"),
    ("volumes: ['/:/host:ro']", "the whole host"),
    ("volumes: ['/etc:/host/etc:ro']", "cannot have /etc"),
    ("volumes: ['/etc/../etc/ssl:/x']", "folder of the system"),
    ("volumes: ['//proc:/x']", "folder of the system"),
    ("volumes: ['/sys/fs/cgroup:/x']", "cannot have /sys"),
    ("volumes: ['/dev/shm:/dev/shm']", "ipc: host or shm_size"),
    ("volumes: ['/var/run/docker.sock:/var/run/docker.sock']", "has the host"),
    ("volumes: ['/run/user/1000/docker.sock:/s']", "has the host"),
    ("volumes: [{type: bind, source: /var/lib/docker, target: /d}]", "cannot have /var/lib/docker"),
    ("volumes: ['/var:/v']", "cannot have /var"),
    ("volumes: ['/opt/anvil/anvil-serves/env:/v']", "cannot have /opt/anvil"),
    ("volumes: ['/home/me/.ssh:/v']", ".ssh"),
    ("volumes: ['/home:/v']", "cannot have /home"),
    ("volumes: [{type: bind, source: /srv, target: /s, bind: {propagation: rshared}}]", "propagation"),
    ("volumes: ['vol:/v']\nvolumes: {vol: {driver_opts: {type: none, o: bind, device: /etc}}}", "cannot have /etc"),
    ("volumes: ['vol:/v']\nvolumes: {vol: {driver: nfs}}", "driver"),
    ("volumes: ['vol:/v']\nvolumes: {vol: {name: anvil-router-cfg, external: true}}", "the volume anvil-router-cfg"),
    ("volumes: ['v:/v']\nvolumes: {v: {}}", "a drive of Windows"),
    ("volumes: ['anvil-workflow-x-jobs:/v:ro']\nvolumes: {anvil-workflow-x-jobs: {external: true}}", "keys or jobs"),
    ("logging: {driver: splunk, options: {splunk-token: abcdefgh1234}}", "the log option splunk-token"),
    ("logging: {driver: fluentd, options: {fluentd-address: 'tcp://me:abcdefgh@logs:24224'}}", "the log option fluentd-address"),
    ("environment: [HF_TOKEN_OF_NOBODY]", "HF_TOKEN_OF_NOBODY has no value"),
    ("environment: {HF_TOKEN: hf_abcdefghijklmnopqrstuvwxyz0123}", "x-anvil: {secrets: {HF_TOKEN:"),
    ("environment: {DB: 'postgres://me:pw@db/x'}", "DB holds a secret"),
    ("command: serve --api-key sk-mysecretmysecret1234", "at --api-key"),
    ("command: [bash, -c, 'serve --api-key abc']", "the command holds a secret"),
    ("command: [-hft, abc]", "at -hft"),
    ("labels: {auth: 'Basic YWJjZGVmOmFiY2RlZg=='}", "the label auth"),
    ("healthcheck: {test: [CMD, curl, -H, 'Authorization: Bearer abcdefgh']}", "the test holds a secret"),
    ("deploy: {replicas: 2}", "2 replicas"),
    ("deploy: {resources: {reservations: {devices: [{driver: nvidia, count: all, capabilities: [gpu]}]}}}", "-e gpu=ALIAS"),
    ("runtime: nvidia", "-e gpu=ALIAS"),
    ("devices: ['nvidia.com/gpu=all']", "-e gpu=ALIAS"),
    ("devices: ['/dev/nvidia0', '/dev/nvidiactl']", "asks for 1 card"),
    ("depends_on: {o: {condition: service_completed_successfully}}\n  o: {image: i}", "to end"),
    ("secrets: [s]\nsecrets: {s: {file: ./s}}", "x-anvil: {secrets:"),
    ("env_file: ../other.env", "outside of the compose file's folder"),
    ("env_file: /etc/passwd", "outside of the compose file's folder"),
    ("env_file: '${WHERE}/x.env'", "has a variable"),
    ("env_file: missing.env", "does not exist"),
    ("extends: {file: ../base.yaml, service: x}", "outside of the compose file's folder"),
    ("image: '${NOBODY_SETS_THIS:?say which}'", "say which"),
    ("no_such_key: 1", "not allowed"),
]


@needs_compose
@pytest.mark.parametrize(("line", "words"), REFUSED)
def test_what_a_compose_file_may_not_say(base: HostPlan, tmp_path: Path, line: str, words: str) -> None:
    image = "" if line.startswith("image") else "    image: some/server:1\n"
    with pytest.raises(AnvilError) as caught:
        read(f"services:\n  model:\n{image}    {line}\n", tmp_path, base)
    assert words in caught.value.as_text() and "    do:   " in caught.value.as_text()


@needs_compose
@pytest.mark.parametrize(
    "line",
    [
        "command: [--eos-token, '2', --max-num-batched-tokens, '8192']",
        "command: [--api-key, EMPTY]",
        "command: [sh, -c, 'exec serve --api-key $$VLLM_API_KEY']",
        "environment: {OPENAI_API_KEY: EMPTY, EOS_TOKEN: x, MAX_TOKENS: 100, WEBUI_AUTH: false}",
        "healthcheck: {test: [CMD-SHELL, 'curl -H \"Authorization: Bearer $$VLLM_API_KEY\" http://localhost/health']}",
    ],
)
def test_what_is_no_secret_is_not_refused(base: HostPlan, tmp_path: Path, line: str) -> None:
    project, _notes = read(f"services:\n  model:\n    image: some/server:1\n    {line}\n", tmp_path, base)
    assert list(project.services) == ["model"]


@needs_compose
@pytest.mark.parametrize("text", ["", "[]", "services: {}", "services: [x]", "a: b: c", "include: [https://example.org/x.git]"])
def test_what_is_no_compose_file_of_an_experiment(base: HostPlan, tmp_path: Path, text: str) -> None:
    with pytest.raises(AnvilError):
        read(text, tmp_path, base)


@needs_compose
def test_the_profiles_of_the_env_file_are_those_of_compose(base: HostPlan, tmp_path: Path) -> None:
    text = "services: {a: {image: i, profiles: [one]}, b: {image: i, profiles: [two]}, c: {image: i}}"
    (tmp_path / ".env").write_text("# x\nCOMPOSE_PROFILES=one,three\n")
    assert set(read(text, tmp_path, base)[0].services) == {"a", "c"}
    assert set(read(text, tmp_path, base, profiles=("two",))[0].services) == {"b", "c"}


@needs_compose
def test_a_link_out_of_the_folder_is_not_followed(base: HostPlan, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.env").write_text("A=1")
    (folder / ".env").symlink_to(tmp_path / "secret.env")
    with pytest.raises(AnvilError, match=r"\.env lies outside"):
        read("services: {x: {image: i}}", folder, base)


@needs_compose
def test_all_mistakes_of_a_compose_file_at_once_each_once(base: HostPlan, tmp_path: Path) -> None:
    text = """services:
  one: {build: ., restart: always, cap_add: [ALL]}
  two: {image: i, privileged: true, volumes: ["/:/x", "/etc:/y"], command: --api-key abc}
"""
    with pytest.raises(AnvilError) as caught:
        read(text, tmp_path, base)
    found = [(problem.where, problem.what) for problem in caught.value.problems]
    assert len(found) == len(set(found)) == 7
