"""Drift, against the recorded description of a real container (Docker Engine 26.1.5, llama-server)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    LABEL_SPEC,
    LABEL_VRAM,
    NO_HEALTHCHECK,
    Mount,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import LIMITS, observe_container, observe_image
from recordedserve import RECORDED, SECRETS, compare, wanted


def reasons(changes: list[drift.Change]) -> list[str]:
    return [change.reason for change in changes]


def test_the_capability_prefix_of_newer_compose_versions_is_no_drift() -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["HostConfig"]["CapDrop"] = ["CAP_NET_RAW"]  # Compose 2.40.3; 2.26.1 wrote NET_RAW
    assert compare(wanted(cap_drop=("NET_RAW",)), container) == []
    assert reasons(compare(wanted(cap_drop=("ALL",)), container)) == ["capabilities"]


def test_a_container_created_from_the_service_has_no_drift() -> None:
    assert compare(wanted()) == []


def test_inherited_labels_of_the_image_are_no_drift_and_a_missing_serve_label_is() -> None:
    """anvil_image sets anvil.serving labels on its images; every container inherits them."""
    container, image = copy.deepcopy(RECORDED["container"]), copy.deepcopy(RECORDED["image"])
    image["Config"]["Labels"] = {"anvil.serving.content": "abc", "anvil.serving.engine": "vllm"}
    container["Config"]["Labels"]["anvil.serving.content"] = "abc"
    brought = observe_image(image)
    assert drift.diff_service(wanted(), SECRETS, observe_container(container), brought, brought) == []
    container["Config"]["Labels"]["anvil.serving.engine"] = "vllm"  # the serve's label is missing; the image's is inherited
    assert reasons(drift.diff_service(wanted(), SECRETS, observe_container(container), brought, brought)) == ["labels"]


def test_an_image_that_is_not_pulled_yet_is_no_drift_if_its_name_is_unchanged() -> None:
    assert compare(wanted(), wanted_image=None) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": "anvil.local/llama-server:2"}, "image"),
        ({"command": ("--model", "/models/other.gguf")}, "command"),
        ({"entrypoint": ("vllm",)}, "entrypoint"),
        ({"environment": {"A": "2"}}, "environment"),
        ({"environment": {}}, "environment"),
        ({"environment": {"A": "1", "B": "1"}}, "environment"),
        ({"gpu_uuids": ("GPU-1",)}, "gpu"),
        ({"ports": (("0.0.0.0", 30002, "30002/tcp"),)}, "ports"),
        ({"ports": (("127.0.0.1", 30009, "30002/tcp"),)}, "ports"),
        ({"mounts": (Mount("bind", "/elsewhere", "/models", True),)}, "mounts"),
        ({"mounts": (Mount("bind", "/tmp/testbed/models", "/models", False),)}, "mounts"),
        ({"networks": ("other",)}, "networks"),
        ({"ipc": ""}, "ipc"),
        ({"shm_bytes": 1 << 20}, "shm"),
        ({"restart": "no"}, "restart_policy"),
        ({"user": "1000"}, "user"),
        ({"read_only": False}, "read_only"),
        ({"tmpfs": ()}, "tmpfs"),
        ({"init": False}, "init"),
        ({"healthcheck": ("CMD", "true")}, "healthcheck"),
        ({"cap_drop": ()}, "capabilities"),
        ({"security_opt": ()}, "security_opt"),
        ({"extra_hosts": ("host.docker.internal:host-gateway",)}, "extra_hosts"),
        ({"memory_bytes": 1 << 30}, "limits"),
        ({"container": "other"}, "name"),
        ({"addresses": {"anvil": "10.0.0.3"}}, "addresses"),
        ({"stop_signal": "SIGINT"}, "stop_signal"),
        ({"stop_grace": 30}, "stop_grace"),
        ({"working_dir": "/elsewhere"}, "working_dir"),
    ],
)
def test_each_edited_field_is_the_only_reason(fields: dict[str, Any], reason: str) -> None:
    assert reasons(compare(wanted(**fields))) == [reason]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("HostConfig", "RestartPolicy", "Name"), "no", "restart_policy"),
        (("HostConfig", "Memory"), 1 << 31, "limits"),
        (("HostConfig", "NanoCpus"), 10**9, "limits"),
        (("HostConfig", "DeviceRequests"), [{"Driver": "nvidia", "Count": -1, "DeviceIDs": None}], "gpu"),
        (("Name",), "/renamed", "name"),
        (("NetworkSettings", "Networks"), {}, "networks"),
        (("NetworkSettings", "Networks", "anvil", "IPAMConfig"), {"IPv4Address": "10.0.0.9"}, "addresses"),
        (("Config", "StopSignal"), "SIGINT", "stop_signal"),
        (("Config", "StopTimeout"), 5, "stop_grace"),
    ],
)
def test_a_manual_change_of_a_container_is_drift(path: tuple[str, ...], value: Any, reason: str) -> None:
    container = copy.deepcopy(RECORDED["container"])
    spot = container
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    assert reasons(compare(wanted(), container)) == [reason]


def changed(*edits: tuple[tuple[str, ...], Any]) -> dict[str, Any]:
    """The recorded container with these values."""
    container: dict[str, Any] = copy.deepcopy(RECORDED["container"])
    for path, value in edits:
        spot = container
        for key in path[:-1]:
            spot = spot[key]
        spot[path[-1]] = value
    return container


IMAGE_CHECK = ["CMD", "curl", "-f", "http://localhost:8080/health"]
SILENT = {"shm_bytes": None, "ipc": ""}


@pytest.mark.parametrize(
    "edit",
    [
        (("HostConfig", "ShmSize"), 2 << 30),  # default-shm-size
        (("HostConfig", "ShmSize"), 0),
        (("HostConfig", "IpcMode"), "shareable"),  # default-ipc-mode
        (("HostConfig", "IpcMode"), ""),  # Podman, older engines
        (("HostConfig", "LogConfig"), {"Type": "journald", "Config": {"tag": "x"}}),
        (("HostConfig", "LogConfig"), None),
        (("HostConfig", "Ulimits"), [{"Name": "nofile", "Hard": 1, "Soft": 1}]),  # default-ulimits
        (("HostConfig", "Runtime"), "nvidia"),  # default-runtime
        (("HostConfig", "CgroupnsMode"), "private"),
        (("HostConfig", "UsernsMode"), "host"),
        (("HostConfig", "OomScoreAdj"), 200),  # rootless
        (("HostConfig", "PidsLimit"), 0),
        (("HostConfig", "PidsLimit"), -1),
        (("HostConfig", "MemorySwappiness"), -1),
        (("HostConfig", "SecurityOpt"), ["label=disable", "label=level:s0", "no-new-privileges"]),
        (("HostConfig", "RestartPolicy"), {"Name": "unless-stopped", "MaximumRetryCount": 0}),
        (("HostConfig", "ExtraHosts"), None),
        (("HostConfig", "Isolation"), "default"),
        (("Config", "StopTimeout"), 10),  # Podman
        (("Config", "WorkingDir"), "/"),  # Podman
        (("Config", "StopSignal"), "15"),  # Podman
        (("Config", "ExposedPorts"), {"1/tcp": {}}),
        (("Config", "Healthcheck"), {}),
        (("NetworkSettings", "Networks", "anvil", "MacAddress"), "02:42:ac:12:00:09"),
        (("NetworkSettings", "Networks", "anvil", "Aliases"), ["heavy", "70d423489d23"]),  # Docker Engine 24
        (("NetworkSettings", "Networks", "anvil"), {"Aliases": ["heavy", RECORDED["container"]["Config"]["Hostname"]]}),
    ],
)
def test_defaults_that_the_engine_fills_in_are_no_drift(edit: tuple[tuple[str, ...], Any]) -> None:
    container = changed((("HostConfig", "IpcMode"), "private"), edit)
    assert compare(wanted(**SILENT), container) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"mounts": (Mount("bind", "/tmp/testbed/models/", "/models/", True),)},
        {"mounts": (Mount("bind", "/tmp/testbed//models", "/models", True),)},
        {"tmpfs": ("/tmp/:size=64m",)},
        {"image": "docker.io/anvil.local/llama-server:1"},
        {"image": "localhost/anvil.local/llama-server:1"},
        {"stop_signal": "TERM"},
        {"stop_signal": "15"},
    ],
)
def test_another_spelling_of_the_same_value_is_no_drift(fields: dict[str, Any]) -> None:
    assert compare(wanted(**fields)) == []


def test_a_container_host_name_and_spellings_of_addresses_are_no_drift() -> None:
    named = (("Config", "Hostname"), "gpu-box"), (("NetworkSettings", "Networks", "anvil", "Aliases"), ["heavy", "gpu-box"])
    assert compare(wanted(), changed(*named)) == []
    hosts = (("HostConfig", "ExtraHosts"), ["b=::1", "a:[fd00::2]"])
    assert compare(wanted(extra_hosts=("a:fd00::2", "b:[::1]")), changed(hosts)) == []
    assert compare(wanted(image="x"), changed((("Config", "Image"), "docker.io/library/x:latest"))) == []


def test_the_mount_path_that_docker_desktop_reports_is_no_drift() -> None:
    mount = {"Type": "bind", "Source": "/run/desktop/mnt/host/wsl/x/4f0c", "Destination": "/models", "RW": False}
    assert compare(wanted(), changed((("Mounts",), [mount]))) == []
    moved = {"Type": "bind", "Source": "/elsewhere", "Target": "/models"}
    assert reasons(compare(wanted(), changed((("Mounts",), [mount]), (("HostConfig", "Mounts"), [moved])))) == ["mounts"]


@pytest.mark.parametrize(
    "line", ["HTTP_PROXY=http://p:3128", "no_proxy=localhost", "container=podman", "HOSTNAME=c", "TERM=xterm", "PATH=/bin"]
)
def test_variables_that_compose_and_podman_add_are_no_drift(line: str) -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["Config"]["Env"].append(line)
    assert compare(wanted(), container) == []
    name = line.partition("=")[0]
    assert reasons(compare(wanted(environment={"A": "1", name: "mine"}), container)) == ["environment"]


def test_defaults_of_the_image_are_no_drift_even_after_its_tag_has_moved() -> None:
    """The image is the only reason; its changed defaults are not additional reasons."""
    config = {
        "Healthcheck": {"Test": IMAGE_CHECK}, "User": "1000", "StopSignal": "SIGINT", "WorkingDir": "/app",
        "Volumes": {"/data/": {}}, "Labels": {"anvil.serving.engine": "vllm"}, "Entrypoint": ["serve"], "Cmd": ["x"],
        "Env": [*RECORDED["image"]["Config"]["Env"], "B=2"],
    }  # fmt: skip
    origin = observe_image({"Id": "sha256:1", "Config": config})
    moved = observe_image({"Id": "sha256:2", "Config": {"Cmd": ["y"], "Entrypoint": ["other"], "User": "root", "Env": ["B=3"]}})
    container = copy.deepcopy(RECORDED["container"])
    labels, env = container["Config"]["Labels"], container["Config"]["Env"]
    container["Config"].update({**config, "Labels": {**config["Labels"], **labels}, "Env": [*env, "B=2"]})  # type: ignore[dict-item]
    container["Config"]["Cmd"] = list(wanted().command or ())
    container["Mounts"].append({"Type": "volume", "Name": "f" * 64, "Destination": "/data", "RW": True})
    container["Image"] = "sha256:1"
    seen = observe_container(container)
    assert drift.diff_service(wanted(), SECRETS, seen, origin, origin) == []
    assert drift.diff_service(wanted(), SECRETS, seen, origin, None) == []
    assert reasons(drift.diff_service(wanted(), SECRETS, seen, origin, moved)) == ["image"]
    # The containerd image store drops an untagged image; its defaults are then unknown and are not compared.
    assert reasons(drift.diff_service(wanted(), SECRETS, seen, None, moved)) == ["image"]
    assert drift.diff_service(wanted(), SECRETS, seen, None, None) == []
    assert reasons(drift.diff_service(wanted(user="7", environment={"A": "2"}), SECRETS, seen, None, None)) == [
        "environment",
        "user",
    ]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        *((("HostConfig", key), 512, "limits") for key in LIMITS if not key.startswith("Cpuset")),
        (("HostConfig", "MemorySwap"), -1, "limits"),  # only docker update sets it without a memory limit
        (("HostConfig", "CpusetCpus"), "0", "limits"),
        (("HostConfig", "CpusetMems"), "0", "limits"),
        (("HostConfig", "RestartPolicy"), {"Name": "unless-stopped", "MaximumRetryCount": 3}, None),
        (("HostConfig", "RestartPolicy"), {"Name": "on-failure", "MaximumRetryCount": 3}, "restart_policy"),
        (("NetworkSettings", "Networks", "anvil", "Aliases"), ["t-heavy", "heavy", "more"], "networks"),
        (("NetworkSettings", "Networks", "anvil", "Aliases"), None, "networks"),
        (("NetworkSettings", "Networks", "anvil", "Links"), ["db:db"], "networks"),
        (("NetworkSettings", "Networks", "anvil", "DriverOpts"), {"a": "b"}, "networks"),
        (("NetworkSettings", "Networks", "anvil", "GwPriority"), 1, "networks"),
        (("NetworkSettings", "Networks", "anvil", "IPAMConfig"), {"IPv6Address": "fd00::9"}, "networks"),
        (("NetworkSettings", "Networks", "anvil", "IPAMConfig"), {"LinkLocalIPs": ["169.254.3.4"]}, "networks"),
        (("NetworkSettings", "Networks", "bridge"), {"Aliases": None}, "networks"),
    ],
)
def test_changes_by_docker_update_and_network_connect_are_detected(path: tuple[str, ...], value: Any, reason: str | None) -> None:
    assert reasons(compare(wanted(), changed((path, value)))) == [reason] * bool(reason)


@pytest.mark.parametrize(
    ("asked", "there", "drifts"),
    [
        (None, "02:42:ac:1c:00:02", False),  # of its IP address: Docker Engine 27 and before
        (None, "5e:7d:91:0c:33:aa", False),  # at random: Docker Engine 28
        # Given by the API's network connect: only late releases of Docker Engine 29 apply it (moby/moby#52040), and no inspect
        # document tells it from one at random (API 1.44 and later have no Config.MacAddress).
        (None, "92:20:de:b0:6b:62", False),
        ("", "", False),
        ("de:ad:be:ef:00:01", "de:ad:be:ef:00:01", True),
        ("de:ad:be:ef:00:01", "", True),  # a stopped container has none
        ("de:ad:be:ef:00:01", "02:42:ac:1c:00:02", False),  # asked for in a network that it has left since
    ],
)
def test_a_mac_address_is_drift_where_somebody_asked_for_it(asked: str | None, there: str, drifts: bool) -> None:
    seen = changed((("Config", "MacAddress"), asked), (("NetworkSettings", "Networks", "anvil", "MacAddress"), there))
    changes = compare(wanted(), seen)
    assert reasons(changes) == ["networks"] * drifts
    if drifts:
        assert changes[0].before == ["anvil (mac_address de:ad:be:ef:00:01)"]


@pytest.mark.parametrize(
    ("driver", "ids"), [("nvidia.cdi", ["GPU-1", "GPU-2"]), ("nvidia", ["GPU-2, GPU-1"]), ("", ["GPU-1,GPU-2"])]
)
def test_the_gpus_of_a_request_are_those_that_the_ledger_reads(driver: str, ids: list[str]) -> None:
    service = wanted(gpu_uuids=("GPU-1", "GPU-2"))
    assert compare(service, changed((("HostConfig", "DeviceRequests"), [{"Driver": driver, "DeviceIDs": ids}]))) == []


@pytest.mark.parametrize("driver", ["nvidia", "cdi"])
def test_a_gpu_is_the_same_by_its_uuid_and_by_its_name_of_cdi(driver: str) -> None:
    service = wanted(gpu_uuids=("GPU-1",), gpu_driver=driver)
    service = replace(service, labels={**service.labels, LABEL_SPEC: service.spec_hash()})
    for seen_driver, name in (("nvidia", "GPU-1"), ("nvidia", "nvidia.com/gpu=GPU-1"), ("cdi", "nvidia.com/gpu=GPU-1")):
        request = (("HostConfig", "DeviceRequests"), [{"Driver": seen_driver, "DeviceIDs": [name]}])
        of_this = changed((("Config", "Labels", LABEL_SPEC), service.spec_hash()), request)
        assert compare(service, of_this) == []  # an engine may answer one by the other
        assert reasons(compare(service, changed(request))) == ["gpu"] * (seen_driver != driver)


def test_a_limit_that_the_kernel_does_not_support_is_no_drift_and_a_changed_limit_is() -> None:
    service = wanted(pids_limit=100, memory_bytes=1 << 30)
    service = replace(service, labels={**service.labels, LABEL_SPEC: service.spec_hash()})
    made = (("Config", "Labels", LABEL_SPEC), service.spec_hash())
    assert compare(service, changed(made)) == []  # the engine has dropped both
    # An engine on a kernel without a memory controller drops them too, and sets the swap to -1.
    assert compare(service, changed(made, (("HostConfig", "Memory"), 0), (("HostConfig", "MemorySwap"), -1))) == []
    assert reasons(compare(service, changed(made, (("HostConfig", "PidsLimit"), -1)))) == ["limits"]
    assert reasons(compare(service, changed(made, (("HostConfig", "Memory"), 2 << 30)))) == ["limits"]
    assert compare(service, changed(made, (("HostConfig", "Memory"), 1 << 30), (("HostConfig", "MemorySwap"), 2 << 30))) == []
    assert (
        compare(service, changed(made, (("HostConfig", "Memory"), 1 << 30), (("HostConfig", "MemorySwap"), -1))) == []
    )  # no swap
    assert reasons(compare(service, changed())) == ["limits"]  # made before the service had limits


def test_logging_is_compared_if_the_service_sets_it() -> None:
    service = wanted(log_driver="local", log_options={"max-size": "20m"})
    log = ("HostConfig", "LogConfig")
    assert compare(service, changed((log, {"Type": "local", "Config": {"max-size": "20m", "compress": "false"}}))) == []
    assert reasons(compare(service, changed((log, {"Type": "local", "Config": {"max-size": "10m"}})))) == ["logging"]
    assert reasons(compare(service, changed())) == ["logging"]


def test_a_disabled_health_check_is_compared_with_that_of_the_image() -> None:
    service, none = wanted(healthcheck=NO_HEALTHCHECK), (("Config", "Healthcheck"), {"Test": ["NONE"]})
    assert compare(service, changed(none)) == []
    assert compare(service, changed()) == []  # the image has none, so there is nothing to disable
    image = observe_image({**RECORDED["image"], "Config": {**RECORDED["image"]["Config"], "Healthcheck": {"Test": IMAGE_CHECK}}})
    seen = observe_container(changed((("Config", "Healthcheck"), {"Test": IMAGE_CHECK})))
    assert reasons(drift.diff_service(service, SECRETS, seen, image, image)) == ["healthcheck"]
    assert drift.diff_service(service, SECRETS, observe_container(changed(none)), image, image) == []


def test_a_retagged_image_is_seen_by_its_id() -> None:
    other = replace(observe_image(RECORDED["image"]), id="sha256:other")
    assert reasons(compare(wanted(), wanted_image=other)) == ["image"]


def test_a_changed_secret_is_reported_by_name_and_never_by_value() -> None:
    changes = compare(wanted(), secrets={"TOK": "a new token"})
    assert reasons(changes) == ["env_file"]
    assert "a new token" not in str(changes) and "abc$def" not in str(changes)


def test_environment_changes_are_reported_by_name_only() -> None:
    (change,) = compare(wanted(environment={"A": "hidden value", "B": "x"}))
    assert (change.before, change.after) == ({"A": "set", "B": "absent"}, {"A": "changed", "B": "set"})


def test_a_spec_change_without_a_changed_field_is_a_stale_container() -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["Config"]["Labels"][LABEL_SPEC] = "2:one"
    assert reasons(compare(wanted(labels={**wanted().labels, LABEL_SPEC: "2:other"}), container)) == ["stale_container"]


def test_a_hash_of_another_format_is_not_compared_so_a_new_release_restarts_nothing() -> None:
    assert compare(wanted(labels={**wanted().labels, LABEL_SPEC: "9:another"})) == []


def test_labels_of_an_anvil_image_are_no_drift() -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["Config"]["Labels"].update({"anvil.serving.content": "a" * 64, "anvil.serving.base": "sha256:b"})
    assert compare(wanted(), container) == []


def test_a_changed_vram_label_is_no_drift() -> None:
    assert compare(wanted(labels={**wanted().labels, LABEL_VRAM: "999"})) == []
