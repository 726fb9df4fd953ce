# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The source of a program is read from a folder and from a zip file."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from ansible_collections.anvil.serving.plugins.module_utils.core import program_source

PACKAGE = "ansible_collections/anvil/serving/plugins/module_utils"
TEXT = '"""A program."""\nprint("it runs")\n'
READ = """
import sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.wing.programs import agent
sys.stdout.write(read_source(agent))
"""


def test_a_program_in_a_folder_is_read_whole() -> None:
    assert program_source.read_source(program_source) == Path(program_source.__file__).read_text()


def test_a_program_in_a_zip_file_is_read_whole(tmp_path: Path) -> None:
    archive = tmp_path / "payload.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for folder in ("core", "wing", "wing/programs"):
            made.writestr(f"{PACKAGE}/{folder}/__init__.py", "")
        for depth in range(1, PACKAGE.count("/") + 2):
            made.writestr("/".join([*PACKAGE.split("/")[:depth], "__init__.py"]), "")
        made.writestr(f"{PACKAGE}/core/program_source.py", Path(program_source.__file__).read_text())
        made.writestr(f"{PACKAGE}/wing/programs/agent.py", TEXT.replace("print", "value = str"))
    done = subprocess.run([sys.executable, "-I", "-c", READ, str(archive)], capture_output=True, text=True, check=True)
    assert done.stdout == TEXT.replace("print", "value = str")
