# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command line, environment and files of a serve name besides its model: repositories, addresses, code. Pure.

Sources: vLLM ``vllm/engine/arg_utils.py``, ``vllm/config/speculative.py`` and ``vllm/envs.py``; SGLang ``srt/server_args.py`` and
``srt/environ.py``; TensorRT-LLM ``commands/serve.py``; llama.cpp ``common/arg.cpp``.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import flag_of, is_on, list_config_words
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES, LLAMA_PRESETS

# What a value is. WEIGHTS: a repository or path of weights. ADAPTERS: the same, as path, name=path or JSON. NAMED: a repository
# or path of small files, such as a tokenizer. UNPINNED: a repository of which the engine takes the newest commit. FILE: a path or
# the text itself. CODE_FILE: a path of Python code. DOWNLOAD: something that is fetched. HUB: the address of a hub. LOADER: the
# format of weights. CODE: a switch that runs the code of a repository. OPEN: a switch that lets a client choose files or code.
# REDIRECT: a file that exchanges repositories. CONFIG: a file with further settings. PIN: a revision. HARMLESS: names no source.
WEIGHTS, ADAPTERS, NAMED, UNPINNED, FILE, CODE_FILE = "weights", "adapters", "named", "unpinned", "file", "code_file"
DOWNLOAD, HUB, LOADER, CODE, OPEN, REDIRECT = "download", "hub", "loader", "code", "open", "redirect"
CONFIG, PIN, HARMLESS, UNKNOWN = "config", "pin", "harmless", "unknown"

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+([:@][\w.-]+)?")
# Names of options, variables and JSON keys that probably hold a source, so a later release of an engine is judged too.
SOURCE_NAME = re.compile(
    r"(?:.*-)?(?:models?|tokenizer|repo|repository|hub|url|uri|adapters?|loras?|checkpoint|ckpt|weights|gguf)"
    r"(?:-(?:paths?|dirs?|names?|id|file|url|repo|uri))?"
)
SOURCE_VARIABLE = re.compile(r"MODEL|TOKENIZER|REPO|ADAPTER|LORA|HF_|HUB|CHECKPOINT|WEIGHTS|DRAFT")
PLAIN_WORD = re.compile(r"[+-]?[0-9.]+[A-Za-z%]*|auto|none|null|true|false|on|off|yes|no|all", re.IGNORECASE)
SPECULATION = re.compile(r"\[?(?:ngram(?:_gpu)?|suffix|medusa|draft_model|(?:[a-z0-9_]+_)?mtp)\]?")
LONGEST_JSON = 65536


@dataclass(frozen=True)
class Mention:
    """One value that may name a source. spelling: the flag, variable or key as typed. revision: the commit that pins it, as
    given; code_revision: the one that pins its code. place: ``args``, ``environment`` or ``secrets``."""

    role: str
    spelling: str
    value: str = ""
    revision: str = ""
    code_revision: str = ""
    place: str = "args"


def _flags(role: str, *names: str) -> Dict[str, str]:
    return dict.fromkeys(names, role)


_PYTHON = {
    **_flags(NAMED, "--tokenizer", "--tokenizer-path", "--hf-config-path", "--generation-config"),
    **_flags(PIN, "--revision", "--tokenizer-revision", "--code-revision"),
    **_flags(FILE, "--chat-template", "--completion-template"),
    **_flags(LOADER, "--load-format"),
    **_flags(CODE, "--trust-remote-code"),
    **_flags(CONFIG, "--config"),
}
_NETWORK = _flags(
    HARMLESS,
    *("--served-model-name", "--host", "--root-path", "--fastapi-root-path", "--uds", "--otlp-traces-endpoint"),
    *("--allowed-origins", "--allowed-methods", "--allowed-headers", "--allowed-media-domains", "--media-io-kwargs"),
    *("--dist-init-addr", "--master-addr", "--data-parallel-address", "--encoder-urls", "--encoder-register-urls"),
    *("--disagg-cluster-uri", "--kv-events-config", "--kv-transfer-config", "--ec-transfer-config", "--weight-transfer-config"),
    *("--load-publish-endpoint", "--decoupled-spec-bind-endpoint", "--decoupled-spec-connect-endpoints"),
)
FLAGS: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        **_PYTHON,
        **_NETWORK,
        **_flags(WEIGHTS, "--model", "--spec-model", "--speculative-model"),
        **_flags(ADAPTERS, "--lora-modules", "--default-mm-loras", "--prompt-adapters"),
        **_flags(CODE_FILE, "--tool-parser-plugin", "--reasoning-parser-plugin"),
    },
    "sglang": {
        **_PYTHON,
        **_NETWORK,
        **_flags(WEIGHTS, "--model", "--model-path", "--speculative-draft-model-path", "--speculative-draft-model"),
        **_flags(WEIGHTS, "--speculative-token-map", "--kt-weight-path", "--modelopt-checkpoint-restore-path"),
        **_flags(ADAPTERS, "--lora-paths", "--uno-lora-path"),
        **_flags(PIN, "--speculative-draft-model-revision"),
        **_flags(LOADER, "--speculative-draft-load-format"),
        **_flags(CODE_FILE, "--custom-weight-loader"),
        **_flags(OPEN, "--enable-custom-logit-processor"),
        **_flags(DOWNLOAD, "--modelexpress-config", "--remote-instance-weight-loader-seed-instance-ip"),
    },
    "trtllm": {
        **_PYTHON,
        **_NETWORK,
        **_flags(CONFIG, "--extra-llm-api-options"),
        **_flags(CODE_FILE, "--custom-module-dirs"),
    },
    "llama_cpp": {
        **_NETWORK,
        **_flags(HARMLESS, "-a", "--alias", "--tags", "--api-prefix", "--path", "--rpc"),
        **_flags(WEIGHTS, "-m", "--model", "-md", "--model-draft", "--spec-draft-model", "-mm", "--mmproj"),
        **_flags(WEIGHTS, "-mv", "--model-vocoder"),
        **_flags(ADAPTERS, "--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled"),
        **_flags(UNPINNED, "-hf", "-hfr", "--hf-repo", "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf"),
        **_flags(UNPINNED, "-hfv", "-hfrv", "--hf-repo-v", "-dr", "--docker-repo"),
        **_flags(DOWNLOAD, "-hff", "--hf-file", "-hffv", "--hf-file-v", "-mu", "--model-url", "-mmu", "--mmproj-url"),
        **_flags(DOWNLOAD, *LLAMA_PRESETS),
        **_flags(FILE, "--chat-template", "--chat-template-file", "--grammar-file", "--json-schema-file"),
    },
}
# A flag -> the flags that pin it, in the order in which they count.
PINS: Mapping[str, Tuple[str, ...]] = {
    "--tokenizer": ("--tokenizer-revision", "--revision"),
    "--tokenizer-path": ("--revision",),
    "--hf-config-path": ("--revision",),
    "--generation-config": ("--revision",),
    "--speculative-draft-model-path": ("--speculative-draft-model-revision",),
    "--speculative-draft-model": ("--speculative-draft-model-revision",),
    "--model": ("--revision",),
    "--model-path": ("--revision",),
}
VARIABLES: Mapping[str, str] = {
    **_flags(HUB, "HF_ENDPOINT", "MODEL_ENDPOINT", "HF_INFERENCE_ENDPOINT", "S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"),
    **_flags(OPEN, "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_SERVER_DEV_MODE"),
    **_flags(DOWNLOAD, "VLLM_USE_MODELSCOPE", "SGLANG_USE_MODELSCOPE"),
    **_flags(REDIRECT, "VLLM_MODEL_REDIRECT_PATH"),
    **_flags(UNPINNED, "VLLM_LORA_RESOLVER_HF_REPO_LIST"),
    **_flags(UNPINNED, "LLAMA_ARG_HF_REPO", "LLAMA_ARG_HFD_REPO", "LLAMA_ARG_SPEC_DRAFT_HF_REPO", "LLAMA_ARG_HF_REPO_V"),
    **_flags(UNPINNED, "LLAMA_ARG_DOCKER_REPO"),
    **_flags(DOWNLOAD, "LLAMA_ARG_HF_FILE", "LLAMA_ARG_HF_FILE_V", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_MMPROJ_URL"),
    **_flags(WEIGHTS, "LLAMA_ARG_MODEL", "LLAMA_ARG_MODEL_DRAFT", "LLAMA_ARG_SPEC_DRAFT_MODEL", "LLAMA_ARG_MMPROJ"),
    **_flags(WEIGHTS, "LLAMA_ARG_MODEL_VOCODER", "LLAMA_ARG_LORA"),
    **_flags(HARMLESS, "LLAMA_ARG_ALIAS", "LLAMA_ARG_TAGS", "LLAMA_ARG_API_PREFIX", "LLAMA_ARG_RPC", "VLLM_RPC_BASE_PATH"),
    **_flags(HARMLESS, "VLLM_USAGE_STATS_SERVER", "SGLANG_ZBAL_BOOTSTRAP_URL", "TZ"),
}
HARMLESS_VARIABLE = re.compile(r"(?i:.*proxy)|OTEL_.*|PIP_.*|UV_.*|NCCL_.*|.*_TOKEN")
# Keys of JSON and YAML values that look like a source and are none.
HARMLESS_KEYS = ("name", "lora-name", "base-model-name", "served-model-name", "kv-connector-module-path")
SWITCHES = (CODE, OPEN)


@cache
def _list_flags(engine: str) -> Mapping[str, str]:
    """Flag -> role. A server of an unknown engine may read any of them."""
    if engine in FLAGS:
        return FLAGS[engine]
    return {flag: role for table in FLAGS.values() for flag, role in table.items()}


def _find_role(engine: str, flag: str) -> str:
    known = _list_flags(engine)
    if flag in known:
        return known[flag]
    abbreviates = engine not in ENGINES or ENGINES[engine].abbreviates or engine not in FLAGS
    if abbreviates and len(flag) > 3 and flag.startswith("--"):
        meant = [role for name, role in known.items() if name.startswith(flag) and role != HARMLESS]
        if meant:
            return meant[0]
    return UNKNOWN


def _split_words(words: Sequence[str]) -> Iterator[Tuple[str, List[str]]]:
    """Each word that starts with a dash, with the words after it. The first item has no flag: what comes before them all."""
    flag, values = "", []  # type: str, List[str]
    for word in words:
        if not flag_of(word):
            values.append(word)
            continue
        yield flag, values
        flag, equals, value = word.partition("=")
        values = [value] if equals else []
    yield flag, values


def _read_json(text: str) -> Any:
    """A JSON object or list; None for other text."""
    if text[:1] not in "{[" or len(text) > LONGEST_JSON:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _walk_data(data: Any, spelling: str, role: str = UNKNOWN, adapters: bool = False) -> Iterator[Mention]:
    """The sources in a JSON or YAML value: by the names of their keys, else by their looks."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            name = str(key).replace("_", "-").lower()
            inner = "{0}.{1}".format(spelling, key)
            if name in ("trust-remote-code", "auto-map"):
                yield Mention(CODE, inner, "1" if value and str(value).lower() not in ("false", "0") else "0")
                continue
            if name == "load-format":
                yield Mention(LOADER, inner, str(value))
                continue
            if name in HARMLESS_KEYS or name in ("revision", "code-revision", "tokenizer-revision"):
                continue
            source = ADAPTERS if adapters else WEIGHTS
            found = source if SOURCE_NAME.fullmatch(name) or (adapters and name in ("path", "lora-path")) else role
            found = NAMED if name.startswith("tokenizer") else source if adapters and isinstance(value, str) else found
            pins = [str(data.get(pin) or "") for pin in ("revision", "code_revision")]
            for one in _walk_data(value, inner, found, adapters and not isinstance(value, str)):
                yield replace(one, revision=pins[0], code_revision=pins[1]) if one.role in (WEIGHTS, NAMED) else one
    elif isinstance(data, (list, tuple)):
        for item in data:
            yield from _walk_data(item, spelling, role, adapters)
    elif isinstance(data, str):
        yield Mention(role, spelling, data)


def _read_adapter(text: str, spelling: str, engine: str) -> Iterator[Mention]:
    data = _read_json(text)
    if data is not None:
        yield from _walk_data(data, spelling, ADAPTERS, True)
        return
    for part in text.split(",") if engine == "llama_cpp" else [text]:
        path = re.sub(r":[0-9.]+$", "", part) if engine == "llama_cpp" else part.partition("=")[2] or part
        yield Mention(ADAPTERS, spelling, path)


def _read_values(engine: str, typed: str, values: Sequence[str]) -> Iterator[Mention]:
    """What one flag and its words name."""
    base, spelling = flag_of(typed), typed.partition(" ")[0]
    role = _find_role(engine, base) if base else UNKNOWN
    if role == HARMLESS:
        return
    if role == DOWNLOAD and base in LLAMA_PRESETS:
        yield Mention(role, spelling, "on")
    elif role in SWITCHES:
        yield Mention(
            role, spelling, values[0] if values and (is_on(values[0]) or values[0].lower() in ("false", "0", "no")) else "1"
        )
        for word in values:
            if not PLAIN_WORD.fullmatch(word):
                yield Mention(UNKNOWN, spelling, word)
        return
    if base.startswith("--no-") and _find_role(engine, "--" + base[5:]) in SWITCHES:
        yield Mention(_find_role(engine, "--" + base[5:]), spelling, "0")
        return
    if URL.search(typed):
        yield Mention(UNKNOWN, spelling, typed)
    for word in values:
        data = _read_json(word)
        if role == ADAPTERS:
            yield from _read_adapter(word, spelling, engine)
        elif data is not None:
            yield from _walk_data(data, spelling)
        elif role == UNKNOWN and re.search(r"\s", word):
            yield from _read_script(engine, word, spelling)
        else:
            yield Mention(role, spelling, word)


def _read_script(engine: str, text: str, spelling: str) -> Iterator[Mention]:
    """A whole command line in one word, as ``sh -c`` takes it."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    for typed, values in _split_words([word for word in words if word != text]):
        for one in _read_values(engine, typed, values):
            yield replace(one, spelling=one.spelling or spelling)


def _pin(mentions: List[Mention], engine: str) -> List[Mention]:
    """Give each flag the revision that the engine uses for it: the last one that was typed."""
    known = [name for name, role in _list_flags(engine).items() if role == PIN]

    def full_name(spelling: str) -> str:
        flag = flag_of(spelling)
        return flag if flag in known else next((name for name in known if name.startswith(flag)), flag)

    given = {full_name(one.spelling): one.value for one in mentions if one.role == PIN}

    def pin(one: Mention) -> Mention:
        flag = flag_of(one.spelling)
        pins = PINS.get(flag) or next((PINS[name] for name in PINS if len(flag) > 3 and name.startswith(flag)), ())
        if one.role in (WEIGHTS, NAMED) and not one.revision:
            return replace(one, revision=next((given[name] for name in pins if given.get(name)), ""))
        if one.role in (CODE, CODE_FILE):
            return replace(one, revision=given.get("--revision", ""), code_revision=given.get("--code-revision", ""))
        return one

    return [pin(one) for one in mentions]


def read_command_line(engine: str, words: Sequence[str]) -> List[Mention]:
    """What the words of a command line name, each with the revision that pins it."""
    found: List[Mention] = []
    tables: Dict[str, Dict[str, Any]] = {}
    for typed, values in _split_words(words):
        known = _list_flags(engine)
        base, dot, inside = flag_of(typed).partition(".")
        if not dot or flag_of(typed) in known or known.get(base) == HARMLESS:
            found += _read_values(engine, typed, values)
            continue
        # --flag.outer.inner value sets one part of a table.
        table = tables.setdefault(base, {})
        *outer, last = inside.rstrip("+").split(".")
        for key in outer:
            below = table.get(key)
            table[key] = table = dict(below) if isinstance(below, dict) else {}
        for word in values:
            data = _read_json(word)
            table[last] = word if data is None else data
    for base, table in tables.items():
        found += _walk_data(table, base, UNKNOWN, _find_role(engine, base) == ADAPTERS)
    return _pin(found, engine)


def read_config(engine: str, config: Mapping[str, Any], spelling: str) -> List[Mention]:
    """What a configuration file names."""
    if engine == "trtllm":
        found = list(_walk_data(config, spelling))
        return [replace(one, role=NAMED) if one.spelling == spelling + ".tokenizer" else one for one in found]
    return [
        replace(one, spelling="{0} in {1}".format(one.spelling, spelling))
        for one in read_command_line(engine, list_config_words(config))
    ]


def read_environment(environment: Mapping[str, str], secrets: Sequence[str] = ()) -> List[Mention]:
    """What environment variables name. secrets: variables with values that are not known here."""
    found: List[Mention] = []
    for name, value in environment.items():
        role = VARIABLES.get(name, UNKNOWN)
        if not value or role == HARMLESS or (role == UNKNOWN and HARMLESS_VARIABLE.fullmatch(name)):
            continue
        if role == UNKNOWN and not (URL.search(value) or SOURCE_VARIABLE.search(name)):
            continue
        if name.endswith("_USE_MODELSCOPE") and not is_on(value):
            continue
        data = _read_json(value) if role == UNKNOWN else None
        found += _walk_data(data, name) if data is not None else [Mention(role, name, value)]
    found += [Mention(VARIABLES[name], name) for name in secrets if VARIABLES.get(name, HARMLESS) != HARMLESS]
    return [replace(one, place="environment" if one.spelling in environment else "secrets") for one in found]


def find_config_flag(mentions: Sequence[Mention]) -> Optional[Mention]:
    """The flag that names a configuration file; None without one."""
    return next((one for one in reversed(mentions) if one.role == CONFIG), None)
