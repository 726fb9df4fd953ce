#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_model
short_description: Keep weights on a host, whole and verified
version_added: 1.0.0
description:
  - Brings the weights of one model to a folder or a Docker volume of the host - from the Hugging Face hub, from a URL, from a
    folder or archive that was brought to the host by hand, or from one on the controller.
  - The files are fetched into a staging folder on the same file system, checked against the source's checksums, fsynced,
    and put in place by one exchange, with a manifest. What was fetched before an interruption is kept and gone on from.
  - An unchanged model costs one stat per file, however large it is. A file whose time changed is hashed.
  - The hub's own client library does the fetching, in a process of its own, under the interpreter O(client).
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Asks the source what would be fetched and how many bytes, and whether they fit; writes nothing.
    support: full
  diff_mode:
    description: There is nothing to show beyond RV(reasons) and RV(fetch).
    support: none
  idempotent:
    description: A second run changes nothing, and contacts nobody.
    support: full
options:
  state:
    description:
      - V(present) fetches what is missing or altered.
      - V(verified) fails unless the model is there and as it was fetched; contacts nobody.
      - V(absent) removes the model, and what was fetched of it.
    type: str
    choices: [present, verified, absent]
    default: present
  name:
    description: Folder of the model below O(folder) or the volume; O(repo) if not given.
    type: str
  folder:
    description: Folder on the host that holds models; with O(volume), a folder in it.
    type: str
  volume:
    description:
      - Docker volume that holds models; created if need be.
      - It must be of a driver that keeps it in a folder of this machine, and the task must be allowed to write there.
    type: str
  repo:
    description: Repository of the Hugging Face hub.
    type: str
  revision:
    description:
      - Branch, tag or commit of O(repo). A branch or tag is resolved to its commit, which is recorded, and stays at it
        until O(refresh).
    type: str
    default: main
  refresh:
    description: Ask the hub where a branch or tag is now, and follow it.
    type: bool
    default: false
  allow:
    description: Patterns of the files to fetch, such as V(*.safetensors); all, if empty.
    type: list
    elements: str
    default: []
  ignore:
    description: Patterns of files not to fetch.
    type: list
    elements: str
    default: []
  url:
    description: Address of one file; needs O(sha256).
    type: str
  copy_from:
    description: Folder, file, tar or zip archive on the host.
    type: path
  upload_from:
    description:
      - Folder, file, tar or zip archive on the controller, for hosts that reach no source (air gap). It is sent piece by piece
        over the connection, files that the host has already are not sent, and an interrupted run is gone on from.
      - While folder or archive keep their names, sizes and times, they are not read again.
    type: str
  piece_mib:
    description: MiB that are sent at once with O(upload_from); so much room is needed in the temporary folders of both sides.
    type: int
    default: 256
  handover:
    description: Set by the action plugin of the same name, which sends O(upload_from). Not for playbooks.
    type: dict
  sha256:
    description: Checksum of the file at O(url), or of the archive O(copy_from) or O(upload_from).
    type: str
    default: ""
  verify:
    description: With V(full), every file is hashed again.
    type: str
    choices: [quick, full]
    default: quick
  reserve_mib:
    description: MiB that must stay free on the file system.
    type: int
    default: 1024
  workers:
    description: Files fetched at once.
    type: int
    default: 4
  timeout:
    description: Seconds that fetching, or waiting for another run that fetches this model, may take.
    type: int
    default: 21600
  allowed:
    description:
      - The policy - what may be here, exactly. Anything else is refused before a byte of it is fetched, and where it is here
        already. If not given, every model may.
      - The role P(anvil.serving.models#role) takes it from the inventory's C(anvil_models_allowed).
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
        description: Checksum of a URL's file, or of the archive that was brought by hand.
        type: str
  progress:
    description:
      - Set by the action plugin of the same name, which prints how far a long pull is while the module runs.
      - Environment variable E(ANVIL_PROGRESS) of the controller set to V(no) turns that off. Where the controller's standard
        output is no terminal, there is at most one line in ten seconds.
    type: str
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.hub
seealso:
  - module: anvil.serving.anvil_model_info
"""

EXAMPLES = r"""
- name: Weights for the fast tier, at one commit
  anvil.serving.anvil_model:
    repo: nvidia/Qwen3.6-27B-NVFP4
    revision: 8f3a1d0c7be2459a6c1f0e9d2b7a4c5e6f708192
    ignore: ["*.bin", "original/"]
    volume: anvil-models
    token_file: /etc/anvil/hf_token
    client: /opt/anvil/hub-client/bin/python

- name: One GGUF file
  anvil.serving.anvil_model:
    name: qwen2.5-0.5b
    url: https://models.example.com/qwen2.5-0.5b-instruct-q4_k_m.gguf
    sha256: 74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db
    folder: /srv/models

- name: Weights that came on a disk
  anvil.serving.anvil_model:
    name: openai/gpt-oss-120b
    copy_from: /mnt/disk/gpt-oss-120b.tar
    folder: /srv/models

- name: Weights that only the controller has
  anvil.serving.anvil_model:
    name: Qwen/Qwen3-8B
    upload_from: /srv/weights/Qwen3-8B
    volume: anvil-models

- name: Are they still what they were?
  anvil.serving.anvil_model:
    state: verified
    verify: full
    name: openai/gpt-oss-120b
    folder: /srv/models
"""

RETURN = r"""
target:
  description: Folder of the model on this machine.
  returned: always
  type: str
  sample: /srv/models/openai/gpt-oss-120b
name:
  description: Name of the model.
  returned: always
  type: str
commit:
  description: The commit of a repository, the sha256 of a URL's file, or a signature of what was copied.
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
  description: What was fetched, or in check mode would be; in bytes.
  returned: always
  type: dict
  sample: {files: [model.safetensors], bytes: 988097824}
reasons:
  description: Why it changed - V(missing), V(damaged), V(source), V(foreign) (a folder without a manifest was there).
  returned: always
  type: list
seconds:
  description: How long listing, fetching and putting in place took, and MiB per second.
  returned: always
  type: dict
  sample: {list: 0.4, fetch: 61.2, place: 0.1, mib_per_second: 412.0}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import ALLOWED_OPTION
from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import open_live_output
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights import model_store

OPTIONS = {
    "state": {"type": "str", "choices": ["present", "verified", "absent"], "default": "present"},
    "name": {"type": "str"},
    "folder": {"type": "str"},
    "volume": {"type": "str"},
    "repo": {"type": "str"},
    "revision": {"type": "str", "default": "main"},
    "refresh": {"type": "bool", "default": False},
    "allow": {"type": "list", "elements": "str", "default": []},
    "ignore": {"type": "list", "elements": "str", "default": []},
    **model_store.HUB_OPTIONS,
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
        order = model_store.read_order(module.params, live_output)
        return model_store.carry_out(DockerEngine(module.params["docker_host"]), order, module.check_mode)


def main() -> None:
    run_module(
        OPTIONS,
        work,
        mutually_exclusive=[("repo", "url", "copy_from", "upload_from"), ("token", "token_file")],
        required_one_of=[("folder", "volume")],
    )


if __name__ == "__main__":
    main()
