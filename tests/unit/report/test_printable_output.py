"""What containers, servers and files say reaches the operator's terminal as text: no output executes or reorders it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core import module as module_frame
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import (
    make_data_printable,
    make_printable,
    make_printable_line,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report import measurement_report, status_report, terminal
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.offered_inventory import lay_out_offer
from conftest import COLLECTIONS, REPO

# By kind: what a terminal does with it.
HOSTILE = {
    "colour": "\x1b[31m",
    "clear the screen": "\x1b[2J\x1b[H",
    "title, by BEL": "\x1b]0;owned\x07",
    "title, by ST": "\x1b]2;owned\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "link": "\x1b]8;;http://evil/\x1b\\here\x1b]8;;\x1b\\",
    "device control": "\x1bP+q544e\x1b\\",
    "application command": "\x1b_G\x1b\\",
    "answer back": "\x1b[6n\x1b[c\x05",
    "C1 control sequence": "\x9b2J",
    "C1 string": "\x9d0;owned\x9c",
    "an escape hidden by a colour": "\x1b\x1b[0m[2J",
    "overwrite": "good\rbad",
    "erase": "bad\x08\x08\x08good",
    "bell": "\x07",
    "zero": "\x00",
    "delete": "\x7f",
    "override": "\u202egnp.exe\u202c",
    "isolate": "\u2066\u2067\u2068\u2069",
    "marks": "\u200e\u200f\u061c",
    "line separators": "\u2028\u2029\x85\x0b\x0c\x1c",
    "tags": "\U000e0001\U000e0041",
    "half a pair": "\ud83d",
    "order mark": "\ufeff",
}
ALL = "".join(HOSTILE.values())
UNSAFE = re.compile(
    "[^\\n\\t\\x20-\\x7e\\xa0-\\u200a\\u200c\\u200d\\u2010-\\u2027\\u202f-\\u2065\\u2070-\\ufefe\\uff00-\\ufff8\U00010000-\U000dffff]"
)


def check_printable(text: str) -> None:
    found = UNSAFE.search(text.replace("\u061c", "\x00"))
    assert found is None, repr(found)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_sequence_is_shown_and_not_executed(kind: str) -> None:
    shown = make_printable(f"a {HOSTILE[kind]} z")
    check_printable(shown)
    assert shown.startswith("a ") and shown.endswith(" z")
    assert make_printable(shown) == shown
    if kind != "colour":
        assert "\\u" in shown


def test_text_of_every_language_stays_as_it_is() -> None:
    for text in ("plain", "a\tb\nc", "größer", "日本語", "שלום", "عربي", "नमस्ते", "👩‍👩‍👧", "é", "half\u00adway", "nbsp\u00a0"):
        assert make_printable(text) == text
    assert make_printable("one\r\ntwo") == "one\ntwo"
    assert make_printable_line("one\n  box  heavy: ready") == "one\\n  box  heavy: ready"
    assert make_printable("\x1b[1;36m(EngineCore pid=7)\x1b[0;0m ready") == "(EngineCore pid=7) ready"


def test_escapes_are_those_of_json_so_a_json_text_keeps_its_meaning() -> None:
    text = json.dumps({"name": ALL.replace("\x1b[31m", "").replace("\x1b[0m", "")}, ensure_ascii=False)
    check_printable(make_printable(text))
    assert json.loads(make_printable(text)) == json.loads(text)


def test_data_keep_their_shape() -> None:
    assert make_data_printable({"a\x07": ["\x07", 1, None, ("\x07",)], "p": Problem("\x07", log=("\x07",))}) == {
        "a\\u0007": ["\\u0007", 1, None, ("\\u0007",)],
        "p": Problem("\\u0007", log=("\\u0007",)),
    }


def serve(**more: Any) -> dict[str, Any]:
    return {"state": ALL, "ready": True, "health": ALL, "reasons": [ALL], "gpu_uuids": [ALL], **more}


def info() -> dict[str, Any]:
    detail = {"since": 1, "restarts": 0, "ports": [1], "model": ALL + "\nforged row", "served_name": ALL, "kv_cache": ALL}
    trial = {**serve(), "name": ALL, "expires": None, **detail}
    holder = {"name": ALL, "kind": "squatter", "state": ALL, "vram_mib": 1, "container": ALL}
    card = {"uuid": "GPU-a", "name": ALL, "vram_used_mib": 1, "vram_total_mib": 2, "holders": [holder]}
    return {
        "now": 2, "serves": {ALL: serve()}, "details": {ALL: detail}, "gpus": [card], "experiments": [trial], "orphans": [ALL],
        "squatters": {ALL: [ALL]}, "gpu_trouble": [ALL], "adoptions": [ALL],
        "externals": {ALL: {"state": ALL, "ready": None, "why": ALL, "port": 1, "served_name": ALL}},
    }  # fmt: skip


def test_the_status_as_table_as_page_and_as_data() -> None:
    tiers = {"trouble": ALL, "restarts": [ALL], "tiers": {ALL: {ALL: {"state": ALL, "ready": False, "reason": ALL}}}}
    host = status_report.report_host("box", {}, info(), {}, tiers, {"trouble": ALL, "retired": [{"name": ALL}]})
    table, page = status_report.render_table([host]), status_report.render_page([host], 0)
    check_printable(table)
    check_printable(page)
    check_printable(json.dumps(host, ensure_ascii=False))
    assert not any(line.lstrip().startswith("forged row") for line in table.splitlines())
    check_printable(status_report.render_table([status_report.report_host("box", {}, {"trouble": ALL}, {}, {}, {})]))


def test_the_logs() -> None:
    logs = {"heavy": [{"stream": "stdout", "line": ALL}]}
    check_printable(status_report.render_logs("box", {"logs": logs}))


def test_the_measurement() -> None:
    evaluation = {"kind": ALL, "tier": ALL, "name": ALL, "checks": [], "passed": False, "log": [ALL]}
    host = measurement_report.report_measurement("box", {"plan": ALL}, None, {"evaluations": [evaluation]})
    check_printable(measurement_report.render_measurement_table([host]))
    check_printable(measurement_report.render_measurement_page([host], 0))


def test_the_inventory_that_is_offered_holds_the_same_text_visibly() -> None:
    hostile = ALL.replace("\x1b[31m", "").replace("\x1b[0m", "").replace("\U000e0001\U000e0041", "").replace("\ud83d", "")
    text = lay_out_offer("heavy", {"notes": [ALL], "secrets": {}, "gpus": {}, "serve": {"model": hostile, "plain": "größer"}})
    check_printable(text)
    assert yaml.safe_load(text)["anvil_serves"]["heavy"] == {"model": hostile, "plain": "größer"} and "größer" in text


def test_lines_that_action_plugins_print(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(terminal.Display(), "display", lambda text, **_more: shown.append(text))
    terminal.display_text(ALL)
    check_printable(shown[0])


def test_failures_of_actions_and_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    error = fail(ALL, ALL, ALL, ALL, log=[ALL])
    check_printable(json.dumps(failure_result(error), ensure_ascii=False).replace("\\n", ""))
    said: dict[str, Any] = {}

    class Module:
        def __init__(self, **_arguments: Any) -> None:
            self.params: dict[str, Any] = {}

        def warn(self, text: str) -> None:
            said["warning"] = text

        def fail_json(self, **result: Any) -> None:
            said.update(result)
            raise SystemExit

        exit_json = fail_json

    monkeypatch.setattr(module_frame, "AnsibleModule", Module)

    def end(module: Any) -> dict[str, Any]:
        return {"warnings": [ALL], "problems": error.problems, "diff": [{"before": ALL, "after": ALL, "after_header": ALL}]}

    with pytest.raises(SystemExit):
        module_frame.run_module({}, end)
    assert set(said) == {"warning", "problems", "diff", "msg", "invocation"}
    check_printable(json.dumps(said, ensure_ascii=False))


PLAYBOOK = """
- name: "play @"
  hosts: localhost
  gather_facts: false
  tasks:
    - name: "task @"
      ansible.builtin.debug: {msg: "@"}
    - ansible.builtin.debug: {var: said}
      vars: {said: {"key": "@"}}
    - ansible.builtin.debug: {msg: "{{ item }}"}
      loop: ["@"]
    - ansible.builtin.copy: {content: "@ again", dest: "{{ target }}"}
    - ansible.builtin.command: {argv: [printf, "@"]}
    - ansible.builtin.command: {argv: [sh, -c, "printf '%s' \\"$0\\" >&2; exit 1", "@"]}
      ignore_errors: true
    - ansible.builtin.fail: {msg: "@"}
"""


@pytest.mark.slow
def test_a_whole_run_with_diffs_and_everything_that_v_prints(tmp_path: Path) -> None:
    hostile = ALL.replace("\x00", "").replace("\ud83d", "")
    written = "".join(f"\\U{ord(sign):08x}" for sign in hostile)
    (tmp_path / "play.yml").write_text(PLAYBOOK.replace("@", written), encoding="utf-8")
    (tmp_path / "file").write_text(hostile, encoding="utf-8")
    environment = {
        **os.environ, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "--diff", "-vv", "-e", f"target={tmp_path / 'file'}"]
    done = subprocess.run(
        [*command, str(tmp_path / "play.yml")], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 2 and "differences" in printed and printed.count("\\u202e") > 10, printed
    for line in printed.splitlines():
        check_printable(line)
