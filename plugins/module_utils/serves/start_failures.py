# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a serve could not start: errors of the Docker Engine and docker compose, with their meaning and what to do. Pure."""

from __future__ import annotations

import re
from typing import Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import list_ports, name_port
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.host.driver_errors import explain_driver

CDI_GENERATE = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
TOOLKIT_CONFIG = "/etc/nvidia-container-runtime/config.toml"

# An error of the Docker Engine or docker compose -> its meaning, and what to do. The first that matches counts.
_NAMES_AND_PORTS: Tuple[Tuple[str, str, str], ...] = (
    (
        r"cannot expose privileged port|ports are not available.*permission denied|bind: permission denied",
        "the Docker Engine may not publish port {port}",
        "it runs without root, and ports below 1024 need it: choose a higher port, or set net.ipv4.ip_unprivileged_port_start",
    ),
    (
        r"cannot assign requested address|requested address is not valid in its context",
        "the host does not have the address of port {port}",
        "publish the serve on an address that the host has (ip -brief address), or on 127.0.0.1",
    ),
    (
        r"forbidden by its access permissions",
        "Windows reserves port {port}",
        "netsh interface ipv4 show excludedportrange protocol=tcp lists such ports: give the serve another one",
    ),
    (
        r"port is already allocated|address already in use|only one usage of each socket address",
        "port {port} is taken",
        "it was free a moment before: end the process that took it, or give the serve another port, then run again",
    ),
    (
        r"container name .* is already in use",
        "the container name {container} is taken",
        "it was free a moment before: retire or adopt the container that took it, then run again",
    ),
)
_GPUS: Tuple[Tuple[str, str, str], ...] = (
    (
        r'could not select device driver "cdi"',
        "the Docker Engine does not use CDI",
        "turn it on (docker_host_daemon: {features: {cdi: true}}), or install nvidia-container-toolkit",
    ),
    (
        r"could not select device driver",
        "the Docker Engine has no nvidia device driver",
        "install nvidia-container-toolkit on the host and restart the Docker Engine, which looks for it only at its start\n"
        "CDI alone is enough from Docker Engine 29 on (anvil_host_check judges the host)",
    ),
    (
        r"unresolvable CDI devices",
        "CDI does not know the GPU of the serve",
        "write its description again, with UUIDs: " + CDI_GENERATE + " --device-name-strategy=uuid\n"
        "on WSL2 CDI knows only `all`: install nvidia-container-toolkit, whose hook knows each GPU",
    ),
    (
        r"failed to stat CDI host device|CDI device injection failed|failed to fulfil mount request.*nvidia"
        r"|error gathering device information.*/dev/nvidia",
        "the description of the GPUs for CDI does not fit the driver",
        "write it again: " + CDI_GENERATE + "\nif a device file is missing: nvidia-modprobe -u -c 0",
    ),
    (
        r"unknown or invalid runtime name",
        "the Docker Engine does not know the runtime that the container wants",
        "register it: nvidia-ctk runtime configure --runtime=docker, then systemctl restart docker",
    ),
    (
        r"invoking the NVIDIA Container Runtime Hook directly",
        "the NVIDIA container toolkit is in a mode in which the Docker Engine cannot call its hook",
        "nvidia-ctk config --in-place --set nvidia-container-runtime.mode=auto\n"
        "on a Jetson make its runtime the default one: docker_host_daemon: {default-runtime: nvidia}",
    ),
    (
        r"requirement error: unsatisfied condition",
        "the image needs a newer NVIDIA driver than the host has",
        "use an older image, or install a newer driver (anvil_host_info reports the newest CUDA that the present one can run)",
    ),
    (
        r"requirement error",
        "the image states a requirement that the NVIDIA container toolkit cannot read",
        "use another image, or correct its NVIDIA_REQUIRE_* variables",
    ),
    (
        r"nvidia-container-cli.*(?:bpf_prog|device rules|cgroup)",
        "the NVIDIA container toolkit could not set the device rules of the container",
        "in rootless Docker, or in another container: nvidia-ctk config --in-place --set nvidia-container-cli.no-cgroups\n"
        "otherwise upgrade nvidia-container-toolkit: releases before 1.8 do not know cgroup v2",
    ),
    (
        r"nvidia-container-cli.*ldcache error",
        "the NVIDIA container toolkit does not find ldconfig",
        'set ldconfig = "@/sbin/ldconfig" in ' + TOOLKIT_CONFIG,
    ),
    (
        r"nvidia-container-cli.*file creation failed.*file exists",
        "the image holds files of another NVIDIA driver",
        "it was built or committed with a GPU: remove libcuda.so* and libnvidia-* from it, or build it without one",
    ),
    (
        r"nvidia-container-cli.*(?:no adapters were found|/usr/lib/wsl)",
        "WSL2 has no GPU for containers",
        "install NVIDIA's driver on Windows, then type wsl --update and wsl --shutdown there",
    ),
    (
        r"unknown device",
        "the NVIDIA runtime refused the GPU",
        "run nvidia-smi -L on the host: anvil_gpus must have a UUID that it lists",
    ),
    (
        r"nvidia-c\S+\\?\"?: (?:executable file not found|no such file or directory)",
        "the NVIDIA container toolkit was removed after the Docker Engine was started",
        "install nvidia-container-toolkit, then systemctl restart docker",
    ),
)
_OTHERS: Tuple[Tuple[str, str, str], ...] = (
    (
        r"no such file or directory|executable file not found|permission denied",
        "the image cannot run the entrypoint or command",
        "the message above names the program; check that the image contains it",
    ),
    (
        r"no space left on device",
        "the disk of the Docker Engine is full",
        "docker system df on the host shows what uses the space",
    ),
    (
        r"failed to respond|Cannot connect to the Docker daemon|connection refused|EOF",
        "the Docker Engine stopped while the serve was started",
        "find out why dockerd ended (journalctl -u docker), start it, then run again",
    ),
)
# The container toolkit passes the driver's own words on.
_DRIVER = r"nvidia-container-cli|nvml error"
_IMAGE_EXPLANATIONS: Tuple[Tuple[str, str], ...] = (
    (r"manifest unknown|not found|name unknown", "the registry has no such image: check the name and the tag"),
    (r"denied|unauthorized|authentication", "the registry requires a login (docker login on the host), or the name is misspelt"),
    (r"no space left", "the disk of the host is full: docker system df shows what uses the space"),
    (
        r"connection refused|no such host|no route to host|timeout|unreachable|lookup|EOF",
        "the host cannot reach the registry: check that it is up, or docker load the image on the host",
    ),
)


def explain_failure(service: Service, error: str, image_here: bool) -> Problem:
    """The problem to report for an error of docker compose or the Docker Engine. image_here: the host has the image."""
    where = "serve " + service.name
    if not image_here:
        what = "image {0} is not on this host and cannot be pulled".format(service.image)
        hints = [hint for pattern, hint in _IMAGE_EXPLANATIONS if re.search(pattern, error, re.IGNORECASE)]
        return Problem(
            what,
            where,
            error,
            hints[0] if hints else "check that the host can reach the registry, or docker load the image on the host",
        )
    found = _explain(error)
    if found is not None:
        ports = ", ".join(name_port(port) for port in list_ports(service.ports))
        return Problem(found[0].format(port=ports, container=service.container), where, error, found[1])
    return Problem(
        "docker compose could not start the container",
        where,
        error,
        "correct what the error above names, then run again; the other serves keep running",
    )


def _explain(error: str) -> Optional[Tuple[str, str]]:
    """The meaning of an error, and what to do; None for one that is not known."""
    for pattern, what, hint in (*_NAMES_AND_PORTS, *_GPUS):
        if re.search(pattern, error, re.IGNORECASE | re.DOTALL):
            return what, hint
    if re.search(_DRIVER, error):
        return explain_driver(error, "the NVIDIA container toolkit could not give the GPU to the container")
    return next(((what, hint) for pattern, what, hint in _OTHERS if re.search(pattern, error)), None)
