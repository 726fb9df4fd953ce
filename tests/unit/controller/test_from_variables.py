# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action: variables read with Ansible's own loader; how secrets are held; where mistakes were written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret, VaultSecretsContext
from ansible.template import Templar
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import plan_host
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.host_variables import read_variables

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[3]
PASSWORD = VaultSecret(b"open sesame")
SERVE = """
anvil_serves:
  heavy:
    engine: vllm
    image: a/b:1
    model: x/y
    port: 30002
"""


def encrypt(text):
    return VaultLib([("default", PASSWORD)]).encrypt(text, PASSWORD).decode()


def inline(text, indent):
    return "!vault |\n" + "".join(f"{' ' * indent}{line}\n" for line in encrypt(text).splitlines())


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write the files, load them as host variables, and return what plan_host and read_variables take."""

    def load(**files):
        loader = DataLoader()
        loader.set_vault_secrets([("default", PASSWORD)])
        monkeypatch.setattr(VaultSecretsContext, "_current", VaultSecretsContext([("default", PASSWORD)]))
        variables = {}
        for name, text in files.items():
            path = tmp_path / f"{name}.yml"
            path.write_text(text)
            variables.update(loader.load_from_file(str(path), trusted_as_template=True))
        anvil = {key: value for key, value in variables.items() if key.startswith("anvil_")}
        return Templar(loader=loader, variables=variables), anvil

    return load


def facts(read, **files):
    return read_variables(*read(**files)).facts


def mistakes(read, required=True, **files):
    templar, variables = read(**files)
    with pytest.raises(AnvilError) as caught:
        plan_host(templar, "h", variables, required)
    return caught.value


def test_how_each_secret_is_held(read, tmp_path):
    (tmp_path / "token").write_text("from-a-file\n")
    (tmp_path / "empty").write_text("\n")
    main = f"""
vault_inline: {inline("inline-secret", 2)}
plain: clear-by-reference
anvil_secrets:
  inline: "{{{{ vault_inline }}}}"
  direct: {inline("direct-secret", 4)}
  whole: "{{{{ from_vaulted_file }}}}"
  file: "{{{{ lookup('file', '{tmp_path}/token') }}}}"
  empty: "{{{{ lookup('file', '{tmp_path}/empty') }}}}"
  environment: "{{{{ lookup('env', 'PATH') }}}}"
  missing: "{{{{ lookup('file', '{tmp_path}/nope') }}}}"
  undefined: "{{{{ nobody }}}}"
  literal: hunter2-literal
  reference: "{{{{ plain }}}}"
  constant: "{{{{ 'hunter2-constant' }}}}"
  broken: "{{{{ 'hunter2-broken' + }}}}"
  number: 12345
"""
    held = facts(read, main=main, vaulted=encrypt("from_vaulted_file: whole-secret\n"))
    assert {name: held[name] for name in ("inline", "direct", "whole")} == dict.fromkeys(("inline", "direct", "whole"), "vault")
    assert (held["file"], held["environment"]) == ("file", "file")
    assert {held[name] for name in ("literal", "reference", "constant")} == {"clear"}
    assert held["empty"] == "it is empty"
    assert "not found" in held["missing"]
    assert "undefined" in held["undefined"]
    assert held["broken"] == "its template has a syntax error"
    assert held["number"] == "it is a number, not text"


def test_a_mapping_of_secrets_may_come_from_elsewhere(read):
    main = """anvil_secrets: "{{ elsewhere }}"\nelsewhere: {a: "{{ v }}", b: clear-text}\nv: """ + inline("sesame-street", 2)
    assert facts(read, main=main) == {"a": "vault", "b": "clear"}


def test_one_bad_template_does_not_hide_the_other_mistakes(read, tmp_path):
    main = f"""
anvil_root: "{{{{ nowhere }}}}"
anvil_network: a b
anvil_secrets:
  router_token: hunter2-literal
  hf_token: "{{{{ lookup('file', '{tmp_path}/nope') }}}}"
anvil_serves:
  heavy:
    engine: vllm
    image: "{{{{ no_image }}}}"
    model: x/y
    port: 99999
    secrets: {{HF_TOKEN: hf_token}}
"""
    error = mistakes(read, main=main)
    assert {problem.where for problem in error.problems} == {
        "anvil_root",
        "anvil_network",
        "anvil_secrets.router_token",
        "anvil_secrets.hf_token",
        "anvil_serves.heavy.image",
        "anvil_serves.heavy.port",
    }
    assert "hunter2" not in error.as_text()


def test_a_mistake_names_the_line_it_was_written_at(read):
    error = mistakes(read, main=SERVE.replace("30002", "70000") + "    gpus:\n      - big\n      - bigg\n")
    lines = {problem.where: problem.why.split(":")[-1] for problem in error.problems}
    assert lines == {
        "anvil_serves.heavy.port": "7",
        "anvil_serves.heavy.gpus[0]": "9",
        "anvil_serves.heavy.gpus[1]": "10",
    }
    assert all("main.yml:" in problem.why for problem in error.problems)


def test_a_vaulted_value_outside_the_secrets_is_refused(read):
    main = SERVE + '    environment: {GREETING: "{{ v }}"}\nv: ' + inline("sesame-street", 2)
    error = mistakes(read, main=main)
    assert [problem.where for problem in error.problems] == ["anvil_serves.heavy.environment.GREETING"]
    assert "sesame-street" not in error.as_text()


def test_a_wrong_vault_password_is_a_mistake_and_no_traceback(read, monkeypatch):
    templar, variables = read(main=SERVE + f"    api_key: token\nanvil_secrets:\n  token: {inline('sesame-street', 4)}")
    monkeypatch.setattr(VaultSecretsContext, "_current", VaultSecretsContext([("default", VaultSecret(b"another"))]))
    with pytest.raises(AnvilError) as caught:
        plan_host(templar, "h", variables, True)
    assert [problem.where for problem in caught.value.problems] == ["anvil_secrets.token"]


def test_secrets_are_no_list(read):
    error = mistakes(read, main="anvil_secrets: [hunter2-hunter2]")
    assert [problem.where for problem in error.problems] == ["anvil_secrets"]
    assert "hunter2" not in error.as_text()


BAD_HOST = """
all:
  hosts:
    bad:
      anvil_platfrom: x
      anvil_secrets: {hf_token: hunter2-literal}
      anvil_router: {image: "a/b:1", token: router_token}
"""


def test_our_inventories_plan_on_a_fresh_clone_and_a_bad_one_fails_with_all_its_mistakes(tmp_path):
    """Really run ansible-playbook. Neither host exists and no secret is there: contacting or needing one would fail."""
    (tmp_path / "bad.yml").write_text(BAD_HOST)
    (tmp_path / "plan.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - anvil.serving.anvil_plan: {secrets: optional}\n      register: anvil\n"
        "    - ansible.builtin.debug: {msg: \"PLANNED {{ anvil.plan.serves | map(attribute='name') | join(' ') }}\"}\n"
    )
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".cache" / "collections"),
        "HOME": str(tmp_path),
    }
    inventories = [REPO / "inventory" / "fakoli-dark", REPO / "inventory" / "local", tmp_path / "bad.yml"]
    command = [Path(sys.executable).parent / "ansible-playbook", *(f"-i{path}" for path in inventories), "plan.yml"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert output.count("PLANNED heavy fast") == 2, output
    for where in ("anvil_secrets.hf_token", "anvil_router.token", "anvil_platfrom"):
        assert f"\n{where}: " in output
    assert "bad.yml:6" in output
    assert "did you mean anvil_platform?" in output
    assert "hunter2" not in output
    assert "Traceback" not in output
