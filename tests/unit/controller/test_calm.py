# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback anvil.serving.calm with results as Ansible hands them over, without a run. Whole runs are in
tests/integration/site/test_screen.py."""

from __future__ import annotations

from typing import Any

from ansible.executor.stats import AggregateStats
from ansible.executor.task_result import CallbackTaskResult
from ansible.inventory.host import Host
from ansible.playbook.task import Task
from ansible_collections.anvil.serving.plugins.callback import calm


class Paper:
    """A display that keeps what is printed."""

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        self.lines: list[str] = []

    def display(self, msg: str, color: str | None = None, stderr: bool = False, **_more: Any) -> None:
        self.lines += [f"{'!' if stderr else ''}{line}" for line in msg.split("\n")]


class Run:
    """A run of one task after the other."""

    def __init__(self, verbosity: int = 0) -> None:
        self.paper, self.stats = Paper(verbosity), AggregateStats()
        self.callback = calm.CallbackModule(display=self.paper)
        self.callback._plugin_options = {
            "result_format": "yaml", "pretty_results": None, "next_command": False, "display_failed_stderr": False,
            "show_custom_stats": False,
        }  # fmt: skip

    def result(self, host: str, action: str, result: dict[str, Any], resolved: str = "") -> CallbackTaskResult:
        task = Task.load({"name": f"Task of {action}", "action": action})
        task._resolved_action = resolved or action
        where = Host(host)
        self.callback.v2_runner_on_start(where, task)
        self.stats.processed[host] = 1
        return CallbackTaskResult(where, task, {"changed": False, **result}, {"name": task.name, "check_mode": task.check_mode})

    def ok(self, host: str, action: str, **result: Any) -> None:
        self.stats.increment("changed" if result.get("changed") else "ok", host)
        self.callback.v2_runner_on_ok(self.result(host, action, result))

    def fail(self, host: str, action: str, **result: Any) -> None:
        self.stats.increment("failures", host)
        self.callback.v2_runner_on_failed(self.result(host, action, result))

    def end(self) -> list[str]:
        self.callback.v2_playbook_on_stats(self.stats)
        return self.paper.lines


def test_a_module_that_shares_its_action_plugin_is_known_by_its_own_name() -> None:
    """Ansible gives a callback the action plugin of meta/runtime.yml as the resolved name."""
    run = Run()
    for spelling in ("anvil_docker_daemon", "anvil.serving.anvil_docker_daemon", "anvil.serving.anvil_host_info"):
        task = run.result("box", spelling, {}, resolved="anvil.serving.anvil_module").task
        assert calm.module_of(task) == spelling.rpartition(".")[2]
    assert calm.module_of(run.result("box", "another.collection.anvil_docker_daemon", {}).task) == ""


def test_a_change_of_our_module_of_another_and_of_one_that_hides_its_values() -> None:
    run = Run()
    heavy = {"action": "recreate", "reasons": ["command"], "state": "ready", "ready": True, "seconds": 12.0}
    run.ok("box", "anvil.serving.anvil_serve", changed=True, serves={"heavy": heavy})
    run.ok("box", "ansible.builtin.copy", changed=True)
    run.ok("box", "anvil.serving.anvil_model", changed=True, censored="hidden", _ansible_no_log=True)
    assert run.end() == [
        "  box  heavy: recreated, because command differs; ready after 12 s",
        "  box  changed: Task of ansible.builtin.copy",
        "  box  changed: Task of anvil.serving.anvil_model",
        "",
        "box: changed heavy, Task of ansible.builtin.copy, Task of anvil.serving.anvil_model",
    ]


def test_a_result_of_another_shape_is_a_plain_change() -> None:
    run = Run()
    run.ok("box", "another.collection.anvil_serve", changed=True, serves={"heavy": {"action": "recreate"}})
    run.ok("box", "anvil.serving.anvil_serve", changed=True, serves=["heavy"])
    assert run.end()[:2] == [
        "  box  changed: Task of another.collection.anvil_serve",
        "  box  changed: Task of anvil.serving.anvil_serve",
    ]


def test_nothing_to_do_is_a_line_and_a_message_alone_needs_none() -> None:
    run = Run()
    run.ok("box", "ansible.builtin.ping")
    assert run.end() == ["", "box: nothing to do"]
    run = Run()
    run.ok("box", "ansible.builtin.debug", msg="the 'router' answers")
    assert run.end() == ["  box  the 'router' answers"]


def test_a_note_in_a_role_does_not_hide_that_there_is_nothing_to_do() -> None:
    run = Run()
    made = run.result("box", "ansible.builtin.debug", {"msg": "profile: promoted, kept"})
    made.task._role = object()
    run.callback.v2_runner_on_ok(made)
    assert run.end() == ["  box  profile: promoted, kept", "", "box: nothing to do"]


def test_a_warning_is_told_once_with_its_host_and_counted_for_each() -> None:
    run = Run()
    run.ok("one", "ansible.builtin.ping", warnings=["a profile\ndenies it"])
    run.ok("two", "ansible.builtin.ping", warnings=["a profile\ndenies it"])
    assert run.end() == [
        "!  one  warning: a profile",
        "!      denies it",
        "",
        "one: nothing to do; 1 warning",
        "two: nothing to do; 1 warning",
    ]


def test_hosts_that_fail_alike_share_one_message() -> None:
    run = Run()
    for host in ("one", "two"):
        run.fail(host, "anvil.serving.anvil_serve", msg=f"serve a of {host}: exited\n    do:   see its log", problems=[])
    assert run.end() == [
        "  one  failed: Task of anvil.serving.anvil_serve",
        "      serve a of one: exited",
        "          do:   see its log",
        "  two  failed: Task of anvil.serving.anvil_serve: as on one",
        "",
        "one: failed: serve a of one: exited",
        "two: failed: serve a of two: exited",
    ]


def test_hosts_without_a_turn_are_not_told_as_done() -> None:
    """anvil_report names them; a play with max_fail_percentage ends without a result for them."""
    run = Run()
    run.fail("one", "ansible.builtin.fail", msg="bad")
    run.ok("two", "anvil.serving.anvil_report", untouched=["two"])
    assert run.end()[-2:] == ["one: failed: bad", "two: stopped, because another host failed"]

    run = Run()
    run.ok("two", "anvil.serving.anvil_plan")
    run.fail("one", "anvil.serving.anvil_plan", msg="bad")
    run.callback.v2_playbook_on_no_hosts_remaining()
    assert run.end()[-2:] == ["one: failed: bad", "two: stopped, because another host failed"]


def test_a_host_that_holds_is_done_only_after_its_turn() -> None:
    run = Run()
    for host in ("one", "two"):
        run.ok(host, "anvil.serving.anvil_serve", held=True, serves={})
    run.ok("one", "anvil.serving.anvil_serve", serves={})
    run.fail("three", "anvil.serving.anvil_serve", msg="bad")
    rows = [line.split(maxsplit=1) for line in run.end()[-3:]]
    assert rows == [["one:", "nothing to do"], ["three:", "failed: bad"], ["two:", "stopped, because another host failed"]]


def test_with_v_a_hidden_failure_stays_hidden() -> None:
    run = Run(verbosity=1)
    run.fail("box", "ansible.builtin.fail", censored="hidden by no_log", exception="s3cret", _ansible_no_log=True)
    assert "s3cret" not in "\n".join(run.end())


def test_with_v_every_task_and_its_result_are_shown() -> None:
    run = Run(verbosity=1)
    run.ok("box", "ansible.builtin.ping", ping="pong")
    assert run.end()[:2] == ["  box  ok: Task of ansible.builtin.ping", "    changed: false"]
