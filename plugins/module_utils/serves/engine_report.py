# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine itself reports of its KV cache once it is ready, and the file beside the project that keeps it for the status.

Sources: vLLM ``/metrics`` (``vllm:cache_config_info``: num_gpu_blocks, block_size) and ``max_model_len`` of ``/v1/models``;
llama.cpp ``/props`` (context of a slot, ``total_slots``); SGLang ``/get_server_info`` (``max_total_num_tokens``,
``context_length``). It is kept because an engine that sleeps, or wants a key, cannot be asked at any time.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import CONTEXT
from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import REPORTS_FILE

CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{(?P<labels>[^}\n]{1,4000})\}", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')

# Tokens that the KV cache holds, and tokens of the longest request; None: not reported.
Tokens = Tuple[Optional[int], Optional[int]]


def _document(text: str) -> Mapping[str, Any]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _count(value: Any) -> Optional[int]:
    """A whole number above 0, as a number or as text."""
    text = str(value)
    return int(text) or None if not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,15}", text) else None


def read_vllm(metrics: str, models: str, served_name: str) -> Tokens:
    """Several engines behind one server (data parallel) report one line each: their caches add up."""
    total = 0
    for match in CACHE_CONFIG.finditer(metrics):
        labels = dict(LABEL.findall(match.group("labels")))
        total += (_count(labels.get("num_gpu_blocks")) or 0) * (_count(labels.get("block_size")) or 0)
    listed = _document(models).get("data")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    return total or None, next((_count(row.get("max_model_len")) for row in rows if row.get("id") == served_name), None)


def read_llama(props: str, settings: Settings) -> Tokens:
    """The slots share one cache of the requested context (``--kv-unified``), or have one of their own each."""
    document = _document(props)
    effective = document.get("default_generation_settings")
    context = _count(effective.get("n_ctx")) if isinstance(effective, dict) else None
    slots = _count(document.get("total_slots")) or 1
    if context is None:
        return None, None
    return context if settings.tokens(CONTEXT) == context else context * slots, context


def read_sglang(info: str) -> Tokens:
    document = _document(info)
    return _count(document.get("max_total_num_tokens")), _count(document.get("context_length"))


def read_tokens(engine: str, settings: Settings, served_name: str, get: Callable[[str], str]) -> Tokens:
    """Ask a ready engine. get: the text of a path."""
    if engine == "vllm":
        return read_vllm(get("/metrics"), get("/v1/models"), served_name)
    if engine == "llama_cpp":
        return read_llama(get("/props"), settings)
    return read_sglang(get("/get_server_info")) if engine == "sglang" else (None, None)


def read_reports(directory: str) -> Dict[str, Dict[str, Any]]:
    """Serve -> ``container_id``, ``kv_tokens``, ``context``. A file that cannot be read is an empty one."""
    try:
        read = _document(files.read_file(os.path.join(directory, REPORTS_FILE)) or "")
    except AnvilError:
        return {}
    return {str(name): dict(row) for name, row in read.items() if isinstance(row, dict)}


def keep_reports(directory: str, found: Mapping[str, Mapping[str, Any]], services: Mapping[str, Any]) -> None:
    """Add reports to the file, and drop those of serves that are no longer there."""
    if not found:
        return
    kept = {name: row for name, row in {**read_reports(directory), **found}.items() if name in services}
    path, text = os.path.join(directory, REPORTS_FILE), json.dumps(kept, indent=1, sort_keys=True) + "\n"
    if files.differs(path, text, 0o644):
        files.write_file(path, text, 0o644)


def add_reports(docker: DockerEngine, root: str, judged: Mapping[str, Dict[str, Any]]) -> None:
    """Put what the running engines reported beside the estimates. root: of the host's plan; empty where it is not known."""
    reports = read_reports(os.path.join(root, "anvil-serves")) if root else {}
    for name, row in judged.items():
        report = reports.get(name, {})
        text = describe_tokens(report)
        if text and docker.inspect_container(str(report.get("container_id"))) is not None:
            row["reported"] = text


def describe_tokens(row: Mapping[str, Any]) -> str:
    """``KV cache: 412,000 tokens, 3.1 times the context``, with a sign for times; empty where the engine did not report it."""
    tokens, context = _count(row.get("kv_tokens")), _count(row.get("context"))
    if tokens is None:
        return ""
    text = "KV cache: {0:,} tokens".format(tokens)
    return text if context is None else "{0}, {1:.1f} \u00d7 the context".format(text, tokens / context)
