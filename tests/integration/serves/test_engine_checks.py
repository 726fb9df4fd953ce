"""The engine in the image checks a command line before the running container is replaced."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import MEMORY_FILE
from serving import SECRET, Field


def containers(field: Field) -> set[str]:
    return set(field.bed.docker("ps", "--all", "--format", "{{.Names}}").split())


def count_created(field: Field, since: str) -> int:
    told = ["--since", since, "--until", str(int(time.time()) + 1), "--filter", "event=create", "--format", "{{.ID}}"]
    return len(field.bed.docker("events", *told).split())


def test_a_refused_command_line_is_reported_and_the_old_container_keeps_serving(field: Field) -> None:
    """One run reports every kind of refusal at once: an unknown option, a bad value, a bad variable."""
    assert not field.run()["failed"]
    started, memory = field.bed.started(), field.root / "anvil-serves" / MEMORY_FILE
    remembered = memory.read_text()
    assert memory.stat().st_mode & 0o777 == 0o600 and remembered.count('"') == 8, remembered
    good = field.serves["heavy"]
    field.edit("heavy", args=(*good.args, "--bogus", "1"))
    field.edit("fast", environment={"LLAMA_ARG_CTX_SIZE": "many"})
    refused = field.run()
    assert refused["failed"] and not refused["changed"], refused
    assert "the engine refuses the command line: --bogus" in refused["msg"] and "invalid argument: --bogus" in refused["msg"]
    assert "the engine refuses the command line: LLAMA_ARG_CTX_SIZE" in refused["msg"] and "(value: many)" in refused["msg"]
    assert "correct or remove --bogus in anvil_serves.heavy.args" in refused["msg"]
    assert "correct or remove LLAMA_ARG_CTX_SIZE in anvil_serves.fast.environment" in refused["msg"]
    assert field.bed.started() == started and memory.read_text() == remembered
    assert containers(field) == {"bed-heavy", "bed-fast"}, "a side container stayed"

    before = field.files()
    asked = field.run(check=True, engine_check="always")
    assert asked["failed"] and "--bogus" in asked["msg"] and field.files() == before
    assert not field.run(check=True)["failed"], "check mode asks nobody unless it is requested"

    field.edit("heavy", args=(*good.args, "--cache-type-k", "q9"))
    field.edit("fast", environment={"PLAIN": "1"})
    refused = field.run()
    assert "--cache-type-k: " not in refused["msg"] and "Unsupported cache type: q9" in refused["msg"], refused["msg"]
    assert "allowed values" in refused["msg"] and field.bed.started() == started


def test_a_command_line_is_checked_once_before_the_first_start(field: Field) -> None:
    del field.serves["fast"]
    good, since = field.serves["heavy"], str(int(time.time()))
    field.edit("heavy", args=(*good.args, "--no-such-option"))
    assert field.run()["failed"] and containers(field) == set(), "no restart loop"
    field.edit("heavy", args=good.args)
    assert not field.run()["failed"]
    created = count_created(field, since)
    assert field.run()["changed"] is False
    field.run("down")
    assert field.run()["serves"]["heavy"]["ready"]
    assert count_created(field, since) == created + 1, "the same command line was asked for twice"


def test_a_check_has_the_mounted_files_and_no_secrets_and_an_impossible_check_is_a_warning(
    field: Field, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    del field.serves["fast"]
    good = field.serves["heavy"]
    tmp_path.chmod(0o755)
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "chat.jinja").write_text("{{ messages[0].content }}")
    mounts = (*good.mounts, Mount("bind", str(templates), "/templates", True))
    words = ("--jinja", "--chat-template-file", "/templates/chat.jinja", "--api-key", SECRET)
    field.edit("heavy", args=(*good.args, *words), mounts=mounts, api_key="key")
    done = field.run(secrets={"key": SECRET})
    said = [str(row) for row in done.get("warnings") or [] if "serve heavy" in str(row)]
    assert not done["failed"] and "command line" not in str(said), (said, done["msg"])
    words = ("--jinja", "--chat-template-file", "/templates/other.jinja", "--api-key", SECRET)
    field.edit("heavy", args=(*good.args, *words), ready_timeout=5)
    failed = field.run(secrets={"key": SECRET})
    said = str(failed.get("warnings")) + capfd.readouterr().err
    assert "may refuse its command line" in said and "other.jinja" in said, said
    field.edit("heavy", args=good.args, entrypoint=("sh", "-c", 'exec llama-server "$0" "$@"'), api_key="", mounts=good.mounts)
    field.run("down")
    done = field.foresee()
    assert "starts no program that is known here" in str(done.get("warnings")) + capfd.readouterr().err, done
