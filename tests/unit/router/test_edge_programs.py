# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two Perl programs of the edge's container, run on the test machine."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.router.programs import dry_boot_edge, edge_socket


@pytest.mark.parametrize("program", [dry_boot_edge.PERL, edge_socket.PERL])
def test_perl_accepts_each_program_without_warnings(program: str) -> None:
    done = subprocess.run(["perl", "-Mstrict", "-wce", program], capture_output=True, text=True, check=True)
    assert done.stderr == "-e syntax OK\n"


def test_a_command_is_sent_to_the_socket_unchanged_and_the_answer_is_printed(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    received = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def answer() -> None:
            connection, _peer = server.accept()
            with connection:
                received.append(connection.recv(1000))
                connection.sendall(b"one\ntwo\n")

        thread = threading.Thread(target=answer)
        thread.start()
        command = "show stat; set server a/b state $(id) 'x'"
        done = subprocess.run(["perl", "-e", edge_socket.PERL, path, command], capture_output=True, check=True, timeout=10)
        thread.join(10)
    assert received == [command.encode() + b"\n"] and done.stdout == b"one\ntwo\n"


def test_a_missing_socket_is_an_error_that_names_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    done = subprocess.run(["perl", "-e", edge_socket.PERL, path, "show info"], capture_output=True, text=True, timeout=10)
    assert done.returncode and path in done.stderr and not done.stdout


def start(*argv: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(["perl", "-e", dry_boot_edge.PERL, *argv], text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def test_the_child_is_killed_when_the_input_ends() -> None:
    with start("sh", "-c", "echo $$; exec sleep 60") as process:
        assert process.stdin is not None and process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.stdin.close()
        assert process.wait(10) in (0, 1), "1 if it sees its child end before it ends itself"
        assert not process.stdout.read(), "the pipe is closed: the child has ended"


def test_the_program_exits_with_an_error_when_its_child_exits() -> None:
    with start("sh", "-c", "exit 0") as process:
        assert process.wait(10) == 1


def test_a_command_that_cannot_be_started_is_named() -> None:
    with start("/nowhere") as process:
        assert process.wait(10) and process.stderr is not None and "/nowhere" in process.stderr.read()
