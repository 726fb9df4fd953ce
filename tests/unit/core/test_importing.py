"""Rooms are imported from a zip file, as Ansible ships them: each is compiled once and keeps the name of its file."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from ansible_collections.anvil.serving.plugins.module_utils.core import importing

PACKAGE = importing.PACKAGE.replace(".", "/")
# It runs in a separate Python, because this one has imported the rooms already.
COUNT = """
import json, sys, zipimport
real, compiled = zipimport._compile_source, []
def count(path, source):
    compiled.append(path.partition("module_utils/")[2])
    return real(path, source)
zipimport._compile_source = count
sys.path.insert(0, sys.argv[1])
from ansible_collections.anvil.serving.plugins.module_utils.core import importing
from ansible_collections.anvil.serving.plugins.module_utils.wing import room
print(json.dumps([compiled, room.__file__, room.__spec__.origin, room.where()]))
"""
ROOM = "import sys\ndef where():\n    return sys._getframe().f_code.co_filename\n"


def test_a_room_is_compiled_once_and_keeps_its_name(tmp_path: Path) -> None:
    archive = tmp_path / "payload.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for depth in range(1, PACKAGE.count("/") + 2):
            made.writestr("/".join([*PACKAGE.split("/")[:depth], "__init__.py"]), "")
        made.writestr(f"{PACKAGE}/core/__init__.py", "")
        made.writestr(f"{PACKAGE}/core/importing.py", Path(importing.__file__).read_text())
        made.writestr(f"{PACKAGE}/wing/__init__.py", "")
        made.writestr(f"{PACKAGE}/wing/room.py", ROOM)
    done = subprocess.run([sys.executable, "-I", "-c", COUNT, str(archive)], capture_output=True, text=True, check=True)
    compiled, *names = json.loads(done.stdout)
    assert compiled.count("wing/room.py") == 1 and compiled.count("wing/__init__.py") == 1, compiled
    assert compiled.count("core/importing.py") >= 1, compiled
    assert names == [f"{archive}/{PACKAGE}/wing/room.py"] * 3


def test_rooms_in_folders_and_other_modules_are_imported_by_python() -> None:
    assert importing.Finder.find_spec(f"{importing.PACKAGE}.core.errors", [str(Path(importing.__file__).parent)]) is None
    assert importing.Finder.find_spec("json", None) is None
