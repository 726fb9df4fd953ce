# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether other machines reach ports that containers publish on 127.0.0.1, and whether a rule of this host prevents that.

The Docker Engine translates the address of a packet before the kernel routes it. Before Docker Engine 28 it did so on every
interface, so a machine of the same network segment could send packets for 127.0.0.1 and be answered (moby/moby#41872, #49325).
Docker Engine 28.2.0 to 28.3.2 loses its protection when firewalld reloads (CVE-2025-54388). The kernel itself drops such packets
for ``::1``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any, List, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_installation import DESKTOP, ROOTLESS, read_installation

PROTECTED, LOSES_IT, KEEPS_IT = (28, 0, 0), (28, 2, 0), (28, 3, 3)
SECONDS = 10
GUARD = "docker_host_guard_loopback: true"


def judge_loopback_ports(version: str, info: Mapping[str, Any], guarded: Optional[bool]) -> List[Problem]:
    """version, info: of the Docker Engine. guarded: whether a rule of this host drops such packets; None: unknown."""
    release = tuple(int(number) for number in re.findall(r"\d+", re.split(r"[-+~]", version)[0])[:3])
    if not release or guarded or read_installation(info) in (DESKTOP, ROOTLESS):  # those publish ports by a process of their own
        return []
    if release < PROTECTED:
        why = "Docker Engine {0} answers packets for 127.0.0.1 that arrive from the network; Docker Engine 28 drops them"
        hint = "let this host drop them: {0} (role docker_host)\nor upgrade to Docker Engine 28".format(GUARD)
    elif LOSES_IT <= release < KEEPS_IT and "firewalld" in str((info.get("FirewallBackend") or {}).get("Driver") or ""):
        why = "Docker Engine {0} loses the rules against that when firewalld reloads (CVE-2025-54388)"
        hint = "upgrade to Docker Engine 28.3.3\nor let this host drop such packets: {0} (role docker_host)".format(GUARD)
    else:
        return []
    what = "machines of the same network can reach ports that containers publish on 127.0.0.1"
    return [Problem(what, "Docker Engine", why.format(version), hint)]


def has_guard(rules: str) -> bool:
    """Whether a rule drops what arrives for loopback addresses. rules: the chain PREROUTING of the table raw, by iptables -S."""
    lines = [line for line in rules.splitlines() if line.startswith("-A PREROUTING ") and line.endswith("-j DROP")]
    return any("-d 127.0.0.0/8 " in line and "! -i lo " in line for line in lines)


def read_guard() -> Optional[bool]:
    """Whether this host has such a rule; None where this user may not read the rules."""
    program = shutil.which("iptables", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--wait", "5", "--table", "raw", "--list-rules", "PREROUTING"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return has_guard(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else None
