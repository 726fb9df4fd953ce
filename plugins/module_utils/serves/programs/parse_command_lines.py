# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts command lines to the argument parser of the engine in whose image it runs. No model is loaded and no server started.

In: one line of JSON, a list of ``{"name", "style", "argv", "environment"}``. Out: for each one line, ``MARK`` and JSON with
``name``, ``outcome`` (accepted, refused, missing_file, unknown) and ``words``; then ``MARK`` and ``end``. The engine is imported
once, and each command line is parsed in a process of its own.

Entry points: vLLM's console script ``vllm`` (``vllm.entrypoints.cli.main``, before 0.8 ``vllm.scripts``), whose subcommand
``serve`` is replaced, and ``vllm.entrypoints.openai.api_server``; SGLang's ``ServerArgs.add_cli_args``; TensorRT-LLM's click
command ``tensorrt_llm.commands.serve``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from typing import Any, Callable, Dict, List, NoReturn, Optional

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
    raise Parsed(arguments)


def parse_sglang(argv: List[str]) -> None:
    parser = argparse.ArgumentParser(prog="sglang.launch_server")
    importlib.import_module("sglang.srt.server_args").ServerArgs.add_cli_args(parser)
    if any(word == "--config" or word.startswith("--config=") for word in argv):
        raise NotImplementedError("a configuration file of SGLang is not read here")
    raise Parsed(parser.parse_args(argv))


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
    "trtllm": parse_trtllm,
}
# What a style imports, once for all its command lines. A release may lack some of them.
MODULES = {
    "vllm": ("vllm", "vllm.entrypoints.cli.main", "vllm.entrypoints.cli.serve", "vllm.entrypoints.openai.api_server"),
    "vllm_server": ("vllm", "vllm.entrypoints.openai.cli_args"),
    "sglang": ("sglang.srt.server_args",),
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
                sys.stderr.write("{0}: {1}\n".format(type(exc).__name__, exc))
            if module == "vllm":
                prepare_vllm()
    for question in questions:
        judge_in_child(question, out)
    out.write(MARK + "end\n")
    out.flush()


if __name__ == "__main__":
    main()
