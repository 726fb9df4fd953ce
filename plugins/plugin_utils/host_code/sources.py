# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All code that the modules of this collection need on a host, as one zip file that is named by the sha256 of its content.

Ansible's own code for modules is part of it: otherwise each task would send and compile that. Its facts are not: no module needs
them.
"""

from __future__ import annotations

import base64
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import ansible.module_utils
from ansible.release import __author__, __version__

PLUGINS = Path(__file__).resolve().parents[2]
ANSIBLE = Path(ansible.module_utils.__file__).parent
PACKAGE = "ansible_collections/anvil/serving/plugins"
# The packages above the code. Those of Ansible are as Ansible packs them: an Ansible on the host adds what is not in the file.
EXTENDED = "from pkgutil import extend_path\n__path__=extend_path(__path__,__name__)\n"
PACKAGES = {
    "ansible/__init__.py": f'{EXTENDED}__version__="{__version__}"\n__author__="{__author__}"\n',
    "ansible/module_utils/__init__.py": EXTENDED,
    **{"/".join([*PACKAGE.split("/")[:depth], "__init__.py"]): "" for depth in range(1, 5)},
    f"{PACKAGE}/modules/__init__.py": "",
}


def read_sources() -> dict[str, bytes]:
    """Path in the zip file to the content of each file, sorted."""
    found = {name: text.encode() for name, text in PACKAGES.items()}
    for folder, prefix in (
        (ANSIBLE, "ansible/module_utils"),
        (PLUGINS / "module_utils", f"{PACKAGE}/module_utils"),
        (PLUGINS / "modules", f"{PACKAGE}/modules"),
    ):
        for path in folder.rglob("*.py"):
            name = path.relative_to(folder).as_posix()
            if not (folder is ANSIBLE and name.startswith("facts/")):
                found.setdefault(f"{prefix}/{name}", path.read_bytes())
    return dict(sorted(found.items()))


def pack_sources(sources: dict[str, bytes]) -> str:
    """The zip file, in base64."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sources.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return base64.b64encode(packed.getvalue()).decode()


class RunCache:
    """What the tasks of one ansible-playbook found out, in its own temporary folder: Ansible runs each task in a new process."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.join(folder, "anvil-serving")

    def remember(self, name: str, make: Callable[[], str]) -> str:
        """The text of this name; the first task makes it."""
        path = os.path.join(self.folder, name)
        try:
            return Path(path).read_text()
        except FileNotFoundError:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
        text = make()
        unfinished = f"{path}.{os.getpid()}"
        Path(unfinished).write_text(text)
        os.replace(unfinished, path)
        return text

    def recall(self, name: str) -> bool:
        """Whether there is a text of this name."""
        return os.path.exists(os.path.join(self.folder, name))
