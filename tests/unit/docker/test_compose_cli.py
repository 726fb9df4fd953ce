"""The plugin file that `docker compose` would run."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker import compose_cli

HOST = "unix:///engine.sock"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The user's docker folder and two system folders, all empty."""
    found = {name: tmp_path / name for name in ("user", "local", "system")}
    monkeypatch.setenv("DOCKER_CONFIG", str(found["user"]))
    monkeypatch.setattr(compose_cli, "PLUGIN_FOLDERS", (str(found["local"]), str(found["system"])))
    for folder in (found["user"] / "cli-plugins", found["local"], found["system"]):
        folder.mkdir(parents=True)
    return found


def install(folder: Path, mode: int = 0o755) -> str:
    (folder / "docker-compose").write_text("#!/bin/sh\n")
    (folder / "docker-compose").chmod(mode)
    return str(folder / "docker-compose")


def test_the_users_plugin_has_priority_over_the_systems(folders: dict[str, Path]) -> None:
    assert compose_cli.compose_command(HOST) == ["docker", "-H", HOST, "compose"]
    for folder in (folders["system"], folders["local"], folders["user"] / "cli-plugins"):
        path = install(folder)
        assert compose_cli.compose_command(HOST) == [path, "-H", HOST]


def test_a_file_without_execute_permission_is_skipped(folders: dict[str, Path]) -> None:
    install(folders["local"], 0o644)
    path = install(folders["system"])
    assert compose_cli.find_plugin() == path


def test_no_plugin_is_chosen_if_dockers_configuration_names_more_folders(folders: dict[str, Path]) -> None:
    path = install(folders["system"])
    (folders["user"] / "config.json").write_text('{"auths": {}}')
    assert compose_cli.find_plugin() == path
    (folders["user"] / "config.json").write_text('{"cliPluginsExtraDirs": ["/opt/plugins"]}')
    assert compose_cli.find_plugin() == ""
