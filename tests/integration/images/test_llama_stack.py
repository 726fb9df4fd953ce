"""llama.cpp end to end: discovery of a folder with fixed ports, profiles, one server with several models, external servers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from bed import Bed, wait_until
from conftest import COLLECTIONS, REPO
from serving import SECRET, Field, actions, scripted

LLAMA = "anvil.local/llama-server:1"
TOKEN = "a-token-of-the-tests"


def complete(url: str, model: str, key: str = "") -> str:
    """Return the answer of a model."""
    body = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "Who are you?"}]}
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return str(json.load(reply)["choices"][0]["message"]["content"])


class Host:
    """An inventory of one host, this machine, and the playbooks on it."""

    def __init__(self, folder: Path, models: Path, **variables: Any) -> None:
        self.folder, self.models = folder, folder / "gguf"
        self.models.mkdir()
        for name in ("heavy", "fast"):
            shutil.copy(models / f"{name}.gguf", self.models)
        self.variables = folder / "host_vars" / "here"
        self.variables.mkdir(parents=True)
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"here": {"ansible_connection": "local"}}}}))
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)
        self.set_variables(
            anvil_root=str(folder / "anvil"),
            anvil_engines={"llama_cpp": {"image": LLAMA, "ready_timeout": 60}},
            discover_folder=str(self.models),
            discover_defaults={"launch": {"context": 1024, "threads": 1, "flash_attn": "auto", "mmap": False}},
            **variables,
        )

    def set_variables(self, **variables: Any) -> None:
        path = self.variables / "main.yml"
        known = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump({**known, **variables, "ansible_python_interpreter": sys.executable}))

    def play(self, name: str, *arguments: str) -> str:
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        }
        playbook = str(Path(sys.executable).with_name("ansible-playbook"))
        argv = [playbook, str(REPO / "playbooks" / name), "-i", str(self.folder / "hosts.yml"), *arguments]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        printed = done.stdout + done.stderr
        assert done.returncode == 0, printed
        return printed

    def discovered(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((self.variables / "discovered.yml").read_text())["anvil_discovered"]
        return found


@pytest.fixture
def host(clean_bed: Bed, tmp_path: Path, models: Path) -> Host:
    tmp_path.chmod(0o755)
    return Host(tmp_path, models)


def running(bed: Bed) -> dict[str, str]:
    """Container name -> id."""
    rows = bed.docker("ps", "--format", "{{.Names}} {{.ID}}").splitlines()
    return dict(row.split() for row in rows)


def test_a_folder_becomes_serves_and_a_profile_selects_which_run(clean_bed: Bed, host: Host) -> None:
    stranger = ["run", "--detach", "--name", "stranger", "--publish", "127.0.0.1:8080:8080", "-v", f"{host.models}:/m:ro"]
    clean_bed.docker(*stranger, LLAMA, "--model", "/m/fast.gguf", "--port", "8080", "-c", "512")
    host.play("discover.yml")
    first = host.discovered()
    assert {name: serve["port"] for name, serve in first.items()} == {"fast-f32": 8081, "heavy-f32": 8082}
    assert "changed=0" in host.play("discover.yml") and host.discovered() == first

    # One more model, whose name sorts first: the ports of the others do not change.
    shutil.copy(host.models / "fast.gguf", host.models / "another.gguf")
    (host.models / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0")
    printed = host.play("discover.yml")
    assert "broken.gguf" in printed and "not a usable GGUF file" in printed
    second = host.discovered()
    assert second == {**first, **{name: serve for name, serve in second.items() if name not in first}} and len(second) == 3
    (extra,) = set(second) - set(first)
    assert second[extra]["port"] == 8083

    host.set_variables(
        anvil_profiles={"development": ["fast-f32"], "production": ["fast-f32", "heavy-f32"]}, anvil_profile="production"
    )
    host.play("up.yml")
    up = running(clean_bed)
    assert set(up) == {"stranger", "anvil-fast-f32", "anvil-heavy-f32"}
    assert "the fast tier answers" in complete("http://127.0.0.1:8081", "fast-f32")
    assert "the heavy tier answers" in complete("http://127.0.0.1:8082", "heavy-f32")

    host.set_variables(anvil_profile="development")
    assert "changed=1" in host.play("up.yml", "--check") and running(clean_bed) == up
    assert "changed=1" in host.play("up.yml")
    assert running(clean_bed) == {name: up[name] for name in ("stranger", "anvil-fast-f32")}
    assert "changed=0" in host.play("up.yml")

    # down.yml stops only our serves.
    host.play("down.yml")
    assert set(running(clean_bed)) == {"stranger"}
    assert "the fast tier answers" in complete("http://127.0.0.1:8080", "any")


def test_discovery_refuses_a_folder_that_would_hide_a_file_of_variables(host: Host, tmp_path: Path) -> None:
    (tmp_path / "host_vars" / "here.yml").write_text("{}")
    with pytest.raises(AssertionError, match="would no longer be read"):
        host.play("discover.yml")


def test_one_server_of_several_models_answers_by_name(field: Field) -> None:
    several = {name: {"model": f"/models/{name}.gguf", "ctx-size": "1024", "threads": "1"} for name in ("heavy", "fast")}
    field.edit("heavy", models=several, served_name="heavy", args=("--models-max", "1", "--sleep-idle-seconds", "60"))
    del field.serves["fast"]
    assert actions(field.foresee())["heavy"][0] == "create"
    assert "the heavy tier answers" in complete("http://127.0.0.1:30002", "heavy")
    assert "the fast tier answers" in complete("http://127.0.0.1:30002", "fast")
    assert actions(field.foresee())["heavy"] == ("none", [])
    # The settings of a model are in a mounted file; a change of it is a reason as much as a changed argument.
    field.edit("heavy", models={**several, "fast": {**several["fast"], "ctx-size": "2048"}})
    assert actions(field.foresee())["heavy"] == ("recreate", ["mounted_file"])


def test_keys_from_a_file_are_accepted_and_a_changed_file_recreates_the_serve(field: Field, tmp_path: Path) -> None:
    del field.serves["fast"]
    keys = tmp_path / "keys"
    keys.write_text("a-further-key\n")
    serve = field.serves["heavy"]
    mounts = (*serve.mounts, Mount("bind", str(keys), "/run/keys", True))
    arguments = (*serve.args, "--api-key-file", "/run/keys")
    field.edit("heavy", args=arguments, mounts=mounts, api_key="key", secrets={"LLAMA_API_KEY": "key"})
    assert field.run()["serves"]["heavy"]["ready"]
    for key in (SECRET, "a-further-key"):
        assert "the heavy tier answers" in complete("http://127.0.0.1:30002", "heavy", key)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        complete("http://127.0.0.1:30002", "heavy", "another")
    keys.write_text("a-newer-key\n")
    assert actions(field.foresee())["heavy"] == ("recreate", ["mounted_file"])
    assert "the heavy tier answers" in complete("http://127.0.0.1:30002", "heavy", "a-newer-key")


def test_a_serve_that_lists_its_model_and_completes_nothing_is_not_ready(field: Field) -> None:
    del field.serves["fast"]
    field.edit("heavy", **scripted(), warmup=True, interval=1, ready_timeout=10)
    failed = field.run()
    assert failed["failed"], failed
    assert "the first request (chat) got" in failed["msg"] and "not ready after 10 s" in failed["msg"], failed["msg"]
    field.edit("heavy", warmup=False)
    assert not field.run()["failed"]


def test_ready_is_a_serve_that_has_completed_a_token(field: Field) -> None:
    del field.serves["fast"]
    field.edit("heavy", warmup=True)
    assert field.run()["serves"]["heavy"]["ready"]
    logs = field.bed.run("docker", "logs", "bed-heavy")
    assert "stop processing" in logs.stdout + logs.stderr


def test_a_server_on_the_host_is_reached_through_the_router_and_left_alone(clean_bed: Bed, host: Host) -> None:
    ours = ["run", "--detach", "--name", "somebody", "--network", "host", "-v", f"{host.models}:/m:ro", LLAMA]
    clean_bed.docker(*ours, "--model", "/m/heavy.gguf", "--alias", "qwen", "--port", "8091", "-c", "1024")
    wait_until("the host's own server", lambda: "qwen" in _models("http://127.0.0.1:8091"))
    host.set_variables(
        anvil_secrets={"router_token": "{{ lookup('ansible.builtin.file', inventory_dir ~ '/token') }}"},
        anvil_external={"mac": {"port": 8091, "served_name": "qwen"}},
        anvil_router={"image": "anvil.local/router:0.13.2"},
    )
    before = clean_bed.docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "somebody")
    host.play("site.yml")
    assert "the heavy tier answers" in complete("http://127.0.0.1:8000", "mac", TOKEN)
    assert "changed=0" in host.play("site.yml")
    assert clean_bed.docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "somebody") == before
    host.play("down.yml")
    assert "somebody" in running(clean_bed)
    words = ("mac (external)", "answers", "not managed", "8091", "qwen")
    assert [line for line in host.play("status.yml").splitlines() if all(word in line for word in words)]
    clean_bed.docker("rm", "--force", "somebody")
    told = host.play("status.yml")
    assert "silent" in told and "mac: no answer from http://" in told
    with pytest.raises(AssertionError, match="mac"):
        host.play("site.yml")


def _models(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=2) as reply:
            return str(reply.read())
    except OSError:
        return ""
