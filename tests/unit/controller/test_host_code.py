# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The code of the modules as it is sent to a host: complete, named by its content, and used by every module."""

from __future__ import annotations

import base64
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.plugins.loader import module_utils_loader
from ansible_collections.anvil.serving.plugins.module_utils.core.programs import kept_code
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code import module_action, sources
from conftest import REPO

pytestmark = pytest.mark.slow

MODULES = sorted(path.stem for path in (REPO / "plugins" / "modules").glob("anvil_*.py"))
ROUTING = yaml.safe_load((REPO / "meta" / "runtime.yml").read_text())["plugin_routing"]["modules"]
ACTIONS = "ansible_collections.anvil.serving.plugins.action"
IMPORT_ALL = """
import importlib, sys, zipfile
sys.path.insert(0, sys.argv[1])
names = [name[:-3].replace("/", ".") for name in zipfile.ZipFile(sys.argv[1]).namelist()]
for name in names:
    if ".anvil.serving." in name and not name.endswith("__init__") and ".programs." not in name:
        importlib.import_module(name)
        assert sys.modules[name].__file__.startswith(sys.argv[1]), name
assert sys.modules["ansible"].__file__.startswith(sys.argv[1])
print("imported")
"""


def test_everything_that_a_module_imports_is_in_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "sources.zip"
    archive.write_bytes(base64.b64decode(sources.pack_sources(sources.read_sources())))
    # -S: this Python has an Ansible, which a host has not.
    argv = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(archive)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("imported\n", "")


def test_the_name_follows_the_content() -> None:
    found = {"a.py": b"1", "b.py": b"2"}
    names = [
        kept_code.hash_sources(one)
        for one in (
            found,
            {"a.py": b"12", "b.py": b""},
            {"a.py": b"1", "c.py": b"2"},
            {"a.py": b"1"},
            {"a.py": b"1", "b.py": b"3"},
        )
    ]
    assert len(set(names)) == len(names)
    assert names[0] == kept_code.hash_sources(dict(reversed(found.items())))


def test_a_run_finds_something_out_once(tmp_path: Path) -> None:
    asked = []
    cache = sources.RunCache(str(tmp_path))
    assert not cache.recall("name")
    for _task in range(3):
        assert sources.RunCache(str(tmp_path)).remember("name", lambda: asked.append(1) or "text") == "text"  # type: ignore[func-returns-value]
    assert asked == [1] and cache.recall("name")


def test_the_ansible_of_the_tests_is_known() -> None:
    """Otherwise every module would be sent whole in every task, and nothing else would show it."""
    assert module_action.knows_this_ansible()


def test_a_folder_that_replaces_code_of_ansible_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_utils_loader, "_get_paths", lambda subdirs: [str(tmp_path), str(tmp_path / "missing")])
    (tmp_path / "of_my_own.py").touch()
    assert not module_action.is_replaced()
    (tmp_path / "basic.py").touch()
    assert module_action.is_replaced()


@pytest.mark.parametrize("name", MODULES)
def test_every_module_runs_with_the_kept_code_or_on_the_controller(name: str) -> None:
    routed = ROUTING.get(name, {}).get("action_plugin", f"anvil.serving.{name}")
    action = importlib.import_module(f"{ACTIONS}.{routed.rpartition('.')[2]}").ActionModule
    assert issubclass(action, module_action.HostCodeAction) or not action._requires_connection


def test_the_routing_table_lists_only_modules() -> None:
    assert set(ROUTING) <= set(MODULES)
