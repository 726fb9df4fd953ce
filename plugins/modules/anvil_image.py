#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_image
short_description: Build an image unless one of the same content exists
version_added: 1.0.0
description:
  - Builds an image from a context that holds only the files given here, and tags it with the hash of its content - Dockerfile,
    files, folders, arguments, base. If an image of this content exists, nothing is built.
  - A local base image that was replaced counts as a change. Name a remote base image by its digest.
  - Pushes only if O(push). The pushed image is pulled again by its digest, as a check.
author:
  - the anvil.serving authors (@fakoli)
attributes:
  check_mode:
    description: Predicts the action and its reasons; builds and pushes nothing.
    support: full
  diff_mode:
    description: There is no diff; the result has the reasons.
    support: none
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  name:
    description: Repository of the image, with its registry if it has one.
    type: str
    required: true
  stack:
    description: What the image is for. Its tags begin with V(vllm-), V(trt-), V(tool-), V(sglang-), V(llama-) or V(workflow-).
    type: str
    required: true
    choices: [vllm, trt, tool, sglang, llama_cpp, workflow]
  tag:
    description: A readable tag, added to the prefix of the stack. The image always gets the tag with the hash of its content too.
    type: str
    default: ""
  dockerfile:
    description: Text of the Dockerfile.
    type: str
    required: true
  files:
    description: Other files of the context, as path to text. A file that begins with C(#!) becomes executable.
    type: dict
    default: {}
  folders:
    description: Named build contexts for C(COPY --from=NAME), as name to folder on the host. All their files are read and hashed.
    type: dict
    default: {}
  base:
    description: The base image. It becomes the build argument C(BASE).
    type: str
    default: ""
  build_args:
    description: Build arguments. They are visible in the history of the image; do not use them for secrets.
    type: dict
    default: {}
  build_secrets:
    description:
      - Secrets for C(RUN --mount=type=secret,id=NAME), as name to value. They do not appear in a layer, the history or a command
        line.
      - Their values are not part of the content.
    type: dict
    default: {}
  network:
    description: Network for the commands of the build.
    type: str
    choices: [default, none, host]
    default: default
  platform:
    description:
      - Platform to build for, such as V(linux/arm64). If empty, the platform of the Docker Engine.
      - A platform that is not the host's, or not that of the base image on this host, is a warning before the build.
    type: str
    default: ""
  allowed:
    description:
      - Origins of models, in the form of C(anvil_models_allowed). The build fails if the folder C(weights) of O(folders) has a
        file that is of another model, or of an unknown origin. If not given, every model is allowed.
      - The origin is what the manifest of M(anvil.serving.anvil_model) in that folder says.
    type: list
    elements: dict
    suboptions:
      repo:
        description: Repository of the hub.
        type: str
      revision:
        description: Its exact commit.
        type: str
      sha256:
        description: SHA-256 of a file or archive.
        type: str
      code:
        description: Whether the Python code that comes with the model may run (C(--trust-remote-code)).
        type: bool
        default: false
  sbom_folder:
    description: Folder for the bill of materials of each image that is built, one file for each content.
    type: path
    default: /opt/anvil/images
  push:
    description: Whether to push both tags.
    type: bool
    default: false
  username:
    description: User of the registry. If empty, the login that the role P(anvil.serving.registries#role) keeps on the host.
    type: str
    default: ""
  password:
    description: Password or token of that user. It is passed through standard input, and no file keeps it after the push.
    type: str
    default: ""
  timeout:
    description: Seconds for the build, and for each push.
    type: int
    default: 7200
  progress:
    description:
      - Set by the action plugin of the same name, which prints the steps of a long build while the module runs.
      - Set the environment variable E(ANVIL_PROGRESS) of the controller to V(no) to turn this off. If the standard output of the
        controller is not a terminal, at most one line is printed every ten seconds.
    type: str
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
seealso:
  - name: role images
    description: Renders the Dockerfiles of this collection and builds them with this module.
    link: https://docs.docker.com/build/building/secrets/
"""

EXAMPLES = r"""
- name: Build an image of vLLM
  anvil.serving.anvil_image:
    name: registry.example.com/serving
    stack: vllm
    tag: v0.19.1-1
    base: vllm/vllm-openai:v0.19.1
    dockerfile: |
      ARG BASE
      FROM ${BASE}
      RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf pip install --no-cache-dir einops==0.8.1
      USER 10001:10001
      ENTRYPOINT ["vllm"]
    build_secrets:
      pip_conf: "{{ vault_pip_conf }}"
    push: true
    username: ci
    password: "{{ vault_registry_token }}"
"""

RETURN = r"""
action:
  description: V(none), V(tag) or V(build).
  returned: always
  type: str
reasons:
  description: Why the image changed - V(missing), V(content), V(base) or V(tag).
  returned: always
  type: list
reference:
  description: Name of the image with the hash of its content.
  returned: always
  type: str
  sample: registry.example.com/serving:vllm-0d8f2c6a41b7e935
tags:
  description: All names of the image.
  returned: always
  type: list
image_id:
  description: Id of the image. Null if it is not built yet.
  returned: always
  type: str
digest:
  description: Digest in the registry. Null if this host never pushed it.
  returned: always
  type: str
pushed:
  description: Whether the image was pushed, and pulled by its digest.
  returned: always
  type: bool
commands:
  description: Command line of the build. Secrets appear by name only.
  returned: always
  type: list
sbom:
  description: File with the packages of the image and what it was built from, in CycloneDX 1.5; empty if nothing was built.
  returned: always
  type: str
  sample: /opt/anvil/images/serve_vllm-0123456789abcdef.cdx.json
seconds:
  description: Seconds that build and push took.
  returned: always
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import ALLOWED_OPTION, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import open_live_output
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.images.converge import converge_image
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import STACKS, Recipe
from ansible_collections.anvil.serving.plugins.module_utils.images.registry import Login

OPTIONS = {
    "name": {"type": "str", "required": True},
    "stack": {"type": "str", "required": True, "choices": list(STACKS)},
    "tag": {"type": "str", "default": ""},
    "dockerfile": {"type": "str", "required": True},
    "files": {"type": "dict", "default": {}},
    "folders": {"type": "dict", "default": {}},
    "base": {"type": "str", "default": ""},
    "build_args": {"type": "dict", "default": {}},
    "build_secrets": {"type": "dict", "default": {}, "no_log": True},
    "network": {"type": "str", "choices": ["default", "none", "host"], "default": "default"},
    "platform": {"type": "str", "default": ""},
    "sbom_folder": {"type": "path", "default": "/opt/anvil/images"},
    "allowed": ALLOWED_OPTION,
    "push": {"type": "bool", "default": False},
    "username": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
    "timeout": {"type": "int", "default": 7200},
    "progress": {"type": "str", "no_log": False},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    secrets = {name: str(value) for name, value in params["build_secrets"].items()}
    module.no_log_values.update(value for value in secrets.values() if value)
    recipe = Recipe(
        name=params["name"],
        stack=params["stack"],
        dockerfile=params["dockerfile"],
        tag=params["tag"],
        base=params["base"],
        platform=params["platform"],
        network=params["network"],
        files={path: str(text) for path, text in params["files"].items()},
        folders={name: str(folder) for name, folder in params["folders"].items()},
        build_args={name: str(value) for name, value in params["build_args"].items()},
        secrets=tuple(sorted(secrets)),
    )
    push = Login(params["username"], params["password"]) if params["push"] else None
    with open_live_output(params["progress"]) as live_output:
        docker = DockerEngine(params["docker_host"])
        allowed = read_allowed(params["allowed"])
        return converge_image(
            docker, recipe, secrets, push, params["timeout"], live_output, module.check_mode, allowed, params["sbom_folder"]
        )


def main() -> None:
    run_module(OPTIONS, work)


if __name__ == "__main__":
    main()
