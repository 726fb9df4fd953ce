# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of the callback anvil.serving.calm: results of our modules as lines, failures, commands, the end of a run."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.plugin_utils.report.change_lines import (
    describe_changes,
    describe_changes_of_failure,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.failure_text import failure_lines, without_host
from ansible_collections.anvil.serving.plugins.plugin_utils.report.message_text import message_lines
from ansible_collections.anvil.serving.plugins.plugin_utils.report.run_summary import (
    HostRecord,
    next_steps,
    summarise_host,
    summarise_hosts,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import (
    command_beside,
    fill_in_inventory,
    read_typed,
    show_variables,
)


def serve(action: str, *reasons: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "reasons": list(reasons), "state": "ready", "ready": None, "seconds": 0.0, **more}


SERVES: list[tuple[dict[str, Any], bool, list[str]]] = [
    ({"heavy": serve("recreate", "command", "image")}, True, ["heavy: would be recreated, because command, image differ"]),
    (
        {"heavy": serve("recreate", "command", "unhealthy", ready=True, seconds=12.4), "fast": serve("none", ready=True)},
        False,
        ["heavy: recreated, because command differs and it was unhealthy; ready after 12 s"],
    ),
    ({"fast": serve("create", "missing")}, True, ["fast: would be created, because its container is missing"]),
    (
        {"fast": serve("create", "missing", ready=True, seconds=0.2)},
        False,
        ["fast: created, because its container was missing; ready"],
    ),
    ({"fast": serve("start", "paused", ready=True, seconds=3)}, False, ["fast: started, because it was paused; ready after 3 s"]),
    ({"fast": serve("remove", "present")}, False, ["fast: removed"]),
    ({"fast": serve("stop", "running")}, True, ["fast: would be stopped"]),
    ({"old": serve("adopt", "by_hand", "restart_policy")}, True,
     ["old: would be adopted, because restart policy differs and its container was started by hand"]),
    ({"fast": serve("evict", "off")}, True,
     ["fast: would be taken down, because the profile or the deploy mode leaves it out"]),
    ({"fast": serve("restart", "requested", ready=True)}, False, ["fast: restarted, because you requested it; ready"]),
]  # fmt: skip


@pytest.mark.parametrize(("serves", "check", "lines"), SERVES)
def test_a_line_for_each_serve_that_changed(serves: dict[str, Any], check: bool, lines: list[str]) -> None:
    told = describe_changes("anvil_serve", {"changed": True, "serves": serves}, "Converge", check)
    assert [change.text for change in told] == lines


OTHERS: list[tuple[str, dict[str, Any], bool, list[str]]] = [
    (
        "anvil_serve",
        {
            "serves": {"night": serve("create", "missing"), "fast": serve("evict", "evicted")},
            "evictions": [{"serve": "fast", "container": "anvil-fast", "for": "night", "gpu_uuids": []}],
            "pulled": ["registry.example/vllm:1"],
            "created": ["network anvil"],
            "files": ["/opt/compose.yaml"],
        },
        True,
        [
            "image registry.example/vllm:1: would be pulled, because it is missing on the host",
            "network anvil: would be created",
            "fast: would be taken down, to make room for night",
            "night: would be created, because its container is missing",
        ],
    ),
    ("anvil_serve", {"serves": {"a": serve("none")}, "files": ["/opt/compose.yaml"]}, False, ["/opt/compose.yaml: changed"]),
    ("anvil_serve", {"serves": {}, "containers": {"old": serve("remove", "present")}}, False, ["old: removed"]),
    (
        "anvil_router_promote",
        {"actions": ["validated", "switched from no file to 4f0c3e8f6a0c", "reloaded", "verified", "pruned 1234"]},
        False,
        ["router configuration: switched from no file to 4f0c3e8f6a0c, reloaded, verified"],
    ),
    (
        "anvil_router_promote",
        {"actions": ["validate revision 4f0c", "switch from 1f0c to 4f0c", "reload", "verify"]},
        True,
        ["router configuration: would switch from 1f0c to 4f0c, reload, verify"],
    ),
    ("anvil_router_edge", {"seconds": 0.3, "revision": {}}, False, ["edge: reloaded"]),
    (
        "anvil_router_restart",
        {"seconds": {"anvil-router-1": 2.9, "anvil-router-2": 3.1}},
        False,
        ["anvil-router-1: restarted in 3 s", "anvil-router-2: restarted in 3 s"],
    ),
    ("anvil_router_restart", {"seconds": {}}, True, ["would change: Converge"]),
    (
        "anvil_image",
        {"reference": "r/serving:vllm-0d8f", "action": "build", "reasons": ["missing"], "pushed": True},
        False,
        ["image r/serving:vllm-0d8f: built, because no image with this content was on the host; pushed"],
    ),
    ("anvil_image", {"reference": "r/s:1", "action": "none", "reasons": []}, True, ["image r/s:1: would be pushed"]),
    ("anvil_image", {"reference": "", "action": "build", "reasons": ["missing"]}, True, ["would change: Converge"]),
    (
        "anvil_model",
        {"name": "openai/gpt-oss-20b", "fetch": {"files": ["a"], "bytes": 13 << 30}, "reasons": ["missing"]},
        True,
        ["model openai/gpt-oss-20b: would be fetched (13.0 GiB), because it is missing"],
    ),
    ("anvil_model", {"name": "m", "invocation": {"module_args": {"state": "absent"}}}, False, ["model m: removed"]),
    ("anvil_docker_daemon", {"restarted": True}, False, ["daemon.json: the Docker Engine was restarted with the new settings"]),
    (
        "anvil_experiment",
        {"retired": [{"name": "trial"}]},
        False,
        ["experiment trial: removed, because its time to live was over"],
    ),
    (
        "anvil_serve",
        {"retired": [{"name": "trial"}], "serves": {"heavy": serve("none")}},
        True,
        ["experiment trial: would be removed, because its time to live is over"],
    ),
    (
        "anvil_experiment",
        {"retired": [{"name": "trial"}], "invocation": {"module_args": {"name": "trial"}}},
        True,
        ["experiment trial: would be removed"],
    ),
    (
        "anvil_workflow",
        {"serves": {"server": serve("recreate", "image", ready=True)}, "removed": ["draft-mlflow"], "moved": 3},
        False,
        [
            "draft-mlflow: removed",
            "jobs: 3 moved to the new job store",
            "server: recreated, because image differs; ready",
        ],
    ),
    ("copy", {"dest": "/x"}, False, ["changed: Converge"]),
    ("copy", {"dest": "/x"}, True, ["would change: Converge"]),
    ("anvil_serve", {"censored": "hidden", "changed": True}, False, ["changed: Converge"]),
]


@pytest.mark.parametrize(("module", "result", "check", "lines"), OTHERS)
def test_a_line_for_each_thing_that_changed(module: str, result: dict[str, Any], check: bool, lines: list[str]) -> None:
    assert [change.text for change in describe_changes(module, result, "Converge", check)] == lines


def test_a_failed_module_tells_only_what_it_proves_to_have_done() -> None:
    serves = {
        "heavy": serve("recreate", "command", ready=False, state="restart_loop"),
        "fast": serve("create", "missing", ready=True, seconds=4.0),
        "refused": serve("recreate", "gpu"),
    }
    told = describe_changes_of_failure("anvil_serve", {"changed": True, "serves": serves})
    assert [change.text for change in told] == [
        "heavy: recreated, because command differs; not ready: restart loop",
        "fast: created, because its container was missing; ready after 4 s",
    ]
    assert describe_changes_of_failure("anvil_serve", {"changed": False, "serves": serves}) == []
    assert describe_changes_of_failure("copy", {"changed": True}) == []


FAILURES: list[tuple[dict[str, Any], list[str]]] = [
    ({"msg": "serve heavy: not ready\n    do:   see its log\n"}, ["serve heavy: not ready", "    do:   see its log"]),
    ({"msg": "Task failed: Error while resolving value"}, ["Error while resolving value"]),
    ({"censored": "hidden", "changed": False}, ["the message is hidden, because the task has no_log"]),
    ({"changed": False}, ["the task gave no message"]),
    ({"msg": "it ended", "rc": 3, "stdout": "out", "stderr": "err"}, ["it ended", "exit code 3", "    | err"]),
    ({"msg": "it ended", "rc": 3, "stdout": "out", "stderr": " "}, ["it ended", "exit code 3", "    | out"]),
    ({"msg": "Assertion failed", "assertion": "a == b", "evaluated_to": False}, ["Assertion failed", "the assertion: a == b"]),
    (
        {"msg": "it broke", "rc": 1, "module_stdout": "", "module_stderr": "Traceback (most recent\n  ...\nRuntimeError: x"},
        ["it broke", "    | RuntimeError: x", "-v prints all of its output"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("result", "lines"), FAILURES)
def test_a_failure_is_its_message_and_no_dump(result: dict[str, Any], lines: list[str]) -> None:
    assert failure_lines(result) == lines


def test_two_hosts_fail_alike_where_only_their_names_differ() -> None:
    assert without_host(["The inventory of gpu1 has 1 mistake"], "gpu1") == without_host(
        ["The inventory of gpu2 has 1 mistake"], "gpu2"
    )
    assert without_host(["gpu10: no"], "gpu1") == "gpu10: no"
    assert without_host(["gpu1.example: no"], "gpu1") != without_host(["gpu2: no"], "gpu2")


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ({"msg": "text: 'quoted'"}, ["text: 'quoted'"]),
        ({"msg": ["a", "b\nc", 1]}, ["a", "b", "c", "1"]),
        ({"msg": {"b": [1], "a": "x"}}, ["b:", "- 1", "a: x"]),
        ({"msg": [{"a": 1}]}, ["- a: 1"]),
        ({"msg": None}, ["null"]),
        ({"name": "x", "changed": False}, ["name: x"]),
        ({"name": {"a": 1}, "changed": False}, ["name:", "  a: 1"]),
        ({"censored": "hidden"}, ["hidden"]),
    ],
)
def test_a_message_is_plain_text(result: dict[str, Any], lines: list[str]) -> None:
    assert message_lines(result, ["changed"], "yaml") == lines


def test_a_message_of_data_may_be_json() -> None:
    assert message_lines({"msg": {"a": [1]}}, [], "json") == ["{", '    "a": [', "        1", "    ]", "}"]


def read(*words: str, which: str | None = "/venv/bin/ansible-playbook", program: str = "/venv/bin/ansible-playbook") -> Any:
    return read_typed([program, *words], lambda _name: which, "/home/ops")


TYPED = [
    (("site.yml", "-i", "inventory/local"), "ansible-playbook site.yml -i inventory/local"),
    (("site.yml", "-ihosts", "--limit=a b", "-vvv"), "ansible-playbook site.yml -i hosts --limit 'a b' -vvv"),
    (("-CDlbox", "--fork", "x", "site.yml"), "ansible-playbook -C -D -l box --fork x site.yml"),
    (
        ("p.yml", "-e", "serves=heavy ttl=2h", "-e", "hf_token=abc", "-e", "@v.yml"),
        "ansible-playbook p.yml -e 'serves=heavy ttl=2h' -e hf_token=... -e @v.yml",
    ),
    (("p.yml", "-e", '{"password": "x"}', "--ssh-common-args", "-o X=y"), "ansible-playbook p.yml -e ... --ssh-common-args ..."),
    (("--", "p.yml"), "ansible-playbook p.yml"),
]


@pytest.mark.parametrize(("words", "text"), TYPED)
def test_the_command_as_typed_without_values_that_may_be_secret(words: tuple[str, ...], text: str) -> None:
    assert read(*words).as_text() == text


@pytest.mark.parametrize(
    ("words", "there", "command"),
    [
        (("playbooks/workflow.yml", "-i", "inventory/local"), "playbooks",
         "ansible-playbook playbooks/workflow_logs.yml -i inventory/local"),
        (("site.yml", "-i", "a", "-i", "b c", "-l", "x", "--check"), "playbooks",
         "ansible-playbook playbooks/workflow_logs.yml -i a -i 'b c'"),
        (("anvil.serving.workflow", "-ibox/"), "", "ansible-playbook anvil.serving.workflow_logs -i box/"),
        (("/srv/own.yml", "-i", "h,", "-u", "ops", "-b", "-e", "key=s3cret", "-e", "@v.yml"), "",
         "ansible-playbook playbooks/workflow_logs.yml -i h, -u ops -b -e @v.yml"),
    ],
)  # fmt: skip
def test_the_next_command_has_the_inventory_and_connection_as_typed(words: tuple[str, ...], there: str, command: str) -> None:
    more = ["-l", "box", "-e", "name=it's"]
    shown = command_beside(read(*words), "workflow_logs", more, lambda path: path.startswith(there or "/none"))
    assert shown == f"{command} -l box -e " + "'name=it'\"'\"'s'"


def test_a_hint_of_a_module_gets_the_inventory_as_typed() -> None:
    hint = "deploy it: ansible-playbook playbooks/workflow.yml -i INVENTORY -e workflow=FILE"
    filled = fill_in_inventory(hint, read("p.yml", "-i", "a b", "-i", "c"), "box")
    assert filled == "deploy it: ansible-playbook playbooks/workflow.yml -i 'a b' -i c -l box -e workflow=FILE"
    assert fill_in_inventory(hint, None, "box") == hint.replace("INVENTORY", "INVENTORY -l box")
    assert fill_in_inventory("free the port", None, "box") == "free the port"


def test_the_next_command_without_a_typed_one() -> None:
    shown = command_beside(None, "workflow_stop", ["-l", "box"], lambda _path: False)
    assert shown == "ansible-playbook playbooks/workflow_stop.yml -l box"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("serves=heavy", "serves=heavy"),
        ("serves=a$(b)", "serves=..."),
        ("anvil_secrets.key=x", "..."),
        ("serves='unfinished", "..."),
        ("api_key=abcdef serves=x", "'api_key=... serves=x'"),
        ("justtext", "..."),
    ],
)
def test_only_harmless_variables_are_repeated(value: str, shown: str) -> None:
    assert show_variables(value) == shown


def test_the_program_is_named_so_that_it_can_be_typed_again() -> None:
    assert read("p.yml", which=None, program=".venv/bin/ansible-playbook").program == ".venv/bin/ansible-playbook"
    assert read("p.yml", which=None, program="/home/ops/.venv/bin/ansible-playbook").program == ".venv/bin/ansible-playbook"
    assert read("p.yml", which=None, program="/else/bin/ansible-playbook").program == "/else/bin/ansible-playbook"
    assert read_typed(["/usr/bin/pytest", "x"], lambda _name: None, "/home/ops") is None
    assert read("p.yml", "--unknown-option") is None
    assert read("p.yml", "-e") is None


def test_commands_that_follow() -> None:
    typed = read("some/site.yml", "-i", "inv", "-CD", "-e", "serves=a", "-l", "old", "-t", "x", "-b")
    assert typed.for_real().as_text() == "ansible-playbook some/site.yml -i inv -e serves=a -l old -t x -b"
    assert typed.limited_to(["a", "b"]).as_text() == "ansible-playbook some/site.yml -i inv -C -D -e serves=a -t x -b -l a,b"
    status = typed.status(lambda path: path == "some/playbooks/status.yml")
    assert status is not None and status.as_text() == "ansible-playbook some/playbooks/status.yml -i inv -e serves=a -l old -b"
    assert typed.status(lambda _path: False) is None
    assert read("anvil.serving.site").status().playbooks == ["anvil.serving.status"]
    assert read("up.yml").status(lambda _path: True) is None


SUMMARIES = [
    (HostRecord(), False, "nothing to do"),
    (HostRecord(), True, "nothing would change"),
    (HostRecord(changes=["heavy", "fast", "heavy"], warned=["w"]), False, "changed heavy, fast; 1 warning"),
    (HostRecord(changes=[str(number) for number in range(12)]), True, "would change 0, 1, 2, 3, 4, 5, 6, 7 and 4 more"),
    (HostRecord(failed=True, reason="x" * 200, changes=["a"]), False, "failed: " + "x" * 97 + "...; before that changed a"),
    (HostRecord(unreachable=True, reason="y"), False, "unreachable"),
    (HostRecord(silent=True), False, "unreachable, ignored"),
    (HostRecord(stopped=True), False, "stopped, because another host failed"),
    (HostRecord(ignored=2, rescued=1), False, "nothing to do; 2 failures ignored; 1 failure rescued"),
]


@pytest.mark.parametrize(("record", "check", "text"), SUMMARIES)
def test_one_line_for_a_host(record: HostRecord, check: bool, text: str) -> None:
    assert summarise_host(record, check) == text


def test_what_to_type_next() -> None:
    typed = read("up.yml", "-i", "inv", "-C")
    bad, good, changed = HostRecord(failed=True), HostRecord(), HostRecord(changes=["x"])
    assert next_steps(typed, {"a": bad, "b": good}, False, False) == ["To try again:", "  ansible-playbook up.yml -i inv -C -l a"]
    assert next_steps(typed, {"a": bad, "b": good}, False, True) == ["To try again:", "  ansible-playbook up.yml -i inv -C"]
    assert next_steps(typed, {"a": bad}, False, False) == ["To try again:", "  ansible-playbook up.yml -i inv -C"]
    assert next_steps(typed, {"a": changed}, True, False) == ["To do it:", "  ansible-playbook up.yml -i inv"]
    assert next_steps(typed, {"a": good}, True, False) == []
    assert next_steps(None, {"a": bad}, False, False) == []
    secret = next_steps(read("up.yml", "-e", "key=s3cret"), {"a": bad}, False, False)
    assert "s3cret" not in "".join(secret) and secret[-1].startswith("  (... stands for")


def test_many_hosts_with_one_outcome_have_one_line_and_failures_are_named_at_the_end() -> None:
    records = {f"h{number:03}": HostRecord() for number in range(198)}
    records["h050"] = HostRecord(failed=True, reason="the disk is full")
    records["h060"] = HostRecord(changes=["heavy"])
    records["h070"] = HostRecord(unreachable=True)
    assert summarise_hosts(records, False) == [
        ("195 hosts", "nothing to do", "good"),
        ("h060", "changed heavy", "changed"),
        ("h050", "failed: the disk is full", "failed"),
        ("h070", "unreachable", "unreachable"),
    ]


def test_few_hosts_have_a_line_each_in_their_order() -> None:
    records = {f"h{number}": HostRecord() for number in range(10)}
    records["h3"] = HostRecord(failed=True, reason="the disk is full")
    assert [host for host, _text, _outcome in summarise_hosts(records, False)] == list(records)


def test_many_failed_hosts_are_all_named() -> None:
    records = {f"h{number}": HostRecord(failed=True, reason="the disk is full") for number in range(20)}
    assert len(summarise_hosts(records, False)) == 20
