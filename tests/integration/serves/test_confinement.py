# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the containers of serves may do on a real Docker Engine, and that images with needs of their own still start."""

from __future__ import annotations

import os
import shutil

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from serving import PYTHON_IMAGE, SERVER, Field, actions

# An entrypoint as many images have one: root gives a folder to a user and becomes that user.
BECOMES_USER = "import os; os.chown('/tmp', 1234, 1234); os.setgid(1234); os.setuid(1234)\n" + SERVER


def test_root_in_a_container_reads_the_weights_of_another_user_and_may_do_nothing_else(field: Field) -> None:
    """vLLM's image runs as root, and the weights often belong to the user who fetched them."""
    private = field.root.parent / "private"
    shutil.copytree(field.models, private)
    for path in [private, *private.rglob("*")]:
        os.chown(path, 1234, 1234)
        path.chmod(0o700 if path.is_dir() else 0o600)
    mounts = (Mount("bind", str(private), "/models", read_only=True),)
    field.edit("heavy", user="0:0", mounts=mounts, cap_add=ENGINES["vllm"].cap_add)
    field.edit("fast", user="0:0", mounts=mounts, ready_timeout=4)
    answer = field.run()
    assert answer["serves"]["heavy"]["ready"] and not answer["serves"]["fast"]["ready"]
    status = field.bed.docker("exec", "bed-heavy", "cat", "/proc/1/status")
    rights = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert int(rights["CapBnd"], 16) == int(rights["CapEff"], 16) == 1 << 1  # CAP_DAC_OVERRIDE
    assert rights["NoNewPrivs"] == "1"


@pytest.mark.parametrize("engine", ["sglang", "trtllm", "custom"])
def test_an_image_whose_entrypoint_changes_its_user_still_starts(field: Field, engine: str) -> None:
    """A stand-in for images that no machine here can run: the entrypoint does what theirs may do."""
    confined = {"cap_drop": ("ALL",), "cap_add": ENGINES[engine].cap_add, "user": "0:0"}
    field.edit("heavy", image=PYTHON_IMAGE, entrypoint=("python3", "-c", BECOMES_USER), args=(), **confined)
    assert actions(field.run(serves=["heavy"]))["heavy"][0] == "create"
    assert "1234" in field.bed.docker("top", "bed-heavy", "-eo", "pid,uid")


def test_programs_that_are_compiled_at_run_time_can_be_executed_in_memory(field: Field) -> None:
    field.edit("heavy", tmpfs=("/tmp:exec", "/scratch:exec,mode=1777"))
    assert actions(field.run(serves=["heavy"]))["heavy"][0] == "create"
    for folder in ("/tmp", "/scratch"):
        script = f"cp $(command -v env) {folder}/x && {folder}/x true && echo runs"
        assert "runs" in field.bed.docker("exec", "bed-heavy", "sh", "-c", script)
    assert field.run(serves=["heavy"])["changed"] is False
