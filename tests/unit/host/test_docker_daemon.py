"""daemon.json: what merging keeps, adds and replaces; what is broken is not touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_daemon import (
    DaemonSettings,
    converge_daemon,
    merge_settings,
    read_settings,
)
from hypothesis import given
from hypothesis import strategies as st

SETTINGS = st.recursive(
    st.dictionaries(
        st.text(max_size=3), st.one_of(st.integers(), st.booleans(), st.lists(st.integers(), max_size=3)), max_size=4
    ),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def test_what_is_there_stays() -> None:
    old = {"dns": ["10.0.0.1"], "runtimes": {"runsc": {"path": "runsc"}}, "log-level": "info", "insecure-registries": ["a:5000"]}
    new = {"runtimes": {"nvidia": {"path": "n"}}, "log-level": "warn", "insecure-registries": ["b:5000", "a:5000"]}
    assert merge_settings(old, new) == {
        "dns": ["10.0.0.1"],
        "runtimes": {"runsc": {"path": "runsc"}, "nvidia": {"path": "n"}},
        "log-level": "warn",
        "insecure-registries": ["a:5000", "b:5000"],
    }


@given(SETTINGS, SETTINGS)
def test_merging_twice_changes_nothing_more(old: dict[str, Any], new: dict[str, Any]) -> None:
    once = merge_settings(old, new)
    assert merge_settings(once, new) == once and set(once) == set(old) | set(new)


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_no_file_holds_no_settings(text: str | None) -> None:
    assert read_settings("/etc/docker/daemon.json", text) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1,}', "# nothing"])
def test_a_broken_file_is_an_error(text: str) -> None:
    with pytest.raises(AnvilError) as caught:
        read_settings("/etc/docker/daemon.json", text)
    assert "nothing was merged" in str(caught.value)


def test_a_restart_that_says_nothing_is_told_by_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    wanted = DaemonSettings(str(path), {}, restart_command=("sh", "-c", "exit 3"), force_restart=True, timeout=1)
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        with pytest.raises(AnvilError, match="it exited with 3 and printed nothing"):
            converge_daemon(DockerEngine("unix:///no/such/socket"), wanted, False)
    assert path.read_text() == "{}"
