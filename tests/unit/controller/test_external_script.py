"""The start script of a server outside of containers. The server is a stand-in of ten lines that answers like llama-server."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import list_rendered_files, render_host
from planning import plan, problems

pytestmark = pytest.mark.slow

STAND_IN = """#!{python}
import http.server, os, sys
open({seen!r}, "w").write(repr((sys.argv[1:], os.environ.get("LLAMA_API_KEY"))))
if "--broken" in sys.argv: sys.exit("no such model")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


class Machine:
    """A home folder with a stand-in for llama-server on PATH, and the rendered script."""

    def __init__(self, folder: Path) -> None:
        self.home, self.seen = folder, folder / "seen"
        self.program = folder / "bin" / "llama-server"
        self.program.parent.mkdir()
        self.program.write_text(STAND_IN.format(python=sys.executable, seen=str(self.seen)))
        self.program.chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def write_script(self, **entry: Any) -> None:
        made = plan(("anvil_external", {"mac": {"port": self.port, "model": "/m/a model's.gguf", **entry}}))
        text = list_rendered_files(render_host(made))["external/mac.sh"]
        (self.home / "mac.sh").write_text(text)

    def run(self, verb: str, path: str = "") -> tuple[int, str]:
        environment = {"HOME": str(self.home), "PATH": path or f"{self.program.parent}:{os.environ['PATH']}"}
        argv = ["/bin/sh", str(self.home / "mac.sh"), verb]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    made = Machine(tmp_path)
    yield made
    if (tmp_path / "mac.sh").exists():
        made.run("stop")


def test_a_server_is_started_once_checked_and_stopped(machine: Machine) -> None:
    machine.write_script(args=["-c", "4096", "--jinja"], served_name="qwen")
    assert machine.run("status") == (3, "mac: does not run\n")
    code, told = machine.run("start")
    assert code == 0 and f"answers at http://127.0.0.1:{machine.port}/v1/models" in told, told
    words = ["--model", "/m/a model's.gguf", "--alias", "qwen", "--host", "127.0.0.1", "--port", str(machine.port)]
    assert machine.seen.read_text() == repr(([*words, "-c", "4096", "--jinja"], None))
    assert "runs already" in machine.run("start")[1] and machine.run("status")[0] == 0
    assert machine.run("stop") == (0, "mac: stopped\n") and machine.run("stop") == (0, "mac: does not run\n")
    log = machine.home / ".local/state/anvil-serving/mac.log"
    assert not log.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def test_a_pid_that_another_process_has_now_is_not_touched(machine: Machine) -> None:
    machine.write_script()
    folder = machine.home / ".local/state/anvil-serving"
    folder.mkdir(parents=True)
    (folder / "mac.pid").write_text(f"{os.getpid()}\nThu Jan  1 00:00:00 1970\n")
    assert machine.run("status")[0] == 3 and machine.run("stop") == (0, "mac: does not run\n")


def test_what_keeps_a_server_from_starting_is_told(machine: Machine) -> None:
    machine.write_script(args=["--broken"])
    code, told = machine.run("start")
    assert code == 1 and "ended while it started" in told and "no such model" in told
    machine.program.unlink()
    code, told = machine.run("start", path="/usr/bin:/bin")
    assert code == 1 and "llama-server is not on PATH" in told


def test_a_key_comes_from_a_file_and_stands_on_no_command_line(machine: Machine) -> None:
    machine.write_script(api_key="hf_token")
    code, told = machine.run("start")
    assert code == 1 and "put the value of hf_token (anvil_secrets) into" in told
    (machine.home / ".config/anvil-serving").mkdir(parents=True)
    (machine.home / ".config/anvil-serving/mac.key").write_text("a-key\n")
    assert machine.run("start")[0] == 0
    words, key = eval(machine.seen.read_text())
    assert key == "a-key" and "a-key" not in words


def test_any_other_server_is_started_by_its_own_command_line(machine: Machine) -> None:
    command = [str(machine.program), "--port", str(machine.port), "$(touch /x)"]
    machine.write_script(model=None, command=command)
    assert machine.run("start")[0] == 0
    assert machine.seen.read_text() == repr((command[1:], None))


def test_without_a_model_or_a_command_there_is_no_script() -> None:
    made = plan(("anvil_external", {"mac": {"port": 8081}}))
    assert not [path for path in list_rendered_files(render_host(made)) if path.startswith("external/")]


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ({"model": "/m", "command": ["x"]}, "anvil_external.mac.command"),
        ({"args": ["-c", "1"]}, "anvil_external.mac.args"),
        ({"model": "/m", "args": ["--port", "1"]}, "anvil_external.mac.args"),
        ({"command": []}, "anvil_external.mac.command"),
        ({"command": [True]}, "anvil_external.mac.command"),
        ({"model": "/m", "listen": "everywhere"}, "anvil_external.mac.listen"),
        ({"listen": "127.0.0.1"}, "anvil_external.mac.listen"),
        ({"model": "/m", "host": "mac.example.com"}, "anvil_external.mac.listen"),
        ({"model": "/m", "host": "mac.example.com", "listen": "10.0.0.2"}, "anvil_external.mac.listen"),  # without a key
        ({"command": ["mlx_lm.server", "--api-key", "x"]}, "anvil_external.mac.command"),
    ],
)
def test_mistakes_in_the_start_of_a_server_are_told(entry: dict[str, Any], where: str) -> None:
    found = problems(("anvil_external", {"mac": {"port": 8081, **entry}}))
    assert any(one.where.startswith(where) for one in found), found
