"""Whatever document an engine sends, every reader of it ends without a traceback, and a sound part of it is read."""

from __future__ import annotations

import copy
import os
import random
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import find_endpoint, parse_moment
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.container_state import parse_time
from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot_plan import plan_throwaway
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_report import describe_edge
from ansible_collections.anvil.serving.plugins.module_utils.serves import (
    decisions,
    drift,
    host_status,
    readiness,
    result,
    serves_report,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.gpu_claims import read_claims
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import observe_container, observe_image
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState
from hypothesis import given, settings
from hypothesis import strategies as st
from recordedserve import PROJECT, RECORDED, SECRETS, wanted

# 2,000 and more with ANVIL_DOCUMENTS in the environment.
EXAMPLES = int(os.environ.get("ANVIL_DOCUMENTS", "300"))
ODD: tuple[Any, ...] = (
    None, "", 0, -1, 1, True, False, "x", "8000-8010", "8000/udp", "running", "stopped",
    "0001-01-01T00:00:00Z", "2026-13-45T99:00:00Z", [], {}, [None], ["a"], [[]], [{}], {"a": None}, {"a": "b"},
    {"8000-8002/tcp": None}, {"8000/tcp": [{"HostPort": "9000-9010"}]}, 1.5, 1e308,
    float("inf"), 2**70, "é", ["A=1"], {"Status": None}, {"Status": "unhealthy"},
)  # fmt: skip
LISTED = {
    "Id": RECORDED["container"]["Id"],
    "Names": ["/t-heavy"],
    "State": "running",
    "Status": "Up 2 minutes",
    "Created": 1795234819,
    "Labels": {**RECORDED["container"]["Config"]["Labels"], "anvil.serving.experiment": "trial", "anvil.serving.ttl": "60"},
    "Ports": [{"IP": "127.0.0.1", "PrivatePort": 30002, "PublicPort": 30002, "Type": "tcp"}],
    "NetworkSettings": {"Networks": {"anvil": {}}},
}


def twist(value: Any, chance: random.Random, rate: float) -> Any:
    """The document with some values gone or replaced by others that no reader expects there."""
    if chance.random() < rate:
        return copy.deepcopy(chance.choice(ODD))
    if isinstance(value, dict):
        return {key: twist(item, chance, rate) for key, item in value.items() if chance.random() > rate / 2}
    if isinstance(value, list):
        return [twist(item, chance, rate) for item in value]
    return value


class Recorded(DockerEngine):
    """A stand-in: an engine that answers each request with a twisted document. No machine has them all."""

    def __init__(self, seed: int) -> None:
        super().__init__("unix:///nowhere/docker.sock")
        self.chance = random.Random(seed)
        self.rate = self.chance.choice((0.01, 0.05, 0.2, 0.6))

    def _get_json(self, action: str, path: str, **query: str) -> Any:
        if path == "/containers/json":
            rows = [twist(LISTED, self.chance, self.rate) for _row in range(2)]
            return [{**row, "Id": LISTED["Id"]} for row in rows if isinstance(row, dict)]
        kind = path.split("/")[1]
        document = {"containers": RECORDED["container"], "images": RECORDED["image"]}.get(kind, {"IPAM": {"Config": [{}]}})
        twisted = twist(document, self.chance, self.rate)
        return twisted if isinstance(twisted, dict) else {}


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_document_of_any_engine_makes_a_reader_fail(seed: int) -> None:
    engine = Recorded(seed)
    service = wanted(ports=())  # no port: nothing is asked over the network
    project = Project(PROJECT, "/nowhere", "", {"heavy": service}, {"key": "x"})
    described = serves_report.describe_serves(engine, project)
    assert described["serves"]["heavy"]["action"] in ("none", "create", "recreate", "start", "unpause")
    host_status.read_overview(engine, PROJECT, "/nowhere", described["serves"], {"heavy": service})
    state = ProjectState(engine, project)
    state.list_superseded([service])
    read_claims(engine, state.listed, [])
    describe_edge(engine, "t-heavy")
    inspected, image = engine.inspect_container("t-heavy"), engine.inspect_image("i")
    assert inspected is not None and image is not None
    plan_throwaway(image, inspected, "/etc/anvil", {}, ("", ""))
    find_endpoint(inspected)
    readiness.judge_container(observe_container(inspected), 1.9e9)


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_pure_readers_take_raw_documents_too(seed: int) -> None:
    chance = random.Random(seed)
    raw = twist(RECORDED["container"], chance, chance.choice((0.02, 0.2)))
    seen, image = observe_container(raw), observe_image(twist(RECORDED["image"], chance, 0.1))
    find_endpoint(raw)
    parse_time(seen.started_at)
    for origin in (None, image):
        changes = drift.diff_service(wanted(), SECRETS, seen, origin, image)
        decisions.decide_up(changes, seen, PROJECT)
        for change in changes:
            result._split_value(change.before)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_reading_a_document_twice_changes_nothing(seed: int) -> None:
    chance = random.Random(seed)
    once = documents.read_container(twist(RECORDED["container"], chance, 0.1))
    assert repr(documents.read_container(once)) == repr(once)


def test_a_sound_document_is_read_as_it_is() -> None:
    read = documents.read_container(RECORDED["container"])
    for part in ("State", "Config", "HostConfig"):
        known = {
            key: value for key, value in RECORDED["container"][part].items() if value not in (None, {}) and key != "Healthcheck"
        }
        assert {key: read[part][key] for key in known} == known


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"Status": "running"}, "running"),
        ({"Status": "Running"}, "running"),
        ({"Running": True}, "running"),
        ({"Running": True, "Paused": True}, "paused"),
        ({"Status": "stopped"}, "exited"),  # Podman
        ({"Status": "initialized"}, "created"),  # Podman
        ({"StartedAt": "0001-01-01T00:00:00Z"}, "created"),
        ({"StartedAt": "2026-01-01T00:00:00Z"}, "exited"),
        ({"Status": "running", "OOMKilled": None, "ExitCode": "137", "Health": None}, "running"),
    ],
)
def test_the_state_is_read_from_whatever_tells_it(state: dict[str, Any], word: str) -> None:
    assert documents.read_container({"State": state})["State"]["Status"] == word


def test_a_container_without_a_name_is_named_by_its_id() -> None:
    assert documents.read_container({"Id": "c" * 64})["Name"] == "/" + "c" * 12
    assert documents.read_listed_container({"Id": "c" * 64, "Names": None})["Names"] == ["/" + "c" * 12]


def test_a_name_has_its_slash_also_where_an_engine_writes_none() -> None:
    assert documents.read_container({"Id": "c" * 64, "Name": "x"})["Name"] == "/x"
    assert documents.read_listed_container({"Id": "c" * 64, "Names": ["x", "/y"]})["Names"] == ["/x", "/y"]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("Up 3 hours (healthy)", "running"),
        ("Up 2 minutes (Paused)", "paused"),
        ("Exited (137) 3 days ago", "exited"),
        ("Restarting (1) 5 seconds ago", "restarting"),
        ("Removal In Progress", "removing"),
        ("Created", "created"),
        ("Dead", "dead"),
    ],
)
def test_the_state_of_a_listed_container_is_in_its_status_too(status: str, state: str) -> None:
    assert documents.read_listed_container({"Id": "c", "Status": status})["State"] == state


def test_no_health_check_and_limits_of_any_type() -> None:
    assert observe_container({"State": {"Status": "running", "Health": {"Status": "none"}}}).health == ""
    odd = {"CpuShares": True, "NanoCpus": "0", "CpuQuota": -1, "BlkioWeight": "500", "CpusetCpus": "0", "Memory": 1024.0}
    assert observe_container({"HostConfig": odd}).limits == {"blkio_weight": 500, "cpuset": "0", "memory": 1024}


@pytest.mark.parametrize("wrong", [None, 1, True, "x", [1.5, None], {"a": None}])
def test_what_an_engine_says_of_itself_has_its_types(wrong: Any) -> None:
    read = documents.read_info({"Runtimes": wrong, "SecurityOptions": wrong, "DockerRootDir": wrong, "CDISpecDirs": wrong})
    assert all(isinstance(runtime["path"], str) for runtime in read["Runtimes"].values())
    assert all(isinstance(word, str) for word in (*read["SecurityOptions"], *read["CDISpecDirs"], read["DockerRootDir"]))
    assert "CDISpecDirs" not in documents.read_info({})  # a Docker Engine before 25 does not report it


def test_podman_writes_an_entrypoint_as_text_labels_as_a_list_and_local_times() -> None:
    config = {"Entrypoint": "serve", "Labels": ["a=b=c"], "Env": {"A": "1"}}
    read = documents.read_container({"Config": config})["Config"]
    assert (read["Entrypoint"], read["Labels"], read["Env"]) == (["serve"], {"a": "b=c"}, ["A=1"])
    assert parse_moment("2026-07-04T12:00:00.5+02:00") == parse_moment("2026-07-04T10:00:00.5Z") == 1783159200.5


def test_the_port_of_a_requested_range_is_the_one_that_the_engine_chose() -> None:
    raw = copy.deepcopy(RECORDED["container"])
    raw["HostConfig"]["PortBindings"] = {"30002/tcp": [{"HostIp": "127.0.0.1", "HostPort": "30000-30010"}]}
    assert observe_container(raw).ports == (("127.0.0.1", 30002, "30002/tcp"),)
    raw["NetworkSettings"]["Ports"] = {}
    assert observe_container(raw).ports == (("127.0.0.1", 30000, "30002/tcp"),)
