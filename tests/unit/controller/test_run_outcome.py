# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a run: what each tier answered with the command that repeats it, and the whole run as JSON."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible import context
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible.utils.context_objects import CLIArgs
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.secret_files import find_secret_files, list_open_files
from ansible_collections.anvil.serving.plugins.plugin_utils.report.run_outcome import find_reach, lay_out_answers, note_outcome
from ansible_collections.anvil.serving.plugins.plugin_utils.report.run_summary import HostRecord
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text, wants_json
from conftest import COLLECTIONS

pytestmark = pytest.mark.slow

ANSWERS = {
    "fast": {"ok": True, "status": 200, "text": "the fast\n tier", "seconds": 0.2},
    "heavy": {"ok": True, "status": 200, "text": "\x07red", "seconds": 0.2},
    "speech": {"ok": True, "status": 200, "text": "", "seconds": 1.26},
}


def record(variables: dict[str, Any], token_file: str = "/t", endpoint: str = "http://127.0.0.1:8000") -> HostRecord:
    made = HostRecord()
    note_outcome(made, "anvil_plan", {"token_file": token_file}, variables)
    note_outcome(made, "anvil_router_info", {"answers": ANSWERS, "endpoint": endpoint}, variables)
    return made


def test_the_answers_are_shown_with_the_command_that_repeats_the_first() -> None:
    lines = lay_out_answers({"box": record({"ansible_connection": "local"})})
    assert lines[:-1] == [
        "The router of box answers at http://127.0.0.1:8000/v1",
        "",
        "  speech  answered in 1.3 s",
        "  heavy   \\u0007red",
        "  fast    the fast tier",
        "",
        "Repeat it:",
    ]
    words = shlex.split(lines[-1])
    assert words[:3] == ["sed", "s/^/Authorization: Bearer /", "/t"] and "-H" in words and "@-" in words
    assert json.loads(words[-1])["model"] == "speech"


@pytest.mark.parametrize(
    ("variables", "reach"),
    [
        ({"ansible_connection": "local"}, ""),
        ({"ansible_host": "192.0.2.1"}, "ssh 192.0.2.1"),
        ({"ansible_host": "192.0.2.1", "ansible_user": "ops", "ansible_port": 2222}, "ssh -p 2222 ops@192.0.2.1"),
        ({"ansible_host": "h; rm -rf /"}, "ssh 'h; rm -rf /'"),
        ({}, None),
        ({"ansible_connection": "community.docker.docker", "ansible_host": "h"}, None),
    ],
)
def test_a_command_on_the_host_is_reached_as_ansible_reaches_it(variables: dict[str, Any], reach: str | None) -> None:
    assert find_reach(variables) == reach
    *_lines, title, command = lay_out_answers({"box": record(variables)})
    assert title == ("Repeat it, on box:" if reach is None else "Repeat it:")
    if reach:
        assert f"| {reach} " in command and shlex.split(shlex.split(command)[-1])[0] == "curl"


def test_no_command_is_offered_where_tls_needs_more_and_no_token_where_its_file_is_unknown() -> None:
    assert lay_out_answers({"box": record({}, endpoint="https://127.0.0.1:8443")})[-1].strip().startswith("fast")
    assert lay_out_answers({"box": record({"ansible_connection": "local"}, token_file="")})[-1].startswith("  curl -s http")


def test_a_failed_host_shows_no_answers_and_many_hosts_are_one_line() -> None:
    failed = record({})
    failed.failed = True
    assert lay_out_answers({"box": failed}) == []
    many = {str(number): record({}) for number in range(20)}
    assert lay_out_answers(many) == ["The routers of 20 hosts answered for every tier."]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("output=json",), True),
        (("serves=fast output=json",), True),
        (('{"output": "json"}',), True),
        (("output=jsonfolder",), False),
        (("@file",), False),
        ((), False),
    ],
)
def test_json_is_asked_for_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(context, "CLIARGS", CLIArgs({"extra_vars": words}))
    assert wants_json() is wanted
    display_text("a table")
    assert ("a table" in capsys.readouterr().out) is not wanted


def test_the_files_of_secrets_are_found_and_open_ones_are_told(tmp_path: Path) -> None:
    for name, mode in {"closed": 0o600, "open": 0o644, "group": 0o640}.items():
        (tmp_path / name).write_text("s")
        (tmp_path / name).chmod(mode)
    lookup = "{{{{ lookup('ansible.builtin.file', folder ~ '/{0}') }}}}"
    written = {name: trust_as_template(lookup.format(name)) for name in ("closed", "open")}
    written["group"] = trust_as_template(f"{{{{ lookup(\"file\", '{tmp_path}/group') | trim }}}}")
    written["gone"] = trust_as_template(f"{{{{ lookup('file', '{tmp_path}/gone') }}}}")
    written["searched"] = trust_as_template("{{ lookup('file', 'relative') }}")
    written["undefined"] = trust_as_template("{{ lookup('file', nowhere) }}")
    written["other"] = trust_as_template("{{ vault_token }}")
    written["untrusted"] = f"{{{{ lookup('file', '{tmp_path}/open') }}}}"
    found = find_secret_files(
        Templar(DataLoader(), variables={"folder": str(tmp_path)}), {"anvil_secrets": {}, "anvil_secrets__host": written}
    )
    assert found == {name: tmp_path / name for name in ("closed", "open", "group", "gone")}
    assert [line.split(":")[0] for line in list_open_files(found)] == ["anvil_secrets.open", "anvil_secrets.group"]
    assert f"chmod 600 {tmp_path}/open" in list_open_files(found)[0] and "mode 0644" in list_open_files(found)[0]
    assert find_secret_files(Templar(DataLoader()), {"anvil_secrets": "{{ all_secrets }}"}) == {}


@pytest.mark.parametrize("lines", ["[defaults]\ncallback_result_format = json", "[callback_calm]\nresult_format = json"])
def test_the_format_of_results_in_ansible_cfg_takes_effect(tmp_path: Path, lines: str) -> None:
    config, callback = tmp_path / "ansible.cfg", "stdout_callback = anvil.serving.calm"
    named = f"{lines}\n{callback}" if lines.startswith("[defaults]") else f"[defaults]\n{callback}\n{lines}"
    config.write_text(named + "\n")
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.debug": {"msg": {"a": [1]}}}]}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_CONFIG": str(config), "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run([program, "play.yml"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert '"a": [' in done.stdout
