"""Every playbook of docs/router.md runs from the installed archive, on two replicas behind an edge with a certificate."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bed import Bed
from installed import Installed
from replicas import BACKEND, EDGE_IMAGE, ROUTER_IMAGE, TOKEN, make_certificate

UPGRADED = ROUTER_IMAGE + "-upgraded"
SETUP = """
- hosts: all
  gather_facts: false
  tasks:
    - anvil.serving.anvil_plan:
      register: anvil
    - ansible.builtin.include_role: {name: anvil.serving.router}
"""
SERVE = {"engine": "llama_cpp", "image": "anvil.local/llama-server:1", "model": "/m", "served_name": "fake", "port": 9000}
CONTAINERS = ["anvil-router-1", "anvil-router-2", "anvil-router-edge"]
PROFILE_ROW = {"tier": "heavy", "work_class": "planning", "decision": "allow", "quality_score": 0.9, "sample_n": 4}


@dataclass
class Operator:
    """An operator who runs playbooks in a folder of their own."""

    bed: Bed
    folder: Path
    installed: Installed
    token: str = TOKEN

    def command(self, names: str, *more: str) -> list[str]:
        paths = [f"anvil.serving.{name}" if name != "setup" else "setup.yml" for name in names.split()]
        return [str(Path(sys.executable).with_name("ansible-playbook")), *paths, "-i", str(self.folder / "hosts.yml"), *more]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.installed.environment,
            "PWD": str(self.folder),
            "ROUTER_TOKEN": self.token,
            "USER": "tester",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
        }

    def play(self, names: str, *more: str) -> str:
        """Run playbooks in one command (faster than one each) and return the output. They must succeed and not show the token."""
        done = self.attempt(names, *more)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        return done.stdout

    def attempt(self, names: str, *more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(names, *more), env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert TOKEN not in done.stdout + done.stderr and self.token not in done.stdout + done.stderr
        return done

    def play_on_terminal(self, name: str, *more: str) -> tuple[str, str]:
        """Run a playbook on a terminal with its output redirected to a file. Returns the terminal's text and the file's text."""
        master, slave = pty.openpty()
        log = self.folder / "output.log"
        argv = self.command(name, *more)
        with log.open("wb") as output:
            started = subprocess.Popen(
                argv, env=self.environment, cwd=self.folder, stdin=slave, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=lambda: os.login_tty(slave) or os.dup2(output.fileno(), 1)
            )  # fmt: skip
            os.close(slave)
            shown = b""
            while True:
                try:
                    piece = os.read(master, 4096)
                except OSError:  # no process has the terminal open any more
                    break
                if not piece:
                    break
                shown += piece
        assert started.wait(30) == 0, log.read_text() + shown.decode()
        os.close(master)
        return shown.decode(), log.read_text()

    def live(self) -> str:
        """The revision that both replicas read."""
        found = {self.bed.docker("exec", one, "readlink", f"/etc/anvil/.anvil/live/{one}") for one in CONTAINERS[:2]}
        assert len(found) == 1, found
        return found.pop().rpartition("/")[2]

    def read(self, name: str) -> str:
        return self.bed.docker("exec", "anvil-router-1", "cat", f"/etc/anvil/.anvil/live/anvil-router-1/{name}")

    def names(self) -> list[str]:
        return sorted(self.bed.docker("ps", "--all", "--format", "{{.Names}}").split())

    def started(self) -> list[str]:
        return [self.bed.docker("inspect", "--format", "{{.State.StartedAt}}", name) for name in CONTAINERS]


@pytest.fixture(scope="module")
def operator(bed: Bed, installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    folder.chmod(0o755)
    make_certificate(folder / "tls", "router.example")
    variables = {
        "anvil_root": str(folder / "anvil"),
        "anvil_secrets": {"router_token": "{{ lookup('ansible.builtin.env', 'ROUTER_TOKEN') }}"},
        "anvil_serves": {"heavy": {**SERVE, "container": "backend", "args": ["-c", "4096"]}},
        "anvil_router": {
            "image": "{{ router_image | default('" + ROUTER_IMAGE + "') }}",
            "publish": "127.0.0.1:8124",
            "replicas": "{{ router_replicas | default(2) }}",
            "profile": [PROFILE_ROW],
        },
        "anvil_edge": {"image": EDGE_IMAGE, "tls": {"certificate": str(folder / "tls/edge.pem")}},
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    folder.joinpath("hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"here": {}}, "vars": variables}}))
    folder.joinpath("setup.yml").write_text(SETUP)
    bed.start_engine()
    bed.clear()
    bed.docker("network", "create", "anvil")
    bed.docker("run", "-d", "--name", "backend", "--network", "anvil", "--entrypoint", "python3", ROUTER_IMAGE, "-c", BACKEND)
    made = Operator(bed, folder, installed)
    made.play("setup")
    yield made
    bed.clear()
    bed.run("docker", "image", "rm", "--force", UPGRADED)  # absent where only some tests ran


def test_the_role_asks_the_tiers_through_the_edge_and_a_second_run_changes_nothing(operator: Operator) -> None:
    before = operator.started()
    said = operator.play("setup promote")
    assert "changed=0" in said and "Request an answer from every tier" in said
    assert operator.started() == before
    # A renewed certificate is a change of the edge.
    make_certificate(operator.folder / "tls", "renewed.example")
    assert "changed=1" in operator.play("router_reload setup", "-e", "only=edge")
    make_certificate(operator.folder / "tls", "again.example")
    assert "changed=1" in operator.play("setup") and "changed=0" in operator.play("setup")
    assert operator.started() == before


def test_read_only_playbooks_change_nothing(operator: Operator) -> None:
    before = operator.started()
    operator.bed.docker("exec", CONTAINERS[0], "sh", "-c", f"echo said {TOKEN} >/proc/1/fd/2")
    told = operator.play("router_status history router_logs router_token", "-e", "lines=200")
    for said in (
        "said <hidden>",
        '"status": "UP"',
        '"origin": "rendered"',
        "Loading success",
        '"required_by_router": true',
        "changed=0",
    ):
        assert said in told, told[-2000:]
    assert operator.started() == before


def test_the_token_is_shown_on_the_terminal_and_nowhere_else(operator: Operator) -> None:
    shown, logged = operator.play_on_terminal("router_token", "-e", "reveal=true")
    assert f"here router_token: {TOKEN}" in shown and TOKEN not in logged
    nowhere = operator.attempt("router_token", "-e", "reveal=true")
    assert nowhere.returncode != 0 and "There is no terminal" in nowhere.stdout


def test_a_token_that_clients_hold_is_rotated_only_if_requests_may_fail(operator: Operator) -> None:
    name, before = ("-e", "secret=router_token"), operator.started()
    bare = {"anvil_secrets": {}, "anvil_router": None, "anvil_edge": None, "anvil_serves": {}}
    operator.folder.joinpath("bare.yml").write_text(yaml.safe_dump({"all": {"hosts": {"bare": bare}}}))
    left_out = operator.play("rotate", *name, "-i", str(operator.folder / "bare.yml"))
    assert left_out.count("changed=0") == 2 and left_out.count("the inventory of this host has no such secret") == 1
    operator.token = "another-t0ken"
    try:
        refused = operator.attempt("rotate", *name)
        assert refused.returncode != 0 and "-e at_once=true" in refused.stdout and operator.started() == before
        assert "changed=1" in operator.play("rotate", *name, "-e", "at_once=true", "-vvv")
        assert "changed=0" in operator.play("rotate", *name)
    finally:
        operator.token = TOKEN
        operator.play("rotate", *name, "-e", "at_once=true")
    unknown = operator.attempt("rotate", "-e", "secret=another-t0ken")
    assert unknown.returncode != 0 and "The inventory of this host has router_token" in unknown.stdout
    assert "another-t0ken" not in unknown.stdout + unknown.stderr


def test_restart_and_reload(operator: Operator) -> None:
    before = operator.started()
    operator.play("router_restart")
    assert [new != old for new, old in zip(operator.started(), before, strict=True)] == [True, True, False]
    before = operator.started()
    assert "changed=2" in operator.play("router_reload")
    assert [new != old for new, old in zip(operator.started(), before, strict=True)] == [True, True, False]
    refused = operator.attempt("router_reload", "-e", "only=replica")
    assert refused.returncode != 0 and "no such part: replica" in refused.stdout


def test_promoted_files_stay_until_they_are_rolled_back_or_the_inventory_replaces_them(operator: Operator) -> None:
    quick = ("-e", "settle=0.5")
    first, files = operator.live(), {name: operator.read(name) for name in ("config.toml", "profile.json")}
    (operator.folder / "measured.json").write_text(files["profile.json"].replace("0.9", "0.4"))
    assert "changed=1" in operator.play("promote", "-e", "profile=measured.json", *quick)
    assert operator.read("config.toml") == files["config.toml"] and "0.4" in operator.read("profile.json")

    second, before = operator.live(), operator.started()
    kept = r"profile: promoted 20.* UTC by tester, kept; the inventory has another"
    told = operator.play("setup promote history", *quick)
    assert "changed=0" in told and len(re.findall(kept, told)) == 2 and '"origin": "promoted"' in told, told[-3000:]
    assert "quality_score=0.9" not in told
    told = operator.play("setup", "--check", "--diff")
    assert "changed=0" in told and re.search(kept, told) and "quality_score=0.9" in told, told[-3000:]
    assert (operator.live(), operator.started()) == (second, before)

    (operator.folder / "config.toml").write_text(
        files["config.toml"].replace("relay_timeout = 300", "relay_timeout = 320") + "\n"
    )
    assert "changed=1" in operator.play("promote", "-e", "config=config.toml", *quick)
    assert "relay_timeout = 320" in operator.read("config.toml") and "0.4" in operator.read("profile.json")
    assert "changed=1" in operator.play("rollback", *quick) and operator.live() == second != first

    told = operator.play("promote setup", "-e", "profile_from=inventory", *quick)
    assert "changed=1" in told and "kept" not in told.rpartition("PLAY [all]")[2]
    assert operator.read("profile.json") == files["profile.json"]
    # setup.yml does not replace a revision that was rolled back to by name.
    assert "changed=1" in operator.play("rollback setup", "-e", f"revision={second[:8]}", *quick) and operator.live() == second
    missing = operator.attempt("promote", "-e", "profile=nowhere.json")
    assert missing.returncode != 0 and "nowhere.json" in missing.stdout + missing.stderr


class TlsLoad(threading.Thread):
    """A client that opens a new connection for each request until it is stopped. failures: why a request had no answer."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.answers, self.failures, self.ends = 0, [], threading.Event()

    def run(self) -> None:
        body = json.dumps({"model": "heavy", "messages": [{"role": "user", "content": "hi"}]})
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        while not self.ends.wait(0.02):
            connection = http.client.HTTPSConnection("127.0.0.1", 8124, timeout=30, context=self.context)
            try:
                connection.request("POST", "/v1/chat/completions", body, headers)
                reply = connection.getresponse()
                text = reply.read()
                if reply.status == 200:
                    self.answers += 1
                else:
                    self.failures.append(f"{reply.status} {text[:100]!r}")
            except (OSError, http.client.HTTPException) as exc:
                self.failures.append(repr(exc))
            finally:
                connection.close()


def test_a_new_image_rolls_over_the_replicas_and_no_request_fails(operator: Operator) -> None:
    operator.bed.docker("create", "--name", "upgrade", ROUTER_IMAGE)
    operator.bed.docker("commit", "--change", "LABEL upgraded=1", "upgrade", UPGRADED)
    operator.bed.docker("rm", "upgrade")
    before = operator.started()
    clients = [TlsLoad() for _ in range(4)]
    for client in clients:
        client.start()
    operator.play("setup", "-e", f"router_image={UPGRADED}")
    for client in clients:
        client.ends.set()
    for client in clients:
        client.join()
    assert [failure for client in clients for failure in client.failures] == []
    assert sum(client.answers for client in clients) > 50
    assert [new != old for new, old in zip(operator.started(), before, strict=True)] == [True, True, False]
    assert "changed=0" in operator.play("setup", "-e", f"router_image={UPGRADED}")


def test_router_down_needs_confirmation_and_router_up_restores_all_containers(operator: Operator) -> None:
    before = operator.started()
    refused = operator.attempt("router_down")
    assert refused.returncode != 0 and "-e confirm=true" in refused.stdout and operator.started() == before
    assert "changed=1" in operator.play("router_down", "--check") and operator.started() == before
    assert "changed=1" in operator.play("router_down router_down", "-e", "confirm=true")
    assert operator.names() == ["backend"]
    assert "changed=1" in operator.play("router_up", "--check") and operator.names() == ["backend"]
    assert "changed=1" in operator.play("router_up router_up") and operator.names() == sorted([*CONTAINERS, "backend"])


def test_a_change_to_one_router_removes_the_replicas_and_keeps_the_edge(operator: Operator) -> None:
    one = ("-e", "router_replicas=1")
    operator.play("setup", *one, "--check")
    assert operator.names() == sorted([*CONTAINERS, "backend"])
    operator.play("setup", *one)
    assert operator.names() == ["anvil-router", "anvil-router-edge", "backend"]
    assert operator.bed.docker("exec", "anvil-router", "ls", "/etc/anvil/.anvil/live") == "anvil-router"
    before = operator.bed.docker("inspect", "--format", "{{.State.StartedAt}}", "anvil-router")
    assert "changed=2" in operator.play("setup router_reload", *one)
    assert operator.bed.docker("inspect", "--format", "{{.State.StartedAt}}", "anvil-router") != before
