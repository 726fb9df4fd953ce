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
    router, and verifies that it stays up.
  - If anything fails after the switch, the old revision is made live again and verified. The module then fails with the
    reason, the end of the router's log, and the revision that is live. A first promotion goes back to no file.
  - If a run is killed, the next run finishes or undoes it. Promotions of one volume never overlap.
  - The first promotion takes over a volume with the plain files of C(anvil-serving router promote).
options:
  state:
    description:
      - V(present) makes O(config) and O(profile) live.
      - V(rolled_back) makes the revision named by O(revision) live again, with the same checks.
    type: str
    choices: [present, rolled_back]
    default: present
  container:
    description: The router's container. If it does not exist or is stopped, it reads the files at its next start.
    type: str
    default: anvil-router
  image:
    description:
      - The router's image. It validates the files if no container exists, or if O(reload=false) says that the container
        is about to be replaced. Otherwise the image that the container runs does. The module never pulls it.
    type: str
    default: ''
  volume:
    description: The router's config volume; created if it is missing.
    type: str
    default: anvil-router-cfg
  mount:
    description: Where the router mounts O(volume). The files are C(config.toml) and C(profile.json) below it.
    type: path
    default: /etc/anvil
  config:
    description:
      - The text of C(config.toml). Without it the live one is kept. It names the environment variables of secrets,
        never their values.
    type: str
  profile:
    description: The text of C(profile.json), for profile routers (anvil-serving up to 0.13.2). Without it the live one is kept.
    type: str
  rendered:
    description:
      - Whether O(config) and O(profile) are what an inventory renders. A live file that was promoted from a file then stays, and
        the result names it in RV(kept). A file that is promoted with V(false) belongs to the volume from then on.
    type: bool
    default: false
  profile_from:
    description: With O(rendered=true), V(inventory) makes O(profile) live even if another profile was promoted.
    type: str
    choices: [inventory, promoted]
    default: promoted
  config_from:
    description: With O(rendered=true), V(inventory) makes O(config) live even if another config was promoted.
    type: str
    choices: [inventory, promoted]
    default: promoted
  repeat:
    description:
      - With O(rendered=true), whether files that were rolled back are promoted again. With V(false) the live ones stay until
        the inventory renders others.
    type: bool
    default: true
  by:
    description: Who promotes or rolls back, for the history. Without it, the host and process of this module.
    type: str
    default: ''
  discard_journal:
    description: Whether a journal that cannot be read counts as none. What was in flight and what was verified is then forgotten.
    type: bool
    default: false
  config_src:
    description: A file on the host with the text of C(config.toml), instead of O(config).
    type: path
  profile_src:
    description: A file on the host with the text of C(profile.json), instead of O(profile).
    type: path
  files:
    description:
      - For a container that is no router, all files of its configuration. Files of an earlier revision that are not
        named here are removed.
    type: list
    elements: dict
    suboptions:
      dest:
        description: The path of the file below O(mount), relative or in full.
        type: str
        required: true
      content:
        description: The text of the file. Line ends are normalised.
        type: str
      src:
        description: A file on the host with the text.
        type: path
  validator:
    description:
      - For a container that is no router, a command of its image that exits with 0 if the files at O(mount) are valid.
        It runs without a shell, without network, and read-only.
    type: list
    elements: str
  reload_signal:
    description:
      - A signal that makes the container read its files again, such as V(SIGUSR2). Without it the container is restarted.
    type: str
    default: ''
  health_path:
    description: For a container that is no router, a path that answers 200 when it is healthy. A router's is C(/healthz).
    type: str
    default: ''
  writer_image:
    description: An image with C(python3) that writes into the volume, if the container's own has none. The module never pulls it.
    type: str
    default: ''
  layout:
    description:
      - V(revisions) keeps the volume in immutable revisions.
      - V(plain) leaves plain files, as C(anvil-serving router promote) does, and removes the history. O(config) and
        O(profile) are promoted first if they are given.
    type: str
    choices: [revisions, plain]
    default: revisions
  replicas:
    description:
      - Containers that share O(volume), instead of O(container). Each reads C(.anvil/live/NAME/config.toml) through its
        own pointer. They are promoted one after the other, and a bad candidate never reaches the second one.
    type: list
    elements: str
    default: []
  edge:
    description:
      - The container of the HAProxy in front of O(replicas). Each replica is drained before its restart, and readmitted
        after it was verified.
    type: str
    default: ''
  drain_timeout:
    description: Seconds within which the requests in flight of a replica must end.
    type: float
    default: 330
  dry_boot:
    description:
      - Whether a throwaway container of the router's image, environment and networks must first come up on the
        candidate and pass the probes. Only for routers.
    type: bool
    default: true
  environment:
    description: The environment of a router that does not exist yet, for O(dry_boot).
    type: dict
    default: {}
  probes:
    description:
      - Requests that the candidate must answer as specified, in the dry boot and after the restart, in addition to the
        built-in ones (see the notes).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name of the probe in messages.
        type: str
      method:
        description: The HTTP method.
        type: str
        default: GET
      path:
        description: The path, with the query.
        type: str
        required: true
      headers:
        description: Headers that are not secret.
        type: dict
        default: {}
      header_files:
        description: Secret headers, each with the file on the host that holds its value.
        type: dict
        default: {}
      body:
        description: The body. A mapping is sent as JSON.
        type: raw
      status:
        description: The expected statuses.
        type: list
        elements: int
        default: [200]
      json:
        description: Dotted paths in the JSON of the answer, each with the expected value.
        type: dict
        default: {}
      token:
        description: Whether to send the router's token, which is read from its environment.
        type: bool
        default: true
      timeout:
        description: Seconds for the answer.
        type: float
        default: 10
  revision:
    description: The revision for O(state=rolled_back), V(previous) or the beginning of a revision's sha256.
    type: str
    default: previous
  keep:
    description: The number of revisions that the volume keeps. The live one and the one before it are never removed.
    type: int
    default: 10
  reload:
    description:
      - Whether to restart and verify a running router. With V(false) it reads the files at its next start, and the next
        run knows that they are not loaded yet.
    type: bool
    default: true
  validate_only:
    description: Whether to validate only and change nothing.
    type: bool
    default: false
  grace:
    description: Seconds that a router gets to end its requests when it is restarted.
    type: int
    default: 10
  start_timeout:
    description: Seconds within which the restarted router must answer C(/healthz).
    type: float
    default: 30
  settle:
    description:
      - Seconds for which the router must then stay up and answer.
      - Without it the router is observed for 2 s. A candidate with no earlier evidence is observed for 8 s, in the dry boot,
        or without one in the first replica. Earlier evidence is a process that ran on this config for 8 s, even with another
        profile.
    type: float
  lock_timeout:
    description: Seconds to wait for another promotion of the same volume to end.
    type: float
    default: 60
  docker_host:
    description: The Docker Engine. Requests are sent to published ports only if it is a local socket.
    type: str
    default: unix:///var/run/docker.sock
attributes:
  check_mode:
    support: full
    description: Validates the files in a side container without the volume, and changes nothing.
  diff_mode:
    support: full
    description: Shows the files before and after.
requirements:
  - Docker Engine 24 or newer
  - Docker SDK for Python
notes:
  - Built-in probes of a profile router (up to 0.13.2) request its routing decision per tier and preset. Each must be the
    decision of the image's own code with the candidate's files. No request reaches a model.
  - Built-in probes of a gateway router request the hash of the config in memory, which must be the candidate's, and the
    health of its tiers.
seealso:
  - module: anvil.serving.anvil_router_info
"""

EXAMPLES = r"""
- name: Promote the router's files
  anvil.serving.anvil_router_promote:
    image: anvil.local/router:0.13.2
    config: "{{ lookup('ansible.builtin.template', 'config.toml.j2') }}"
    profile: "{{ lookup('ansible.builtin.file', 'profile.json') }}"

- name: Roll back to the previous revision
  anvil.serving.anvil_router_promote:
    state: rolled_back
"""

RETURN = r"""
revision:
  description: The live revision before and after, by sha256; null means no file.
  returned: success
  type: dict
  sample: {"old": null, "new": "4f0c3e8f6a0c1c9d0e3f0d7bb0c5e2a4a6f2bb0b2c6e3f1d7a9b8c7d6e5f4a3b"}
actions:
  description: The actions taken, or in check mode the actions that would be taken, in order.
  returned: success
  type: list
  elements: str
  sample: ["validated", "switched from no file to 4f0c3e8f6a0c", "reloaded", "verified"]
reloaded:
  description: Whether the router was restarted on the new revision; false if it does not run.
  returned: success
  type: bool
verified:
  description: The proof that it came up and stayed up; null if nothing was reloaded.
  returned: success
  type: dict
  sample: {"started_at": "2026-07-04T10:00:00.123456789Z", "pid": 4242, "seconds": 2.41}
history:
  description: Every revision in the volume, the live one first.
  returned: success
  type: list
  elements: dict
  sample: [{"revision": "4f0c3e8f6a0c", "live": true, "verified_at": 1783159200.1, "created_at": 1783159197.2,
    "origin": "promoted", "rolled_back": false, "files": ["config.toml", "profile.json"], "sources": {
    "config.toml": {"kind": "rendered", "at": 1783150000.0, "by": "jo"},
    "profile.json": {"kind": "promoted", "at": 1783159197.2, "by": "jo"}}}]
kept:
  description: With O(rendered=true), each live file that stays although the inventory renders another one, and why.
  returned: success
  type: list
  elements: dict
  sample: [{"file": "profile.json", "text": "profile: promoted 2026-07-04 10:00 UTC by jo, kept"}]
warnings:
  description: Facts that an operator should know although nothing failed.
  returned: success
  type: list
  elements: str
problems:
  description: All problems, each with C(what), C(where), C(why), C(hint) and C(log).
  returned: failure
  type: list
  elements: dict
"""

from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.router_promotion import run_promotion_module

FILE = {"dest": {"type": "str", "required": True}, "content": {"type": "str"}, "src": {"type": "path"}}
OPTIONS = {
    "state": {"type": "str", "choices": ["present", "rolled_back"], "default": "present"},
    "container": {"type": "str", "default": "anvil-router"},
    "image": {"type": "str", "default": ""},
    "volume": {"type": "str", "default": "anvil-router-cfg"},
    "mount": {"type": "path", "default": "/etc/anvil"},
    "config": {"type": "str"},
    "profile": {"type": "str"},
    "rendered": {"type": "bool", "default": False},
    "profile_from": {"type": "str", "choices": ["inventory", "promoted"], "default": "promoted"},
    "config_from": {"type": "str", "choices": ["inventory", "promoted"], "default": "promoted"},
    "repeat": {"type": "bool", "default": True},
    "by": {"type": "str", "default": ""},
    "discard_journal": {"type": "bool", "default": False},
    "config_src": {"type": "path"},
    "profile_src": {"type": "path"},
    "files": {"type": "list", "elements": "dict", "options": FILE},
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
