# SPDX-License-Identifier: GPL-3.0-or-later
"""Which program of an image judges the command line of a serve, what it is asked, and what its answer means. Pure.

vLLM, SGLang and TensorRT-LLM: ``programs/parse_command_lines`` calls their own argument parsers. llama-server has no dry run: it
gets the same command line with a model that cannot exist. It reports wrong options first and ends at the model (builds from
August 2024 to b11669 of 2026); with ``--version`` as the last option it ends after all others were parsed, which is used where it
would start without a model. Only its own answer says which options a build has: ``-fa`` takes no value in August 2025 and one in
b11669, which has lost ``--no-mmap``, ``--draft`` and ``--log-format``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.printable import HIDDEN
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import hide_secrets
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedImage

ACCEPTED, REFUSED, DOUBTFUL, UNKNOWN = "accepted", "refused", "doubtful", "unknown"
LONGEST_WORDS = 600
NO_SUCH_MODEL = "/anvil-serving/no-such-model.gguf"
MODEL_FLAGS = ("--model", "-m")
# What ``python -m`` starts -> its engine, and the style of its command line.
MODULE_STYLES = {
    "vllm.entrypoints.openai.api_server": ("vllm", "vllm_server"),
    "vllm.entrypoints.cli.main": ("vllm", "vllm"),
    "sglang.launch_server": ("sglang", "sglang"),
    "tensorrt_llm.commands.serve": ("trtllm", "trtllm"),
}
# With one of these variables llama-server would look for its model elsewhere.
MODEL_VARIABLES = ("LLAMA_ARG_HF_REPO", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO", "LLAMA_ARG_MODELS_PRESET")
# Words that name cards: a side container has none, so a refusal of these options proves nothing.
CARD_WORDS = re.compile(r"device|override.?tensor|^-ot|^-dev|rpc|tensor.?split|^-ts$|main.?gpu|^-mg$|split.?mode|^-sm$", re.I)
MISSING_FILE = re.compile(
    r"failed to open|no such file|cannot open|could not open|not found: /|does not exist|doesn't exist", re.I
)
EXCLUDING = re.compile(
    r"either|both|cannot be|can't be|can only|requires|must |not supported|incompatible|conflict|mutually", re.I
)
LLAMA_REFUSALS = (
    re.compile(r'error while handling (?:argument|environment variable) "(?P<argument>[^"]+)": (?P<words>.*)'),
    re.compile(r"error: (?P<words>(?:invalid|unknown) argument: (?P<argument>\S+))"),
    re.compile(r"error: (?P<words>invalid parameter for argument: (?P<argument>\S+))"),
)
LLAMA_ERROR = re.compile(r"error: (?P<words>.+)")
# Words that are about the option, whatever its value.
LLAMA_NO_OPTION = re.compile(r"^(?:invalid|unknown) argument: |has been removed")
# Builds before October 2024 say no more of a value that is no number: with the usage for an argument, without it for a variable.
LLAMA_NO_NUMBER = re.compile(r"(?:\s*what\(\):\s+)?(?P<words>sto(?:i|l|f|d|ul|ll|ull))")
LLAMA_DEPRECATED = re.compile(r"DEPRECATED: (?P<words>.+)")
VERSION = re.compile(r"^version: ", re.M)
SETTING = re.compile(r"(?<![\w-])[a-z][a-z0-9]*(?:-[a-z0-9]+)+")
FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w.-]*")


@dataclass(frozen=True)
class Question:
    """A command line for the program of an image.

    style: ``llama``, or a style of ``programs/parse_command_lines``. entrypoint, command: of the side container (llama).
    argv: the arguments after the program's name, secrets replaced.
    """

    serve: str
    style: str
    argv: Tuple[str, ...]
    environment: Mapping[str, str]
    entrypoint: Tuple[str, ...] = ()
    command: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the program said. argument: the flag or variable that it names, if any. words: its own; of an accepted command
    line: what it says of options that it will lose."""

    outcome: str
    words: str = ""
    argument: str = ""
    log: Tuple[str, ...] = field(default=())


def list_words(service: Service, image: ObservedImage) -> Tuple[str, ...]:
    """The whole command line that Docker starts."""
    entrypoint = image.entrypoint if service.entrypoint is None else service.entrypoint
    default = image.command if service.entrypoint is None else ()
    return (*entrypoint, *(default if service.command is None else service.command))


def build_question(service: Service, image: ObservedImage) -> Optional[Question]:
    """The question for a serve; None where it starts no known program, or cannot be told without a secret."""
    words = _without_secrets(list_words(service, image))
    if words is None:
        return None
    names = [word.rpartition("/")[2] for word in words]
    engine, environment = str(service.anvil.get("engine") or ""), dict(service.environment)
    if engine == "llama_cpp" and "llama-server" in names:
        at = names.index("llama-server") + 1
        argv = tuple(words[at:])
        changed = _without_model(argv, {**dict(_pairs(image.environment)), **environment})
        return Question(service.name, "llama", argv, environment, tuple(words[:at]), changed)
    found = _find_python_program(engine, words, names)
    return None if found is None else Question(service.name, found[0], tuple(words[found[1] :]), environment)


def _without_secrets(words: Sequence[str]) -> Optional[List[str]]:
    """The words with a placeholder for each secret. None where a secret is a part of a word: what is left might not parse."""
    shown = hide_secrets(words)
    for at, (word, masked) in enumerate(zip(words, shown)):
        if re.fullmatch(r"[0-9.]{1,12}|true|false", word):
            shown[at] = word  # no secret, and its option may take only numbers
        elif masked not in (word, HIDDEN) and masked.partition("=")[2] != HIDDEN:
            return None
    return shown


def _pairs(lines: Sequence[str]) -> List[Tuple[str, str]]:
    return [(line.partition("=")[0], line.partition("=")[2]) for line in lines]


def _find_python_program(engine: str, words: Sequence[str], names: Sequence[str]) -> Optional[Tuple[str, int]]:
    """The style of the program, and where its arguments begin."""
    for at, word in enumerate(words):
        follows = words[at + 1] if at + 1 < len(words) else ""
        if engine == "vllm" and names[at] == "vllm" and follows == "serve":
            return "vllm", at + 1
        if engine == "trtllm" and names[at] == "trtllm-serve":
            return "trtllm", at + 1
        if engine == "sglang" and names[at] == "sglang" and follows == "serve":
            return "sglang_serve", at + 2
        style = MODULE_STYLES.get(follows) if word == "-m" else None
        if style is not None and style[0] == engine:
            return style[1], at + 2
    return None


def _without_model(argv: Sequence[str], environment: Mapping[str, str]) -> Tuple[str, ...]:
    """The arguments with a model that cannot exist; without a model among them, ``--version`` ends the program."""
    changed, swapped = list(argv), False
    for at, word in enumerate(argv[:-1]):
        if word in MODEL_FLAGS:
            changed[at + 1], swapped = NO_SUCH_MODEL, True
    if not swapped or any(environment.get(name) for name in MODEL_VARIABLES):
        return (*argv, "--version")
    return tuple(changed)


def read_llama_answer(question: Question, output: str) -> Answer:
    """What llama-server's output says about its command line."""
    lines = output.splitlines()
    if NO_SUCH_MODEL in output or (question.command[-1:] == ("--version",) and VERSION.search(output)):
        old = [match.group("words").strip() for match in map(LLAMA_DEPRECATED.search, lines) if match is not None]
        return Answer(ACCEPTED, "; ".join(dict.fromkeys(old))[:LONGEST_WORDS])
    for number, line in enumerate(lines):
        for pattern in LLAMA_REFUSALS:
            match = pattern.search(line)
            if match is not None:
                usage = [
                    text for text in lines[number + 1 : number + 9] if text.strip() and not text.startswith(("usage", "to show"))
                ]
                argument, words = match.group("argument"), match.group("words").strip() or line
                owner = _find_owner(argument, question.argv)
                if owner:
                    argument, words = owner, "{0} (this build takes no such value for {1})".format(words, owner)
                return _refuse(argument, words, question, tuple(usage))
        match = LLAMA_ERROR.match(line)
        if match is not None and "loading" not in line:
            outcome = REFUSED if EXCLUDING.search(line) and not MISSING_FILE.search(line) else DOUBTFUL
            return Answer(outcome, match.group("words").strip())
        match = LLAMA_NO_NUMBER.fullmatch(line)
        if match is not None:
            return Answer(REFUSED, "an argument or a variable needs a number, and has none ({0})".format(match.group("words")))
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return Answer(UNKNOWN, "llama-server ended without reaching its model: " + last[:300])


def _find_owner(argument: str, argv: Sequence[str]) -> str:
    """The flag before a word that a build refuses as an argument of its own: ``on`` of ``-fa on``."""
    at = argv.index(argument) if argument in argv and not argument.startswith("-") else 0
    return argv[at - 1] if at and argv[at - 1].startswith("-") else ""


def read_python_answer(question: Question, raw: Mapping[str, str]) -> Answer:
    """What ``programs/parse_command_lines`` reported for one command line."""
    words, outcome = _shorten(str(raw.get("words") or "")), raw.get("outcome")
    if outcome == "accepted":
        return Answer(ACCEPTED)
    if outcome == "missing_file":
        return Answer(DOUBTFUL, words)
    if outcome != "refused":
        return Answer(UNKNOWN, words)
    return _refuse(_find_argument(words, question.argv), words, question)


def _shorten(words: str) -> str:
    """The words of a parser on one line; a long list of choices is cut."""
    return " ".join(words.split())[:LONGEST_WORDS]


def _find_argument(words: str, argv: Sequence[str]) -> str:
    """The argument of the command line that a message names, or whose value it names.

    argparse names every spelling of an option: "argument --tp-size/--tensor-parallel-size: …".
    """
    given = {word.partition("=")[0].replace("_", "-"): word.partition("=")[0] for word in argv if word.startswith("-")}
    plain = words.replace("_", "-")
    named = [given[name] for name in FLAG.findall(plain) if name in given]
    named += [given["--" + name] for name in SETTING.findall(plain) if "--" + name in given]
    if named:
        return named[0]
    values = [(flag, value) for flag, value in zip(argv, argv[1:]) if flag.startswith("--") and len(value) > 2]
    return next((flag for flag, value in values if re.search(r"(?<![\w/])" + re.escape(value) + r"(?![\w/])", words)), "")


def _refuse(argument: str, words: str, question: Question, log: Tuple[str, ...] = ()) -> Answer:
    """A refusal, unless it may come from what a side container lacks: cards, and files that exist only later."""
    if question.style == "llama" and CARD_WORDS.search(argument) and not LLAMA_NO_OPTION.search(words):
        return Answer(UNKNOWN, "{0} names cards, which a side container does not have".format(argument))
    if MISSING_FILE.search(words):
        return Answer(DOUBTFUL, words, argument, log)
    given = _value_of(argument, question)
    if given and given not in words:
        words = "{0} (value: {1})".format(words, given)
    return Answer(REFUSED, words, argument, log)


def _value_of(argument: str, question: Question) -> str:
    """The value that the command line gives an argument; empty if it has none."""
    if argument in question.environment:
        return question.environment[argument]
    for at, word in enumerate(question.argv):
        flag, equals, value = word.partition("=")
        if flag == argument:
            follows = question.argv[at + 1] if at + 1 < len(question.argv) else ""
            return value if equals else "" if follows.startswith("--") else follows
    return ""


def describe_change(question: Question, argument: str) -> str:
    """What to type: the key of the inventory that holds the argument."""
    key = "environment" if argument and argument in question.environment else "args"
    what = "correct or remove {0} in".format(argument) if argument else "correct"
    return "{0} anvil_serves.{1}.{2}".format(what, question.serve, key)
