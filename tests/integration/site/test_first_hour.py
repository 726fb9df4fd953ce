# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first hour of a new user, as they type it: from a host without an inventory to an answer in three commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bed import FAKOLI_DARK, RTX_5090, Bed, Gpu
from conftest import COLLECTIONS, REPO

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


class NewUser:
    """A user who stands in a folder of their own, with the playbooks of the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("playbooks", "site.yml"):
            (folder / name).symlink_to(REPO / name)

    def type(self, command: str, fails: bool = False) -> str:
        assert command.startswith("ansible-playbook ")
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "HOME": str(self.folder / "home"),
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "PATH": f"{PLAYBOOK.parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(shlex.split(command), env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        assert bool(done.returncode) is fails, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout

    def files(self) -> dict[str, str]:
        return {str(path.relative_to(self.folder)): path.read_text() for path in (self.folder / "inventory").rglob("*.yml")}


@pytest.fixture
def user(clean_bed: Bed, tmp_path: Path) -> NewUser:
    tmp_path.chmod(0o755)
    (tmp_path / "home").mkdir()
    return NewUser(tmp_path)


def test_three_commands_lead_from_a_host_to_an_answer_and_a_second_reading_shows_what_differs(
    clean_bed: Bed, user: NewUser, models: Path
) -> None:
    shutil.copy(models / "fast.gguf", user.folder / "hello.gguf")
    init = f"ansible-playbook playbooks/init.yml -i my-host, -c local -e ansible_python_interpreter={sys.executable}"
    predicted = user.type(init + " --check")
    assert user.files() == {} and not list((user.folder / "home").rglob("router-token"))

    begin = time.monotonic()
    printed = user.type(init)
    assert re.findall(r"(\S+): written", printed) == re.findall(r"(\S+): would be written", predicted)
    discover, site = [line.strip() for line in printed.rpartition("Next:\n")[2].splitlines()]
    user.type(discover.replace("/srv/models", str(user.folder)))
    answered = user.type(site)
    seconds = time.monotonic() - begin
    assert "the fast tier answers" in answered
    assert seconds <= 60, f"{seconds:.0f} s from init to the first answer"

    token = user.folder / "home/.config/anvil/my-host/router-token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and token.read_text().strip() not in printed + answered
    written, secret = user.files(), token.read_text()
    assert {Path(path).name for path in written} == {
        "hosts.yml", "main.yml", "gpus.yml", "serves.yml", "router.yml", "secrets.yml", "discovered.yml"
    }  # fmt: skip
    assert all(gpu.uuid in written["inventory/my-host/host_vars/my-host/gpus.yml"] for gpu in FAKOLI_DARK)

    again = user.type(init)
    assert "as they are written there" in again and "my-host: nothing to do" in again
    new = Gpu("GPU-99999999-1771-414c-e116-a39138798a8c", "NVIDIA L4", 23034)
    clean_bed.write_gpus([replace(gpu, driver="590.1") for gpu in (RTX_5090, new)])
    differs = user.type(init)
    assert "new card: NVIDIA L4" in differs and "driver: 580.95.05 was read" in differs
    assert "+  l4:  # NVIDIA L4" in differs and "is not on the host any more" in differs
    assert user.files() == written and token.read_text() == secret


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-i 192.0.2.1, -e ansible_connection=local", "is no name for a host"),
        ("-i a,b -e name=c", "one host at a time"),
    ],
)
def test_a_name_that_is_none_is_refused_with_what_to_type(user: NewUser, words: str, message: str) -> None:
    more = f"-e ansible_connection=local -e ansible_python_interpreter={sys.executable}"
    assert message in user.type(f"ansible-playbook playbooks/init.yml {words} {more}", fails=True)
    assert user.files() == {}


def test_output_json_is_one_document_with_nothing_around_it(user: NewUser) -> None:
    init = (
        f"ansible-playbook playbooks/init.yml -i my-host, -c local -e ansible_python_interpreter={sys.executable} -e output=json"
    )
    made = json.loads(user.type(init))
    assert made["failed"] is False and made["hosts"]["my-host"]["outcome"] == "changed"
    assert [one["what"] for one in made["hosts"]["my-host"]["changes"]][-1] == "hosts.yml"
    (status,) = json.loads(user.type("ansible-playbook playbooks/status.yml -i inventory/my-host -e output=json", fails=True))[
        "hosts"
    ].values()
    assert "the router has no tier" in status["failures"][0]
    (user.folder / "inventory/my-host/host_vars/my-host/router.yml").unlink()
    shown = json.loads(user.type("ansible-playbook playbooks/status.yml -i inventory/my-host -e output=json"))
    assert shown["hosts"]["my-host"]["results"][0][0]["host"] == "my-host"
