# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of ansible-playbook as it was typed, and the commands that follow from it.

Values of ``-e`` may be secrets: only those of names that this collection's own playbooks document are repeated.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

PROGRAM = "ansible-playbook"
SHORT = {
    "-i": "--inventory",
    "-l": "--limit",
    "-e": "--extra-vars",
    "-t": "--tags",
    "-f": "--forks",
    "-u": "--user",
    "-c": "--connection",
    "-T": "--timeout",
    "-M": "--module-path",
    "-C": "--check",
    "-D": "--diff",
    "-v": "--verbose",
    "-b": "--become",
    "-K": "--ask-become-pass",
    "-k": "--ask-pass",
    "-J": "--ask-vault-password",
}
_VALUES = """--inventory --inventory-file --limit --extra-vars --tags --skip-tags --forks --user --connection --timeout
    --module-path --private-key --key-file --ssh-common-args --sftp-extra-args --scp-extra-args --ssh-extra-args --vault-id
    --vault-password-file --vault-pass-file --become-method --become-user --start-at-task --connection-password-file
    --conn-pass-file --become-password-file --become-pass-file"""
TAKES_VALUE = frozenset(_VALUES.split())
_FLAGS = """--check --diff --verbose --become --ask-become-pass --ask-pass --ask-vault-password --ask-vault-pass --flush-cache
    --force-handlers --step --list-hosts --list-tags --list-tasks --syntax-check --version --help"""
FLAGS = frozenset(_FLAGS.split())
# Their values may hold a password.
UNREPEATED = ("--ssh-common-args", "--sftp-extra-args", "--scp-extra-args", "--ssh-extra-args")
# Variables of our playbooks whose values are names, numbers, paths of files and words of a fixed choice.
_HARMLESS = """anvil_hosts ansible_host cache_dir serves container containers confirm keep_container drain_timeout state name
    model engine served_name port gpu vram_mib ready_timeout ttl experiment tail since lines format json html output revision
    settle config profile rollback_fleet reveal enforce strict inspect folder workflow workflow_project_name bind mlflow_port
    mlflow_bind no_mlflow timeout concurrency replicas env_file no_env_file generate_only purge engine_check anvil_waves serve
    again on_failure yes variant context gpus recipe recipes speculative image
    follow"""
HARMLESS = frozenset(_HARMLESS.split())
PLAIN = re.compile(r"[\w.,:/+-]{1,100}")
ELISION = "..."
UNKNOWN_INVENTORY = "-i INVENTORY"
# Options that the status command does not need.
_CHANGING = "--check --diff --verbose --tags --skip-tags --start-at-task --step --force-handlers --flush-cache"
OF_A_CHANGE = frozenset(_CHANGING.split())


@dataclass(frozen=True)
class Word:
    """One option with its value, or a playbook. option: its long name, or empty. typed: the word before the value."""

    option: str
    typed: str
    value: str | None = None

    def as_text(self) -> str:
        if self.value is None:
            return shlex.quote(self.typed)
        return f"{self.typed} {_show_value(self.option, self.value)}" if self.typed else shlex.quote(self.value)


@dataclass(frozen=True)
class TypedCommand:
    """A command line. program: as it can be typed again."""

    program: str
    words: tuple[Word, ...]

    def as_text(self) -> str:
        text = " ".join([shlex.quote(self.program), *(word.as_text() for word in self.words)])
        return re.sub(r"(?<= -v)((?: -v)+)(?= |$)", lambda more: "v" * more[1].count("-v"), text)

    @property
    def playbooks(self) -> list[str]:
        return [word.value or "" for word in self.words if not word.option]

    def without(self, options: Iterable[str]) -> TypedCommand:
        dropped = set(options)
        return replace(self, words=tuple(word for word in self.words if word.option not in dropped))

    def limited_to(self, hosts: Sequence[str]) -> TypedCommand:
        kept = self.without(["--limit"])
        return replace(kept, words=(*kept.words, Word("--limit", "-l", ",".join(hosts))))

    def for_real(self) -> TypedCommand:
        """The same command without --check."""
        return self.without(["--check", "--diff"])

    def status(self, exists: Callable[[str], bool] = os.path.exists) -> TypedCommand | None:
        """The status command for the same hosts; None where the last playbook has no status playbook beside it."""
        path = _status_beside(self.playbooks[-1] if self.playbooks else "", exists)
        if path is None:
            return None
        kept = [word for word in self.without(OF_A_CHANGE).words if word.option]
        return replace(self, words=(Word("", "", path), *kept))


def command_beside(
    typed: TypedCommand | None, verb: str, words: Sequence[str], exists: Callable[[str], bool] = os.path.exists
) -> str:
    """The command of another playbook of this collection, with the inventory and the connection of the command that was typed.

    verb: the name of the playbook. words: what follows, such as ``-l box``; they are quoted here.
    """
    path = _find_beside(typed.playbooks[-1] if typed and typed.playbooks else "", verb, exists)
    said = typed.without((*OF_A_CHANGE, "--limit")).words if typed else ()
    kept = [word for word in said if word.option and (word.option != "--extra-vars" or (word.value or "").startswith("@"))]
    program = typed.program if typed else PROGRAM
    return " ".join([shlex.quote(program), shlex.quote(path), *(word.as_text() for word in kept), *map(shlex.quote, words)])


def fill_in_inventory(text: str, typed: TypedCommand | None, host: str) -> str:
    """A message of a module, which does not know what was typed: ``-i INVENTORY`` becomes the inventory, and the host."""
    options = ("--inventory", "--inventory-file")
    words = [word.as_text() for word in typed.words if word.option in options] if typed else []
    return text.replace(UNKNOWN_INVENTORY, " ".join([*(words or [UNKNOWN_INVENTORY]), "-l", shlex.quote(host)]))


def _find_beside(playbook: str, verb: str, exists: Callable[[str], bool]) -> str:
    if playbook.startswith("anvil.serving."):
        return f"anvil.serving.{verb}"
    folder = os.path.dirname(playbook)
    places = (os.path.join(folder, f"{verb}.yml"), os.path.join(folder, "playbooks", f"{verb}.yml"))
    return next((path for path in places if exists(path)), f"playbooks/{verb}.yml")


def _status_beside(playbook: str, exists: Callable[[str], bool]) -> str | None:
    if playbook == "anvil.serving.site":
        return "anvil.serving.status"
    folder, name = os.path.split(playbook)
    if name != "site.yml":
        return None
    for path in (os.path.join(folder, "playbooks", "status.yml"), os.path.join(folder, "status.yml")):
        if exists(path):
            return path
    return None


def _show_value(option: str, value: str) -> str:
    if option in UNREPEATED:
        return ELISION
    return show_variables(value) if option == "--extra-vars" else shlex.quote(value)


def show_variables(value: str) -> str:
    """The value of ``-e``, quoted for a shell, with what may be a secret left out."""
    if value.startswith("@"):
        return shlex.quote(value)
    try:
        pairs = [pair.partition("=") for pair in shlex.split(value)]
    except ValueError:
        return ELISION
    if value.lstrip()[:1] in ("{", "[") or not all(name.isidentifier() and equals for name, equals, _value in pairs):
        return ELISION
    shown = [f"{name}={text if name in HARMLESS and PLAIN.fullmatch(text) else ELISION}" for name, _equals, text in pairs]
    return shlex.quote(" ".join(shown)) if len(shown) > 1 else "".join(shown)


def read_typed(argv: Sequence[str], which: Callable[[str], str | None], folder: str) -> TypedCommand | None:
    """The command line as typed; None where it is none of ansible-playbook, or is not understood.

    which: finds a program on PATH. folder: where it was typed.
    """
    if not argv or os.path.basename(argv[0]) != PROGRAM:
        return None
    words = _read_words(list(argv[1:]))
    return None if words is None else TypedCommand(_name_program(argv[0], which, folder), tuple(words))


def _name_program(path: str, which: Callable[[str], str | None], folder: str) -> str:
    found = which(PROGRAM)
    if found and os.path.realpath(found) == os.path.realpath(os.path.join(folder, path)):
        return PROGRAM
    below = os.path.relpath(path, folder) if os.path.isabs(path) else path
    return path if below.startswith("..") else below


def _read_words(rest: list[str]) -> list[Word] | None:
    words = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            return words + [Word("", "", path) for path in rest]
        if not word.startswith("-") or word == "-":
            words.append(Word("", "", word))
            continue
        for typed, attached in _split_flags(word):
            option = _long_name(typed)
            if option not in TAKES_VALUE:
                if option not in FLAGS or attached is not None:
                    return None
                words.append(Word(option, typed))
            elif attached is not None or rest:
                words.append(Word(option, typed, rest.pop(0) if attached is None else attached))
            else:
                return None
    return words


def _long_name(typed: str) -> str:
    """The full name of an option, also of one that is cut short as argparse allows."""
    name = SHORT.get(typed, typed)
    known = TAKES_VALUE | FLAGS
    if name in known:
        return name
    longer = [one for one in known if one.startswith(name)] if name.startswith("--") else []
    return longer[0] if len(longer) == 1 else ""


def _split_flags(word: str) -> list[tuple[str, str | None]]:
    """``-CDlbox`` is three options, the last with its value; ``--limit=box`` is one."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return [(name, value if equals else None)]
    found: list[tuple[str, str | None]] = []
    letters = word[1:]
    for at, letter in enumerate(letters):
        flag = "-" + letter
        if SHORT.get(flag) in TAKES_VALUE:
            rest = letters[at + 1 :]
            return [*found, (flag, rest.removeprefix("=") if rest else None)]
        found.append((flag, None))
    return found
