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
        r"(?-i:Address already in use)|(?:ip|IP) address .* already (?:in use|allocated)",  # a port's error is in small letters
        "another container has the fixed address of the serve",
        "docker network inspect NETWORK lists the addresses: remove the container that has it, then run again",
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
        r"nvidia-container-cli.*(?:stat|mount operation|open) failed: \S*(?:/dev/nvidia|/proc/driver/nvidia)",
        "a device file of the NVIDIA driver is missing",
        "nvidia-modprobe -u -m -c 0 creates it; if /proc/driver/nvidia lacks the GPU too, read dmesg | grep -i nvrm and reboot",
    ),
    (
        r"unknown device|nvidia-container-cli.*(?:invalid device|not enough devices)",
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
        r"creating mount source path|bind source path does not exist|[Mm]ounts denied",
        "a folder that the serve mounts is not on the host, or the Docker Engine may not reach it",
        "create the folder, or correct volumes; the snap of Docker and Docker Desktop reach only some folders",
    ),
    (
        r"mount a directory onto a file|not a directory",
        "a mount is a file on one side and a folder on the other",
        "correct volumes: the Docker Engine creates a folder where the host has nothing",
    ),
    (
        r"exec format error",
        "the image is built for another processor",
        "use a tag for the processor of this host (docker image inspect IMAGE shows its Architecture; uname -m that of the host)",
    ),
    (
        r"error setting rlimit|setting rlimits",
        "the Docker Engine may not set a ulimit of the container",
        "it runs without root or in another container: leave ulimits out, or raise those of the Docker Engine (LimitMEMLOCK)",
    ),
    (
        r"No chain/target/match by that name|iptables failed|nftables.*failed",
        "the firewall rules of the Docker Engine are gone",
        "another program removed them (a reload of the firewall): systemctl restart docker writes them again",
    ),
    (
        r"address pools have been fully subnetted|non-overlapping IPv4 address pool",
        "the Docker Engine has no addresses left for a new network",
        "docker_host_daemon: {default-address-pools: […]} gives more (playbooks/prepare.yml); docker network ls lists networks",
    ),
    (
        r"(?:veth|bridge).*operation not supported",
        "the kernel cannot create the network of the container",
        "after an upgrade of the kernel its modules may be gone: reboot the host",
    ),
    (
        r"no such file or directory|executable file not found|permission denied",
        "the image cannot run the entrypoint or command",
        "the message above names the program; check that the image contains it",
    ),
    (
        r"no space left on device",
        "the disk of the Docker Engine is full",
        "docker system df on the host shows what uses the space; playbooks/prune.yml removes images that nothing needs",
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
    (
        r"error getting credentials|docker-credential-",
        "a credential helper does not work: remove credsStore from ~/.docker/config.json, or install the helper that it names",
    ),
    (
        r"no matching manifest|does not (?:match|provide) the specified platform",
        "the registry has the image only for other processors: use a tag for that of the host (uname -m)",
    ),
    (
        r"toomanyrequests|rate limit",
        "the registry allows no more pulls for now: a login raises the limit (anvil_registries, playbooks/registries.yml)",
    ),
    (
        r"x509|certificate|HTTP response to HTTPS client",
        "the host does not trust the registry: put its CA into /etc/docker/certs.d/REGISTRY/ca.crt, "
        "or for one without TLS set docker_host_daemon: {insecure-registries: [REGISTRY]}",
    ),
    (r"manifest unknown|not found|name unknown", "the registry has no such image: check the name and the tag"),
    (
        r"denied|unauthorized|authentication",
        "the registry requires a login (anvil_registries, playbooks/registries.yml), or the name is misspelt",
    ),
    (
        r"no space left",
        "the disk of the host is full: docker system df shows what uses the space, playbooks/prune.yml frees some",
    ),
    (
        r"connection refused|no such host|no route to host|timeout|unreachable|lookup|EOF|deadline exceeded|proxyconnect",
        "the host cannot reach the registry: check that it is up, or load the image: playbooks/load_images.yml -e archive=FILE",
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
            hints[0]
            if hints
            else "check that the host can reach the registry, or load the image: playbooks/load_images.yml -e archive=FILE",
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
