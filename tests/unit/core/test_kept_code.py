# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The code that a host keeps: who may write to it, a run that is killed while it writes, and what is removed."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import pwd
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.programs import kept_code

pytestmark = pytest.mark.slow

PROGRAM = Path(kept_code.__file__).read_text()
LOADER = "def run_module(json_params, module_fqn, **_more):\n    print(module_fqn, json_params.decode(), __file__)\n"
FILES = {
    **{f"ansible/{folder}__init__.py": "" for folder in ("", "module_utils/", "module_utils/_internal/")},
    "ansible/module_utils/_internal/_ansiballz/__init__.py": "",
    "ansible/module_utils/_internal/_ansiballz/_loader.py": LOADER,
    "too_new.py": "match = = 1\n",  # does not compile here
}
CODE = kept_code.hash_sources({name: text.encode() for name, text in FILES.items()})
NAME = f"{CODE}-{sys.implementation.cache_tag}.zip"
# A run on a host whose user has this home; a prelude may change what the program finds there.
RUN = """
import os, pwd, signal, sys, zipfile
real = pwd.getpwuid(os.geteuid())
pwd.getpwuid = lambda user: pwd.struct_passwd([*real[:5], sys.argv[1], real[6]])
"""


def pack(files: dict[str, str] = FILES) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return base64.b64encode(packed.getvalue()).decode()


def start(home: Path, sources: str = "", prelude: str = "") -> subprocess.Popen[str]:
    call = f"main(code={CODE!r}, module='the.module', parameters='{{}}', profile='legacy', sources={sources!r})"
    text = f"{PROGRAM.replace('from __future__ import annotations', RUN + prelude)}\n{call}\n"
    made = subprocess.Popen(
        [sys.executable, "-I", "-", str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert made.stdin is not None
    made.stdin.write(text)
    made.stdin.close()
    made.stdin = None
    return made


def run(home: Path, sources: str = "", prelude: str = "") -> str:
    """What the program printed; "" if it was killed."""
    with start(home, sources, prelude) as running:
        printed, errors = running.communicate(timeout=60)
    assert not errors, errors
    return printed


def answer(printed: str) -> str:
    return str(json.loads(printed)[kept_code.ANSWER])


def kept(home: Path) -> Path:
    return home / ".ansible" / "anvil-serving"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o755)
    entry = pwd.struct_passwd(["name", "x", os.geteuid(), 0, "", str(path), "/bin/sh"])
    monkeypatch.setattr(kept_code.pwd, "getpwuid", lambda _user: entry)
    return path


def test_the_code_is_sent_once_and_runs_compiled(home: Path) -> None:
    assert answer(run(home)) == "absent"
    assert not (home / ".ansible").exists()
    first = run(home, pack())
    archive = kept(home) / NAME
    # Its name ends in .pyc: Python read the compiled code.
    assert first == f"the.module {{}} {archive}/ansible/module_utils/_internal/_ansiballz/_loader.pyc\n"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (kept(home), archive)] == [0o700, 0o600]
    before = archive.stat()
    assert run(home) == first == run(home, pack())
    assert archive.stat() == before
    assert os.listdir(kept(home)) == [NAME]


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o775), lambda path: path.chmod(0o707)])
@pytest.mark.parametrize("where", [".", ".ansible", ".ansible/anvil-serving", f".ansible/anvil-serving/{NAME}"])
def test_code_that_others_can_change_is_not_run(home: Path, where: str, spoil: Callable[[Path], object]) -> None:
    run(home, pack())
    spoil(home / where)
    assert [answer(run(home)), answer(run(home, pack()))] == ["unusable"] * 2


@pytest.mark.parametrize("where", [".", ".ansible", ".ansible/anvil-serving", f".ansible/anvil-serving/{NAME}"])
def test_a_symlink_is_not_followed(home: Path, where: str) -> None:
    run(home, pack())
    path = home / where
    path.rename(home.parent / "elsewhere")
    path.symlink_to(home.parent / "elsewhere")
    assert answer(run(home, pack() if where.endswith(NAME) else "")) == "unusable"


def test_folders_of_another_user_are_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_code.find_folder(create=True)
    mine = os.geteuid()
    monkeypatch.setattr(kept_code.os, "geteuid", lambda: mine + 1)
    with pytest.raises(kept_code.UntrustedError, match=r"can be changed by others"):
        kept_code.find_folder(create=False)


@pytest.mark.parametrize("home_is", ["missing", "a file", "read-only"])
def test_a_home_where_nothing_can_be_kept(tmp_path: Path, home_is: str) -> None:
    path, prelude = tmp_path / "home", ""
    if home_is == "a file":
        path.touch()
    if home_is == "read-only":  # as root, the mode of a folder stops nothing
        path.mkdir()
        prelude = "def no(*_more): raise OSError(30, 'Read-only file system')\nos.mkdir = no\n"
    assert answer(run(path, pack(), prelude)) == "unusable"


def test_sources_of_another_version_are_not_kept_under_this_name(home: Path) -> None:
    assert answer(run(home, pack({**FILES, "more.py": ""}))) == "unusable"
    assert os.listdir(kept(home)) == []


def test_a_full_disk_leaves_nothing_behind(home: Path) -> None:
    prelude = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
    assert answer(run(home, pack(), prelude)) == "unusable"
    assert os.listdir(kept(home)) == []


STEPS = """
left = int(%d)
def step(call):
    def made(*arguments, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)
    return made
for name in ("mkdir", "open", "fsync", "replace"):
    setattr(os, name, step(getattr(os, name)))
for name in ("writestr", "close"):
    setattr(zipfile.ZipFile, name, step(getattr(zipfile.ZipFile, name)))
"""


def test_killed_at_any_step_the_code_is_absent_or_whole_and_the_next_run_keeps_it(home: Path) -> None:
    killed, whole = 0, 0
    for steps in range(60):
        subprocess.run(["rm", "-rf", str(home / ".ansible")], check=True)
        printed = run(home, pack(), STEPS % steps)
        archive = kept(home) / NAME
        assert not archive.exists() or kept_code.is_whole(str(archive))
        whole += archive.exists()
        assert run(home, pack()).startswith("the.module")
        assert os.listdir(kept(home)) == [NAME]
        if printed:
            break
        killed += 1
    assert printed and killed > 10 and whole > 1


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _data: b"", lambda data: bytes(len(data))])
def test_a_damaged_file_is_written_again(home: Path, damage: Callable[[bytes], bytes]) -> None:
    run(home, pack())
    archive = kept(home) / NAME
    archive.write_bytes(damage(archive.read_bytes()))
    assert answer(run(home)) == "absent"
    assert run(home, pack()).startswith("the.module")
    assert run(home).startswith("the.module")


def test_several_runs_at_once_write_one_file(home: Path) -> None:
    running = [start(home, pack()) for _number in range(4)]
    assert all(one.communicate(timeout=60)[0].startswith("the.module") for one in running)
    assert os.listdir(kept(home)) == [NAME]


def make_others(folder: str, ages: dict[str, float]) -> None:
    for name, days in ages.items():
        path = Path(folder, name)
        path.touch()
        os.utime(path, (time.time() - days * 86400,) * 2)


def test_only_code_that_is_not_in_use_is_removed_the_oldest_first(home: Path) -> None:
    folder = kept_code.find_folder(create=True)
    make_others(folder, {f"{number}.zip": number for number in range(kept_code.KEPT + 2)} | {"month.zip": 40, "notes.txt": 40})
    used = kept_code.lock_for_use(f"{folder}/8.zip")
    os.utime(used, (time.time() - 8 * 86400,) * 2)
    kept_code.keep_code(folder, NAME, pack())
    assert sorted(os.listdir(folder)) == sorted([NAME, "notes.txt", "8.zip", *(f"{number}.zip" for number in range(7))])
    os.close(used)
    kept_code.keep_code(folder, NAME, pack())
    assert "8.zip" not in os.listdir(folder)


def test_code_in_use_counts_as_used_now(home: Path) -> None:
    folder = kept_code.find_folder(create=True)
    make_others(folder, {"old.zip": 20})
    os.close(kept_code.lock_for_use(f"{folder}/old.zip"))
    assert os.stat(f"{folder}/old.zip").st_mtime > time.time() - 60


def test_code_that_is_being_removed_is_absent(home: Path) -> None:
    folder = kept_code.find_folder(create=True)
    make_others(folder, {"old.zip": 1})
    with open(f"{folder}/old.zip") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            kept_code.lock_for_use(f"{folder}/old.zip")


def test_a_run_that_writes_for_too_long_is_not_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Any = kept_code.find_folder(create=True)
    monkeypatch.setattr(kept_code, "LOCK_TIMEOUT", 0.1)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        kept_code.keep_code(folder, NAME, pack())
    os.close(lock)
