"""`make venv` is enough for every playbook: the controller needs no package beyond requirements/site.lock."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import venv
from pathlib import Path

import pytest
from conftest import COLLECTIONS, REPO

pytestmark = pytest.mark.slow

IMPORT_ALL = """
import importlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
package = "ansible_collections.anvil.serving.plugins."
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
paths = [path for room in sys.argv[2:] for path in sorted((root / room).rglob("*.py"))]
for path in paths:
    importlib.import_module(package + ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
print(len(paths))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds what `make venv` installs, and nothing else, with the files of this one."""
    folder = tmp_path_factory.mktemp("made")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in re.findall(r"^([\w.-]+)==", (REPO / "requirements" / "site.lock").read_text(), re.MULTILINE):
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another Python
            continue
        for top in {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    script = folder / "bin" / "ansible-playbook"
    script.write_text(f"#!{folder}/bin/python\nfrom ansible.cli.playbook import main\nmain()\n")
    script.chmod(0o755)
    return folder


def call(made: Path, *words: str) -> str:
    environment = {
        "PATH": f"{made}/bin:/usr/bin:/bin",
        "HOME": str(made),
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
    }
    done = subprocess.run([f"{made}/bin/{words[0]}", *words[1:]], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_the_environment_of_the_test_holds_only_what_make_venv_installs(made: Path) -> None:
    assert call(made, "python", "-c", "import ansible, docker, pydantic; print('all')") == "all\n"
    with pytest.raises(AssertionError, match="No module named 'httpx'"):
        call(made, "python", "-c", "import httpx")


def test_every_part_of_the_controller_can_be_imported(made: Path) -> None:
    rooms = ["action", "plugin_utils", "lookup", "callback", "modules"]
    assert (
        int(call(made, "python", "-c", IMPORT_ALL, str(COLLECTIONS / "ansible_collections/anvil/serving/plugins"), *rooms)) > 40
    )


def test_every_playbook_is_understood(made: Path) -> None:
    playbooks = sorted(str(path) for path in (REPO / "playbooks").glob("*.yml"))
    read = call(made, "ansible-playbook", "--syntax-check", "-i", str(REPO / "inventory/local"), *playbooks)
    assert read.count("playbook: ") == len(playbooks)


def test_a_workflow_is_checked_and_its_project_rendered(made: Path, tmp_path: Path) -> None:
    workflow = str(REPO / "examples" / "workflows" / "linear.yaml")
    extra = {"workflow": workflow, "generate_only": True, "output": str(tmp_path)}
    words = ["-i", str(REPO / "inventory/local"), "-e", json.dumps(extra)]
    call(made, "ansible-playbook", str(REPO / "playbooks" / "workflow.yml"), *words)
    assert (tmp_path / "docker-compose.yml").exists() and (tmp_path / "workflow.yaml").exists()
