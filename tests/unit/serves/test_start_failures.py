"""Why a serve could not start: messages of engines, Compose and the NVIDIA container toolkit, each with its next step."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves.start_failures import explain_failure

SERVE = Service(name="s", container="box", image="i", ports=(("::1", 80, "80/tcp"),))
RUNC = "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
HOOK = RUNC + (
    "unable to start container process: error during container init: error running prestart hook #0: exit status 1, stdout: , "
    "stderr: Auto-detected mode as 'legacy'\nnvidia-container-cli: "
)


@pytest.mark.parametrize(
    ("error", "what", "do"),
    [
        (
            'could not select device driver "nvidia" with capabilities: [[gpu]]',
            "has no nvidia device driver",
            "restart the Docker Engine",
        ),
        ('could not select device driver "" with capabilities: [[gpu]]', "has no nvidia device driver", "Docker Engine 29"),
        ('could not select device driver "cdi" with capabilities: []', "does not use CDI", "{features: {cdi: true}}"),
        (RUNC + "unresolvable CDI devices nvidia.com/gpu=GPU-1", "CDI does not know the GPU", "--device-name-strategy=uuid"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0", "CDI does not know the GPU", "on WSL2"),
        (
            'failed to inject devices: failed to stat CDI host device "/dev/nvidia-modeset": no such file or directory',
            "CDI",
            "generate",
        ),
        (
            RUNC + "failed to fulfil mount request: open /usr/lib/libnvidia-ml.so.570.1: no such file or directory",
            "does not fit the driver",
            "nvidia-ctk cdi generate",
        ),
        ('error gathering device information while adding custom device "/dev/nvidia0": no such file', "CDI", "nvidia-modprobe"),
        ("unknown or invalid runtime name: nvidia", "does not know the runtime", "nvidia-ctk runtime configure"),
        (
            HOOK.replace(
                "nvidia-container-cli: ",
                "invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker "
                "--gpus flag) is not supported. Please use the NVIDIA Container Runtime",
            ),
            "in a mode in which the Docker Engine cannot call its hook",
            "on a Jetson",
        ),
        (
            HOOK
            + "requirement error: unsatisfied condition: cuda>=12.8, please update your driver to a newer version, or use an "
            "earlier cuda container: unknown",
            "the image needs a newer NVIDIA driver than the host has",
            "use an older image, or install a newer driver",
        ),
        (HOOK + "requirement error: invalid expression: unknown", "cannot read", "NVIDIA_REQUIRE_"),
        (HOOK + "initialization error: nvml error: driver/library version mismatch: unknown", "was upgraded", "reboot the host"),
        (HOOK + "initialization error: nvml error: driver not loaded: unknown", "kernel module", "modprobe nvidia"),
        (HOOK + "initialization error: nvml error: insufficient permissions: unknown", "may not ask", "/dev/nvidia"),
        (HOOK + "initialization error: driver rpc error: timed out: unknown", "does not answer in time", "persistence mode"),
        (HOOK + "initialization error: driver error: timed out: unknown", "does not answer in time", "persistence mode"),
        (HOOK + "detection error: nvml error: gpu is lost: unknown", "does not answer the driver any more", "dmesg"),
        (
            HOOK + "initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file",
            "a library of the NVIDIA driver is missing",
            "ldconfig",
        ),
        (
            HOOK + "ldcache error: open failed: /sbin/ldconfig.real: no such file or directory: unknown",
            "ldconfig",
            "@/sbin/ldconfig",
        ),
        (HOOK + "ldcache error: process /sbin/ldconfig.real failed with error code: 1", "ldconfig", "@/sbin/ldconfig"),
        (HOOK + "container error: cgroup subsystem devices not found: unknown", "device rules", "no-cgroups"),
        (
            HOOK + "mount error: failed to add device rules: unable to find any existing device filters attached to the cgroup: "
            "bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted: unknown",
            "could not set the device rules",
            "in rootless Docker",
        ),
        (
            HOOK + "mount error: open failed: /sys/fs/cgroup/devices/x/devices.allow: permission denied",
            "device rules",
            "no-cgroups",
        ),
        (
            HOOK + "mount error: file creation failed: /var/lib/docker/overlay2/x/merged/libnvidia-ml.so.1: file exists: unknown",
            "the image holds files of another NVIDIA driver",
            "libnvidia-*",
        ),
        (HOOK + "initialization error: WSL environment detected but no adapters were found: unknown", "WSL2", "wsl --update"),
        (HOOK + "device error: GPU-1: unknown device: unknown", "the NVIDIA runtime refused the GPU", "nvidia-smi -L"),
        (
            HOOK + "mount error: stat failed: /dev/nvidia-modeset: no such file or directory: unknown",
            "device file",
            "nvidia-modprobe",
        ),
        (
            HOOK
            + "mount error: mount operation failed: /x/merged/proc/driver/nvidia/gpus/0000:01:00.0: no such file or directory",
            "a device file of the NVIDIA driver is missing",
            "/proc/driver/nvidia",
        ),
        (HOOK + "device error: invalid device: GPU-1: unknown", "the NVIDIA runtime refused the GPU", "nvidia-smi -L"),
        (HOOK + "initialization error: nvml error: unknown error: unknown", "cannot be initialised", "dmesg"),
        (HOOK + "initialization error: cuda error: unknown error: unknown", "cannot be initialised", "dmesg"),
        (HOOK + "something that is new: unknown", "could not give the GPU to the container", "type nvidia-smi"),
        (
            'exec: "nvidia-container-runtime-hook": executable file not found in $PATH',
            "the NVIDIA container toolkit was removed",
            "install",
        ),
        (
            'exec: "/usr/bin/nvidia-container-runtime": no such file or directory',
            "the NVIDIA container toolkit was removed",
            "install",
        ),
        (
            'exec: "vllm": executable file not found in $PATH: unknown',
            "cannot run the entrypoint",
            "check that the image contains it",
        ),
        ("Bind for 0.0.0.0:80 failed: port is already allocated", "port [::1]:80 is taken", "free a moment before"),
        ("failed to bind host port for [::1]:80: address already in use", "port [::1]:80 is taken", "free a moment before"),
        (
            "cannot expose privileged port 80, you can add 'net.ipv4.ip_unprivileged_port_start=80' to /etc/sysctl.conf",
            "may not publish port [::1]:80",
            "choose a higher port",
        ),
        (
            "listen tcp4 10.99.0.1:80: bind: cannot assign requested address",
            "the host does not have the address",
            "ip -brief address",
        ),
        (
            "ports are not available: listen tcp 0.0.0.0:80: bind: An attempt was made to access a socket in a way forbidden "
            "by its access permissions.",
            "Windows reserves port [::1]:80",
            "excludedportrange",
        ),
        ('The container name "/box" is already in use by container "c"', "the container name box is taken", "retire or adopt"),
        (
            "failed to set up container networking: Address already in use",
            "the fixed address of the serve",
            "docker network inspect",
        ),
        (
            'invalid mount config for type "bind": bind source path does not exist: /srv/m',
            "a folder that the serve mounts is not on the host",
            "create the folder",
        ),
        (
            "error while creating mount source path '/srv/m': mkdir /srv: read-only file system",
            "a folder that the serve mounts",
            "the snap of Docker",
        ),
        (
            "error while creating mount source path '/srv/m': mkdir /srv: permission denied",
            "a folder that the serve mounts",
            "create",
        ),
        (
            RUNC + 'error mounting "/srv/m" to rootfs at "/m": not a directory: Are you trying to mount a directory onto a file',
            "a file on one side and a folder on the other",
            "correct volumes",
        ),
        ("exec /usr/bin/python3: exec format error", "the image is built for another processor", "uname -m"),
        (RUNC + "error setting rlimit type 8: operation not permitted", "may not set a ulimit", "leave ulimits out"),
        (
            "driver failed programming external connectivity on endpoint x: (iptables failed: iptables --wait -t nat -A DOCKER: "
            "iptables: No chain/target/match by that name.",
            "the firewall rules of the Docker Engine are gone",
            "systemctl restart docker",
        ),
        ("all predefined address pools have been fully subnetted", "no addresses left", "default-address-pools"),
        ("failed to add the host (veth0) <=> sandbox (veth1) pair interfaces: operation not supported", "the kernel", "reboot"),
        ("write /x: no space left on device", "the disk of the Docker Engine is full", "docker system df"),
        ("something that is new", "docker compose could not start the container", "correct what the error above names"),
    ],
)
def test_each_message_has_its_own_meaning_and_next_step(error: str, what: str, do: str) -> None:
    problem = explain_failure(SERVE, error, True)
    assert what in problem.what and do in problem.hint and problem.why == error and problem.where == "serve s"


@pytest.mark.parametrize(
    ("error", "do"),
    [
        ("toomanyrequests: You have reached your unauthenticated pull rate limit.", "allows no more pulls for now"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "only for other processors"),
        (
            "image with reference x was found but does not provide the specified platform (linux/arm64)",
            "only for other processors",
        ),
        ('error getting credentials - err: exec: "docker-credential-desktop.exe": executable file not found', "credsStore"),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "does not trust the registry"),
        ("http: server gave HTTP response to HTTPS client", "insecure-registries"),
        ("pull access denied for x, repository does not exist or may require 'docker login'", "requires a login"),
        ("context deadline exceeded", "cannot reach the registry"),
        ("proxyconnect tcp: dial tcp 10.0.0.1:3128: i/o timeout", "cannot reach the registry"),
        ("manifest for x:1 not found: manifest unknown", "no such image"),
    ],
)
def test_each_reason_for_a_missing_image_has_its_own_next_step(error: str, do: str) -> None:
    problem = explain_failure(SERVE, error, False)
    assert "cannot be pulled" in problem.what and do in problem.hint and problem.why == error
