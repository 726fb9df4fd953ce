# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts command lines to the argument parser of the engine in whose image it runs. No model is loaded and no server started.

In: one line of JSON, a list of ``{"name", "style", "argv", "environment"}``. Out: for each one line, ``MARK`` and JSON with
``name``, ``outcome`` (accepted, refused, missing_file, unknown) and ``words``; then ``MARK`` and ``end``. The engine is imported
once, and each command line is parsed in a process of its own.

Entry points: vLLM's console script ``vllm`` (``vllm.entrypoints.cli.main``, before 0.8 ``vllm.scripts``), whose subcommand
``serve`` is replaced, and ``vllm.entrypoints.openai.api_server``; SGLang's ``ServerArgs.add_cli_args``; TensorRT-LLM's click
command ``tensorrt_llm.commands.serve``.

Settings that exclude each other are known to the objects that vLLM and SGLang make of a parsed command line. They are made
without model and card: ``EngineArgs.create_engine_config`` up to ``VllmConfig``, and SGLang's ``ServerArgs`` of a dummy model.
Their refusal counts only if it is about settings that were given, and neither about one that is left to the engine (its value
depends on the model and the card) nor about the machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import traceback
from typing import Any, Callable, Dict, List, NoReturn, Optional, Set

MARK = "anvil-engine-check: "
# Functions of vLLM that read or check a command line; an error of any other place says nothing about the command line.
CHECKING = {
    "validate",
    "validate_parsed_serve_args",
    "validate_api_server_args",
    "parse_args",
    "parse_known_args",
    "load_config_file",
    "_pull_args_from_config",
}
LONGEST_WORDS = 2000
NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)+")
# A refusal with one of these words may come from what the side container lacks: the cards, the model, another package.
OF_THE_MACHINE = re.compile(
    r"\b(?:cuda|rocm|hip|xpu|hpu|npu|tpu|cpus?|gpus?|platforms?|devices?|packages?|install(?:ed)?|ray|nixl|models?|free)\b", re.I
)
QUOTED = re.compile(r"'[^']*'|`[^`]*`")
# Settings of SGLang whose comparisons need a number: value of a server that leaves them out.
SGLANG_UNSET = {"device": "cuda", "chunked_prefill_size": -1, "page_size": 1, "served_model_name": "dummy"}
# The first error of a style's imports.
IMPORT_ERRORS: Dict[str, str] = {}


class Parsed(BaseException):
    """The command line was parsed; ``arguments`` is what the engine would start with."""

    def __init__(self, arguments: Any = None) -> None:
        super().__init__()
        self.arguments = arguments


class Refused(BaseException):
    """The parser's own refusal, with its words."""


def stop(arguments: Any = None, *_more: Any, **_named: Any) -> NoReturn:
    """Takes the place of the function that would start the server."""
    raise Parsed(arguments)


def refuse(_parser: Any, message: str) -> NoReturn:
    """Takes the place of argparse's ``error``, which prints the usage and exits."""
    raise Refused(message)


def call_if_there(module: str, function: str, *values: Any) -> None:
    """Call a function of the engine; a release without it, or one that cannot be imported here, says nothing."""
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, OSError):
        return
    found(*values)


def prepare_vllm() -> None:
    """Without a card vLLM may find no platform, and its parser needs one."""
    try:
        platforms: Any = importlib.import_module("vllm.platforms")
        if platforms.current_platform.is_unspecified():
            platforms.current_platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform()
    except Exception as exc:  # an older release; its parser works without
        sys.stderr.write("{0}: {1}\n".format(type(exc).__name__, exc))


class AnyModel:
    """Stands in for vLLM's ``ModelConfig``: a model that allows what any model allows. Every other attribute is None."""

    is_moe = is_multimodal_model = is_chunked_prefill_supported = is_prefix_caching_supported = True
    runner_type = "generate"
    model = model_weights = tokenizer = dtype = "auto"

    def __init__(self, engine: Any) -> None:
        self.hf_config = self.hf_text_config = type("Config", (), {})()
        self.max_model_len = engine.max_model_len if is_length(engine.max_model_len) else 1 << 30

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("get_", "verify_")):
            return lambda *_values, **_named: None
        return False if name.startswith("is_") else None


def is_length(value: Any) -> bool:
    """Whether a length is a number; -1 and ``auto`` leave it to the model."""
    return isinstance(value, int) and value > 0


def list_given(settings: Any, plain: Any) -> Set[str]:
    """The names of the settings whose value is not the default one."""
    return {name for name, value in vars(settings).items() if repr(value) != repr(getattr(plain, name, None))}


def describe_conflict(error: BaseException, given: Set[str], unset: Set[str]) -> str:
    """What a refusal says of given settings; empty if it may come from something else."""
    listed = getattr(error, "errors", None)  # pydantic's list of errors
    rows = [str(error)]
    if callable(listed):
        rows = [": ".join([*map(str, row["loc"][:1]), str(row["msg"])]).replace("Value error, ", "", 1) for row in listed()]
    kept = []
    for row in rows:
        names = {name.replace("-", "_") for name in NAME.findall(row)}
        if names & given and not names & unset and not OF_THE_MACHINE.search(QUOTED.sub("", row)):
            kept.append(row)
    return "; ".join(kept)


def make_vllm_configs(arguments: Any) -> None:
    """Let vLLM make its configuration of parsed arguments, up to the one that needs a real model. Raises Refused."""
    given: Set[str] = set()
    unset: Set[str] = set()
    try:
        engine_args: Any = importlib.import_module("vllm.engine.arg_utils")
        arguments.model = "/"  # a folder that exists: a name of the hub would be looked up in a cache
        engine = engine_args.AsyncEngineArgs.from_cli_args(arguments)
        given = list_given(engine, engine_args.AsyncEngineArgs(model=engine.model))
        unset = {name for name, value in vars(engine).items() if value is None}
        if not is_length(engine.max_model_len):
            unset.add("max_model_len")
        cls = type(engine)

        def stand_in(self: Any) -> Any:  # a class as an attribute would be called without the engine's settings
            return AnyModel(self)

        cls.create_model_config = stand_in
        cls.create_speculative_config = lambda *_values, **_named: None
        engine_args.maybe_override_with_speculators = lambda model, tokenizer, *_values, **named: (
            model,
            tokenizer,
            named.get("vllm_speculative_config"),
        )
        engine_args.VllmConfig = stop
        engine.create_engine_config()
    except (ValueError, AssertionError) as exc:
        words = describe_conflict(exc, given, unset)
        if words:
            raise Refused(words) from exc
    except Exception as exc:  # a release whose functions have other names
        sys.stderr.write("{0}: {1}\n".format(type(exc).__name__, exc))


def check_sglang_settings(server_args: Any, arguments: Any, parser: argparse.ArgumentParser) -> None:
    """Let SGLang check parsed arguments for a dummy model. Raises Refused."""
    given = {name for name, value in vars(arguments).items() if value != parser.get_default(name)}
    unset = {name for name, value in vars(arguments).items() if value is None and name not in ("device", "served_model_name")}
    arguments.model_path = "dummy"
    for name, value in SGLANG_UNSET.items():
        if getattr(arguments, name, value) is None:
            setattr(arguments, name, value)
    try:
        made = server_args.from_cli_args(arguments)
        for check in ("resolve_once", "check_server_args"):
            if hasattr(made, check):
                getattr(made, check)()
    except (ValueError, AssertionError) as exc:
        words = describe_conflict(exc, given, unset)
        if words:
            raise Refused(words) from exc
    except Exception as exc:  # a release whose checks need more
        sys.stderr.write("{0}: {1}\n".format(type(exc).__name__, exc))


def parse_vllm(argv: List[str]) -> None:
    sys.argv = ["vllm", *argv]
    try:
        main: Callable[[], Any] = importlib.import_module("vllm.entrypoints.cli.main").main
        importlib.import_module("vllm.entrypoints.cli.serve").ServeSubcommand.cmd = staticmethod(stop)
    except ModuleNotFoundError:
        scripts: Any = importlib.import_module("vllm.scripts")
        scripts.serve = stop
        main = scripts.main
    try:
        main()
    except Parsed as parsed:
        call_if_there("vllm.entrypoints.openai.api_server", "validate_api_server_args", parsed.arguments)
        make_vllm_configs(parsed.arguments)
        raise


def parse_vllm_server(argv: List[str]) -> None:
    """``python3 -m vllm.entrypoints.openai.api_server``."""
    cli = importlib.import_module("vllm.entrypoints.openai.cli_args")
    try:
        flexible = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
    except ImportError:
        flexible = importlib.import_module("vllm.utils").FlexibleArgumentParser
    arguments = cli.make_arg_parser(flexible()).parse_args(argv)
    call_if_there(cli.__name__, "validate_parsed_serve_args", arguments)
    make_vllm_configs(arguments)
    raise Parsed(arguments)


def parse_sglang(argv: List[str]) -> None:
    """``python3 -m sglang.launch_server``."""
    parser = argparse.ArgumentParser(prog="sglang.launch_server")
    server_args = importlib.import_module("sglang.srt.server_args").ServerArgs
    server_args.add_cli_args(parser)
    if any(word == "--config" or word.startswith("--config=") for word in argv):
        raise NotImplementedError("a configuration file of SGLang is not read here")
    arguments = parser.parse_args(argv)
    check_sglang_settings(server_args, arguments, parser)
    raise Parsed(arguments)


def parse_sglang_serve(argv: List[str]) -> None:
    """``sglang serve [MODEL]``: the same options. ``--model-type`` may choose another server than the one for LLMs."""
    if any(word.partition("=")[0] == "--model-type" for word in argv):
        raise NotImplementedError("--model-type may choose a server with other options")
    parse_sglang(["--model-path", *argv] if argv and not argv[0].startswith("-") else argv)


def parse_trtllm(argv: List[str]) -> None:
    click = importlib.import_module("click")
    main = importlib.import_module("tensorrt_llm.commands.serve").main
    for command in [main, *getattr(main, "commands", {}).values()]:
        if not getattr(command, "commands", None):
            command.callback = stop
    try:
        main.main(args=list(argv), prog_name="trtllm-serve", standalone_mode=False)
    except click.UsageError as exc:
        raise Refused(exc.format_message()) from exc


STYLES: Dict[str, Callable[[List[str]], None]] = {
    "vllm": parse_vllm,
    "vllm_server": parse_vllm_server,
    "sglang": parse_sglang,
    "sglang_serve": parse_sglang_serve,
    "trtllm": parse_trtllm,
}
# What a style imports, once for all its command lines. A release may lack some of them. SGLang imports what resolves and checks
# its settings only when it does so, which would take seconds for each command line.
MODULES = {
    "vllm": ("vllm", "vllm.entrypoints.cli.main", "vllm.entrypoints.cli.serve", "vllm.entrypoints.openai.api_server"),
    "vllm_server": ("vllm", "vllm.entrypoints.openai.cli_args"),
    "sglang": ("sglang.srt.server_args", "sglang.srt.arg_groups.pipeline", "sglang.srt.arg_groups.validation_hook"),
    "sglang_serve": ("sglang.srt.server_args", "sglang.srt.arg_groups.pipeline", "sglang.srt.arg_groups.validation_hook"),
    "trtllm": ("tensorrt_llm.commands.serve",),
}


def is_about_the_command_line(error: Optional[BaseException]) -> bool:
    """Whether an error was raised where vLLM reads or checks a command line."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return any(frame.name in CHECKING for frame in frames)


def judge(style: str, argv: List[str]) -> Dict[str, str]:
    """Parse one command line, and say how that ended."""
    setattr(argparse.ArgumentParser, "error", refuse)  # noqa: B010 (mypy refuses the plain assignment)
    try:
        STYLES[style](argv)
    except Parsed:
        return {"outcome": "accepted", "words": ""}
    except Refused as exc:
        return {"outcome": "refused", "words": str(exc)}
    except FileNotFoundError as exc:
        return {"outcome": "missing_file", "words": str(exc)}
    except (ImportError, OSError) as exc:
        return {"outcome": "unknown", "words": "{0}: {1}".format(type(exc).__name__, exc)}
    except Exception as exc:
        outcome = "refused" if is_about_the_command_line(exc) else "unknown"
        if outcome == "unknown" and style in IMPORT_ERRORS:  # a second import of a broken module says less
            return {"outcome": outcome, "words": IMPORT_ERRORS[style]}
        words = exc.args[0] if isinstance(exc, KeyError) and exc.args else exc
        return {"outcome": outcome, "words": str(words) or type(exc).__name__}
    except SystemExit as exc:
        return {"outcome": "unknown", "words": "the parser ended with exit code {0}".format(exc.code)}
    except BaseException as exc:
        return {"outcome": "unknown", "words": "{0}: {1}".format(type(exc).__name__, exc)}
    return {"outcome": "unknown", "words": "the program of the image did not start its server"}


def judge_in_child(question: Dict[str, Any], out: Any) -> None:
    """Judge one question in a child process, which writes the line itself."""
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(question["environment"])
            found = judge(str(question["style"]), [str(word) for word in question["argv"]])
            found["words"] = found["words"][:LONGEST_WORDS]
            out.write(MARK + json.dumps({"name": question["name"], **found}) + "\n")
            out.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def main() -> None:
    questions = json.loads(sys.stdin.readline())
    # The engine writes to standard output what it likes: the answers keep it to themselves.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for style in sorted({str(question["style"]) for question in questions}):
        for module in MODULES[style]:
            try:
                importlib.import_module(module)
            except BaseException as exc:  # each question then tells it by itself
                words = "{0}: {1}".format(type(exc).__name__, exc)
                sys.stderr.write(words + "\n")
                if not (isinstance(exc, ModuleNotFoundError) and module.startswith(str(exc.name))):  # else: another release
                    IMPORT_ERRORS.setdefault(style, words)
            if module == "vllm":
                prepare_vllm()
    for question in questions:
        judge_in_child(question, out)
    out.write(MARK + "end\n")
    out.flush()


if __name__ == "__main__":
    main()
