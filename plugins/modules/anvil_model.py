#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_model
short_description: Fetch, verify or remove the weights of a model
version_added: 1.0.0
description:
  - Brings the weights of one model to a folder or a Docker volume of the host. The source is a repository of the Hugging Face
    hub, a URL, a folder or archive that was brought to the host by hand, or one on the controller.
  - The files are fetched into a staging folder on the same file system, compared with the checksums of the source, fsynced,
    and put in place in one step. An interrupted fetch is resumed by the next run.
  - Staging folder, lock and manifest lie where no container can write - beside the folder of the volume, or in C(.anvil-serving)
    beside O(folder). Below O(folder) or the volume no link is followed out of it, and only regular files are read.
  - An unchanged model costs one stat per file, however large it is. A file whose modification time changed is hashed.
  - The client library of the hub fetches the files, in a process of its own, under the interpreter O(client).
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts the files and bytes to fetch, and whether they fit on the disk. Contacts the source; writes nothing.
    support: full
  diff_mode:
    description: There is no diff beyond RV(reasons) and RV(fetch).
    support: none
  idempotent:
    description: A second run changes nothing and contacts no source.
    support: full
options:
  state:
    description:
      - V(present) fetches files that are missing or altered.
      - V(verified) fails unless the model is there, as it was fetched. It contacts no source.
      - V(absent) removes the model, and what was fetched of it so far.
    type: str
    choices: [present, verified, absent]
    default: present
  name:
    description: Folder of the model below O(folder) or the volume. If not given, O(repo).
    type: str
  folder:
    description: Folder on the host that holds models. With O(volume), a folder inside the volume.
    type: str
  volume:
    description:
      - Docker volume that holds models. It is created if it does not exist.
      - Its driver must keep it in a folder of this machine, and the task must be allowed to write there (C(become)).
    type: str
  layout:
    description:
      - V(folder) makes a folder of the model, whose path a serve gets as its model.
      - V(hub_cache) completes O(repo) in a cache of the hub, as its client library lays it out. A serve that names the repository
        finds the weights there. Files that an engine fetched before are kept. O(folder) is the cache, such as V(hub) inside the
        volume that a serve mounts at C(/root/.cache/huggingface).
    type: str
    choices: [folder, hub_cache]
    default: folder
    version_added: 1.1.0
  repo:
    description: Repository of the Hugging Face hub.
    type: str
  revision:
    description:
      - Branch, tag or commit of O(repo). A branch or tag is resolved to its commit once; the model stays at this commit until
        O(refresh).
    type: str
    default: main
  refresh:
    description: Resolve a branch or tag again, and fetch the commit that it is now.
    type: bool
    default: false
  allow:
    description: Patterns of the files to fetch, such as V(*.safetensors). If empty, all files.
    type: list
    elements: str
    default: []
  ignore:
    description: Patterns of files not to fetch.
    type: list
    elements: str
    default: []
  url:
    description: Address of one file. O(sha256) is required.
    type: str
  copy_from:
    description:
      - Folder, file, tar or zip archive on the host. Links count only if they stay inside the folder, or inside the repository of
        a snapshot of a hub cache. FIFOs, sockets and devices are refused.
    type: path
  upload_from:
    description:
      - Folder, file, tar or zip archive on the controller, for hosts that reach no source (air gap). It is sent in pieces over
        the connection. Files that the host already has are not sent, and an interrupted run is resumed.
      - The files are read again only when a name, size or modification time changed.
    type: str
  piece_mib:
    description: Size in MiB of a piece, with O(upload_from). The temporary folders of both sides need that much space.
    type: int
    default: 256
  handover:
    description: Set by the action plugin of the same name, which sends O(upload_from). Not for playbooks.
    type: dict
  sha256:
    description: SHA-256 of the file at O(url), or of the archive O(copy_from) or O(upload_from).
    type: str
    default: ""
  verify:
    description: V(full) hashes every file again. V(quick) compares sizes and modification times first.
    type: str
    choices: [quick, full]
    default: quick
  reserve_mib:
    description: MiB that stay free on the file system.
    type: int
    default: 1024
  workers:
    description: Files that are fetched at the same time.
    type: int
    default: 4
  timeout:
    description: Seconds for the whole fetch, and for waiting until another run has fetched this model.
    type: int
    default: 21600
  allowed:
    description:
      - The models that may be on the host, each at an exact revision or checksum. Any other model is refused before a byte of it
        is fetched, and also if it is already there. If not given, every model is allowed.
      - The role P(anvil.serving.models#role) sets it to C(anvil_models_allowed) of the inventory.
    type: list
    elements: dict
    suboptions:
      repo:
        description: Repository of the hub.
        type: str
      revision:
        description: Its commit.
        type: str
      sha256:
        description: SHA-256 of the file of a URL, or of an archive.
        type: str
      code:
        description: Whether the Python code that comes with the model may run (C(--trust-remote-code)).
        type: bool
        default: false
  progress:
    description:
      - Set by the action plugin of the same name, which prints the progress of a long fetch while the module runs.
      - Set the environment variable E(ANVIL_PROGRESS) of the controller to V(no) to turn this off. If the standard output of the
        controller is not a terminal, at most one line is printed every ten seconds.
    type: str
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.hub
seealso:
  - module: anvil.serving.anvil_model_info
"""

EXAMPLES = r"""
- name: Fetch the weights of the fast tier, at one commit
  anvil.serving.anvil_model:
    repo: nvidia/Qwen3.6-27B-NVFP4
    revision: 8f3a1d0c7be2459a6c1f0e9d2b7a4c5e6f708192
    ignore: ["*.bin", "original/"]
    volume: anvil-models
    token_file: /etc/anvil/hf_token
    client: /opt/anvil/hub-client/bin/python

- name: Fetch one GGUF file
  anvil.serving.anvil_model:
    name: qwen2.5-0.5b
    url: https://models.example.com/qwen2.5-0.5b-instruct-q4_k_m.gguf
    sha256: 74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db
    folder: /srv/models

- name: Complete a repository in the hub cache of a serve, which an interrupted download left incomplete
  anvil.serving.anvil_model:
    layout: hub_cache
    repo: openai/gpt-oss-120b
    volume: vllm-hfcache
    folder: hub

- name: Use weights that came on a disk
  anvil.serving.anvil_model:
    name: openai/gpt-oss-120b
    copy_from: /mnt/disk/gpt-oss-120b.tar
    folder: /srv/models

- name: Send weights from the controller
  anvil.serving.anvil_model:
    name: Qwen/Qwen3-8B
    upload_from: /srv/weights/Qwen3-8B
    volume: anvil-models

- name: Verify every file of a model
  anvil.serving.anvil_model:
    state: verified
    verify: full
    name: openai/gpt-oss-120b
    folder: /srv/models
"""

RETURN = r"""
target:
  description: Folder of the model on the host.
  returned: always
  type: str
  sample: /srv/models/openai/gpt-oss-120b
name:
  description: Name of the model.
  returned: always
  type: str
commit:
  description: Commit of the repository, sha256 of the file of a URL, or a signature of the copied folder or archive.
  returned: always
  type: str
files:
  description: Size in bytes and sha256 of every file.
  returned: always
  type: dict
  sample: {config.json: {size: 1089, sha256: 7f0c…}}
bytes:
  description: Size of all files.
  returned: always
  type: int
fetch:
  description: Files and bytes that were fetched, or in check mode would be fetched.
  returned: always
  type: dict
  sample: {files: [model.safetensors], bytes: 988097824}
reasons:
  description: >-
    Why the model changed - V(missing), V(damaged), V(source) (another source or revision), V(foreign) (a folder without a
    recorded manifest was there), V(incomplete) (the hub cache has a part of it), V(unrecorded) (a manifest of an earlier release
    lay beside the weights; they were hashed and nothing was fetched).
  returned: always
  type: list
seconds:
  description: Duration of listing, fetching and putting in place in seconds, and the speed in MiB per second.
  returned: always
  type: dict
  sample: {list: 0.4, fetch: 61.2, place: 0.1, mib_per_second: 412.0}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import ALLOWED_OPTION
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import open_live_output
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_request import read_request
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_store import carry_out
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import HUB_OPTIONS

OPTIONS = {
    "state": {"type": "str", "choices": ["present", "verified", "absent"], "default": "present"},
    "name": {"type": "str"},
    "layout": {"type": "str", "choices": ["folder", "hub_cache"], "default": "folder"},
    "folder": {"type": "str"},
    "volume": {"type": "str"},
    "repo": {"type": "str"},
    "revision": {"type": "str", "default": "main"},
    "refresh": {"type": "bool", "default": False},
    "allow": {"type": "list", "elements": "str", "default": []},
    "ignore": {"type": "list", "elements": "str", "default": []},
    **HUB_OPTIONS,
    "url": {"type": "str"},
    "copy_from": {"type": "path"},
    "upload_from": {"type": "str"},
    "piece_mib": {"type": "int", "default": 256},
    "handover": {"type": "dict", "no_log": False},
    "sha256": {"type": "str", "default": ""},
    "verify": {"type": "str", "choices": ["quick", "full"], "default": "quick"},
    "reserve_mib": {"type": "int", "default": 1024},
    "workers": {"type": "int", "default": 4},
    "timeout": {"type": "int", "default": 21600},
    "allowed": ALLOWED_OPTION,
    "progress": {"type": "str", "no_log": False},
}


def work(module: AnsibleModule) -> dict:
    with open_live_output(module.params["progress"]) as live_output:
        request = read_request(module.params, live_output)
        return carry_out(DockerEngine(module.params["docker_host"]), request, module.check_mode)


def main() -> None:
    run_module(
        OPTIONS,
        work,
        mutually_exclusive=[("repo", "url", "copy_from", "upload_from"), ("token", "token_file")],
        required_one_of=[("folder", "volume")],
    )


if __name__ == "__main__":
    main()
