"""Which paths of the host a container may have: by their words, in every spelling."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.container_policy import (
    AllowedMount,
    find_foreign_sysctls,
    is_opened,
    judge_mount,
    parse_allowed,
    suggest_opening,
)

ROOT = "/opt/anvil"
REFUSED = [
    *("/", "//", "/.", "/srv/..", "/etc/../", "/proc", "/proc/1/root", "/proc/", "//proc", "/sys/fs/cgroup", "/dev", "/dev/shm"),
    *("/dev/nvidia0", "/boot", "/run", "/var/run", "/run/user/1000", "/var", "/var/lib", "/var/lib/docker", "/var/lib/docker/x"),
    *("/var/lib/containerd", "/var/run/docker.sock", "/run/user/1000/docker.sock", "/srv/docker.sock", "/etc/../etc", "/etc/"),
    *(
        "/etc/shadow",
        "/etc/ssh",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssl",
        "/etc/ssl/private",
        "/etc/docker",
        "/etc/sudoers.d",
    ),
    *("/root", "/root/", "/home", "/home/me/.ssh", "/root/.docker/config.json", "/srv/./../root", ROOT, ROOT + "/anvil-serves"),
    *("/opt", ROOT + "/../anvil/x", "/srv/.anvil-serving", "/var/lib/anvil-serving", "/var/lib/kubelet", "/var/spool/cron"),
]
ALLOWED = [
    *(
        "/srv",
        "/srv/models",
        "/data",
        "/mnt/c/models",
        "/root/.cache/huggingface",
        "/home/me/models",
        "/home/me/.cache/huggingface",
    ),
    *("/opt/models", "/opt/anvil-models", "/var/lib/models", "/etc/tls", "/etc/vllm", "/etc/ssl/certs", "/etc/localtime"),
    *("/etc/passwd", "/etc/letsencrypt", "/usr/lib/wsl", "/usr/share/fonts", "/tmp/models", "/ETC/x", "/procedures", "/system"),
    *("/devices", "/running", "/bootstrap", "/media/disk", "/var/log/vllm"),
]


@pytest.mark.parametrize("path", REFUSED)
def test_paths_that_lead_to_the_host_are_refused_read_only_too(path: str) -> None:
    assert judge_mount(path, True, (ROOT,)) and judge_mount(path, False, (ROOT,))
    assert suggest_opening(path, True)


@pytest.mark.parametrize("path", ALLOWED)
def test_folders_of_models_settings_and_certificates_are_allowed(path: str) -> None:
    assert judge_mount(path, True, (ROOT,)) == ""


@pytest.mark.parametrize("path", ["/etc/tls", "/usr/lib/wsl", "/bin", "/usr", "/lib/modules", "/etc/passwd"])
def test_what_may_be_read_may_not_be_written(path: str) -> None:
    assert judge_mount(path, True) == "" and "not read-only" in judge_mount(path, False)


def test_an_entry_opens_its_path_and_what_lies_below_and_nothing_else() -> None:
    allowed = [parse_allowed(text) for text in ("/etc/ssh/:ro", "/run/x.sock", "/dev/shm:rw")]
    entries = [one for one in allowed if one is not None]
    assert entries == [AllowedMount("/etc/ssh/", True), AllowedMount("/run/x.sock"), AllowedMount("/dev/shm")]
    for path, read_only, opened in (
        ("/etc/ssh", True, True),
        ("/etc/./ssh/keys", True, True),
        ("/etc/ssh", False, False),
        ("/etc", True, False),
        ("/etc/ssh2", True, False),
        ("/etc/ssh/../shadow", True, False),
        ("/run/x.sock", False, True),
        ("/dev/shm", False, True),
    ):
        assert is_opened(path, read_only, entries) is opened, path
    assert [parse_allowed(text) for text in ("etc", "", "/etc:z", "~/x", "./x")] == [None] * 5


def test_only_sysctls_of_the_host_are_refused() -> None:
    given = {"net.core.somaxconn": 1, "kernel.shmmax": 1, "kernel.core_pattern": "|/x", "vm.overcommit_memory": 1}
    assert find_foreign_sysctls(given) == ("kernel.core_pattern", "vm.overcommit_memory")
    assert find_foreign_sysctls(["net/ipv4/ip_forward=1", "kernel/core_pattern=|/x"]) == ("kernel/core_pattern",)
    assert find_foreign_sysctls(None) == ()
