# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes of serves: what leads to the host is refused by name, and weights are mounted read-only."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_serves
from planning import FAST, HEAVY, plan, problems


@pytest.mark.parametrize(
    "volume",
    [
        "/:/host:ro",
        "/etc:/e:ro",
        "/etc/../etc:/e:ro",
        "/var/run/docker.sock:/d",
        "/opt/anvil/anvil-router:/r:ro",
        "//proc/:/p:ro",
    ],
)
def test_a_path_that_leads_to_the_host_is_refused_with_the_way_to_open_it(volume):
    source = volume.split(":")[0]
    (problem,) = problems((FAST + "volumes", ["models:/models:ro", volume]))
    assert problem.where == "anvil_serves.fast.volumes"
    assert problem.what.startswith(f"serve fast cannot have {source}: ")
    entry = problem.hint.split("anvil_allow_mounts: ['")[1].split("'")[0]
    assert entry.endswith(":ro") == volume.endswith(":ro")
    made = plan((FAST + "volumes", ["models:/models:ro", volume]), ("anvil_allow_mounts", [entry]))
    assert [mount.source for mount in made.serves[1].mounts] == ["models", source]


def test_the_host_gets_the_list_with_the_serve_and_only_if_there_is_one():
    (made, _rest) = (render_serves(plan(("anvil_allow_mounts", ["/etc/vllm:ro", "/run/x"]))), None)
    assert made.services["fast"].anvil["allow_mounts"] == ["/etc/vllm:ro", "/run/x"]
    assert "allow_mounts" not in made.services["heavy"].anvil  # it mounts nothing
    assert "allow_mounts" not in render_serves(plan()).services["fast"].anvil


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("/etc", "anvil_allow_mounts"),
        (["etc"], "anvil_allow_mounts[0]"),
        (["/a", {"b": 1}], "anvil_allow_mounts[1]"),
        (["/a:z"], "anvil_allow_mounts[0]"),
    ],
)
def test_a_list_of_allowed_mounts_that_is_none_is_a_mistake(value, where):
    (problem,) = problems(("anvil_allow_mounts", value))
    assert problem.where == where and problem.hint


def modes(*changes):
    made = plan(*changes)
    return {mount.target: "ro" if mount.read_only else "rw" for mount in made.serves[1].mounts}, made.notes


@pytest.mark.parametrize(
    ("volume", "more", "mode"),
    [
        ("models:/models", [], "ro"),
        ("/srv/models:/models", [], "ro"),
        ("models:/models/", [], "ro"),
        ("models:/models:rw", [], "rw"),
        ("models:/", [], "rw"),
        ("models:/models", [(FAST + "args", ["--mmproj", "/models/mm.gguf", "-md", "/models/draft.gguf"])], "ro"),
        ("models:/models", [(FAST + "args", ["--slot-save-path", "/models/slots"])], "rw"),
        ("models:/models", [(FAST + "args", ["--log-file=/models/log"])], "rw"),
        ("models:/models", [(FAST + "environment", {"LLAMA_CACHE": "/models/cache"})], "rw"),
        ("models:/models", [(FAST + "environment", {"LLAMA_CACHE": "/elsewhere"})], "ro"),
        ("data:/data", [], "rw"),
    ],
)
def test_weights_are_mounted_read_only_unless_the_serve_writes_there(volume, more, mode):
    listed = [volume] if "/models" in volume or volume.endswith(":/") else [volume, "models:/models:ro"]
    found, notes = modes((FAST + "volumes", listed), *more)
    assert found[volume.split(":")[1]] == mode
    told = [note for note in notes if "holds the weights and stays writable" in note]
    assert bool(told) == (mode == "rw" and not volume.endswith(":rw") and "data" not in volume)


def test_a_cache_that_the_engine_fetches_into_stays_as_it_is_written():
    made = plan((HEAVY + "volumes", ["vllm-hfcache:/root/.cache/huggingface"]))
    assert [mount.read_only for mount in made.serves[0].mounts] == [False]


def test_weights_below_a_home_stay_writable_and_a_note_says_why():
    made = plan((FAST + "model", "/root/models/x.gguf"), (FAST + "volumes", ["/srv/home:/root"]))
    assert not made.serves[1].mounts[0].read_only
    assert any("/root holds the weights and stays writable, because it holds /root/.cache too" in note for note in made.notes)
