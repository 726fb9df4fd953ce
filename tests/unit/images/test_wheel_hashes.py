# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every package of our images is locked with the hashes of its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.images.wheels import PIP, WheelSet, add_hashes, build_pip_argv

REPO = Path(__file__).resolve().parents[3]
LOCKED = {
    "roles/workflow/files/requirements.txt": "server",
    "roles/workflow/files/requirements-postgres.txt": "server-postgres",
    "roles/workflow/files/mlflow-requirements.txt": "mlflow",
    "templates/images/aiperf-requirements.txt": "aiperf",
    "requirements/router.txt": "router",
    "requirements/router-gateway.txt": "router-gateway",
    "requirements/pip.txt": "pip",
    "requirements/site.txt": "site",
}
LOCK = """
Ruamel.YAML==0.18 ; python_version < "3.12" \\
    --hash=sha256:aa \\
    --hash=sha256:bb
pip==26.0 --hash=sha256:cc
"""


@pytest.mark.parametrize("path", LOCKED)
def test_every_pin_has_its_hashes(path: str) -> None:
    lock = (REPO / "requirements" / f"{LOCKED[path]}.lock").read_text()
    assert "://" not in lock
    lines = add_hashes((REPO / path).read_text(), [lock]).splitlines()
    assert lines and all("--hash=sha256:" in line for line in lines)


def test_pip_itself_is_locked() -> None:
    assert add_hashes(PIP, [(REPO / "requirements/pip.lock").read_text()]).startswith(PIP + " --hash=")


def test_hashes_are_found_by_the_normalised_name_and_the_version() -> None:
    assert add_hashes("# comment\n\nruamel_yaml[jinja2]==0.18\npip==26.0\n", [LOCK]).splitlines() == [
        "ruamel_yaml[jinja2]==0.18 --hash=sha256:aa --hash=sha256:bb",
        "pip==26.0 --hash=sha256:cc",
    ]
    with pytest.raises(AnvilError, match=r"pip==26\.1 has no hash"):
        add_hashes("pip==26.1", [LOCK])


def test_locked_wheels_are_fetched_with_their_hashes_under_the_name_that_they_had() -> None:
    plain, locked = (WheelSet("server", "h11==0.16.0", "3.13", "x86_64", locks) for locks in ((), (LOCK,)))
    assert "--require-hashes" in build_pip_argv(locked, "r.txt", "t") and PIP not in build_pip_argv(locked, "r.txt", "t")
    assert "--require-hashes" not in build_pip_argv(plain, "r.txt", "t") and plain.file == locked.file
