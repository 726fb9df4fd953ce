"""What is deployed is read from rows of the list of containers, and what stops or starts follows from it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project
from ansible_collections.anvil.serving.plugins.module_utils.workflow import stop_and_start
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployed_workflows import describe_workflows, read_row
from ansible_collections.anvil.serving.plugins.module_utils.workflow.workflow_logs import (
    read_private_values,
    split_stamped_frames,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report import workflow_report

UP, HEALTHY, SICK, NEW = "Up 3 hours", "Up 3 hours (healthy)", "Up 3 hours (unhealthy)", "Up 2 seconds (health: starting)"


def row(service: str, state: str = "running", status: str = UP, name: str = "flow", **more: Any) -> dict[str, Any]:
    suffix = "" if service == "server" else "-" + service.removeprefix("server-")
    labels = {
        "anvil.serving.workflow": name,
        "com.docker.compose.project": f"anvil-workflow-{name}",
        "com.docker.compose.service": service,
        "anvil.serving.workflow_version": "1.2",
        **more.pop("labels", {}),
    }
    return {"Names": [f"/anvil-workflow-{name}{suffix}"], "State": state, "Status": status, "Labels": labels, "Ports": [], **more}


GONE = ("exited", "Exited (137) 5 minutes ago")


@pytest.mark.parametrize(
    ("rows", "state", "replicas", "trouble"),
    [
        ([row("server", "running", HEALTHY)], "running", "1/1", []),
        ([row("server", "running", NEW)], "starting", "1/1", []),
        ([row("server", "running", SICK)], "unhealthy", "1/1", ["container anvil-workflow-flow: unhealthy"]),
        ([row("server", *GONE)], "stopped", "0/1", []),
        ([row("server", "created", "Created")], "stopped", "0/1", []),
        ([row("server", "paused", "Up 3 hours (Paused)")], "partly stopped", "0/1",
         ["container anvil-workflow-flow: Up 3 hours (Paused)"]),
        ([row("server", "restarting", "Restarting (1) 2 seconds ago")], "partly stopped", "0/1",
         ["container anvil-workflow-flow: Restarting (1) 2 seconds ago"]),
        ([row("edge"), row("jobs"), row("server-1", "running", HEALTHY), row("server-2", *GONE)], "partly stopped", "1/2",
         ["container anvil-workflow-flow-2: Exited (137) 5 minutes ago"]),
        ([row("edge", *GONE), row("jobs"), row("server-1"), row("server-2")], "partly stopped", "2/2",
         ["container anvil-workflow-flow-edge: Exited (137) 5 minutes ago"]),
        ([row("server"), row("mlflow", *GONE)], "partly stopped", "1/1",
         ["container anvil-workflow-flow-mlflow: Exited (137) 5 minutes ago"]),
        ([row("jobs")], "running", "0/0", []),
    ],
)  # fmt: skip
def test_the_state_of_a_workflow(rows: list[dict[str, Any]], state: str, replicas: str, trouble: list[str]) -> None:
    (found,) = describe_workflows(rows, [])
    (shown,) = workflow_report.describe_workflows([found.as_dict()])
    assert (shown["state"], shown["replicas"], shown["version"]) == (state, replicas, "1.2")
    assert list(found.trouble) == trouble


@pytest.mark.parametrize(
    ("ports", "address"),
    [
        ([], ""),
        ([{"IP": "127.0.0.1", "PrivatePort": 8000, "PublicPort": 8100}], "http://127.0.0.1:8100"),
        ([{"IP": "0.0.0.0", "PrivatePort": 8443, "PublicPort": 443}], "https://0.0.0.0:443"),
        ([{"IP": "", "PrivatePort": 8000, "PublicPort": 0}, {"IP": "::1", "PrivatePort": 8000, "PublicPort": 81}], "http://[::1]:81"),
    ],
)  # fmt: skip
def test_the_address_of_a_workflow_is_the_published_one(ports: list[dict[str, Any]], address: str) -> None:
    assert read_row(row("server", Ports=ports)).address == address


def test_what_is_not_a_workflow_of_ours_is_left_out_and_kept_data_is_shown() -> None:
    foreign = row("server", name="other", labels={"com.docker.compose.project": "somebody"})
    found = describe_workflows(
        [row("server"), foreign],
        ["anvil-workflow-old-data", "anvil-workflow-old-mlflow", "anvil-workflow--data", "anvil-models", "anvil-workflow-x"],
    )
    assert [(one.name, one.state, one.data) for one in found] == [
        ("flow", "running", ()),
        ("old", "removed", ("anvil-workflow-old-data", "anvil-workflow-old-mlflow")),
    ]
    mixed = describe_workflows([row("server-1"), row("server-2", labels={"anvil.serving.workflow_version": "1.3"})], [])
    assert mixed[0].version == "1.2 and 1.3"


def steps(found: list[stop_and_start.Step]) -> list[tuple[str, str]]:
    return [(one.container.removeprefix("anvil-workflow-flow"), one.action) for one in found]


def test_a_stop_begins_with_what_takes_requests_and_leaves_what_is_stopped() -> None:
    rows = [row("jobs"), row("mlflow", *GONE), row("server-2"), row("server-1", "restarting"), row("edge", "paused")]
    assert steps(stop_and_start.decide_stop([read_row(one) for one in rows])) == [
        ("-edge", "stop"), ("-1", "stop"), ("-2", "stop"), ("-jobs", "stop"),
    ]  # fmt: skip
    assert stop_and_start.decide_stop([read_row(row("server", *GONE))]) == []


def test_a_start_begins_what_is_stopped_creates_what_is_missing_and_leaves_the_rest() -> None:
    rows = [row("jobs"), row("server-1", *GONE), row("edge", "paused"), row("mlflow", "restarting")]
    wanted = [f"anvil-workflow-flow{one}" for one in ("-jobs", "-1", "-2", "-edge", "-mlflow")]
    assert steps(stop_and_start.decide_start([read_row(one) for one in rows], wanted)) == [
        ("-1", "start"), ("-2", "create"), ("-edge", "unpause"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "../../etc", "A", "a b", "-", "x" * 41])
def test_a_name_that_no_workflow_can_have_is_refused_before_anything_is_read(name: str) -> None:
    with pytest.raises(AnvilError, match="workflow"):
        stop_and_start.check_name(Project("anvil-workflow-" + name, "/opt/anvil", "", {}))


def frame(stream: int, stamp: str, text: str) -> bytes:
    payload = f"{stamp} {text}".encode()
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def test_frames_become_lines_and_the_moment_after_the_last_one() -> None:
    one, two, three = ("2026-11-30T10:00:00.000000001Z", "2026-11-30T10:00:01.5Z", "2026-11-30T10:00:01.999999999Z")
    raw = frame(1, one, "first\n") + frame(2, two, "long ") + frame(2, two, "line\r\n") + frame(1, three, "open")
    lines, moment = split_stamped_frames(raw)
    assert lines == [("stdout", "first"), ("stderr", "long line"), ("stdout", "open")]
    assert moment == "1796032802.000000000"
    assert split_stamped_frames(b"") == ([], "")
    assert split_stamped_frames(frame(1, "no time", "x\n"))[0] == [("stdout", "no time x")]


def test_the_private_files_of_a_workflow_are_secrets_in_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "api_key").write_text("ci key-one\nkey-two\n")
    (folder / "certificate").write_text("x" * 5000)
    assert read_private_values(str(tmp_path)) == ["key-one", "key-two"]
    assert read_private_values(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        ("false", 0),
        ("no", 0),
        ("True", float("inf")),
        ("yes", float("inf")),
        ("90", 90),
        ("90s", 90),
        ("2h", 7200),
        ("1d", 86400),
    ],
)
def test_how_long_a_log_is_followed(text: str, seconds: float) -> None:
    assert workflow_report.parse_follow(text) == seconds


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(AnvilError, match="not a time span"):
        workflow_report.parse_follow("soon")
