#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_router_promote
short_description: Make a router configuration live, or leave everything as it was
version_added: 1.0.0
author:
  - The anvil.serving authors (@fakoli)
description:
  - Validates a router's configuration (and quality profile) with the loader of the image that the router runs, writes
    it into the router's config volume as an immutable revision, switches to it with one C(rename(2)), restarts the
    router and proves that it stays up.
  - Anything that fails after the switch is undone and that is verified too; the module then fails with the reason, the
    end of the router's log and what is live. A first promotion is undone to no file at all.
  - A run that was killed is finished or undone by the next one. Promotions of one volume never overlap, whoever runs
    them.
  - A volume laid out by C(anvil-serving router promote) (plain files) is taken over at the first promotion.
options:
  state:
    description:
      - V(present) makes O(config) and O(profile) live.
      - V(rolled_back) makes the revision named by O(revision) live again, with the same care.
    type: str
    choices: [present, rolled_back]
    default: present
  container:
    description:
      - The router's container. If it does not exist or is stopped, the files are made live for its next start.
    type: str
    default: anvil-router
  image:
    description:
      - The router's image, used to validate where no container exists, or where O(reload=false) says that the
        container is about to be replaced. Otherwise the image that the container runs is used. Never pulled.
    type: str
    default: ''
  volume:
    description:
      - The router's config volume; created if it is missing.
    type: str
    default: anvil-router-cfg
  mount:
    description:
      - Where the router mounts O(volume). The files are C(config.toml) and C(profile.json) below it.
    type: path
    default: /etc/anvil
  config:
    description:
      - The text of C(config.toml). Left out, the live one is kept. It names secrets' environment variables, never
        secrets.
    type: str
  profile:
    description:
      - The text of C(profile.json), for profile routers (anvil-serving up to 0.13.2). Left out, the live one is kept.
    type: str
  config_src:
    description:
      - A file on the host with the text of C(config.toml), instead of O(config).
    type: path
  profile_src:
    description:
      - A file on the host with the text of C(profile.json), instead of O(profile).
    type: path
  files:
    description:
      - For a container that is no router, all the files that its configuration is made of. Files of an earlier
        revision that are not named here are not kept.
    type: list
    elements: dict
    suboptions:
      dest:
        description:
          - Where it lies below O(mount), with subfolders; a path below O(mount) may also be given in full.
        type: str
        required: true
      content:
        description:
          - Its text, with line ends normalised.
        type: str
      src:
        description:
          - A file on the host with its text.
        type: path
  validator:
    description:
      - For a container that is no router, a command of its own image that ends with 0 if the files at O(mount) are
        good. It runs as a list of words, without a shell, without network, and read-only.
    type: list
    elements: str
  reload_signal:
    description:
      - A signal that makes the container read its files again, such as V(SIGUSR2). Left out, it is restarted.
    type: str
    default: ''
  health_path:
    description:
      - For a container that is no router, a path that answers 200 when it is well. A router's is C(/healthz).
    type: str
    default: ''
  writer_image:
    description:
      - An image with C(python3) that writes into the volume, where the container's own has none. Never pulled.
    type: str
    default: ''
  layout:
    description:
      - V(revisions) keeps the volume in immutable revisions.
      - V(plain) hands it back as plain files, as C(anvil-serving router promote) lays it out, and forgets history.
        With O(config) or O(profile) these are promoted first.
    type: str
    choices: [revisions, plain]
    default: revisions
  replicas:
    description:
      - Containers that share O(volume), each with a pointer of its own below C(.anvil/live/); its command names
        C(.anvil/live/NAME/config.toml). They are promoted one after the other, and a bad candidate does not get past
        the first. Replaces O(container).
    type: list
    elements: str
    default: []
  edge:
    description:
      - The container of the HAProxy in front of O(replicas). Each replica is drained before it is restarted, and
        readmitted after it was verified.
    type: str
    default: ''
  drain_timeout:
    description:
      - Seconds within which the requests that a replica carries must have ended.
    type: float
    default: 330
  dry_boot:
    description:
      - Whether a throwaway container of the router's image, environment and networks must first come up on the
        candidate and pass the probes. Not for a container that is no router.
    type: bool
    default: true
  environment:
    description:
      - What a router that is not there yet will have in its environment, for O(dry_boot).
    type: dict
    default: {}
  probes:
    description:
      - Requests that the candidate must answer as told, in the dry boot and after the restart, beside those that are
        always asked (see the notes).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - What it is called in messages.
        type: str
      method:
        description:
          - The HTTP method.
        type: str
        default: GET
      path:
        description:
          - The path, with its query.
        type: str
        required: true
      headers:
        description:
          - Headers that may be seen.
        type: dict
        default: {}
      header_files:
        description:
          - Headers that are secret, each with the file on the host that holds its value.
        type: dict
        default: {}
      body:
        description:
          - The body; a mapping is sent as JSON.
        type: raw
      status:
        description:
          - The statuses that are good.
        type: list
        elements: int
        default: [200]
      json:
        description:
          - Dotted path in the answer's JSON, and the value that must be there.
        type: dict
        default: {}
      token:
        description:
          - Whether to send the router's own token, taken from its environment.
        type: bool
        default: true
      timeout:
        description:
          - Seconds for the answer.
        type: float
        default: 10
  revision:
    description:
      - What O(state=rolled_back) goes back to, V(previous) or the beginning of a revision's sha256.
    type: str
    default: previous
  keep:
    description:
      - How many revisions the volume holds; the live one and the one before it are never removed.
    type: int
    default: 10
  reload:
    description:
      - Whether to restart and verify a running router. With V(false) the files are live for its next start, and the
        next run knows that they were not loaded.
    type: bool
    default: true
  validate_only:
    description:
      - Validate and change nothing.
    type: bool
    default: false
  grace:
    description:
      - Seconds that the router gets to end its requests when it is restarted.
    type: int
    default: 10
  start_timeout:
    description:
      - Seconds within which the restarted router must answer C(/healthz).
    type: float
    default: 30
  settle:
    description:
      - Seconds for which it must then stay up and answer. Left out, it is 2 s where something speaks for the candidate (a
        process that has lived on this very config, be it another profile), and what nothing speaks for must have lived for
        8 s, in the dry boot before anything is touched, or without one in the first replica.
    type: float
  lock_timeout:
    description:
      - Seconds to wait for another promotion of the same volume to end.
    type: float
    default: 60
  docker_host:
    description:
      - The Docker Engine. Its published ports are asked only if it is a local socket.
    type: str
    default: unix:///var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Validates for real, in a side container that sees no volume, and changes nothing.
  diff_mode:
    support: full
    description: Shows the files before and after.
requirements:
  - Docker Engine 24 or newer
  - Docker SDK for Python
notes:
  - A profile router (up to 0.13.2) is asked for its routing decision per tier and preset, and each must be what the
    image's own code decides with the candidate's files; no model is asked.
  - A gateway router has no such request. It must tell the hash of the candidate as the config it has in memory, and its
    tiers.
seealso:
  - module: anvil.serving.anvil_router_info
"""

EXAMPLES = r"""
- name: The router's files are live
  anvil.serving.anvil_router_promote:
    image: anvil.local/router:0.13.2
    config: "{{ lookup('ansible.builtin.template', 'config.toml.j2') }}"
    profile: "{{ lookup('ansible.builtin.file', 'profile.json') }}"

- name: A freshly measured profile, with the config that is live
  anvil.serving.anvil_router_promote:
    profile: "{{ lookup('ansible.builtin.file', 'measured.json') }}"

- name: Back to what was live before
  anvil.serving.anvil_router_promote:
    state: rolled_back

- name: Would the router accept this?
  anvil.serving.anvil_router_promote:
    config: "{{ lookup('ansible.builtin.file', 'config.toml') }}"
    validate_only: true
"""

RETURN = r"""
revision:
  description: The live revision before and after, by sha256; null is no file.
  returned: success
  type: dict
  sample: {"old": null, "new": "4f0c3e8f6a0c1c9d0e3f0d7bb0c5e2a4a6f2bb0b2c6e3f1d7a9b8c7d6e5f4a3b"}
actions:
  description: What was done, or in check mode what would be, in order.
  returned: success
  type: list
  elements: str
  sample: ["validated", "switched from no file to 4f0c3e8f6a0c", "reloaded", "verified"]
reloaded:
  description: Whether the router was restarted on the new revision. False where it does not run yet.
  returned: success
  type: bool
verified:
  description: The proof that it came up and stayed up; null where nothing was reloaded.
  returned: success
  type: dict
  sample: {"started_at": "2026-07-04T10:00:00.123456789Z", "pid": 4242, "seconds": 2.41}
history:
  description: Every revision held, the live one first.
  returned: success
  type: list
  elements: dict
  sample: [{"revision": "4f0c3e8f6a0c", "live": true, "verified_at": 1783159200.1, "created_at": 1783159197.2,
    "origin": "promoted", "files": ["config.toml", "profile.json"]}]
warnings:
  description: What an operator should know although nothing failed.
  returned: success
  type: list
  elements: str
problems:
  description: Everything that is wrong, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core import importing  # pylint: disable=unused-import
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.router_promotion import run_promotion_module

OPTIONS = {
    "state": {"type": "str", "choices": ["present", "rolled_back"], "default": "present"},
    "container": {"type": "str", "default": "anvil-router"},
    "image": {"type": "str", "default": ""},
    "volume": {"type": "str", "default": "anvil-router-cfg"},
    "mount": {"type": "path", "default": "/etc/anvil"},
    "config": {"type": "str"},
    "profile": {"type": "str"},
    "config_src": {"type": "path"},
    "profile_src": {"type": "path"},
    "files": {
        "type": "list",
        "elements": "dict",
        "options": {
            "dest": {"type": "str", "required": True},
            "content": {"type": "str"},
            "src": {"type": "path"},
        },
    },
    "validator": {"type": "list", "elements": "str"},
    "reload_signal": {"type": "str", "default": ""},
    "health_path": {"type": "str", "default": ""},
    "writer_image": {"type": "str", "default": ""},
    "layout": {"type": "str", "choices": ["revisions", "plain"], "default": "revisions"},
    "replicas": {"type": "list", "elements": "str", "default": []},
    "edge": {"type": "str", "default": ""},
    "drain_timeout": {"type": "float", "default": 330.0},
    "dry_boot": {"type": "bool", "default": True},
    "environment": {"type": "dict", "default": {}, "no_log": True},
    "probes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str"},
            "method": {"type": "str", "default": "GET"},
            "path": {"type": "str", "required": True},
            "headers": {"type": "dict", "default": {}},
            "header_files": {"type": "dict", "default": {}},
            "body": {"type": "raw"},
            "status": {"type": "list", "elements": "int", "default": [200]},
            "json": {"type": "dict", "default": {}},
            "token": {"type": "bool", "default": True, "no_log": False},
            "timeout": {"type": "float", "default": 10.0},
        },
    },
    "revision": {"type": "str", "default": "previous"},
    "keep": {"type": "int", "default": 10},
    "reload": {"type": "bool", "default": True},
    "validate_only": {"type": "bool", "default": False},
    "grace": {"type": "int", "default": 10},
    "start_timeout": {"type": "float", "default": 30.0},
    "settle": {"type": "float"},
    "lock_timeout": {"type": "float", "default": 60.0},
}


def work(module):
    docker = DockerEngine(module.params["docker_host"])
    return run_promotion_module(docker, module.params, module.check_mode, module._diff)


def main():
    run_module(OPTIONS, work, mutually_exclusive=[("config", "config_src"), ("profile", "profile_src")])


if __name__ == "__main__":
    main()
