#!/usr/bin/python
# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: anvil_model_info
short_description: Describe models and the GPU memory that they need
version_added: 1.0.0
description:
  - Reads the headers of GGUF and safetensors files and the configuration of TensorRT-LLM engines on the host. It does not rely
    on file names, and does not read tensors.
  - It needs no Python library on the host. The tests of the collection compare its readers with the C(gguf) and
    C(safetensors) libraries.
  - A value that the header does not have is null, never guessed.
author:
  - the anvil.serving authors (@fakoli)
options:
  path:
    description:
      - A GGUF or safetensors file, or a folder with a model in it, on the host.
      - With O(volume), relative to the volume. With O(repo), a file or folder of the repository.
    type: str
  repo:
    description:
      - Repository of the Hugging Face hub to describe instead, before it is downloaded. Only its listing and the headers of its
        files are fetched.
    type: str
  revision:
    description: Branch, tag or commit of O(repo).
    type: str
    default: main
  allow:
    description: Patterns of the files of O(repo) to consider, such as V(*Q4_K_M*.gguf). If empty, all files.
    type: list
    elements: str
    default: []
  ignore:
    description: Patterns of files of O(repo) to ignore.
    type: list
    elements: str
    default: []
  volume:
    description: Docker volume that holds O(path). Its folder must be readable on this machine.
    type: str
  discover:
    description: Describe every model below O(path) instead of one.
    type: bool
    default: false
  context:
    description: Tokens per request, for the estimate. If not given, the context of the model.
    type: int
  concurrency:
    description: Requests at the same time, for the estimate.
    type: int
    default: 1
  kv_dtype:
    description:
      - Type of the KV cache, such as V(auto), V(f16), V(fp8), V(q8_0), V(q4_0). An unknown type counts as 16 bits, with a note.
    type: str
    default: auto
  cards:
    description: Cards that the model is divided over, as its engine does by default - by layers for GGUF, else by tensors.
    type: int
    default: 1
extends_documentation_fragment:
  - anvil.serving.anvil.docker_engine
  - anvil.serving.anvil.hub
  - anvil.serving.anvil.reads
seealso:
  - module: anvil.serving.anvil_model
"""

EXAMPLES = r"""
- name: Estimate the memory for 8 requests of 32768 tokens
  anvil.serving.anvil_model_info:
    path: /srv/models/qwen3-27b-q4.gguf
    context: 32768
    concurrency: 8
    kv_dtype: q8_0
  register: info

- name: Show the arithmetic
  ansible.builtin.debug:
    var: info.models[0].vram.arithmetic

- name: Describe a model that is not downloaded yet
  anvil.serving.anvil_model_info:
    repo: Qwen/Qwen3-8B
    client: /opt/anvil/hub-client/bin/python

- name: Describe every model in a volume
  anvil.serving.anvil_model_info:
    volume: anvil-models
    path: .
    discover: true
"""

RETURN = r"""
models:
  description: The model, or with O(discover=true) every model that could be read. Sizes in bytes.
  returned: always
  type: list
  elements: dict
  contains:
    format:
      description: V(gguf), V(safetensors), V(pytorch) or V(trtllm).
      type: str
    architecture:
      description: Name in its header or config.json.
      type: str
    kind:
      description:
        - V(text), V(embeddings), V(rerank), V(score) or V(transcription); of a file that is not a model V(mmproj), V(adapter),
          V(vocab), V(imatrix), V(control_vector), V(draft) or V(other).
      type: str
    parameters:
      description: Number of parameters. A packed tensor counts the values that it holds.
      type: int
    quantisation:
      description: As ggml writes it for GGUF (V(Q4_K_M), V(IQ4_XS), V(MXFP4_MOE)), else in lower case (V(nvfp4), V(fp8), V(awq)).
      type: str
    quant_method:
      description: What quantised a Hugging Face checkpoint, such as V(modelopt) or V(compressed-tensors).
      type: str
    block:
      description: Elements of a weight that share one scale in each direction, for fp8 in blocks.
      type: int
    width:
      description: Width of the inner layer of an expert, or of the MLP of a model without experts.
      type: int
    context_length:
      description: Context in tokens that the model was trained for.
      type: int
    layers:
      description: Number of layers.
      type: int
    attention:
      description:
        - C(layers) has runs of equal layers with their kind (V(full), V(mla), V(window), V(chunked), V(cross), V(linear),
          V(shared), V(none) or V(unknown)), KV heads, elements of a key and of a value, window in tokens, and bytes of recurrent
          state.
        - C(unknown) has the words of the header or config that are not known; with one, no cache is counted.
      type: dict
    kv_bytes_per_token:
      description: Bytes of one token in a KV cache of a 16-bit type, over all layers; null where the layers are not known.
      type: int
    chat_template:
      description: Whether the model has a chat template.
      type: bool
    splits:
      description: Number of files that the model is split into.
      type: int
    missing:
      description: Files that belong to the model according to the others, and that are not there.
      type: list
    trt:
      description: Label, sm, CUDA, version, world size of a TensorRT-LLM engine.
      type: dict
    vram:
      description:
        - Memory that each card needs, in MiB, with the arithmetic as text, and as C(notes) what is not known.
        - C(weights_certain) and C(cache_certain) say whether that part lies in memory whatever the engine does.
      type: dict
  sample:
    - format: gguf
      architecture: llama
      quantisation: Q4_K_M
      parameters: 8030261312
      kv_bytes_per_token: 131072
      vram:
        total_mib: 6672
        arithmetic:
          - "weights: 4,912,898,048 bytes = 4,686 MiB"
commit:
  description: With O(repo), the commit that O(revision) is now.
  returned: with O(repo)
  type: str
bytes:
  description: With O(repo), bytes that a download would fetch.
  returned: with O(repo)
  type: int
unreadable:
  description: With O(discover=true), the problems of the models that could not be read.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.anvil.serving.plugins.module_utils.core.module import run_module
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import resolve_path
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_description import Load, describe_models
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import HUB_OPTIONS

OPTIONS = {
    "path": {"type": "str"},
    "volume": {"type": "str"},
    "repo": {"type": "str"},
    "revision": {"type": "str", "default": "main"},
    "allow": {"type": "list", "elements": "str", "default": []},
    "ignore": {"type": "list", "elements": "str", "default": []},
    **HUB_OPTIONS,
    "discover": {"type": "bool", "default": False},
    "context": {"type": "int"},
    "concurrency": {"type": "int", "default": 1},
    "kv_dtype": {"type": "str", "default": "auto"},
    "cards": {"type": "int", "default": 1},
}


def work(module: AnsibleModule) -> dict:
    params = module.params
    load = Load(params["context"], params["concurrency"], params["kv_dtype"], params["cards"])
    if params["repo"]:
        from ansible_collections.anvil.serving.plugins.module_utils.weights.repository_preview import describe_repository

        return describe_repository(params, load)
    path = resolve_path(DockerEngine(params["docker_host"]), params["volume"], params["path"], create=False)
    return describe_models(path, load, params["discover"])


def main() -> None:
    run_module(
        OPTIONS,
        work,
        required_one_of=[("path", "repo")],
        mutually_exclusive=[("volume", "repo"), ("discover", "repo"), ("token", "token_file")],
    )


if __name__ == "__main__":
    main()
