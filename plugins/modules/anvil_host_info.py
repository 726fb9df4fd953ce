#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_host_info
short_description: Read what a Docker host can run
version_added: 1.0.0
description:
  - Returns the versions of the Docker Engine, Compose, the NVIDIA driver and its container toolkit, and every GPU with its UUID,
    its MIG devices and what it can run.
  - What a GPU can run comes from a table by compute capability, never from its name; see C(docs/hosts.md).
  - The driver is read through NVML if nvidia-ml-py can be imported, else through C(nvidia-smi).
  - Unknown values are null, never guessed. A host without GPUs is not a failure; a driver that does not answer is.
    One GPU that does not work does not hide the others.
author:
  - the anvil.serving authors (@fakoli)
options:
  ports:
    description: TCP ports of which RV(held_ports) tells the holders.
    type: list
    elements: int
    default: []
    version_added: 1.1.0
  partial:
    description: Whether a Docker Engine or a driver that does not answer is told in RV(unread) instead of failing the task.
    type: bool
    default: false
    version_added: 1.1.0
  health:
    description:
      - Whether RV(health) is returned. The driver is asked once more, and its lines in the kernel log of this boot are read,
        from C(/dev/kmsg), C(journalctl) or C(dmesg).
      - C(docs/gpu-health.md) says what each finding means.
    type: bool
    default: false
    version_added: 1.1.0
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.reads
"""

EXAMPLES = r"""
- name: Read the host
  anvil.serving.anvil_host_info:
  register: host

- name: Show its GPUs
  ansible.builtin.debug:
    var: host.gpus
"""

RETURN = r"""
engine:
  description: Version and API version of the Docker Engine, its storage driver, data folder, runtimes, and how it is installed.
  returned: always
  type: dict
  sample: {version: 26.1.5, api_version: "1.45", data_root: /var/lib/docker, storage_driver: overlay2, runtimes: [runc],
    installation: package}
compose:
  description: Version of the Compose plugin; empty if there is none.
  returned: always
  type: str
platform:
  description: V(wsl2) or V(linux).
  returned: always
  type: str
disk:
  description: Free space (MiB) where the Docker Engine keeps images and volumes; of V(/) where there is no Docker Engine.
  returned: always
  type: dict
  sample: {folder: /var/lib/docker, free_mib: 812340}
held_ports:
  description: The ports of O(ports) that a process or a container holds on any address, and who that is.
  returned: always
  type: dict
  sample: {"8000": "a process outside Docker (python3, pid 812)"}
unread:
  description: With O(partial), what does not answer, and why.
  returned: always
  type: list
  elements: str
health:
  description:
    - The health of every GPU, or null without an NVIDIA driver. C(trouble) and C(hint) are about the driver as a whole.
    - In C(cards), C(state) is V(ok), V(note), V(doubtful) or V(out), and C(findings) has the reasons, with what to do.
  returned: with O(health)
  type: dict
  sample:
    source: nvidia-smi
    trouble: ""
    hint: ""
    kernel_log: /dev/kmsg
    kernel_log_trouble: ""
    cards:
      - index: 0
        uuid: GPU-d0f446cf-1771-414c-e116-a39138798a8c
        name: NVIDIA H100 80GB HBM3
        pci_bus_id: "0000:01:00"
        driver: 580.95.05
        state: out
        memory_total_bytes: 85520809984
        memory_used_bytes: 4194304
        utilization: 0.3
        temperature_celsius: 41.0
        power_watts: 311.26
        power_limit_watts: 700.0
        uncorrected_errors: 0
        throttles: [sw_power]
        findings:
          - verdict: out
            remedy: reset
            key: recovery_reset
            what: "recovery action Reset: the card must be reset before it is used again"
            why: "the driver reports: Reset"
            do: "stop what uses the card, then type on the host: nvidia-smi --gpu-reset -i 0000:01:00.0; or reboot the host"
            source: https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/
nvidia:
  description: Whether the host has an NVIDIA driver, its version, the newest CUDA it can run, and its source.
  returned: always
  type: dict
  sample: {present: true, driver: 580.95.05, cuda: "13.0", source: nvidia-smi}
toolkit:
  description:
    - What gives containers access to GPUs - the hook of the container toolkit on C(PATH), or CDI with a description of the GPUs.
    - C(cdi_enabled) is null if the Docker Engine is too old to report it.
  returned: always
  type: dict
  sample:
    present: true
    version: 1.17.8
    hook: /usr/bin/nvidia-container-runtime-hook
    runtime_registered: true
    cdi_enabled: false
    cdi_specs: []
    cdi_devices: []
gpus:
  description:
    - Every GPU; memory in MiB. A value is null if the driver does not report it or the table does not have it.
    - C(trouble) has the driver's words about a GPU that does not work. Its C(uuid) is empty where the driver cannot read it.
  returned: always
  type: list
  sample:
    - index: 0
      uuid: GPU-d0f446cf-1771-414c-e116-a39138798a8c
      name: NVIDIA RTX PRO 6000 Blackwell
      compute_capability: "12.0"
      sm: sm_120
      family: Blackwell
      can: {bf16: true, int8: true, fp8: true, nvfp4: true, mxfp4: true, emulated: [], kv_dtypes: [bf16, fp8]}
      vram_total_mib: 97887
      vram_used_mib: 4
      vram_free_mib: 97883
      driver: 580.95.05
      pci_bus_id: "00000000:01:00.0"
      mig: false
      mig_devices: []
      trouble: null
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health_on_host import read_health
from ansible_collections.anvil.serving.plugins.module_utils.host.host_facts import describe_host

OPTIONS = {
    "ports": {"type": "list", "elements": "int", "default": []},
    "partial": {"type": "bool", "default": False},
    "health": {"type": "bool", "default": False},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    described = describe_host(DockerEngine(params["docker_host"]), params["ports"], params["partial"])
    if params["health"]:
        found = read_health()
        described["health"] = None if found is None else found.as_dict()
    return described


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
