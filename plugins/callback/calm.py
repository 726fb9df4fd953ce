# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: calm
type: stdout
short_description: One line for each change with its reason, and what to type next
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Prints the name of each play, one line for each thing that changed and why, warnings, and failures with their message.
  - Tasks that changed nothing or were skipped print nothing.
  - Ends with one line for each host - what changed and what failed - and with the command to type next, made from the command
    line that was typed. Values of C(-e) that may be secret are left out of it.
  - With C(-v) tasks that changed nothing are shown too, and every result in full. C(-vv) adds the file and line of each task,
    C(-vvv) the arguments of each module.
  - A run that asked a router for answers shows its address, the answer of each tier, and the command that repeats the request.
  - With C(-e output=json) the run prints one JSON document and nothing else.
  - With C(--diff) the differences are shown as the default callback shows them.
  - If standard output is not a terminal, the same text is printed without colour.
  - Works with any playbook. For the modules of this collection the lines name each changed thing; for other modules they name the
    task.
requirements:
  - Set as stdout_callback in the configuration, or as E(ANSIBLE_STDOUT_CALLBACK).
extends_documentation_fragment:
  - result_format_callback
options:
  result_format:
    description: The format of results with C(-v), and of messages of M(ansible.builtin.debug) that are not plain text.
    type: str
    default: yaml
    choices: [json, yaml]
    env:
      - name: ANSIBLE_CALLBACK_RESULT_FORMAT
    ini:
      - section: defaults
        key: callback_result_format
      - section: callback_calm
        key: result_format
  next_command:
    description: Whether a run ends with the command to type next.
    type: bool
    default: true
    env:
      - name: ANVIL_NEXT_COMMAND
    ini:
      - section: callback_calm
        key: next_command
  display_failed_stderr:
    description: Whether failures go to standard error.
    type: bool
    default: false
    env:
      - name: ANSIBLE_DISPLAY_FAILED_STDERR
    ini:
      - section: defaults
        key: display_failed_stderr
  show_custom_stats:
    description: Whether statistics of M(ansible.builtin.set_stats) are shown at the end.
    type: bool
    default: false
    env:
      - name: ANSIBLE_SHOW_CUSTOM_STATS
    ini:
      - section: defaults
        key: show_custom_stats
"""

EXAMPLES = r"""
- name: Use this output in a project, in ansible.cfg
  # [defaults]
  # stdout_callback = anvil.serving.calm

- name: Use Ansible's own output for one run
  # ANSIBLE_STDOUT_CALLBACK=default ansible-playbook site.yml -i inventory/my-host
"""

import os
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible import constants, context
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback import CallbackBase
from ansible_collections.anvil.serving.plugins.module_utils.core import printable
from ansible_collections.anvil.serving.plugins.plugin_utils.report.change_lines import (
    Change,
    describe_changes,
    describe_changes_of_failure,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.failure_text import failure_lines, shorten_path, without_host
from ansible_collections.anvil.serving.plugins.plugin_utils.report.message_text import lay_out, message_lines
from ansible_collections.anvil.serving.plugins.plugin_utils.report.run_outcome import (
    PRINTERS,
    lay_out_answers,
    lay_out_run,
    module_of,
    note_outcome,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.run_summary import (
    CHANGED,
    FAILED,
    UNREACHABLE,
    HostRecord,
    next_steps,
    settle_records,
    summarise_hosts,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import wants_json
from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import read_typed

if TYPE_CHECKING:
    from ansible.executor.task_result import CallbackTaskResult
    from ansible.playbook.task import Task

BODY = "      "


class CallbackModule(CallbackBase):
    """Calm output for an operator."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "anvil.serving.calm"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._records: dict[str, HostRecord] = {}
        self._failures: dict[str, list[str]] = {}  # text -> the hosts that failed with it
        self._unreachable: set[tuple[str, bool]] = set()  # the host, and whether that was ignored
        self._fatal: list[tuple[str, set[str]]] = []  # a host that failed for all, and those hosts
        self._warned: set[str] = set()
        self._predicted: set[tuple[str, str]] = set()
        self._failed_loops: set[tuple[str, str]] = set()  # host and task of which an item failed
        self._play_id = ""
        self._play_hosts: set[str] = set()
        self._width = 0
        self._checks = self._broken_off = self._printed = False
        self._retried: set[tuple[str, str]] = set()
        self._json = wants_json()

    def _print(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        if not self._json:
            self._display.display(printable.make_showable(text), color=color, stderr=stderr)

    def _print_line(self, label: str, text: str, color: str | None = None, stderr: bool = False) -> None:
        self._print(f"  {label:<{self._width}}  {printable.make_printable_line(text)}".rstrip(), color, stderr)

    def _print_body(self, lines: list[str], stderr: bool = False) -> None:
        for line in lines:
            self._print((BODY + printable.make_printable_line(line)).rstrip(), stderr=stderr)

    def _print_result(self, label: str, word: str, result: CallbackTaskResult, color: str | None = None) -> None:
        """With -v: the task, and its result as a whole."""
        self._print_line(label, f"{word}: {self._name_task(result)}", color)
        if self._display.verbosity > 1:
            self._print_task_path(result.task)
        if not result.result.get("_ansible_verbose_override") or self._display.verbosity > 2:
            self._print(self._dump_results(result.result).strip("\n"))

    def _record(self, result: CallbackTaskResult) -> HostRecord:
        return self._records.setdefault(result.host.get_name(), HostRecord())

    def _name_task(self, result: CallbackTaskResult) -> str:
        """The task's name, with the item where it is one of a loop."""
        name = str(result.task_name)
        return f"{name} ({self._get_item_label(result.result)})" if "ansible_loop_var" in result.result else name

    def _warn(self, result: CallbackTaskResult) -> None:
        """Warnings and deprecations, each text once, with the first host that has it."""
        warnings = [str(text) for text in result.result.pop("warnings", None) or ()]
        deprecations = result.result.pop("deprecations", None) or ()
        if constants.config.get_config_value("DEPRECATION_WARNINGS"):
            warnings += [f"deprecated: {one.get('msg') if isinstance(one, Mapping) else one}" for one in deprecations]
        for text in warnings:
            self._record(result).warned.append(text)
            if text in self._warned:
                continue
            self._warned.add(text)
            first, *rest = text.splitlines() or [""]
            self._print_line(result.host.get_name(), f"warning: {first}", constants.COLOR_WARN, stderr=True)
            self._print_body(rest, stderr=True)

    def _report_changes(self, result: CallbackTaskResult) -> None:
        check = bool(result.task.check_mode)
        self._print_changes(result, self._describe(result, check), check)
        if self._display.verbosity:
            self._print_result(self.host_label(result), "changed", result, constants.COLOR_CHANGED)

    def _print_changes(self, result: CallbackTaskResult, changes: list[Change], check: bool = False) -> None:
        label = self.host_label(result)
        self._record(result).changes += [change.subject for change in changes]
        self._record(result).lines += [change.text for change in changes]
        for change in changes:
            if not (check and (label, change.text) in self._predicted):  # two tasks may predict the same network
                self._print_line(label, change.text, constants.COLOR_CHANGED)
                self._predicted.add((label, change.text))

    def _describe(self, result: CallbackTaskResult, check: bool) -> list[Change]:
        name = self._name_task(result)
        try:
            return describe_changes(module_of(result.task), result.result, name, check)
        except (KeyError, TypeError, AttributeError, ValueError):  # another module of that name: its result has another shape
            return describe_changes("", {}, name, check)

    def _report_message(self, result: CallbackTaskResult) -> None:
        lines = message_lines(result.result, self._hide_in_debug, self.get_option("result_format"))
        item = f"({self._get_item_label(result.result)})" if "ansible_loop_var" in result.result else ""
        if len(lines) == 1:
            self._print_line(self.host_label(result), f"{item} {lines[0]}".lstrip())
        elif lines:
            self._print_line(self.host_label(result), item)
            self._print_body(lines)

    def _report_failure(self, result: CallbackTaskResult, word: str, color: str | None) -> None:
        """The message, once for all hosts that fail alike."""
        stderr = self.get_option("display_failed_stderr")
        host, label, name = result.host.get_name(), self.host_label(result), self._name_task(result)
        lines = failure_lines(result.result)
        hosts = self._failures.setdefault(without_host(lines, host), [])
        if hosts:
            self._print_line(label, f"{word}: {name}: {'as before' if host in hosts else 'as on ' + hosts[0]}", color, stderr)
        else:
            path = result.task.get_path()
            where = f" ({shorten_path(path)})" if path and "problems" not in result.result else ""
            self._print_line(label, f"{word}: {name}{where}", color, stderr)
            self._print_body(lines, stderr)
        hosts.append(host)
        self._record(result).failures.append("\n".join(lines))
        self._report_whole(result, color, stderr)

    def _report_whole(self, result: CallbackTaskResult, color: str | None, stderr: bool) -> None:
        """With -v: the error with its place, and the result as a whole."""
        if self._display.verbosity and not self._json:
            # The error repeats the message that no_log hides.
            if "censored" not in result.result and result.result.pop("exception", None) and result.exception:
                self._display._error(printable.make_data_printable(result.exception), stderr=stderr)
            self._print(self._dump_results(result.result).strip("\n"), color, stderr)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._checks = bool(context.CLIARGS.get("check"))

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play_hosts = set()
        name = play.get_name().strip()
        named = name != ",".join([play.hosts] if isinstance(play.hosts, str) else play.hosts)
        if (
            named and "all:!all" not in play.hosts and play._uuid != self._play_id
        ):  # a batch of a play that has begun prints nothing
            self._print(name + (" (check only)" if play.check_mode else ""))
        self._play_id = play._uuid

    def v2_playbook_on_no_hosts_matched(self) -> None:
        if not self._width:  # a later play may be for some of the hosts only
            self._print("  no host of the inventory matches", constants.COLOR_WARN)

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        self._broken_off = True
        for host in self._play_hosts:  # a play with max_fail_percentage ends for the others too, without a result of theirs
            self._records.setdefault(host, HostRecord()).stopped = True

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._display.verbosity:
            hosts = ", ".join(host.get_name() for host in included_file._hosts)
            self._print(f"  included {included_file._filename} for {hosts}", constants.COLOR_INCLUDED)

    def v2_runner_on_start(self, host: Any, task: Task) -> None:
        self._play_hosts.add(host.get_name())
        self._width = max(self._width, len(host.get_name()))

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        self._warn(result)
        if isinstance(result.task, TaskInclude) or (result.task.loop and "results" in result.result):
            return
        self._report_ok(result)

    def v2_runner_item_on_ok(self, result: CallbackTaskResult) -> None:
        self._warn(result)
        if not isinstance(result.task, TaskInclude):
            self._report_ok(result)

    def _report_ok(self, result: CallbackTaskResult) -> None:
        module = module_of(result.task)
        if module == "anvil_serve":  # a host that holds has its turn in a later wave
            self._record(result).stopped = bool(result.result.get("held"))
        if module == "debug":
            self._report_message(result)
        elif result.result.get("changed"):
            self._report_changes(result)
        elif self._display.verbosity:
            self._print_result(self.host_label(result), "ok", result)
        note_outcome(self._record(result), module, result.result, result.host.vars)
        # A message in a role is a note beside what the role does: the run ends with its summary all the same.
        self._printed |= module in PRINTERS and result.task._role is None and result.result.get("printed", True)
        for host in result.result.get("untouched", ()) if module == "anvil_report" else ():
            self._records.setdefault(host, HostRecord()).stopped = self._broken_off = True

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        self._warn(result)
        self._note_failure(result, ignore_errors)
        if (result.host.get_name(), result.task._uuid) not in self._failed_loops:
            self._print_changes(result, describe_changes_of_failure(module_of(result.task), result.result))
            self._report_failure(result, "failed, ignored" if ignore_errors else "failed", self._color_of(ignore_errors))

    def v2_runner_item_on_failed(self, result: CallbackTaskResult) -> None:
        self._warn(result)
        ignored = result.task.ignore_errors is True
        self._failed_loops.add((result.host.get_name(), result.task._uuid))
        self._report_failure(result, "failed, ignored" if ignored else "failed", self._color_of(ignored))
        if not ignored:
            self._record(result).reason = f"{self._name_task(result)}: {failure_lines(result.result)[0]}"

    def _note_failure(self, result: CallbackTaskResult, ignored: bool) -> None:
        record = self._record(result)
        if ignored:
            return
        if (result.host.get_name(), result.task._uuid) not in self._failed_loops:  # an item's message is more exact
            record.reason = failure_lines(result.result)[0]
        self._note_fatal(result)

    def _note_fatal(self, result: CallbackTaskResult) -> None:
        """Whether the failure ends the play for the other hosts too, unless it is rescued."""
        if result.task.run_once or result.task.any_errors_fatal:
            self._fatal.append((result.host.get_name(), set() if result.task.run_once else self._play_hosts))

    @staticmethod
    def _color_of(ignored: bool) -> str:
        return str(constants.COLOR_WARN if ignored else constants.COLOR_ERROR)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        self._warn(result)
        stderr, host = self.get_option("display_failed_stderr"), result.host.get_name()
        ignored = bool(result.task.ignore_unreachable)
        if not ignored:
            self._note_fatal(result)
        if (host, ignored) in self._unreachable:  # where that is ignored, each task finds it again
            return
        self._unreachable.add((host, ignored))
        first, *rest = failure_lines(result.result)
        self._record(result).failures.append("\n".join([first, *rest]))
        word = "unreachable, ignored" if ignored else "unreachable"
        self._print_line(self.host_label(result), f"{word}: {first}", constants.COLOR_UNREACHABLE, stderr)
        self._print_body(rest, stderr)
        self._report_whole(result, constants.COLOR_UNREACHABLE, stderr)

    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        self._warn(result)
        if self._display.verbosity and not (result.task.loop and "results" in result.result):
            self._print_line(self.host_label(result), f"skipped: {self._name_task(result)}", constants.COLOR_SKIP)

    v2_runner_item_on_skipped = v2_runner_on_skipped

    def v2_runner_retry(self, result: CallbackTaskResult) -> None:
        """The first try that failed; with -v every one."""
        key = (result.host.get_name(), result.task._uuid)
        if self._display.verbosity or key not in self._retried:
            self._retried.add(key)
            left = result.result["retries"] - result.result["attempts"]
            self._print_line(self.host_label(result), f"not yet: {self._name_task(result)} (at most {left} more tries)")

    def v2_on_file_diff(self, result: CallbackTaskResult) -> None:
        many = result.result.get("results") if result.task.loop else None
        for one in many if many is not None else [result.result]:
            shown = printable.make_data_printable(one.get("diff"), printable.make_showable)
            diff = self._get_diff(shown) if shown and one.get("changed") else ""
            if diff.strip() and not self._json:
                self._print_line(self.host_label(result), f"differences: {self._name_task(result)}")
                self._display.display(diff.rstrip("\n") + "\n")  # with the colours of Ansible

    def v2_playbook_on_stats(self, stats: Any) -> None:
        counts = {host: stats.summarize(host) for host in stats.processed}
        self._broken_off = settle_records(self._records, counts, self._unreachable, self._fatal) or self._broken_off
        records = {host: self._records[host] for host in sorted(stats.processed)}
        if not (self._printed and all(record.is_calm for record in records.values())):
            self._print_summary(records)
        if stats.custom and self.get_option("show_custom_stats"):
            self._print("")
            self._print_body(lay_out(dict(stats.custom), self.get_option("result_format")))
        if self._json:
            self._display.display(lay_out_run(records, self._checks, self._broken_off))

    def _print_summary(self, records: dict[str, HostRecord]) -> None:
        colors = {CHANGED: constants.COLOR_CHANGED, FAILED: constants.COLOR_ERROR, UNREACHABLE: constants.COLOR_UNREACHABLE}
        rows = summarise_hosts(records, self._checks)
        width = max((len(host) for host, _text, _outcome in rows), default=0) + 1
        self._print("")
        for host, text, outcome in rows:
            self._print(printable.make_printable_line(f"{host + ':':<{width}} {text}"), colors.get(outcome))
        typed = read_typed(sys.argv, shutil.which, os.getcwd()) if self.get_option("next_command") else None
        lines = next_steps(typed, records, self._checks, self._broken_off)
        for part in filter(None, (lay_out_answers(records), lines)):
            self._print("\n" + "\n".join(part))
